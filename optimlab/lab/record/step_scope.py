"""Where a step begins and ends, for instruments that look on through step hooks."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

from torch.optim import Optimizer

Closure: TypeAlias = Callable[..., Any]


class StepScope:
    """Two step hooks that tell each outermost call of ``step`` from those that are made inside it.

    torch wraps ``step`` of a class when an instance of it is made, so where a subclass calls
    ``super().step()`` both may be wrapped, and each wrapper calls all hooks. The outermost wrapper
    is told by its frame. A step that raised leaves no frame, and so never hides the next one.

    ``begin`` is called with the optimizer and whether the step has a closure, ``end`` with the
    optimizer, ``around`` in place of the closure, with it and its arguments.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        begin: Callable[[Optimizer, bool], None],
        end: Callable[[Optimizer], None],
        around: Closure,
    ) -> None:
        self._begin, self._end, self._around = begin, end, around
        self._outermost = 0  # the id of a frame, as the frame itself would keep its callers alive
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def remove(self) -> None:
        """Detach the hooks."""
        for hook in self._hooks:
            hook.remove()

    def is_last(self) -> bool:
        """Tell whether all other hooks that are called before a step are called before this one."""
        return next(reversed(self._others(0)), None) == self._hooks[0].id

    def go_last(self) -> None:
        """Be called before a step after all other hooks."""
        if self._hooks[0].id in self._others(0):
            self._others(0).move_to_end(self._hooks[0].id)

    def end_first(self) -> None:
        """Be called after a step before all other hooks: what those compute is no part of it."""
        self._others(1).move_to_end(self._hooks[1].id, last=False)

    def _others(self, which: int) -> OrderedDict[int, Any]:
        return cast("OrderedDict[int, Any]", self._hooks[which].hooks_dict_ref() or OrderedDict())

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        wrapper = sys._getframe(1)
        caller = wrapper.f_back
        while caller is not None:
            if id(caller) == self._outermost and caller.f_code is wrapper.f_code:
                return None
            caller = caller.f_back
        self._outermost = id(wrapper)
        self._begin(optimizer, any(map(_is_closure, (*args, *kwargs.values()))))
        given = tuple(map(self._wrapped, args))
        return given, {name: self._wrapped(value) for name, value in kwargs.items()}

    def _wrapped(self, value: Any) -> Any:
        return partial(self._around, value) if _is_closure(value) else value

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(sys._getframe(1)) == self._outermost:
            self._outermost = 0
            self._end(optimizer)


def _is_closure(value: Any) -> bool:
    return callable(value) and not isinstance(value, Optimizer)
