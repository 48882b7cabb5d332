"""One of two processes that train under optimlab and under torch.optim and compare the bits.

    torchrun --nproc-per-node 2 -m engines.worker DIRECTORY

carries out every check and writes what it found into DIRECTORY, a file for each check and process.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

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


# Checkpoints.


def save_by_parts(run: Run, folder: Path) -> None:
    """Save with torch.distributed.checkpoint, every process its part."""
    example.save(run.model, run.optimizer, folder)


def load_by_parts(run: Run, folder: Path) -> None:
    """Load with torch.distributed.checkpoint, every process its part."""
    example.load(run.model, run.optimizer, folder)


def save_in_one(run: Run, folder: Path) -> None:
    """Bring all together in the first process, which saves it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    write(get_state_dict(run.model, run.optimizer, options=options), folder)


def load_from_one(run: Run, folder: Path) -> None:
    """Load in the first process, which gives the others their parts."""
    first = dist.get_rank() == 0
    of_model, of_optimizer = torch.load(folder / "full.pt") if first else ({}, {})
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(run.model, of_model, options=options)
    set_optimizer_state_dict(run.model, run.optimizer, of_optimizer, options=options)


def save_consolidated(run: Run, folder: Path) -> None:
    """Bring ZeRO's state together, as it says, and save it."""
    optimizer: Any = run.optimizer
    optimizer.consolidate_state_dict(to=0)
    consolidated = optimizer.state_dict() if dist.get_rank() == 0 else {}
    write((run.model.state_dict(), consolidated), folder)


def load_consolidated(run: Run, folder: Path) -> None:
    """Load all of ZeRO's state in every process."""
    of_model, of_optimizer = torch.load(folder / "full.pt")
    run.model.load_state_dict(of_model)
    run.optimizer.load_state_dict(of_optimizer)


def write(content: object, folder: Path) -> None:
    """Write a file in the first process, and wait for it in all."""
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
        torch.save(content, folder / "full.pt")
    dist.barrier()


SaveOrLoad: TypeAlias = Callable[[Run, Path], None]
CHECKPOINTS: dict[str, tuple[str, SaveOrLoad, SaveOrLoad]] = {
    "DDP by parts": ("DDP", save_by_parts, load_by_parts),
    "FSDP2 by parts": ("FSDP2", save_by_parts, load_by_parts),
    "FSDP2 in one file": ("FSDP2", save_in_one, load_from_one),
    "ZeRO consolidated": ("ZeRO", save_consolidated, load_consolidated),
}
"""Ways to save and load under an engine."""


def check_resuming(kind: str, name: str, directory: Path) -> Pairs:
    """Save half way and resume in another run, also one of the other library."""
    engine, save, load = CHECKPOINTS[kind]
    whole = [ENGINES[engine](Choice(library, name)) for library in LIBRARIES]
    for run, library in zip(whole, LIBRARIES, strict=True):
        save(run.train(range(HALF)), directory / kind / f"{name}-{library}")
        run.train(range(HALF, STEPS))

    def resumed(library: LibraryName, source: LibraryName) -> Run:
        run = ENGINES[engine](Choice(library, name), seed=1)
        run.train(range(1))  # an optimizer with state of its own, which is to go
        load(run, directory / kind / f"{name}-{source}")
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
        load_by_parts(run, directory / f"one-{name}-{library}")
        loaded.append(run.reached(example.full))
        kept.append(torch.load(directory / f"one-{name}-{library}.pt"))
        runs.append(run.train(range(HALF, STEPS)))
        save_by_parts(run, directory / f"two-{name}-{library}")
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


@contextmanager
def libraries_that_step() -> Iterator[set[str]]:
    """Note the packages of all optimizers that make a step, of ZeRO's the inner one's."""
    libraries = set()

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not hasattr(optimizer, "optim"):
            libraries.add(type(optimizer).__module__.partition(".")[0])

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield libraries
    finally:
        hook.remove()


def carry_out(check: Check, directory: Path) -> dict[str, Any]:
    """Carry out a check, count what it compared, and tell which libraries stepped."""
    comparison, differences = Diff(), []
    with libraries_that_step() as libraries:
        pairs = check(directory)
    for what, (one, other) in pairs.items():
        for place, mismatch in comparison.differences(one, other):
            differences.append(f"{what}: {path_name(place)}: {mismatch}")
    return {
        "elements": comparison.elements,
        "differences": differences,
        "libraries": sorted(libraries),
    }


def result_of(directory: Path, check: str, rank: int) -> Path:
    """Return the file in which a process writes what a check has found."""
    return directory / f"{check}.{rank}.json"


def main(directory: Path) -> None:
    """Carry out all checks, up to one that fails altogether."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE / 4))
    for name, check in CHECKS.items():
        file = result_of(directory, name, dist.get_rank())
        try:
            found = carry_out(check, directory)
        except BaseException:
            file.write_text(json.dumps({"elements": 0, "differences": [traceback.format_exc()]}))
            raise
        file.write_text(json.dumps(found))
    example.leave()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
