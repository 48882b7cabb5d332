"""Mutants of a function: its source with one operation, constant, name or statement changed."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Change: TypeAlias = "tuple[str, ast.AST]"
"""What a change does, in words, and the changed tree."""

_OPERATORS: Mapping[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.Sub),
    ast.Pow: (ast.Mult, ast.Div),
}
_COMMUTATIVE = (ast.Add, ast.Mult)
_COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.NotEq: ast.Eq,
    ast.Eq: ast.NotEq,
    ast.Gt: ast.LtE,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_METHODS: Mapping[str, tuple[str, ...]] = {
    "add": ("mul", "sub"),
    "add_": ("mul_", "sub_"),
    "addcdiv_": ("addcmul_",),
    "addcmul": ("addcdiv",),
    "addcmul_": ("addcdiv_",),
    "div_": ("mul_",),
    "mul_": ("div_", "add_"),
    "mul": ("div",),
    "neg_": ("reciprocal_",),
    "reciprocal_": ("neg_",),
    "sqrt": ("abs", "square"),
    "sqrt_": ("neg_",),
    "square": ("abs",),
    "sub_": ("add_", "mul_"),
    "maximum": ("minimum",),
}


@dataclass(frozen=True)
class Mutant:
    """A changed function.

    Attributes:
        change: what is changed, in words.
        function: the function with the change.
    """

    change: str
    function: Callable[..., Any]


def mutants(function: Callable[..., Any], families: Sequence[Sequence[str]]) -> Iterator[Mutant]:
    """Make every mutant of a function.

    Args:
        function: a function, or a method without ``super()``.
        families: names, of variables and of keys, that may take each other's place.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    _strip(tree)
    original = ast.unparse(tree)
    seen = {original}
    times: Counter[str] = Counter()
    for change, changed in _Mutation(tree, families).changes(tree):
        source = ast.unparse(ast.fix_missing_locations(changed))
        if source not in seen:
            seen.add(source)
            times[change] += 1
            again = f", place {times[change]}" if times[change] > 1 else ""
            yield Mutant(change + again, _compiled(source, function, change))


def edited(original: type, name: str, *edits: tuple[str, str]) -> type:
    """Make a class that differs from another in a few words of its methods.

    Args:
        original: the other; no method that is edited may use ``super()``.
        name: of the class that is made.
        edits: text of one method, and what stands in its place.
    """
    classes = [each for each in original.__mro__ if each.__module__ == original.__module__]
    found = {k: v for each in reversed(classes) for k, v in vars(each).items() if callable(v)}
    methods: dict[str, Callable[..., Any]] = {}
    for before, after in edits:
        (name_of_method,) = [key for key, value in found.items() if before in _source(value)]
        source = _source(found[name_of_method]).replace(before, after)
        made = _compiled(source, found[name_of_method], name)
        made.__edited__ = source  # type: ignore[attr-defined]
        found[name_of_method] = methods[name_of_method] = made
    return type(name, (original,), {**methods, "__module__": original.__module__})


def _source(function: Callable[..., Any]) -> str:
    kept = getattr(function, "__edited__", None)
    return kept or textwrap.dedent(inspect.getsource(inspect.unwrap(function)))


def _compiled(source: str, like: Callable[..., Any], change: str) -> Callable[..., Any]:
    """Compile the source of a function in the module of another."""
    namespace = dict(inspect.unwrap(like).__globals__)
    exec(compile(source, f"<{change}>", "exec"), namespace)
    made: Callable[..., Any] = namespace[like.__name__]
    return made


def _strip(tree: ast.FunctionDef) -> None:
    """Remove what a mutant is not to be made of: types and the docstring."""
    tree.returns = None
    for argument in [*tree.args.args, *tree.args.kwonlyargs]:
        argument.annotation = None
    if ast.get_docstring(tree) is not None:
        del tree.body[0]


class _Mutation:
    def __init__(self, tree: ast.FunctionDef, families: Sequence[Sequence[str]]) -> None:
        self._families = families
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        self._bound = [(0, argument.arg) for argument in tree.args.args]
        self._bound += [(n.lineno, n.id) for n in names if isinstance(n.ctx, ast.Store)]
        strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        self._keys = {node.value for node in strings if isinstance(node.value, str)}

    def changes(self, node: ast.AST) -> Iterator[Change]:
        """Change the node itself, then everything in it."""
        for alternative in self._alternatives(node):
            yield f"{_shown(node)} -> {_shown(alternative)}", alternative
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                for change, changed in self.changes(value):
                    yield _within(node, change), _with(node, name, changed)
            elif isinstance(value, list):
                yield from self._changes_in_list(node, name, value)

    def _changes_in_list(self, node: ast.AST, name: str, items: list[Any]) -> Iterator[Change]:
        for i, item in enumerate(items):
            if not isinstance(item, ast.AST):
                continue
            if isinstance(item, ast.stmt) and not isinstance(item, ast.Pass):
                without = [*items[:i], ast.Pass(), *items[i + 1 :]]
                yield f"without {_shown(item)}", _with(node, name, without)
            for change, changed in self.changes(item):
                yield (
                    _within(node, change),
                    _with(node, name, [*items[:i], changed, *items[i + 1 :]]),
                )

    def _alternatives(self, node: ast.AST) -> Iterator[ast.AST]:
        match node:
            case ast.BinOp(left, operator, right):
                for other in _OPERATORS[type(operator)]:
                    yield ast.BinOp(left, other(), right)
                if not isinstance(operator, _COMMUTATIVE):
                    yield ast.BinOp(right, operator, left)
            case ast.UnaryOp(ast.USub() | ast.Not(), operand):
                yield operand
            case ast.Constant(bool() | None):
                return
            case ast.Constant(int() | float() as number):
                yield ast.Constant(number + 1)
            case ast.Constant(str() as key):
                yield from map(ast.Constant, self._relatives(key, self._keys))
            case ast.Name(name, ast.Load()):
                bound = {other for line, other in self._bound if line < node.lineno}
                for relative in self._relatives(name, bound):
                    yield ast.Name(relative, ast.Load())
            case ast.Call():
                yield from _other_calls(node)
            case ast.Compare(left, [comparison], right):
                yield ast.Compare(left, [_COMPARISONS[type(comparison)]()], right)
            case ast.BoolOp(both, operands):
                yield ast.BoolOp(ast.Or() if isinstance(both, ast.And) else ast.And(), operands)
            case ast.IfExp(test, body, orelse):
                yield ast.IfExp(test, orelse, body)
            case ast.If(test, body, orelse) if not isinstance(test, ast.Compare | ast.UnaryOp):
                yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)

    def _relatives(self, name: str, there: set[str]) -> Iterator[str]:
        for family in self._families:
            relatives = [other for other in family if other in there or other == name]
            if name in relatives and len(relatives) > 1:
                yield relatives[(relatives.index(name) + 1) % len(relatives)]


def _other_calls(call: ast.Call) -> Iterator[ast.AST]:
    """Drop the call, or an argument of it; swap arguments; call another method."""
    function, args, keywords = call.func, call.args, call.keywords
    if isinstance(function, ast.Attribute):
        yield function.value
        for other in _METHODS.get(function.attr, ()):
            yield ast.Call(ast.Attribute(function.value, other, ast.Load()), args, keywords)
        if function.attr == "lerp_":
            weight = ast.BinOp(ast.Constant(1), ast.Sub(), args[1])
            yield ast.Call(function, [args[0], weight], keywords)
    elif args:
        yield args[0]
    for i in range(len(args) - 1):
        yield ast.Call(function, [*args[:i], args[i + 1], args[i], *args[i + 2 :]], keywords)
    for i in range(len(keywords)):
        yield ast.Call(function, args, [*keywords[:i], *keywords[i + 1 :]])


def _with(node: ast.AST, name: str, value: Any) -> ast.AST:
    changed = copy.copy(node)
    setattr(changed, name, value)
    return changed


def _within(node: ast.AST, change: str) -> str:
    """Say in which statement a change is, unless that has been said."""
    is_statement = isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef)
    return f"{change} in {_shown(node)[:60]}" if is_statement and " in " not in change else change


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).splitlines()[0].split())
