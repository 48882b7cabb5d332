"""Hyperparameters that torch takes without a word and that make no sense."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from optimlab.lab.compare.digest import digest
from optimlab.lab.findings import Finding, error, note, warning

Group: TypeAlias = Mapping[str, Any]

#: What schedulers and torch itself write into a group beside the optimizer's hyperparameters.
SCHEDULE = ("initial_lr", "max_lr", "min_lr")
BOOKKEEPING = {
    "params",
    "param_names",
    "name",
    "swa_lr",
    "base_momentum",
    "max_momentum",
    *SCHEDULE,
}
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")

Check: TypeAlias = tuple[str, Callable[[float, Group], bool], str]


def _of(group: Group, key: str) -> float:
    return number(group[key]) if is_number(group.get(key)) else 0.0


def _turns_signs(x: float, group: Group) -> bool:
    return bool(group.get("decoupled_weight_decay")) and x * _of(group, "lr") > 1


# Name, when it is wrong, and what is the matter. A constructor checks some of them, but not what is
# set in a group later, or loaded.
_ERRORS: tuple[Check, ...] = (
    ("lr", lambda x, _: not math.isfinite(x) or x < 0, "no step size"),
    ("momentum", lambda x, _: not 0 <= x, "not in [0, 1)"),
    ("eps", lambda x, _: not x >= 0, "negative, or not a number"),
    ("alpha", lambda x, _: not 0 <= x <= 1, "not in [0, 1]: the mean of squares can turn negative"),
    ("weight_decay", lambda x, _: not x >= 0, "the parameters grow instead of shrinking"),
    (
        "weight_decay",
        _turns_signs,
        "times lr it is more than 1: every step turns the parameters' signs over",
    ),
)
_WARNINGS: tuple[Check, ...] = (
    ("lr", lambda x, _: x == 0, "no step moves anything"),
    ("momentum", lambda x, _: x >= 1, "the buffer never forgets and grows without bound"),
    ("alpha", lambda x, group: x == 1 and "centered" in group, "the mean of squares stays zero"),
    ("eps", lambda x, _: x == 0, "a gradient of exactly zero becomes 0/0, not a number"),
    ("eps", lambda x, _: x >= 0.1, "it drowns the root of the second moment"),
    (
        "dampening",
        lambda x, group: x >= 1 and _of(group, "momentum") > 0,
        "the buffer takes in no gradient after the first",
    ),
    ("weight_decay", lambda x, group: x > 1 and "decoupled_weight_decay" not in group, "large"),
)


def check_group(group: Group, where: str, known: Collection[str] = ()) -> Iterator[Finding]:
    """Find what makes no sense in a group, whose optimizer has the known keys, if any are known."""
    for say, checks in ((error, _ERRORS), (warning, _WARNINGS)):
        for name, fails, why in checks:
            value = group.get(name)
            if is_number(value) and fails(number(value), group):
                what = f"{name} = {shown(value)}: {why}"
                advice = f"set {name} in this group of param_groups."
                ended = name == "lr" and say is warning and _of(group, "initial_lr") > 0
                yield (note if ended else say)("hyperparameter", where, what, advice)
    yield from _check_betas(group, where)
    yield from _check_keys(group, where, known)
    missing = [key for key in known if key not in group and key not in IMPLEMENTATION]
    if missing:
        what = f"has no {', '.join(missing)}: the next step raises KeyError"
        advice = "set them in this group of param_groups: a load of another's groups dropped them."
        yield error("missing key", where, what, advice)


def _check_betas(group: Group, where: str) -> Iterator[Finding]:
    betas = group.get("betas")
    if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(map(is_number, betas)):
        return
    beta1, beta2 = map(number, betas)
    written = f"betas = ({beta1:g}, {beta2:g})"
    advice = "set betas in this group of param_groups; (0.9, 0.999) is the default."
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        what = f"{written}: not in [0, 1), so that bias correction divides by zero or less"
        yield error("hyperparameter", where, what, advice)
    elif beta1 > beta2:
        what = f"{written}: the first is the larger one, as if they were swapped"
        yield warning("hyperparameter", where, what, advice)


def _check_keys(group: Group, where: str, known: Collection[str]) -> Iterator[Finding]:
    """A misspelt key is taken without a word, and the default stays in force."""
    for key in group.keys() - BOOKKEEPING - set(known) if known else ():
        meant = difflib.get_close_matches(str(key), known, n=1, cutoff=0.7)
        if meant:
            what = f"{key!r} is no hyperparameter and is never read; {meant[0]!r} may be meant, "
            what += f"which is {shown(group.get(meant[0]))}"
            yield warning("unknown key", where, what, f"write {meant[0]!r}.")
        else:
            what = f"{key!r} is no hyperparameter of this optimizer; it is kept and never read"
            yield note("unknown key", where, what, "fine, if it is a label of yours.")


def is_number(value: Any) -> bool:
    """Tell whether a hyperparameter is a number, or a tensor with one element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.device.type != "meta"
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> float:
    """Return a hyperparameter's value; an integer beyond all floats is infinite."""
    try:
        return float(value.detach()) if isinstance(value, Tensor) else float(value)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """Print a hyperparameter in a few characters."""
    if isinstance(value, Tensor) and is_number(value):
        return f"tensor({number(value):g})"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > 10**18):
        return f"{number(value):g}"
    return str(value)


def same(one: Any, other: Any) -> bool:
    """Tell whether two hyperparameters are the same, a list being as good as a tuple."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_number(one) and is_number(other):
        left, right = number(one), number(other)
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return digest(one) == digest(other)
    return bool(one == other)


def form(value: Any) -> str:
    """Say of which kind a number is, as far as the bits of a step depend on it."""
    if not isinstance(value, Tensor):
        return "number"
    return f"{str(value.dtype).removeprefix('torch.')} tensor"
