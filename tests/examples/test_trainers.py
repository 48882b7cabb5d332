"""Training under Hugging Face's Trainer, accelerate and Lightning: the bits of torch.optim.

Every program accumulates gradients, clips them, goes through a schedule, saves a checkpoint in the
middle of the run and resumes from it. The programs are those of the examples.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from beside import (
    WAYS,
    Options,
    assert_equal,
    one_thread,  # noqa: F401 - applies to every test here
)
from chosen import Choice
from running import finish, need, stepping
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from optimlab.demo.libraries import LIBRARIES
from optimlab.lab.compare.snapshot import snapshot

STEPS, SEED = 12, 3


@pytest.fixture(autouse=True)
def _little_garbage() -> Iterator[None]:
    """Spare the collector what is here already: the Trainer calls it in every run."""
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass(frozen=True)
class Trained:
    """What training has left behind, and the libraries of all steps that were made."""

    model: nn.Module
    optimizer: Optimizer
    steps: list[str]

    def seen(self) -> dict[str, Any]:
        """Lay out everything that can be seen of the optimizer."""
        return snapshot(self.optimizer, list(self.model.parameters()))

    def reached(self) -> list[Any]:
        """Lay out what training changes; resuming puts the entries of a group in another order."""
        groups = [
            dict(sorted(group.items())) for group in self.optimizer.state_dict()["param_groups"]
        ]
        return [self.seen()["parameters"], self.seen()["state"], groups]


Train: TypeAlias = Callable[[Choice, Path, Path | None], tuple[nn.Module, Optimizer]]
"""Trains without interruption and saves in a folder what the run is in the middle.

Or, given another folder besides, starts in the middle from what is saved there.
"""


def under_huggingface(
    choice: Choice, folder: Path, source: Path | None, *, as_class: bool
) -> tuple[nn.Module, Optimizer]:
    need("transformers", "accelerate")
    import huggingface_trainer as example

    def give(_: Any, params: Iterable[Tensor], steps: int) -> Options:
        if as_class:
            return {"optimizer_cls_and_kwargs": (choice.optimizer_class, choice.options)}
        optimizer = choice.make(params)
        schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps + 1)
        return {"optimizers": (optimizer, schedule)}

    trainer = example.build(None, give, folder, STEPS, SEED, "cpu")
    saved = source and source / f"checkpoint-{example.half(STEPS)}"
    trainer.train(resume_from_checkpoint=str(saved) if saved else None)
    assert trainer.model is not None
    return trainer.model, example.optimizer_of(trainer)


def under_accelerate(
    choice: Choice, folder: Path, source: Path | None
) -> tuple[nn.Module, Optimizer]:
    need("accelerate")
    import accelerate_loop as example

    training = example.Training(choice.make, STEPS, SEED, cpu=True)
    if source is None:
        training.train(STEPS // 2)
        training.save(folder)
    else:
        training.load(source, STEPS // 2)
    training.train(STEPS)
    return training.model, training.optimizer


def under_lightning(
    choice: Choice, folder: Path, source: Path | None
) -> tuple[nn.Module, Optimizer]:
    need("lightning")
    import lightning_trainer as example

    name = "half.ckpt"
    if source is None:
        half = example.Classifier(choice.make, 2, SEED)
        example.fit(half, 1, "cpu").save_checkpoint(folder / name)
    model = example.Classifier(choice.make, 2, SEED)
    trainer = example.fit(model, 2, "cpu", source and source / name)
    return model, trainer.optimizers[0]


@dataclass(frozen=True)
class Program:
    """A program that trains under a trainer, and how many steps its optimizers make.

    Attributes:
        train: the program.
        steps: in all.
        left: after it was resumed.
        ways: the implementations that are tested under it.
    """

    train: Train
    steps: int
    left: int
    ways: tuple[str, ...] = ("default",)

    def __call__(self, choice: Choice, folder: Path, source: Path | None = None) -> Trained:
        folder.mkdir()
        with stepping() as steps, torch.random.fork_rng(devices=[]):
            model, optimizer = self.train(choice, folder, source)
        return Trained(model, optimizer, steps)


PROGRAMS = {
    "Trainer, given a class": Program(partial(under_huggingface, as_class=True), STEPS, 5),
    "Trainer, given an object": Program(partial(under_huggingface, as_class=False), STEPS, 5),
    "accelerate": Program(under_accelerate, STEPS, 6, ("default", "for-loop", "foreach", "fused")),
    # Two epochs of 10 steps; another run, of one epoch, saves.
    "Lightning": Program(under_lightning, 30, 10, ("default", "fused")),
}
CASES = [
    pytest.param(program, *way.values, id=f"{title}-{way.id}")
    for title, program in PROGRAMS.items()
    for way in WAYS
    if str(way.id).endswith(program.ways)
]


@pytest.mark.parametrize(("program", "name", "way"), CASES)
def test_a_run_and_a_run_resumed_across_libraries_end_in_the_same_bits(
    program: Program, name: str, way: Options, tmp_path: Path
) -> None:
    ours, theirs = Choice("optimlab", name, way), Choice("torch", name, way)

    of_ours, of_theirs = program(ours, tmp_path / "ours"), program(theirs, tmp_path / "theirs")
    assert of_ours.steps == ["optimlab"] * program.steps
    assert of_theirs.steps == ["torch"] * program.steps
    assert_equal(of_ours.seen(), of_theirs.seen())

    continued = program(ours, tmp_path / "continued", tmp_path / "theirs")
    returned = program(theirs, tmp_path / "returned", tmp_path / "ours")
    assert continued.steps == ["optimlab"] * program.left
    assert returned.steps == ["torch"] * program.left
    assert_equal(continued.seen(), returned.seen())
    assert_equal(continued.reached(), of_ours.reached())


EXAMPLES = {
    "huggingface_trainer": ("transformers", "accelerate"),
    "accelerate_loop": ("accelerate",),
    "lightning_trainer": ("lightning",),
}
"""Each example with the packages it needs."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_ends_in_the_same_bits_with_both_libraries(name: str, tmp_path: Path) -> None:
    need(*EXAMPLES[name])
    ours, theirs = (
        finish(name, tmp_path / library, "--steps", "7", "--optim", library)
        for library in LIBRARIES
    )
    assert_equal(ours.result, theirs.result)
    assert all(each.lines[-1].startswith("Shown: ") for each in (ours, theirs))
