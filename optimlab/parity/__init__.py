"""Comparing two optimizers bit for bit.

:func:`compare` drives two optimizers in lock step through a :class:`Scenario` and answers with a
value that prints itself: :class:`Equal`, :class:`EqualError` or the first :class:`Difference`.
Nothing in here but the table of :mod:`optimlab.parity.cases` knows an optimizer by name.
"""

from optimlab.parity.bits import Distance, Mismatch, compare_tensors
from optimlab.parity.lockstep import compare
from optimlab.parity.observed import NothingCompared
from optimlab.parity.outcome import Compared, Difference, Equal, EqualError, Outcome
from optimlab.parity.scenario import Scenario, TensorSpec

__all__ = [
    "Compared",
    "Difference",
    "Distance",
    "Equal",
    "EqualError",
    "Mismatch",
    "NothingCompared",
    "Outcome",
    "Scenario",
    "TensorSpec",
    "compare",
    "compare_tensors",
]
