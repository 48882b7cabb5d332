"""Comparing two optimizers bit for bit.

:func:`check` compares any optimizer with another in every configuration that both accept, and
answers with a :class:`ParityResult`; differences that are known are declared as
:class:`ExpectedFailure`.

:func:`compare` drives two optimizers in lock step through one :class:`Scenario` and answers with a
value that prints itself: :class:`Equal`, :class:`EqualError` or the first :class:`Difference`.
Nothing in here but the table of :mod:`optimlab.lab.parity.cases` knows an optimizer by name.
"""

from optimlab.lab.compare.bits import Distance, Mismatch, compare_tensors
from optimlab.lab.compare.diff import Compared, NothingCompared
from optimlab.lab.lockstep.lockstep import compare
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError, Outcome
from optimlab.lab.lockstep.scenario import Call, Scenario, TensorSpec
from optimlab.lab.parity.case_result import CaseResult, ExpectedFailure
from optimlab.lab.parity.checking import check
from optimlab.lab.parity.result import ParityResult

__all__ = [
    "Call",
    "CaseResult",
    "Compared",
    "Difference",
    "Distance",
    "Equal",
    "EqualError",
    "ExpectedFailure",
    "Mismatch",
    "NothingCompared",
    "Outcome",
    "ParityResult",
    "Scenario",
    "TensorSpec",
    "check",
    "compare",
    "compare_tensors",
]
