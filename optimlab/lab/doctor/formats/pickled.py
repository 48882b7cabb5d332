"""Pickles, read without importing or calling anything that they name.

A pickle is a program for a small stack machine, and :func:`unpickle` is that machine without what
makes it dangerous: a name stays a :class:`Global`, and to call one gives what a table of harmless
functions says, or an inert :class:`Placeholder`.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from optimlab.lab.doctor.errors import CheckpointError

#: More than any checkpoint has, and few enough for seconds.
MOST_INSTRUCTIONS = 4_000_000

Functions: TypeAlias = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Global:
    """The name of a class or a function in a pickle."""

    name: str


class Placeholder:
    """Stands for an object of a class that is not known here.

    Attributes:
        kind: the name of the class, or of what the pickle calls to make the object.
        args: what it would be called with.
        state: what the object would restore itself from.
        items: its items, if it is some kind of dict or list.
    """

    def __init__(self, kind: str, args: Any = (), state: Any = None) -> None:
        self.kind, self.args, self.state = kind, args, state
        self.items: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.kind}>"


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_NOTHING = ("PROTO", "FRAME", "STOP", "READONLY_BUFFER")


def unpickle(
    file: BinaryIO,
    functions: Functions,
    values: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from where a file stands; the file stands behind it then.

    Args:
        file: what to read from.
        functions: what to call for the functions and classes of these names.
        values: what other names stand for.
        persistent: returns what an identifier of something outside the pickle stands for.

    Raises:
        CheckpointError: if it does what no checkpoint does.
        ValueError, IndexError, KeyError: if it is no pickle, or a damaged one.
    """
    machine = _Machine(functions, values, persistent)
    for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        if count > MOST_INSTRUCTIONS:
            raise CheckpointError(f"its pickle has more than {MOST_INSTRUCTIONS} instructions")
        machine.execute(opcode.name, arg)
    return machine.stack[-1]


class _Machine:
    """The stack, and a method for each instruction that takes more than one thing from it."""

    def __init__(
        self, functions: Functions, values: Mapping[str, Any], persistent: Any = None
    ) -> None:
        self.stack: list[Any] = []
        self._functions, self._values, self._persistent = functions, values, persistent
        self._memo: dict[int, Any] = {}
        own = [name for name in dir(self) if name.startswith("do_")]
        self._do = {name.removeprefix("do_").upper(): getattr(self, name) for name in own}

    def execute(self, name: str, arg: Any) -> None:
        """Carry one instruction out."""
        if name in self._do:
            self._do[name](arg)
        elif name in _SIMPLE:
            self.stack.append(_SIMPLE[name](self))
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name.endswith("PUT") or name == "MEMOIZE":
            self._memo[len(self._memo) if arg is None else arg] = self.stack[-1]
        elif name.endswith("GET"):
            self.stack.append(self._memo[arg])
        elif arg is not None and not name.startswith("EXT") and name not in _NOTHING:
            self.stack.append(arg)  # a number, a string or bytes
        elif name not in _NOTHING:
            raise CheckpointError(f"its pickle has the instruction {name}")

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("its stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        """Take off the stack what was put there since the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        taken = self._pop(len(self.stack) - at)
        return taken[1:]

    def do_additems(self, _: Any) -> None:
        items = self._marked()
        self.stack[-1].update(map(_key, items))

    def do_pop(self, _: Any) -> None:
        self._pop(1)

    def do_pop_mark(self, _: Any) -> None:
        self._marked()

    def _extend(self, items: list[Any]) -> Any:
        target = self.stack.pop()
        if isinstance(target, Placeholder):
            target.items.update(enumerate(items, start=len(target.items)))
        else:
            target.extend(items)
        return target

    def _under(self, items: list[Any]) -> tuple[Any, list[Any]]:
        return self.stack.pop(), items

    def _set(self, target: Any, items: list[Any]) -> Any:
        held = target.items if isinstance(target, Placeholder) else target
        for key, value in zip(items[::2], items[1::2], strict=True):
            held[_key(key)] = value
        return target

    def do_global(self, name: str) -> None:
        name = name.replace(" ", ".", 1)
        self.stack.append(self._values[name] if name in self._values else Global(name))

    def do_stack_global(self, _: Any) -> None:
        self.do_global(".".join(map(str, self._pop(2))))

    def do_reduce(self, _: Any) -> None:
        function, args = self._pop(2)
        self.stack.append(self._call(function, args))

    do_newobj = do_reduce

    def do_newobj_ex(self, _: Any) -> None:
        kind, args, _keywords = self._pop(3)
        self.stack.append(self._call(kind, args))

    def do_obj(self, _: Any) -> None:
        kind, *args = self._marked()
        self.stack.append(self._call(kind, tuple(args)))

    def do_inst(self, name: str) -> None:
        args = tuple(self._marked())
        self.stack.append(self._call(Global(name.replace(" ", ".", 1)), args))

    def do_build(self, _: Any) -> None:
        (state,) = self._pop(1)
        made = self.stack[-1]
        if isinstance(made, Placeholder):
            made.state = state
        elif isinstance(made, OrderedDict) and isinstance(state, dict) and "_metadata" in state:
            made._metadata = state["_metadata"]  # type: ignore[attr-defined] # of a module
        else:
            self._functions["BUILD"](made, state)

    def do_persid(self, _: Any) -> None:
        raise CheckpointError("its pickle refers to something outside it")

    def do_binpersid(self, _: Any) -> None:
        (name,) = self._pop(1)
        if self._persistent is None:
            self.do_persid(name)
        self.stack.append(self._persistent(name))

    def _call(self, function: Any, args: Any) -> Any:
        if isinstance(function, Global) and function.name == "torch._tensor._rebuild_from_type_v2":
            function, args = args[0], args[2]  # of a subclass of Tensor: the tensor itself
        if isinstance(function, Global) and function.name in self._functions:
            return self._functions[function.name](*args)
        kind = function.name if isinstance(function, Global) else type(function).__name__
        return Placeholder(kind, args)


_SIMPLE: dict[str, Callable[[_Machine], Any]] = {
    "DUP": lambda machine: machine.stack[-1],
    "TUPLE": lambda machine: tuple(machine._marked()),
    "TUPLE1": lambda machine: tuple(machine._pop(1)),
    "TUPLE2": lambda machine: tuple(machine._pop(2)),
    "TUPLE3": lambda machine: tuple(machine._pop(3)),
    "LIST": lambda machine: machine._marked(),
    "DICT": lambda machine: machine._set({}, machine._marked()),
    "FROZENSET": lambda machine: frozenset(map(_key, machine._marked())),
    "APPEND": lambda machine: machine._extend(machine._pop(1)),
    "APPENDS": lambda machine: machine._extend(machine._marked()),
    "SETITEM": lambda machine: machine._set(*machine._under(machine._pop(2))),
    "SETITEMS": lambda machine: machine._set(*machine._under(machine._marked())),
}
"""What these put on the stack."""


def _key(key: Any) -> Any:
    """Refuse keys whose hash takes longer than the file is long: tuples in tuples in tuples."""
    deep = isinstance(key, tuple | frozenset) and any(isinstance(k, tuple | frozenset) for k in key)
    if deep:
        raise CheckpointError("its pickle has nested tuples for the keys of a dict")
    return key
