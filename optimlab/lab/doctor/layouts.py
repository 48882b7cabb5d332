"""What else there is in a checkpoint, and what has been made of an optimizer that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.formats import Placeholder
from optimlab.lab.findings import Finding, error, listed, note, warning

_PROGRESS = ("epoch", "step", "global_step", "iteration", "iter", "steps")

#: What was met in a checkpoint, and where.
Visited: TypeAlias = Sequence[tuple[Any, str]]


def instead(visited: Visited) -> str:
    """Say what stands where an optimizer would be looked for."""
    for value, where in visited:
        last = where.rpartition("[")[2].lower()
        if value is None and "optim" in last:
            return (
                f". {where} is there, and is None: it was stripped when training ended; take an "
                "earlier checkpoint"
            )
        if isinstance(value, Mapping) and "last_epoch" in value and "_step_count" in value:
            return f". {where} is the state of a schedule: give the doctor the optimizer's"
    tensors = [v for v, _ in visited if isinstance(v, Mapping) and _is_model(v)]
    if tensors:
        return ". It has the weights of a model: save optimizer.state_dict() beside them"
    return ""


def beside(visited: Visited, name: str) -> Iterator[Finding]:
    """Say what the optimizer's own state dict does not tell."""
    objects = [f"{v.kind} at {where}" for v, where in visited if isinstance(v, Placeholder)]
    if objects:
        what = f"{len(objects)} objects in it were not made: {listed(objects)}"
        advice = "nothing to do: no code of a file is run, and all else was examined."
        yield note("objects", name, what, advice)
    for value, where in visited:
        if isinstance(value, Mapping) and "zero_stage" in value:
            yield warning(
                "partition",
                where,
                "is one rank's part of DeepSpeed's ZeRO: its tensors are flat and hold pieces of "
                "many parameters",
                "load all parts with DeepSpeed itself; its zero_to_fp32.py merges the weights.",
            )
        elif isinstance(value, Mapping) and _is_model(value):
            yield from _weights(value, where)


def check_empty(one: Checkpoint, content: Any) -> Iterator[Finding]:
    """Say that an optimizer has no state, if the checkpoint says that it has made steps."""
    made = {key: content[key] for key in _PROGRESS if key in content} if not one.state else {}
    steps = [f"{key} {n}" for key, n in made.items() if isinstance(n, int) and n > 0]
    plain = all(not group.get("momentum", True) for group in one.groups)
    if steps and one.numbers and not plain:
        what = f"has no state of any parameter, after {listed(steps)}"
        advice = "its moments were lost on saving, or on an earlier load: take another checkpoint."
        yield warning("missing state", one.name, what, advice)


def _is_model(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items()
    )


def _weights(model: Mapping[str, Tensor], where: str) -> Iterator[Finding]:
    """Find weights that are NaN or infinite."""
    wrong = [key for key, tensor in model.items() if not is_finite(tensor)]
    if wrong:
        what = f"{listed(wrong)}: NaN or infinite weights"
        advice = "go back to an earlier checkpoint: no later step makes them finite again."
        yield error("not finite", where, what, advice)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds no NaN and no infinity, as far as it can be read."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return True
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool((tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all())
