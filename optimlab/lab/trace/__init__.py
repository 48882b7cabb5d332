"""The microscope: each operation of a step, with its numbers."""
