"""Comparing two optimizers bit for bit.

:func:`check` compares any optimizer with another in every configuration that both accept, and
answers with a :class:`Verdict`; differences that are known are declared as :class:`Excepted`.

:func:`compare` drives two optimizers in lock step through one :class:`Scenario` and answers with a
value that prints itself: :class:`Equal`, :class:`EqualError` or the first :class:`Difference`.
Nothing in here but the table of :mod:`optimlab.lab.parity.cases` knows an optimizer by name.
"""

from optimlab.lab.compare.bits import Distance, Mismatch, compare_tensors
from optimlab.lab.compare.diff import Compared, NothingCompared
from optimlab.lab.lockstep.lockstep import compare
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError, Outcome
from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.parity.checking import check
from optimlab.lab.parity.verdict import Excepted, Tried, Verdict

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
