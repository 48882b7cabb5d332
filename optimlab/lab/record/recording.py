"""Recording the ATen operations of a step, of any optimizer, without changing one.

A :class:`Recording` is a dispatch mode of torch. While an optimizer steps under it, each operation
passes through :meth:`Recording.__torch_dispatch__`, which looks at the operands, carries out the
very operation that was asked for, on the very tensors, and looks at the results: nothing else is
ever computed on the optimizer's tensors, so a recorded step ends in the bits of an unrecorded one.

Operations on lists (``torch._foreach_*`` and the fused kernels) are written down tensor by tensor,
so that an optimizer's foreach implementation reads like its for-loop. Operations of a closure,
which evaluates the model again, are not a part of the rule and are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from optimlab import native
from optimlab.lab.record.extent import Extent
from optimlab.lab.record.registers import Register, Registers
from optimlab.lab.record.writing import Operation, Value, is_listed, split, written_arguments

if TYPE_CHECKING:
    from collections import OrderedDict

Look: TypeAlias = Callable[[Tensor, "int | None"], Any]
"""What to keep of a tensor at a moment, given the number of the parameter that it belongs to."""


class Recording(TorchDispatchMode):
    """Writes the operations of an optimizer's steps down.

    Use it as a context; a step hook tells it where each step begins and ends, so that whatever else
    runs inside the context, such as the model, is carried out and not recorded.

    Args:
        optimizer: any optimizer. Two hooks are attached to it for as long as the context lasts.
        look: makes what is kept of each tensor, such as a copy; ``None`` keeps nothing of it.
        finished: called with the operations of each step as it ends.
        started: called with the optimizer as each step begins.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        look: Look,
        finished: Callable[[list[Operation]], None],
        started: Callable[[Optimizer], object] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.optimizer = optimizer
        self._look = look
        self._finished = finished
        self._started = started
        self._extent = Extent()
        self._registers: Registers | None = None  # of the step that is being recorded
        self._operations: list[Operation] = []
        self._suspended = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> Recording:
        native.usable()  # which is found out at first use, by comparing many operations
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._begin),
            self.optimizer.register_step_post_hook(self._end),
        ]
        # What other hooks compute after the step is no part of it.
        post_hooks = cast("OrderedDict[int, Any]", self.optimizer._optimizer_step_post_hooks)
        post_hooks.move_to_end(self._hooks[1].id, last=False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._registers = None
        for hook in self._hooks:
            hook.remove()

    # Where steps begin and end.

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not self._extent.begins():
            return None
        self._registers = None  # of a step that raised
        if self._started is not None:
            self._started(optimizer)
        self._registers, self._operations = Registers(optimizer), []
        args = tuple(self._outside(value) for value in args)
        return args, {name: self._outside(value) for name, value in kwargs.items()}

    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._extent.ends() or self._registers is None:
            return
        self._registers.name_locals(sys._getframe(1))
        self._registers.name_optimizers_tensors()
        self._registers.settle(self._operations)
        self._registers = None
        self._finished(self._operations)

    def _outside(self, value: Any) -> Any:
        """Wrap a closure, whose operations are not those of the optimizer."""
        if isinstance(value, Optimizer) or not callable(value):
            return value

        def closure(*args: Any, **kwargs: Any) -> Any:
            self._suspended += 1
            try:
                return value(*args, **kwargs)
            finally:
                self._suspended -= 1
                if self._registers is not None:
                    self._registers.name_optimizers_tensors()  # it made the gradients

        return closure

    # One operation.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        registers = self._registers
        if registers is None or self._suspended:
            return func(*args, **kwargs)
        registers.name_locals(sys._getframe(1))
        given = [*args, *kwargs.values()]
        before = {id(t): self._seen(registers, t) for t in tensors_in(given)}
        returned = func(*args, **kwargs)
        self._write(registers, func, (args, kwargs), before, returned)
        return returned

    def _write(
        self,
        registers: Registers,
        func: Any,
        called: tuple[tuple[Any, ...], dict[str, Any]],
        before: dict[int, Value],
        returned: Any,
    ) -> None:
        args, kwargs = called
        for position, part in enumerate(split(func, args, kwargs, returned)):
            number = len(self._operations)
            operands = [before[id(tensor)] for tensor in tensors_in(part.arguments.values())]
            read = [value.register for value in operands]
            parameter = _first(value.register.parameter for value in operands)
            written = written_arguments(func, part.arguments)
            results = []
            for tensor in [*written, *(t for t in part.returned if not _is_in(t, written))]:
                register = registers.of(tensor, made_by=func, parameter=parameter)
                if _is_in(tensor, written) or register not in read:  # a view is not written
                    registers.write(register, number)
                results.append(self._seen(registers, tensor))
            self._operations.append(
                Operation(
                    number=number,
                    function=func,
                    arguments={
                        name: _with_values(value, before) for name, value in part.arguments.items()
                    },
                    results=tuple(results),
                    in_place=bool(written),
                    listed=position if is_listed(func) else None,
                    returned=None if part.returned else returned,
                    parameter=parameter,
                )
            )

    def _seen(self, registers: Registers, tensor: Tensor) -> Value:
        register = registers.of(tensor)
        key = (tensor.shape, tensor.dtype, tensor.data_ptr() if _has_memory(tensor) else 0)
        source = registers.writer(register)
        if (source, key) not in register.looks:
            register.looks = {k: v for k, v in register.looks.items() if k[0] == source}
            register.looks[source, key] = self._look(tensor, register.parameter)
        shown = register.looks[source, key]
        return Value(register, shown, tuple(tensor.shape), tensor.dtype, source)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Go through the tensors of nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def _with_values(argument: Any, seen: dict[int, Value]) -> Any:
    if isinstance(argument, Tensor):
        return seen[id(argument)]
    if isinstance(argument, list | tuple):
        return [_with_values(item, seen) for item in argument]
    return argument


def _first(numbers: Iterator[int | None]) -> int | None:
    return next((number for number in numbers if number is not None), None)


def _is_in(tensor: Tensor, tensors: Sequence[Tensor]) -> bool:
    return any(tensor is other for other in tensors)


def _has_memory(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


__all__ = ["Look", "Operation", "Recording", "Register", "Value", "tensors_in"]
