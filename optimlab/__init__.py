"""torch.optim's optimizers, re-derived so that a person can read them, to the same bits.

Use it in place of ``torch.optim``::

    import optimlab as optim

    optimizer = optim.Adam(model.parameters(), lr=1e-3)

Read it in this order: ``sgd.py``, ``adam.py`` and ``rmsprop.py`` (the rules); ``core/values.py``
(what a rule is applied to), ``core/program.py`` and ``core/scalar.py`` (a rule written down);
``execution.py`` (a rule carried out), ``native/`` (by the kernel, and how a step is cached),
``rule.py`` (the one step) and ``optimizer.py`` (everything around it). Floor by floor, each importing only from those below:

==============  ==================================================================================
``cli``         the command line, a file for each command
``bench``       time, memory and bits; ``demo``: the proof by training
``lab``         the tools: parity, explain, trace, watch, shadow, doctor, resume, info; below them
                what they share: compare, lockstep, record
``optimizers``  all optimizers by their names, each in a file of its own
``rule``        update rules, the state that they declare, and the one step
``optimizer``   the container: groups, state, checkpoints, hooks
``execution``   for-loop, foreach, fused and native, side by side
``native``      the kernel, guards, the cached step
``core``        tensors and symbols that a rule is applied to, programs, groups, checkpoints
==============  ==================================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optimlab.core.program import Instruction, Program
from optimlab.optimizers import (
    SGD,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
    Rule,
    lr_scheduler,
    swa_utils,
)
from optimlab.version import __version__ as __version__

if TYPE_CHECKING:
    from optimlab.lab.doctor import doctor, lint, repair
    from optimlab.lab.explain.explaining import explain
    from optimlab.lab.explain.explanation import Explanation
    from optimlab.lab.info import Info, info
    from optimlab.lab.resume import prove_resume
    from optimlab.lab.shadow import shadow
    from optimlab.lab.trace.trace import trace
    from optimlab.lab.watch import watch

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Explanation",
    "Info",
    "Instruction",
    "Optimizer",
    "Program",
    "RMSprop",
    "Rule",
    "doctor",
    "explain",
    "info",
    "lint",
    "lr_scheduler",
    "prove_resume",
    "repair",
    "shadow",
    "swa_utils",
    "trace",
    "watch",
]

# Tools are imported when they are asked for (PEP 562): training needs none of them.
_TOOLS = {
    "Explanation": "optimlab.lab.explain.explanation",
    "Info": "optimlab.lab.info",
    "doctor": "optimlab.lab.doctor",
    "explain": "optimlab.lab.explain.explaining",
    "info": "optimlab.lab.info",
    "lint": "optimlab.lab.doctor",
    "prove_resume": "optimlab.lab.resume",
    "repair": "optimlab.lab.doctor",
    "shadow": "optimlab.lab.shadow",
    "trace": "optimlab.lab.trace.trace",
    "watch": "optimlab.lab.watch",
}
_MODULES = ("parity", "values")


def __getattr__(name: str) -> Any:
    if name in _TOOLS:
        found = getattr(importlib.import_module(_TOOLS[name]), name)
        globals()[name] = found
        return found
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_TOOLS, *_MODULES})
