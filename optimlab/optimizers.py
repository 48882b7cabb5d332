"""Every optimizer of this package, under the names that ``torch.optim`` has for them."""

from torch.optim import lr_scheduler, swa_utils

from optimlab.adam import Adam
from optimlab.adamw import AdamW
from optimlab.optimizer import Optimizer
from optimlab.rmsprop import RMSprop
from optimlab.rule import Rule
from optimlab.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "Rule", "lr_scheduler", "swa_utils"]
