"""Prove an optimizer equal to another, bit for bit: :func:`check`, and what it answers with."""

from optimlab.lab.parity import (
    Compared,
    Difference,
    Distance,
    Equal,
    EqualError,
    Excepted,
    Mismatch,
    NothingCompared,
    Outcome,
    Scenario,
    TensorSpec,
    Tried,
    Verdict,
    check,
    compare,
    compare_tensors,
)

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
