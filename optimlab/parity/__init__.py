"""Comparing two optimizers bit for bit.

:func:`check` compares any optimizer with another in every configuration that both accept, and
answers with a :class:`Verdict`; differences that are known are declared as :class:`Excepted`.

:func:`compare` drives two optimizers in lock step through one :class:`Scenario` and answers with a
value that prints itself: :class:`Equal`, :class:`EqualError` or the first :class:`Difference`.
Nothing in here but the table of :mod:`optimlab.parity.cases` knows an optimizer by name.
"""

from optimlab.parity.bits import Distance, Mismatch, compare_tensors
from optimlab.parity.check import check
from optimlab.parity.lockstep import compare
from optimlab.parity.observed import NothingCompared
from optimlab.parity.outcome import Compared, Difference, Equal, EqualError, Outcome
from optimlab.parity.scenario import Scenario, TensorSpec
from optimlab.parity.verdict import Excepted, Tried, Verdict

__all__ = [
    "Compared",
    "Difference",
    "Distance",
    "Equal",
    "EqualError",
    "Excepted",
    "Mismatch",
    "NothingCompared",
    "Outcome",
    "Scenario",
    "TensorSpec",
    "Tried",
    "Verdict",
    "check",
    "compare",
    "compare_tensors",
]
