"""What the examples share: their options, a progress bar and a figure of curves.

The training loops are not here: each stands in its example, in plain PyTorch.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track as tracked

from optimlab.demo.libraries import LIBRARIES, LibraryName
from optimlab.lab.compare.digest import digest

Result: TypeAlias = dict[str, Any]
"""What an example ends with: tensors and numbers that depend on the optimizer's every bit."""


class Options(argparse.Namespace):
    """The options that every example takes.

    Attributes:
        optim: ``"optimlab"`` or ``"torch"``, where the optimizers come from.
        device: where the tensors are.
        steps: number of optimizer steps of the example's main part.
        seed: of torch's random numbers.
        out: directory for figures, logs and checkpoints.
    """

    optim: LibraryName
    device: torch.device
    steps: int
    seed: int
    out: Path


def parser(description: str | None, steps: int | None) -> argparse.ArgumentParser:
    """Build the command line of an example.

    Args:
        description: the example's docstring.
        steps: the default of ``--steps``; ``None`` for as many as there are in all epochs.
    """
    built = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = built.add_argument
    add("--optim", choices=tuple(LIBRARIES), default="optimlab", help="default: optimlab")
    add("--device", type=device, default="cpu", metavar="{cpu,cuda}", help="default: cpu")
    help_steps = f"optimizer steps, default: {steps or 'all epochs'}"
    add("--steps", type=positive, default=steps or sys.maxsize, help=help_steps)
    add("--seed", type=not_negative, default=0, help="of the random numbers, default: 0")
    out = Path("optimlab-examples")
    add("--out", type=Path, default=out, metavar="DIR", help=f"for files, default: {out}")
    return built


def device(text: str) -> torch.device:
    """Read the name of a device."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither cpu nor cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device here")
    return torch.device(text)


def positive(text: str) -> int:
    """Read a positive integer."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def not_negative(text: str) -> int:
    """Read zero or a positive integer."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return int(text)


def start(options: Options) -> Any:
    """Seed torch, make its results repeatable, and make the directory for files.

    Returns:
        The library that the optimizers come from: ``optimlab``, or ``torch.optim``.
    """
    if options.device.type == "cuda":
        # What cuBLAS needs to add up in the same order each time; read when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Some operations on CUDA, pooling's gradient among them, can only warn.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    return LIBRARIES[options.optim]


def conclude(result: Result, shown: str) -> Result:
    """Print what stands for all bits of the result, its SHA-256, and what the example has shown.

    Args:
        result: what the example's ``run`` ends with.
        shown: the last line.

    Returns:
        The result.
    """
    print(f"\nSHA-256 of the result: {digest(result)[:16]}")
    print(f"Shown: {shown}", flush=True)
    return result


def wrapped(text: str) -> str:
    """Break the lines of a text that are longer than 100 columns."""
    fill = partial(textwrap.fill, width=100, subsequent_indent="      ")
    return "\n".join(fill(line) for line in text.splitlines())


def track(steps: int, what: str) -> Iterable[int]:
    """Count from 1 to ``steps`` behind a progress bar, which only a terminal shows.

    Args:
        steps: the last number.
        what: the words before the bar.
    """
    console = Console()
    numbers = range(1, steps + 1)
    return tracked(numbers, what, console=console, transient=True, disable=not console.is_terminal)


def draw(
    path: Path,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    labels: tuple[str, str],
    *,
    log: bool = False,
) -> None:
    """Draw curves into a PNG and say where it is.

    Args:
        path: the file.
        x: the coordinates along the horizontal axis.
        curves: what is drawn over them, by name. Each is thinner than the one before, so that it
            leaves visible what it covers.
        labels: what the horizontal and the vertical axis show.
        log: whether the vertical axis is logarithmic.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(x, values, label=name, linewidth=1.2 + 0.8 * (len(curves) - 1 - number))
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if log:
        axes.set_yscale("log")
    axes.grid(color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    print(f"wrote {path}")
