"""A few numbers about each parameter's update, cheap enough to leave on during a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.record.step_scope import Closure, StepScope


class Writer(Protocol):
    """What takes scalars, such as TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> Any:
        """Take a number."""


@dataclass(frozen=True)
class Reading:
    """What a step did to a parameter. Norms are Euclidean, ``max`` is the largest magnitude.

    Attributes:
        norm: of the parameter before the step.
        max: of the parameter before the step.
        grad_norm: of its gradient.
        grad_max: of its gradient.
        update_norm: of the update, parameter after minus parameter before.
        update_max: of the update.
        update_to_weight: ``update_norm / norm``; NaN for a parameter of zeros.
        zero: the share of elements that the step left as they were, 0 to 1.
        lost: the share of elements that the step left as they were although their gradient is not
            zero: where ``lr`` is not zero either, updates lost to rounding.
    """

    norm: float
    max: float
    grad_norm: float
    grad_max: float
    update_norm: float
    update_max: float
    update_to_weight: float
    zero: float
    lost: float


MEASURES = tuple(each.name for each in fields(Reading))
_SHOWN = {
    "norm": "norm",
    "grad": "grad_norm",
    "update": "update_norm",
    "largest": "update_max",
    "upd./norm": "update_to_weight",
    "zero": "zero",
    "lost": "lost",
}


class Watch:
    """Looks at every n-th step of an optimizer; prints the last readings as a table.

    Attributes:
        every: at which steps it looks.
        step: how many steps the optimizer has made since.
        readings: the last readings, by the names of the parameters.
        history: all readings, by step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        every: int = 100,
        *,
        names: Iterable[tuple[str, Tensor]] = (),
        writer: Writer | None = None,
        tag: str = "optimizer",
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, and is {every}")
        self.every = every
        self.step = 0
        self.history: dict[int, dict[str, Reading]] = {}
        self._writer = writer
        self._tag = tag
        self._names = {id(param): name for name, param in names} | _group_names(optimizer)
        self._before: dict[int, Tensor] = {}
        self._scope = StepScope(optimizer, self._begin, self._end, self._guarded)

    @property
    def readings(self) -> Mapping[str, Reading]:
        return self.history[max(self.history)] if self.history else {}

    def remove(self) -> None:
        """Stop watching."""
        self._scope.remove()
        self._before = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()

    def _begin(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._before = {}
        if (self.step + 1) % self.every == 0:
            params = enumerate(parameters(optimizer))
            self._before = {n: _plain(param).clone() for n, param in params if param.numel()}

    def _guarded(self, closure: Closure, *args: Any, **kwargs: Any) -> Any:
        """Call a closure; an error in it, which no hook is told of, drops the copies."""
        try:
            return closure(*args, **kwargs)
        except BaseException:
            self._before = {}
            raise

    def _end(self, optimizer: Optimizer) -> None:
        self.step += 1
        if not self._before:
            return
        params = parameters(optimizer)
        taking_part = [n for n in self._before if params[n].grad is not None]
        with torch.no_grad():
            rows = _measured(
                [params[n] for n in taking_part], [self._before[n] for n in taking_part]
            )
        self._before = {}
        names = [self._names.get(id(params[n]), f"param {n}") for n in taking_part]
        self.history[self.step] = dict(zip(names, rows, strict=True))
        self._write()

    def _write(self) -> None:
        if self._writer is None:
            return
        for name, reading in self.readings.items():
            for measure, value in asdict(reading).items():
                self._writer.add_scalar(f"{self._tag}/{measure}/{name}", value, self.step)

    def __str__(self) -> str:
        if not self.history:
            return f"no step was watched in {self.step} steps"
        lines = [f"step {max(self.history)}", _row("parameter", list(_SHOWN))]
        for name, reading in self.readings.items():
            numbers = [getattr(reading, measure) for measure in _SHOWN.values()]
            shares = [f"{100 * share:.3g} %" for share in numbers[-2:]]
            lines.append(_row(name, [*(f"{x:.3g}" for x in numbers[:-2]), *shares]))
        return "\n".join(lines)


def watch(
    optimizer: Optimizer,
    every: int = 100,
    *,
    names: Iterable[tuple[str, Tensor]] = (),
    writer: Writer | None = None,
    tag: str = "optimizer",
) -> Watch:
    """Measure every n-th step of an optimizer: how large updates are, and which are lost.

    Two step hooks do it. At a watched step they copy the parameters before, and measure what has
    changed after, with a few passes over memory; at all others they count. The step itself is not
    touched, and ends in the same bits.

    Args:
        optimizer: any optimizer.
        every: look at each step whose number is a multiple of it, counted from 1.
        names: names of parameters, such as ``model.named_parameters()``; by default those that the
            optimizer was given, or ``param 0``, ``param 1``, ...
        writer: takes each number through ``add_scalar(tag, value, step)``, such as TensorBoard's
            ``SummaryWriter``.
        tag: what the writer's tags begin with: ``optimizer/update_norm/layer.weight``.

    Returns:
        Watch: print it; it has ``readings``, ``history`` and ``remove()``, and is a context.

    Raises:
        ValueError: if ``every`` is less than 1.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> weight.grad = torch.tensor([1e-9, 1.0])
        >>> optimizer = optimlab.SGD([("weight", weight)], lr=0.5)
        >>> watched = optimlab.watch(optimizer, every=1)
        >>> optimizer.step()
        >>> reading = watched.readings["weight"]
        >>> reading.update_to_weight, reading.lost  # 3 - 5e-10 is 3 in float32
        (0.1, 0.5)
    """
    return Watch(optimizer, every, names=names, writer=writer, tag=tag)


def _measured(params: Sequence[Tensor], before: Sequence[Tensor]) -> list[Reading]:
    """Measure updates, device by device, and read all numbers of a device at once."""
    readings: dict[int, Reading] = {}
    devices = {param.device for param in params}
    for device in devices:
        places = [place for place, param in enumerate(params) if param.device == device]
        columns = _columns(
            [_plain(params[place]) for place in places],
            [_plain(_gradient(params[place])) for place in places],
            [before[place] for place in places],
        )
        table = torch.stack(columns)
        for place, numbers in zip(places, table.T.tolist(), strict=True):
            readings[place] = _reading(numbers, before[place].numel())
    return [readings[place] for place in range(len(params))]


def _columns(after: list[Tensor], grads: list[Tensor], before: list[Tensor]) -> list[Tensor]:
    sizes = [*_sizes(before), *_sizes(grads)]
    updates = before  # the copies have done their work
    torch._foreach_sub_(updates, after)
    torch._foreach_neg_(updates)
    sizes += _sizes(updates)
    # A product with a sign is zero where a factor is, and nowhere else, in any dtype.
    both = torch._foreach_mul(grads, torch._foreach_sign(updates))
    return [*sizes, *(_column(map(torch.count_nonzero, each)) for each in (updates, grads, both))]


def _sizes(tensors: list[Tensor]) -> list[Tensor]:
    """Return Euclidean norms and largest magnitudes; on CPU an infinity norm takes far longer."""
    ends = [torch.aminmax(tensor) for tensor in tensors]
    low, high = (_column(end[side] for end in ends) for side in (0, 1))
    return [_column(torch._foreach_norm(tensors)), torch.maximum(-low, high)]


def _column(numbers: Iterable[Tensor]) -> Tensor:
    listed = list(numbers)
    if len({number.dtype for number in listed}) > 1:
        listed = [number.double() for number in listed]
    return torch.stack(listed).double()


def _reading(numbers: Sequence[float], elements: int) -> Reading:
    norm, largest, grad_norm, grad_max, update_norm, update_max, *counts = numbers
    moved, with_gradient, moved_by_gradient = counts
    return Reading(
        norm=norm,
        max=largest,
        grad_norm=grad_norm,
        grad_max=grad_max,
        update_norm=update_norm,
        update_max=update_max,
        update_to_weight=update_norm / norm if norm else float("nan"),
        zero=1 - moved / elements,
        lost=(with_gradient - moved_by_gradient) / elements,
    )


def _gradient(param: Tensor) -> Tensor:
    assert param.grad is not None
    grad = param.grad
    return grad if grad.layout is torch.strided else grad.to_dense()


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _group_names(optimizer: Optimizer) -> dict[int, str]:
    return {
        id(param): name
        for group in optimizer.param_groups
        for param, name in zip(group["params"], group.get("param_names") or (), strict=False)
    }


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name[-22:]:<22}" + "".join(f"{cell:>11}" for cell in cells)
