"""The version, a literal that setuptools reads without importing anything."""

__version__ = "0.1.0"
