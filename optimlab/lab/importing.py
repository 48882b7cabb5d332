"""Importing what a text names: ``package.module:Name``."""

from __future__ import annotations

import importlib
import sys
from typing import Any


class UnknownNameError(ValueError):
    """A text names nothing that can be imported; the message says why."""


def import_named(text: str) -> Any:
    """Import what ``module:attribute`` names, looking in the current directory, too.

    Raises:
        UnknownNameError: if there is no such module or attribute.
    """
    module_name, colon, attribute = text.partition(":")
    if not (module_name and colon and attribute):
        raise UnknownNameError(f"{text!r} is not of the form package.module:Name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UnknownNameError(f"there is no module {error.name}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UnknownNameError(f"{module_name} has no {attribute}")
        found = getattr(found, name)
    return found
