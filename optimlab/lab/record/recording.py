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
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from optimlab import native
from optimlab.core.program import unique_name
from optimlab.lab.record.registers import Look, Register, Registers, Value
from optimlab.lab.record.step_scope import Closure, StepScope
from optimlab.lab.record.writing import (
    Operation,
    is_listed,
    leaves,
    split,
    written_arguments,
)


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
        self._registers, self._operations = Registers(optimizer, self._look), []

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
        before = {id(tensor): registers.seen(tensor) for tensor in given}
        returned = func(*args, **kwargs)
        for place, (arguments, made) in enumerate(split(func, args, kwargs, returned)):
            written = written_arguments(func, arguments)
            operation = Operation(
                number=len(self._operations),
                function=func,
                arguments={name: _with_values(value, before) for name, value in arguments.items()},
                in_place=bool(written),
                listed=place if is_listed(func) else None,
                returned=None if made else returned,
            )
            operation.results = tuple(_results(operation, written, made, registers))
            self._operations.append(operation)
        return returned


def _results(
    operation: Operation, written: list[Tensor], made: list[Tensor], registers: Registers
) -> Iterator[Value]:
    """Write down what an operation results in."""
    read = [value.register for value in operation.operands]
    numbers = [register.parameter for register in read if register.parameter is not None]
    for place, tensor in enumerate({id(each): each for each in (*written, *made)}.values()):
        register = registers.of(tensor)
        register.name = register.name or operation.name.strip("_")
        if register.parameter is None and numbers:
            register.parameter = numbers[0]
        if place < len(written) or register not in read:  # a view is not written
            for other in register.overlapping():
                other.writer = operation.number
        yield registers.seen(tensor)


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
