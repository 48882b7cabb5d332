"""Prove an optimizer equal to another, bit for bit: :func:`check`, and what it answers with."""

from optimlab.lab.parity import *  # noqa: F403 - all that it offers, under the name that is public
from optimlab.lab.parity import __all__  # noqa: F401
from optimlab.renamed import moved_from

# It was a package, and optimlab.parity.bits and others below it are found by renamed.py.
__path__: list[str] = []
__getattr__ = moved_from(__name__)
