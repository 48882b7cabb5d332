"""Finding out why a checkpoint loads without an error and training goes wrong.

:func:`doctor` examines checkpoints, :func:`lint` a live optimizer beside its model, and
:func:`repair` writes a repaired copy. Optimizers of other packages are looked at, too: they are
known here through :class:`torch.optim.Optimizer` and what they save.
"""

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.examination import Repaired, doctor, repair
from optimlab.lab.doctor.linting import lint
from optimlab.lab.doctor.report import Report
from optimlab.lab.findings import Finding

__all__ = ["CheckpointError", "Finding", "Repaired", "Report", "doctor", "lint", "repair"]
