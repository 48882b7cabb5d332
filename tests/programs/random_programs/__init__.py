"""Random programs: an optimizer of optimlab and torch's own, to which the same is done.

A program that fails is printed as the calls it consists of, without those that the failure does not
need; with this import above them they run as they stand. It needs ``PYTHONPATH=.:tests/support:
tests/programs``.
"""

from math import inf, nan

import torch
from torch import tensor

from random_programs.machine import Diverged
from random_programs.program import Program

__all__ = ["Diverged", "Program", "inf", "nan", "tensor", "torch"]
