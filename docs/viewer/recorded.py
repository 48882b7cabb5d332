"""Runs of optimizers under the microscope, laid out as numbers that a page can look up.

All learning rates and momenta of an optimizer run at once: each pair is a parameter group with one
parameter, which holds all starting points. What a step computes is described once, because it is
the same for all of them; only the numbers differ, and those are kept for each operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from surfaces import Surface
from torch import Tensor

import optimlab
from optimlab.lab.record.registers import Value
from optimlab.lab.record.writing import Operation
from optimlab.lab.trace.worked import TracedStep

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Described: TypeAlias = dict[str, Any]

PATTERNS = {
    "add": "{0} + {1}",
    "add alpha": "{0} + {2} × {1}",
    "addcdiv": "{0} + {3} × {1} / {2}",
    "addcmul": "{0} + {3} × {1} × {2}",
    "clone": "{0}",
    "div": "{0} / {1}",
    "lerp": "{0} + {2} × ({1} − {0})",
    "maximum": "max({0}, {1})",
    "mul": "{0} × {1}",
    "sqrt": "√{0}",
    "zeros_like": "0",
}
"""How each operation is written, with its arguments in the order of ATen's schema."""


@dataclass(frozen=True)
class Choice:
    """An optimizer that the reader can choose.

    Attributes:
        title: its name in the list.
        class_name: its class, in ``optimlab`` as in ``torch.optim``.
        momentum: what the page's momentum is for it: ``momentum``, ``beta1``, or ``""`` for none.
        options: its other hyperparameters that are not at their defaults.
    """

    title: str
    class_name: str
    momentum: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def hyperparameters(self, lr: float, momentum: float) -> dict[str, Any]:
        """Return the keyword arguments of its class."""
        chosen: dict[str, Any] = {"lr": lr}
        if self.momentum == "beta1":
            chosen["betas"] = (momentum, 0.999)
        elif self.momentum:
            chosen["momentum"] = momentum
        return chosen | dict(self.options)

    @property
    def call(self) -> str:
        """The line of Python that makes it, with places for the learning rate and momentum."""
        arguments = ["lr={lr}"]
        if self.momentum:
            betas = self.momentum == "beta1"
            arguments.append("betas=({momentum}, 0.999)" if betas else "momentum={momentum}")
        arguments += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"optim.{self.class_name}(params, {', '.join(arguments)})"


CHOICES = {
    "sgd": Choice("SGD", "SGD"),
    "momentum": Choice("SGD with momentum", "SGD", "momentum"),
    "nesterov": Choice("Nesterov momentum", "SGD", "momentum", {"nesterov": True}),
    "rmsprop": Choice("RMSprop", "RMSprop"),
    "adam": Choice("Adam", "Adam", "beta1"),
    "adamw": Choice("AdamW", "AdamW", "beta1", {"weight_decay": 0.1}),
    "amsgrad": Choice("AMSGrad", "Adam", "beta1", {"amsgrad": True}),
}
"""Every optimizer, by the key that it has in files and links."""


@dataclass(frozen=True)
class Grid:
    """What the reader's controls go over.

    Attributes:
        lrs: the learning rates.
        momenta: the values of momentum or beta1.
        steps: how many steps each run has, at least 2.
    """

    lrs: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    momenta: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.99)
    steps: int = 50

    def pairs(self, choice: Choice) -> list[tuple[float, float]]:
        """Return the pairs of learning rate and momentum; one for each rate without momentum."""
        return list(product(self.lrs, self.momenta if choice.momentum else self.momenta[:1]))


@dataclass(frozen=True)
class Recorded:
    """Runs of one optimizer on one surface.

    Attributes:
        kinds: the operations of the first step, and those of every later one.
        numbers: for each pair of :meth:`Grid.pairs` and each start, what depends on the place: the
            start, the loss there, and for each step the gradient, the result of each operation,
            and the loss after it.
        scalars: for each pair, what does not depend on the place: the numbers that the operations
            of each step were given.
    """

    kinds: list[Described]
    numbers: Floats
    scalars: Doubles


def record(choice: Choice, surface: Surface, grid: Grid) -> Recorded:
    """Run an optimizer for all pairs and starts, and write every operation down."""
    pairs = grid.pairs(choice)
    starts = torch.tensor([[x, y] for _, x, y in surface.starts])
    params = [torch.nn.Parameter(starts.clone()) for _ in pairs]
    groups = [
        {"params": [param], **choice.hyperparameters(*pair)}
        for param, pair in zip(params, pairs, strict=True)
    ]
    optimizer: torch.optim.Optimizer = getattr(optimlab, choice.class_name)(
        groups, **choice.hyperparameters(*pairs[0])
    )
    places = [(row, column) for row in range(len(starts)) for column in range(2)]
    elements: dict[int | Tensor, list[tuple[int, ...]]] = {i: [*places] for i in range(len(pairs))}
    before = torch.stack([param.detach() for param in params])
    columns = [before.numpy(), surface.losses(before)[..., None].numpy()]
    scalars, kinds = [], []
    for step in range(1, grid.steps + 1):
        gradients = surface.gradients(before, step)
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient.clone()
        with optimlab.trace(optimizer, elements) as traced:
            optimizer.step()
        if step <= 2:
            kinds.append(_kind(traced.steps[0]))
        _refuse_other_operations(traced.steps, kinds[-1])
        before = torch.stack([param.detach() for param in params])
        columns += [gradients.numpy(), _results(traced.steps, len(starts))]
        columns.append(surface.losses(before)[..., None].numpy())
        scalars.append(np.array([_scalars(each) for each in traced.steps]))
    return Recorded(kinds, np.concatenate(columns, axis=-1), np.concatenate(scalars, axis=-1))


def _results(steps: list[TracedStep], starts: int) -> Floats:
    rows = [
        [_only(operation).kept for operation in step.operations if _is_at_place(operation)]
        for step in steps
    ]
    by_place = np.array(rows, dtype=np.float32).reshape(len(steps), len(rows[0]), starts, 2)
    return by_place.transpose(0, 2, 1, 3).reshape(len(steps), starts, -1)


def _scalars(step: TracedStep) -> list[float]:
    return [number for operation in step.operations for number in _numbers(operation)]


def _numbers(operation: Operation) -> Iterator[float]:
    """Go through what an operation has for all places: its numbers, then its result."""
    for _, value in _arguments(operation):
        if not isinstance(value, Value):
            yield value
        elif not value.shape:
            yield value.kept[0]
    if not _is_at_place(operation):
        yield _only(operation).kept[0]


def _arguments(operation: Operation) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in operation.shown_arguments() if key != "out"]


def _only(operation: Operation) -> Value:
    (value,) = operation.results
    return value


def _is_at_place(operation: Operation) -> bool:
    return bool(_only(operation).shape)


def _refuse_other_operations(steps: list[TracedStep], kind: Described) -> None:
    """Make sure that what was described for one parameter is what all of them did."""
    for step in steps:
        if [str(operation.function) for operation in step.operations] != kind["functions"]:
            raise RuntimeError(f"step {step.step} of parameter {step.parameter} is another one")


def _kind(step: TracedStep) -> Described:
    """Describe the operations of a step, without the numbers."""
    operations: list[Described] = []
    slot, place = 0, 0
    number_of = {operation.number: i for i, operation in enumerate(step.operations)}
    for operation in step.operations:
        arguments: list[Described] = []
        for _, value in _arguments(operation):
            if isinstance(value, Value) and value.shape:
                arguments.append(_source(value, number_of))
            else:
                arguments.append({"slot": slot, **_scalar(operation, value, step)})
                slot += 1
        described: Described = {
            "result": _only(operation).name,
            "code": _code(operation, step),
            "pattern": _pattern(operation),
            "arguments": arguments,
        }
        if _is_at_place(operation):
            described["place"] = place
            place += 1
        else:
            described["slot"] = slot
            slot += 1
        operations.append(described)
    functions = [str(operation.function) for operation in step.operations]
    return {"operations": operations, "functions": functions, "slots": slot, "places": place}


def _source(value: Value, number_of: Mapping[int, int]) -> Described:
    """Say where an operand was made: by an operation of this step, or before it."""
    described: Described = {"name": value.name}
    if value.source is not None:
        described["operation"] = number_of[value.source]
    return described


def _scalar(operation: Operation, value: Any, step: TracedStep) -> Described:
    if isinstance(value, Value):
        return {"name": value.name, "dtype": "float32"}
    return {"origin": step.provenance.of(operation.name, value), "dtype": type(value).__name__}


def _pattern(operation: Operation) -> str:
    name = operation.name.strip("_")
    has_alpha = any(key == "alpha" for key, _ in _arguments(operation))
    return PATTERNS[f"{name} alpha" if has_alpha else name]


def _code(operation: Operation, step: TracedStep) -> str:
    texts = {x: step.provenance.of(operation.name, x) for x in operation.scalars.values()}
    return operation.spelt({number: text for number, text in texts.items() if text})
