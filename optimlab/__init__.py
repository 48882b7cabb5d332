"""torch.optim's optimizers, re-derived so that a person can read them, to the same bits.

Use it in place of ``torch.optim``::

    import optimlab as optim

    optimizer = optim.Adam(model.parameters(), lr=1e-3)

Read it in this order: ``sgd.py``, ``adam.py`` and ``rmsprop.py`` (the rules); ``core/values.py``
and ``core/tensor_list.py`` (what a rule is applied to); ``core/state.py`` (what it keeps),
``core/batch.py`` and ``rule.py`` (the one step); ``execution.py`` (a rule executed);
``core/program.py`` and ``core/scalar.py`` (a rule written down); ``native/`` (by the kernel, and
how a step is cached); and ``optimizer.py`` (everything around it). Floor by floor, each
importing only from those below:

=================  ===============================================================================
``cli``            the command line, a file for each command
``bench``          time, memory and bits; ``demo``: the proof by training; ``pytest_plugin``
``lab``            the tools: parity, explain, trace, watch, shadow, doctor, resume, info; below
                   them what they share: record, lockstep, compare, findings, report
``optimizers``     all optimizers by their names
``sgd``, ``adam``  the mathematics, a file for each optimizer
``rule``           update rules and the one step
``optimizer``      the container: groups, state, checkpoints, hooks
``execution``      for-loop, foreach, fused and native, side by side
``native``         the kernel, guards, the cached step
``core``           what a rule is applied to and what it keeps, programs, groups, checkpoints
``renamed``        old names, which lead to the new ones for a release
=================  ===============================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optimlab.renamed import install as _install_old_names
from optimlab.version import __version__ as __version__

if TYPE_CHECKING:  # for editors and type checkers: _HOMES says the same to Python
    from optimlab import parity as parity
    from optimlab import values as values
    from optimlab.core.program import Instruction as Instruction
    from optimlab.core.program import Program as Program
    from optimlab.lab.doctor import doctor as doctor
    from optimlab.lab.doctor import lint as lint
    from optimlab.lab.doctor import repair as repair
    from optimlab.lab.explain.explaining import explain as explain
    from optimlab.lab.explain.explanation import Explanation as Explanation
    from optimlab.lab.info import Info as Info
    from optimlab.lab.info import info as info
    from optimlab.lab.resume import prove_resume as prove_resume
    from optimlab.lab.shadow import shadow as shadow
    from optimlab.lab.trace.trace import trace as trace
    from optimlab.lab.watch import watch as watch
    from optimlab.optimizers import SGD as SGD
    from optimlab.optimizers import Adam as Adam
    from optimlab.optimizers import AdamW as AdamW
    from optimlab.optimizers import Optimizer as Optimizer
    from optimlab.optimizers import RMSprop as RMSprop
    from optimlab.optimizers import Rule as Rule
    from optimlab.optimizers import lr_scheduler as lr_scheduler
    from optimlab.optimizers import swa_utils as swa_utils

# Everything is imported when it is asked for (PEP 562): no tool where a model trains, and not even
# torch for `optimlab --help`.
_HOMES = {
    "SGD": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "Explanation": "lab.explain.explanation",
    "Info": "lab.info",
    "Instruction": "core.program",
    "Optimizer": "optimizers",
    "Program": "core.program",
    "RMSprop": "optimizers",
    "Rule": "optimizers",
    "doctor": "lab.doctor",
    "explain": "lab.explain.explaining",
    "info": "lab.info",
    "lint": "lab.doctor",
    "lr_scheduler": "optimizers",
    "prove_resume": "lab.resume",
    "repair": "lab.doctor",
    "shadow": "lab.shadow",
    "swa_utils": "optimizers",
    "trace": "lab.trace.trace",
    "watch": "lab.watch",
}
__all__ = list(_HOMES)
_install_old_names()


if not TYPE_CHECKING:  # which would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
            globals()[name] = found
            return found
        module = f"{__name__}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "parity", "values"})
