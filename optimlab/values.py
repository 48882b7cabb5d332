"""What an update rule is made of, under the name by which rules import it: ``core/values.py``."""

from optimlab.core.values import *  # noqa: F403 - all of it
