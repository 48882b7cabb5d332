"""torch.optim's optimizers, re-derived so that a person can read them, to the same bits.

Use it in place of ``torch.optim``::

    import optimlab as optim

    optimizer = optim.Adam(model.parameters(), lr=1e-3)

Read it in this order: ``sgd.py``, ``adam.py`` and ``rmsprop.py`` (the rules), ``values.py`` (what a
rule is applied to), ``program.py`` (a rule written down), ``execution.py`` (a rule carried out) and
``optimizer.py`` (everything around it).
"""

from torch.optim import lr_scheduler, swa_utils

from optimlab.adam import Adam, AdamW
from optimlab.info import Info, info
from optimlab.optimizer import Optimizer
from optimlab.program import Instruction, Program
from optimlab.rmsprop import RMSprop
from optimlab.sgd import SGD

# isort: split
# The instruments compare with the optimizers above, which must be there by now.
from optimlab.doctor import doctor, lint
from optimlab.explain import explain
from optimlab.instruments.explanation import Explanation
from optimlab.instruments.trace import trace
from optimlab.instruments.watch import watch
from optimlab.resume import prove_resume
from optimlab.shadow import shadow

__version__ = "0.1.0"

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
    "doctor",
    "explain",
    "info",
    "lint",
    "lr_scheduler",
    "prove_resume",
    "shadow",
    "swa_utils",
    "trace",
    "watch",
]
