"""One of two processes that train under optimlab and under torch.optim and compare the bits.

    torchrun --nproc-per-node 2 -m engines.worker DIRECTORY

executes every check and writes what it found into DIRECTORY, a file for each check and process.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import common
import distributed as example
import torch
from beside import NAMES, WAYS, Options, raised
from chosen import Choice
from running import stepping
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from engines.training import ENGINES, Run, shards
from optimlab.demo.libraries import LibraryName
from optimlab.lab.compare.diff import Diff, path_name

STEPS, HALF = 4, 2
PATIENCE = 120  # seconds, for all checks together
LIBRARIES: tuple[LibraryName, LibraryName] = ("optimlab", "torch")

Pairs: TypeAlias = dict[str, tuple[Any, Any]]
"""What a check compares: ours and theirs, or two things of ours that have to be the same."""

Check: TypeAlias = Callable[[Path], Pairs]


def refused(engine: str, name: str, way: Options) -> bool:
    """Tell whether torch may refuse: no rule says how its fused SGD would work on shards."""
    return engine.startswith("FSDP2") and name == "SGD" and "fused" in way


def check_training(engine: str, name: str, way: Options, _: Path) -> Pairs:
    """Train with both libraries."""
    runs = [ENGINES[engine](Choice(library, name, way)) for library in LIBRARIES]
    errors = [raised(partial(run.train, range(STEPS))) for run in runs]
    if any(errors) and not refused(engine, name, way):
        raise RuntimeError(f"training ended with {errors}")
    return {"errors": (errors[0], errors[1]), "training": (runs[0].seen(), runs[1].seen())}


# Checkpoints: of torch.distributed.checkpoint, every process its part (`example`), and others.


def save_in_one(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Bring all together in the first process, which saves it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    write(get_state_dict(model, optimizer, options=options), folder)


def load_from_one(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Load in the first process, which gives the others their parts."""
    first = dist.get_rank() == 0
    of_model, of_optimizer = torch.load(folder / "full.pt") if first else ({}, {})
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, of_model, options=options)
    set_optimizer_state_dict(model, optimizer, of_optimizer, options=options)


def save_consolidated(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Bring ZeRO's state together, as it says, and save it."""
    optimizer.consolidate_state_dict(to=0)
    consolidated = optimizer.state_dict() if dist.get_rank() == 0 else {}
    write((model.state_dict(), consolidated), folder)


def load_consolidated(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Load all of ZeRO's state in every process."""
    of_model, of_optimizer = torch.load(folder / "full.pt")
    model.load_state_dict(of_model)
    optimizer.load_state_dict(of_optimizer)


def write(content: object, folder: Path) -> None:
    """Write a file in the first process, and wait for it in all."""
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
        torch.save(content, folder / "full.pt")
    dist.barrier()


SaveOrLoad: TypeAlias = Callable[[nn.Module, Optimizer, Path], None]
CHECKPOINTS: dict[str, tuple[str, SaveOrLoad, SaveOrLoad]] = {
    "DDP by parts": ("DDP", example.save, example.load),
    "FSDP2 by parts": ("FSDP2", example.save, example.load),
    "FSDP2 in one file": ("FSDP2", save_in_one, load_from_one),
    "ZeRO consolidated": ("ZeRO", save_consolidated, load_consolidated),
}
"""Ways to save and load under an engine."""


def check_resuming(kind: str, name: str, directory: Path) -> Pairs:
    """Save half way and resume in another run, also one of the other library."""
    engine, save, load = CHECKPOINTS[kind]
    whole = [ENGINES[engine](Choice(library, name)) for library in LIBRARIES]
    for run, library in zip(whole, LIBRARIES, strict=True):
        run.train(range(HALF))
        save(run.model, run.optimizer, directory / kind / f"{name}-{library}")
        run.train(range(HALF, STEPS))

    def resumed(library: LibraryName, source: LibraryName) -> Run:
        run = ENGINES[engine](Choice(library, name), seed=1)
        run.train(range(1))  # an optimizer with state of its own, which is to go
        load(run.model, run.optimizer, directory / kind / f"{name}-{source}")
        return run.train(range(HALF, STEPS))

    ours, theirs = LIBRARIES
    across, back = resumed(ours, theirs), resumed(theirs, ours)
    return {
        "whole": (whole[0].seen(), whole[1].seen()),
        "resumed across": (across.seen(), back.seen()),
        "resumed from torch": (across.reached(), whole[0].reached()),
        "resumed": (resumed(ours, ours).reached(), whole[0].reached()),
    }


def check_another_number_of_processes(name: str, directory: Path) -> Pairs:
    """Load what one process has saved, train, and save it for one process."""
    runs, loaded, kept = [], [], []
    for library in LIBRARIES:
        run = shards(Choice(library, name), seed=1)
        example.load(run.model, run.optimizer, directory / f"one-{name}-{library}")
        loaded.append(run.reached(example.full))
        kept.append(torch.load(directory / f"one-{name}-{library}.pt"))
        runs.append(run.train(range(HALF, STEPS)))
        example.save(run.model, run.optimizer, directory / f"two-{name}-{library}")
        ended = run.reached(example.full)
        if dist.get_rank() == 0:
            torch.save(ended, directory / f"two-{name}-{library}.pt")
    return {
        "loaded": (loaded[0], kept[0]),
        "loaded by torch": (loaded[1], kept[1]),
        "trained": (runs[0].seen(), runs[1].seen()),
    }


def check_example(directory: Path) -> Pairs:
    """Run the example."""
    results = []
    for library in LIBRARIES:
        arguments = ["--steps", "5", "--optim", library, "--out", str(directory / library)]
        options = common.parser(None, steps=1).parse_args(arguments, common.Options())
        results.append(example.run(options))
    return {"example": (results[0], results[1])}


CHECKS: dict[str, Check] = {
    **{
        f"{engine}-{way.id}": partial(check_training, engine, *way.values)
        for engine, way in product(ENGINES, WAYS)
        if engine != "FSDP2 in bfloat16" or "default" in str(way.id)  # gradients differ, no more
    },
    **{
        f"{kind}-{name}": partial(check_resuming, kind, name)
        for kind, name in product(CHECKPOINTS, NAMES)
    },
    **{f"one, two, one-{name}": partial(check_another_number_of_processes, name) for name in NAMES},
    "example": check_example,
}


def execute(check: Check, directory: Path) -> dict[str, Any]:
    """Execute a check, count what it compared, and tell which libraries stepped."""
    diff = Diff()
    with stepping() as libraries:
        pairs = check(directory)
    differences = [
        f"{what}: {path_name(path)}: {mismatch}"
        for what, (one, other) in pairs.items()
        for path, mismatch in diff.differences(one, other)
    ]
    return {
        "elements": diff.elements,
        "differences": differences,
        "libraries": sorted(set(libraries)),
    }


def result_of(directory: Path, check: str, rank: int) -> Path:
    """Return the file in which a process writes what a check has found."""
    return directory / f"{check}.{rank}.json"


def main(directory: Path) -> None:
    """Execute all checks, up to one that fails altogether."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE / 4))
    for name, check in CHECKS.items():
        file = result_of(directory, name, dist.get_rank())
        try:
            found = execute(check, directory)
        except BaseException:
            file.write_text(json.dumps({"elements": 0, "differences": [traceback.format_exc()]}))
            raise
        file.write_text(json.dumps(found))
    example.leave()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
