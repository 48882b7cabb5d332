"""What an update rule is made of, under the name by which rules import it: ``core/values.py``."""

from optimlab import renamed
from optimlab.core.tensor_list import *  # noqa: F403 - all of it
from optimlab.core.values import *  # noqa: F403 - all of it

__getattr__ = renamed.moved_from(__name__)
