"""Proving that a training run can be interrupted: it goes on, in a new process, to the same bits.

:func:`prove_resume` takes a function that makes a run, see :class:`Run`, and answers with a
:class:`Resumption`, which prints itself and has ``equal``.
"""

from optimlab.lab.resume.outcome import Offender, Resumption
from optimlab.lab.resume.proof import prove_resume
from optimlab.lab.resume.run import Run

__all__ = ["Offender", "Resumption", "Run", "prove_resume"]
