"""A few numbers about each parameter's update, cheap enough to leave on during a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.record.step_scope import Closure, StepScope
from optimlab.lab.report import table

Names: TypeAlias = Iterable[tuple[str, Tensor]]


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
        decay_norm: of what weight decay alone would have moved, ``lr * weight_decay`` of the
            parameter; 0 where there is none of its own, as for an L2 term that Adam scales.
        decay_lost: the share of elements that are not zero, and that weight decay alone would have
            left as they were: it is lost to rounding.
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
    decay_norm: float = 0.0
    decay_lost: float = 0.0


_SHOWN = {
    "norm": "norm",
    "grad": "grad_norm",
    "update": "update_norm",
    "largest": "update_max",
    "upd./norm": "update_to_weight",
    "zero": "zero",
    "lost": "lost",
}

# Rules that take weight decay into a gradient which they scale, where their groups do not tell.
_ADAPTIVE = {"RMSprop", "Adagrad", "Adadelta", "Adamax", "Rprop", "SparseAdam", "LBFGS"}
_MUCH_LOST = 0.5


class Watch:
    """Looks at every n-th step of an optimizer; prints the last readings as a table.

    Attributes:
        every: at which steps it looks.
        step: how many steps the optimizer has made since.
        readings: the last readings, by the names of the parameters.
        history: all readings, by step.
    """

    def __init__(
        self, optimizer: Optimizer, every: int, names: Names, writer: Writer | None, tag: str
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
        params = dict(enumerate(parameters(optimizer)))
        before, self._before = self._before, {}
        found: dict[int, Reading] = {}
        rates = list(_decay_rates(optimizer))
        for device in {params[n].device for n in before}:
            here = [n for n in before if params[n].device == device and params[n].grad is not None]
            if here:
                rows = _measured(
                    [params[n] for n in here], [before[n] for n in here], [rates[n] for n in here]
                )
                found |= zip(here, rows, strict=True)
        names = {n: self._names.get(id(param), f"param {n}") for n, param in params.items()}
        self.history[self.step] = {names[n]: found[n] for n in before if n in found}
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
        if not self.readings:
            return f"step {max(self.history)}: no parameter had a gradient"
        rows = []
        for name, reading in self.readings.items():
            *sizes, zero, lost = (getattr(reading, measure) for measure in _SHOWN.values())
            shares = (f"{100 * share:.3g} %" for share in (zero, lost))
            rows.append([name[-22:], *(f"{size:.3g}" for size in sizes), *shares])
        printed = table(["parameter", *_SHOWN], rows, widths=[22, *[9] * len(_SHOWN)])
        return "\n".join([f"step {max(self.history)}", printed, *self._lost_decay()])

    def _lost_decay(self) -> Iterator[str]:
        for name, reading in self.readings.items():
            if reading.decay_lost > _MUCH_LOST:
                yield (
                    f"{name}: weight decay alone would move it by {reading.decay_norm:.3g}, and is "
                    f"lost to rounding in {100 * reading.decay_lost:.3g} % of its elements"
                )


def watch(
    optimizer: Optimizer,
    every: int = 100,
    *,
    names: Names = (),
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
    return Watch(optimizer, every, names, writer, tag)


def _measured(
    params: Sequence[Tensor], before: list[Tensor], rates: Sequence[float]
) -> Iterator[Reading]:
    """Measure the updates of parameters on one device, and read all numbers at once."""
    kept = _column(map(_left_by_decay, before, rates))
    grads = [_plain(param.grad) for param in params if param.grad is not None]
    sizes = [*_sizes(before), *_sizes(grads)]
    updates = before  # the copies have done their work
    torch._foreach_sub_(updates, [_plain(param) for param in params])
    torch._foreach_neg_(updates)
    # A product with a sign is zero where a factor is, and nowhere else, in any dtype.
    both = torch._foreach_mul(grads, torch._foreach_sign(updates))
    counts = (_column(map(torch.count_nonzero, each)) for each in (updates, grads, both))
    numbers = torch.stack([*sizes, *_sizes(updates), *counts, kept]).T.tolist()
    for update, rate, row in zip(updates, rates, numbers, strict=True):
        *measured, moved, with_gradient, both_moved, undecayed = row
        norm, update_norm, count = measured[0], measured[4], update.numel()
        ratio = update_norm / norm if norm else float("nan")
        lost = (with_gradient - both_moved) / count
        decay = (rate * norm, undecayed / count)
        yield Reading(*(*measured, ratio, 1 - moved / count, lost, *decay))


def _left_by_decay(tensor: Tensor, rate: float) -> Tensor:
    """Count the elements that are not zero, and that weight decay alone leaves as they are."""
    if not rate:
        return tensor.new_zeros((), dtype=torch.int64)
    return (
        (tensor * (1 - rate) == tensor) & (tensor - rate * tensor == tensor) & (tensor != 0)
    ).sum()


def _decay_rates(optimizer: Optimizer) -> Iterator[float]:
    """Go through the shares that weight decay takes from each parameter, 0 for an L2 term.

    An adaptive rule scales its gradient, and an L2 term in it: what that moves is no share.
    """
    classes = {each.__name__ for each in type(optimizer).__mro__}
    for group in optimizer.param_groups:
        decoupled = group.get("decoupled_weight_decay", not classes & _ADAPTIVE)
        rate = float(group.get("lr") or 0) * float(group.get("weight_decay") or 0)
        yield from [rate if decoupled else 0.0] * len(group["params"])


def _sizes(tensors: list[Tensor]) -> list[Tensor]:
    """Return Euclidean norms and largest magnitudes; on CPU an infinity norm takes far longer."""
    ends = [torch.aminmax(tensor) for tensor in tensors]
    low, high = (_column(end[side] for end in ends) for side in (0, 1))
    dtypes = {tensor.dtype for tensor in tensors}
    halves = dtypes & {torch.float16, torch.bfloat16}  # whose squares overflow
    wide = (
        torch.promote_types(max(dtypes, key=lambda d: d.itemsize), torch.float32)
        if halves
        else None
    )
    return [_column(torch._foreach_norm(tensors, 2, wide)), torch.maximum(-low, high)]


def _column(numbers: Iterable[Tensor]) -> Tensor:
    listed = list(numbers)
    if len({number.dtype for number in listed}) > 1:
        listed = [number.double() for number in listed]
    return torch.stack(listed).double()


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _group_names(optimizer: Optimizer) -> dict[int, str]:
    return {
        id(param): name
        for group in optimizer.param_groups
        for param, name in zip(group["params"], group.get("param_names") or (), strict=False)
    }
