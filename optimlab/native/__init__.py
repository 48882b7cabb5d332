"""The native machine: what runs a recorded rule on CPU in one pass over memory."""
