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
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from optimlab import native
from optimlab.core.program import unique_name
from optimlab.lab.record.registers import Register, Registers
from optimlab.lab.record.step_scope import Closure, StepScope
from optimlab.lab.record.writing import (
    Operation,
    Value,
    is_listed,
    leaves,
    split,
    written_arguments,
)

Look: TypeAlias = Callable[[Tensor, "int | None"], Any]
"""What to keep of a tensor at a moment, given the number of the parameter that it belongs to."""


class Recording(TorchDispatchMode):
    """Writes the operations of an optimizer's steps down.

    Use it as a context; a step hook tells it where each step begins and ends, so that whatever else
    runs inside the context, such as the model, is carried out and not recorded.

    ``look`` makes what is kept of each tensor, such as a copy; ``finished`` is called with the
    operations of each step as it ends, ``started`` with the optimizer as each begins.
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
        self._registers: Registers | None = None  # of the step that is being recorded
        self._operations: list[Operation] = []
        self._suspended = 0

    def __enter__(self) -> Recording:
        native.usable()  # which is found out at first use, by comparing many operations
        self._scope = StepScope(self.optimizer, self._begin, self._end, self._outside)
        self._scope.end_first()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._registers = None
        self._scope.remove()

    # Where steps begin and end.

    def _begin(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._registers = None  # of a step that raised
        if self._started is not None:
            self._started(optimizer)
        self._registers, self._operations = Registers(optimizer), []

    def _end(self, optimizer: Optimizer) -> None:
        if self._registers is not None:
            self._registers.name_optimizers_tensors()
            settle(self._operations)
            self._registers = None
            self._finished(self._operations)

    def _outside(self, closure: Closure, *args: Any, **kwargs: Any) -> Any:
        """Call a closure, whose operations are not those of the optimizer."""
        self._suspended += 1
        try:
            return closure(*args, **kwargs)
        finally:
            self._suspended -= 1
            if self._registers is not None:
                self._registers.name_optimizers_tensors()  # it made the gradients

    # One operation.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        registers = self._registers
        if registers is None or self._suspended:
            return func(*args, **kwargs)
        registers.name_locals(sys._getframe(1))
        given = leaves(Tensor, [*args, *kwargs.values()])
        before = {id(tensor): self._seen(registers, tensor) for tensor in given}
        returned = func(*args, **kwargs)
        for place, (arguments, made) in enumerate(split(func, args, kwargs, returned)):
            operation = self._written(registers, func, arguments, made, before)
            operation.listed = place if is_listed(func) else None
            operation.returned = None if made else returned
            self._operations.append(operation)
        return returned

    def _written(
        self,
        registers: Registers,
        func: Any,
        arguments: dict[str, Any],
        made: list[Tensor],
        before: dict[int, Value],
    ) -> Operation:
        """Write an operation on single tensors down, and what it results in."""
        number = len(self._operations)
        operands = [before[id(tensor)].register for tensor in leaves(Tensor, arguments.values())]
        parameter = next((r.parameter for r in operands if r.parameter is not None), None)
        written = written_arguments(func, arguments)
        results = {id(tensor): tensor for tensor in (*written, *made)}.values()
        values = []
        for place, tensor in enumerate(results):
            register = registers.of(tensor, made_by=func, parameter=parameter)
            if place < len(written) or register not in operands:  # a view is not written
                registers.write(register, number)
            values.append(self._seen(registers, tensor))
        return Operation(
            number=number,
            function=func,
            arguments={name: _with_values(value, before) for name, value in arguments.items()},
            results=tuple(values),
            in_place=bool(written),
            parameter=parameter,
        )

    def _seen(self, registers: Registers, tensor: Tensor) -> Value:
        register = registers.of(tensor)
        source = registers.writer(register)
        address = tensor.data_ptr() if tensor.layout is torch.strided else 0
        key = (source, tensor.shape, tensor.dtype, address)
        if key not in register.looks:
            register.looks = {k: v for k, v in register.looks.items() if k[0] == source}
            register.looks[key] = self._look(tensor, register.parameter)
        return Value(register, register.looks[key], tuple(tensor.shape), tensor.dtype, source)


def _with_values(argument: Any, seen: dict[int, Value]) -> Any:
    if isinstance(argument, Tensor):
        return seen[id(argument)]
    if isinstance(argument, list | tuple):
        return [_with_values(item, seen) for item in argument]
    return argument


def settle(operations: Sequence[Operation]) -> None:
    """Attribute all registers to parameters, and give those of each parameter unique names."""
    everything: dict[Register, None] = {}  # in order
    for operation in operations:
        registers = [value.register for value in (*operation.operands, *operation.results)]
        everything.update(dict.fromkeys(registers))
        numbers = [r.parameter for r in registers if r.parameter is not None]
        operation.parameter = numbers[0] if numbers else None
        for value in operation.results:
            if value.register.parameter is None:
                value.register.parameter = operation.parameter
    taken: dict[int | None, set[str]] = {}
    for register in sorted(everything, key=lambda register: -register.rank):
        names = taken.setdefault(register.parameter, set())
        register.name = unique_name(register.name or "tensor", names)
        register.looks = {}
