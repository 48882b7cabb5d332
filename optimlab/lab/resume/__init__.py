"""Proving that a training run can be interrupted: it goes on, in a new process, to the same bits.

:func:`prove_resume` takes a function that makes a run, see :class:`Run`, and answers with a
:class:`Resumption`, which prints itself and has ``equal``.
"""

from optimlab.lab.resume.contract import Run
from optimlab.lab.resume.outcome import Cause, Offender, Resumption
from optimlab.lab.resume.proof import prove_resume

__all__ = ["Cause", "Offender", "Resumption", "Run", "prove_resume"]
