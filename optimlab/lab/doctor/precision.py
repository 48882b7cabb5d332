"""Numbers that a dtype cannot hold: squares rounded to zero, and what is too small to act."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.hyperparameters import Group, is_number, number, shown
from optimlab.lab.doctor.layouts import is_finite
from optimlab.lab.findings import Finding, error, warning

#: A step of Adam is no longer than about this many times lr, whatever the gradients were.
_LONGEST = 10.0


def check_squares(one: Checkpoint, place: int, group: Group) -> Iterator[Finding]:
    """Find means of squares that are zero where the mean is not, and how far that would move."""
    held = one.held(place)
    mean, squares, eps, lr = (
        *map(held.get, ("exp_avg", "exp_avg_sq")),
        *map(group.get, ("eps", "lr")),
    )
    if not (isinstance(mean, Tensor) and isinstance(squares, Tensor)) or "max_exp_avg_sq" in held:
        return
    if not (_is_plain(mean) and _is_plain(squares) and is_number(eps) and is_number(lr)):
        return
    wrong = (mean != 0) & (squares == 0) if mean.shape == squares.shape else None
    if wrong is not None and wrong.any():
        lengths = float(mean[wrong].abs().max()) / max(number(eps), 1e-45)
        if lengths > _LONGEST:
            what = (
                f"is zero at {int(wrong.sum())} elements where exp_avg is not: small squares were "
            )
            what += f"rounded away, and the next step moves one by up to {lengths * number(lr):.2g}"
            where = f"{one.name}: exp_avg_sq of {one.parameter(place)}"
            advice = (
                "take a checkpoint from before it was saved in half precision, or drop the state."
            )
            yield error("underflow", where, f"{what}, where lr is {shown(lr)}", advice)


def _is_plain(tensor: Tensor) -> bool:
    if tensor.layout is not torch.strided:
        return False
    return tensor.is_floating_point() and tensor.element_size() > 1 and tensor.device.type != "meta"


def check_live(one: Checkpoint) -> Iterator[Finding]:
    """Find parameters that are not finite, and hyperparameters that their dtype cannot tell."""
    bad = [place for place, param in enumerate(one.params) if not is_finite(param.detach())]
    if bad:
        what = f"{one.parameters(bad)}: NaN or infinite"
        advice = "go back to an earlier checkpoint: no later step makes them finite again."
        yield error("not finite", one.name, what, advice)
    for index, (here, group) in enumerate(zip(one.ranges, one.groups, strict=True)):
        dtypes = {one.params[place].dtype for place in here}
        for dtype in sorted(filter(lambda each: each.itemsize == 2, dtypes), key=str):
            yield from _check_dtype(dtype, group, f"{one.name}, group {index}")


def _check_dtype(dtype: torch.dtype, group: Group, where: str) -> Iterator[Finding]:
    eps, lr, decay = (group.get(key) for key in ("eps", "lr", "weight_decay"))
    if is_number(eps) and number(eps) > 0 and torch.tensor(number(eps), dtype=dtype) == 0:
        what = (
            f"eps = {shown(eps)} is zero in {dtype}: a parameter whose squares are zero becomes NaN"
        )
        yield warning("precision", where, what, "keep float32 parameters, or set a larger eps.")
    if not (group.get("decoupled_weight_decay") and is_number(lr) and is_number(decay)):
        return
    share = number(lr) * number(decay)
    # Half of the distance between two numbers, as a share of the larger one.
    if 0 < share < torch.finfo(dtype).eps / 4:
        what = f"lr * weight_decay = {share:.2g} is less than {dtype} can tell from nothing: no "
        advice = "keep float32 parameters, or add the decay up over many steps."
        yield warning("precision", where, f"{what}parameter ever decays", advice)
