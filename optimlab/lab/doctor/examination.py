"""The doctor itself: one checkpoint, two, or one with a live optimizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.comparing import compare
from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.loading import check_loading
from optimlab.lab.doctor.repairing import plain, put, repaired, write
from optimlab.lab.doctor.report import Report, report
from optimlab.lab.doctor.search import Source, checkpoints
from optimlab.lab.doctor.state_checks import examine, has_stepped

Other = TypeVar("Other")


@dataclass(frozen=True)
class Repaired:
    """A repaired copy of a checkpoint.

    Attributes:
        content: all of it, to be saved or loaded.
        done: what was changed, in words.
        report: what the doctor finds in it.
    """

    content: Any
    done: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        done = self.done or ("nothing to repair: a copy, with memory of its own for each tensor",)
        return "\n".join([*done, str(self.report)])


def doctor(
    checkpoint: Source,
    against: Source | None = None,
    *,
    model: nn.Module | None = None,
) -> Report:
    """Examine a checkpoint for what loads without an error and trains wrongly.

    * Alone: step counts, NaN and infinity, negative means of squares, shapes, numbering, aliasing,
      half precision, hyperparameters that make no sense.
    * Against a live optimizer: what loading it there would do. It is tried on a copy; the optimizer
      stays as it is.
    * Against another checkpoint, or between two live optimizers: everything in which they differ,
      to the first differing bit, and memory that they share.

    Args:
        checkpoint: the path of a file, a state dict or a checkpoint in memory that holds one
            anywhere (``{"model": ..., "optimizer": ...}``, Lightning's ``"optimizer_states"``), or
            an optimizer. Files are read with ``weights_only=True``: no code in them is run.
        against: what to compare with, of the same kinds; where both hold several optimizers, they
            are paired in order.
        model: whose names the parameters of live optimizers are called by.

    Returns:
        Report: print it; ``healthy`` tells whether there is an error or a warning in it.

    Raises:
        CheckpointError: if there is no optimizer in it, it is not safe to read, or two checkpoints
            have no state to compare and do not differ otherwise.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> saved = torch.optim.SGD([("weight", weight)], lr=0.5).state_dict()
        >>> print(optimlab.doctor(saved, torch.optim.SGD([("weight", weight)], lr=0.1)).verdict)
        state dict against the live SGD: 1 warning (1 optimizer, 1 parameter, 0 state tensors)
    """
    one, other = _names(checkpoint, against)
    ours = checkpoints(checkpoint, model, one)[0]
    theirs = None if against is None else checkpoints(against, model, other)[0]
    found, elements = _examined(ours, theirs)
    live = any(one.live is not None for one in (*ours, *(theirs or ())))
    if elements == 0 and found.healthy and not live:
        what = f"nothing was compared: {found.subject}: neither has an element of state"
        raise CheckpointError(what)
    return found


def repair(
    checkpoint: Source,
    out: str | PathLike[str] | None = None,
    against: Source | None = None,
    *,
    keep: Collection[str] = (),
    model: nn.Module | None = None,
) -> Repaired:
    """Make a repaired copy of a checkpoint.

    Parameters are brought into the reference's order by their names, moments in half precision
    become float32 (with the reference's bits where these, rounded, are the same), tensors that
    share memory are separated, and the chosen hyperparameters are the reference's.

    Args:
        checkpoint: as for :func:`optimlab.doctor`, not a live optimizer. It stays as it is.
        out: a file to write it to, which must not exist; ``None`` writes none.
        against: the reference.
        keep: the hyperparameters to take from the reference, such as ``["lr"]``.
        model: whose names the parameters of a live reference are called by.

    Returns:
        Repaired: the copy, what was done, and what the doctor still finds in it.

    Raises:
        CheckpointError: as for :func:`optimlab.doctor`, or if the file is there already.
    """
    if isinstance(checkpoint, Optimizer):
        raise CheckpointError("a live optimizer is not repaired: save its state_dict() first")
    ours, content = checkpoints(checkpoint)
    theirs = None if against is None else checkpoints(against, model)[0]
    done: list[str] = []
    for saved, reference in _pairs(ours, theirs or (None,) * len(ours)):
        part, changes = repaired(saved, reference, keep)
        content = put(content, saved.path, part)
        done += [f"{saved.name}: {change}" for change in changes]
    content = plain(content, ours[0].name.partition("[")[0], done)
    if out is not None:
        files = [Path(item) for item in (checkpoint, against) if isinstance(item, str | PathLike)]
        write(Path(out), content, files)
    copies = checkpoints(content if isinstance(content, dict) else {"parts": content})[0]
    return Repaired(content, tuple(done), _examined(copies, theirs)[0])


def _names(*sources: Any) -> tuple[str, str]:
    """Call two files by as many folders as it takes to tell them apart."""
    if not all(isinstance(source, str | PathLike) for source in sources):
        return "", ""
    one, other = (Path(source).absolute().parts for source in sources)
    deepest = min(len(one), len(other))
    count = next((n for n in range(1, deepest) if one[-n] != other[-n]), 1)
    return "/".join(one[-count:]), "/".join(other[-count:])


def _examined(ours: list[Checkpoint], theirs: list[Checkpoint] | None) -> tuple[Report, int | None]:
    """Return what was found, and how many elements were compared, if bits were to be compared."""
    looked_at = _looked_at(ours)
    if theirs is None:
        findings = [finding for one in ours for finding in examine(one)]
        return report(_name(ours), findings, looked_at), None
    findings, elements = [], None
    for one, other in _pairs(ours, theirs):
        findings += [*examine(one), *examine(other)]
        loads = other.live is not None and one.live is None
        findings += check_loading(one, other) if loads else ()
        if not loads or has_stepped(other):
            found, compared = compare(one, other)
            elements = (elements or 0) + compared
            # Loading has already told about everything but bits.
            findings += [f for f in found if f.kind in ("bits", "groups") or not loads]
    if elements is not None:
        looked_at += f", {elements} elements compared"
    return report(f"{_name(ours)} against {_name(theirs)}", findings, looked_at), elements


def _pairs(ours: list[Checkpoint], theirs: Sequence[Other]) -> list[tuple[Checkpoint, Other]]:
    if len(ours) != len(theirs):
        raise CheckpointError(
            f"there are {len(ours)} optimizers on one side ({_name(ours)}) and {len(theirs)} on "
            "the other: give the doctor the parts that belong together"
        )
    return list(zip(ours, theirs, strict=True))


def _name(found: list[Checkpoint]) -> str:
    return ", ".join(one.name for one in found)


def _looked_at(found: list[Checkpoint]) -> str:
    counts = {
        "optimizer": len(found),
        "parameter": sum(len(one.numbers) for one in found),
        "state tensor": sum(1 for one in found for _ in one.tensors()),
    }
    return ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())
