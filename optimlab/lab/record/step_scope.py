"""Where a step begins and ends, for hooks that torch calls more than once in it."""

from __future__ import annotations

import sys
from types import FrameType


class StepScope:
    """Tells a call of ``step`` from those of a parent's ``step`` that are made inside it.

    torch wraps ``step`` of a class when an instance of it is made, so where a subclass calls
    ``super().step()`` both may be wrapped, and each wrapper calls all hooks. The outermost wrapper
    is told by its frame. A step that raised leaves no frame, and so never hides the next one.
    """

    def __init__(self) -> None:
        self._outermost = 0  # the id of a frame, as the frame itself would keep its callers alive

    def begins(self) -> bool:
        """Tell, from inside a pre-hook, whether a step begins."""
        wrapper = sys._getframe(2)
        caller = wrapper.f_back
        while caller is not None:
            if id(caller) == self._outermost and caller.f_code is wrapper.f_code:
                return False
            caller = caller.f_back
        self._outermost = id(wrapper)
        return True

    def ends(self) -> bool:
        """Tell, from inside a post-hook, whether the step that began ends."""
        wrapper: FrameType = sys._getframe(2)
        if id(wrapper) != self._outermost:
            return False
        self._outermost = 0
        return True
