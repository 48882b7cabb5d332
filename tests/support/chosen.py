"""An optimizer by its names, to be made wherever a program of another kind wants one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from beside import STATEFUL, Options
from torch import Tensor
from torch.optim import Optimizer

from optimlab.demo.libraries import LIBRARIES, LibraryName


@dataclass(frozen=True)
class Choice:
    """An optimizer of one of the libraries, with as much state as it can have.

    Attributes:
        library: where it comes from.
        name: the class.
        way: options that choose an implementation.
    """

    library: LibraryName
    name: str
    way: Options = field(default_factory=dict)

    @property
    def options(self) -> Options:
        """All keyword arguments; what is maximized here would grow without end."""
        return {**STATEFUL[self.name], **self.way, "lr": 0.01, "maximize": False}

    @property
    def optimizer_class(self) -> Any:
        """The library's class of that name."""
        return getattr(LIBRARIES[self.library], self.name)

    def make(self, params: Iterable[Tensor]) -> Optimizer:
        """Make it for some parameters."""
        made: Optimizer = self.optimizer_class(params, **self.options)
        return made
