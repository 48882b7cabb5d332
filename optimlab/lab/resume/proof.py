"""Proving a resumption: the run at a stretch, and the run interrupted."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.compare.snapshot import leaves
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.resume.experiment import Expected, Laboratory, described, first_difference, losses
from optimlab.lab.resume.outcome import Resumption
from optimlab.lab.resume.parts import parts_of, randomness, set_randomness
from optimlab.lab.resume.run import Digests, MakeRun, Run, check_travels, digests, maker, named


def prove_resume(make_run: MakeRun, steps: int, at: int) -> Resumption:
    """Prove that a run, interrupted and continued in a new process, ends in the same bits.

    The run is taken ``steps`` steps at a stretch; then, made anew, ``at`` steps; what it saves is
    loaded by a third one in a new process, which takes the rest. After every step everything that
    the run names is compared by the SHA-256 of its bits, so that little memory is needed.

    If something differs, parts of the uninterrupted run (the global generators, and every attribute
    of the run) are put into the resumed one, one after the other, to see what it lacks. Each of
    these experiments takes the remaining steps once more.

    Args:
        make_run: makes a :class:`~optimlab.lab.resume.Run`: a function without arguments that a new
            process can import (at the top of a module, or a ``functools.partial`` of one), or
            ``"module:function"``.
            It is called where the generators are as in the caller, which get their states back. A
            script that calls this needs ``if __name__ == "__main__":``, as for multiprocessing.
        steps: of the whole run.
        at: after which of them to save: 1 to ``steps - 1``.

    Returns:
        Resumption: print it; ``equal`` tells whether all bits are the same.

    Raises:
        ValueError: if ``at`` is not between 1 and ``steps - 1``.
        TypeError: if ``make_run`` cannot reach another process.
        NothingCompared: if the run names no tensor, or none changes after the interruption.
        RuntimeError: if the new process fails, with its traceback.

    Example:
        A run of the module ``train``, which has a class like this one::

            class Training:
                def __init__(self):
                    torch.manual_seed(0)
                    self.model = torch.nn.Linear(4, 1)
                    self.optimizer = optimlab.Adam(self.model.parameters())

                def step(self):
                    self.optimizer.zero_grad()
                    self.model(torch.randn(8, 4)).square().mean().backward()
                    self.optimizer.step()

                def state_dict(self):
                    return {
                        "model": self.model.state_dict(),
                        "optimizer": self.optimizer.state_dict(),
                    }

                def load_state_dict(self, saved):
                    self.model.load_state_dict(saved["model"])
                    self.optimizer.load_state_dict(saved["optimizer"])

                def tensors(self):
                    return self.model.state_dict()

        is not resumable, because its data depends on a generator that it does not save::

            print(optimlab.prove_resume("train:Training", steps=20, at=10))
    """
    if not 1 <= at < steps:
        raise ValueError(f"at must be between 1 and steps - 1 = {steps - 1}, not {at}")
    check_travels(make_run)
    make = maker(make_run)
    with _untouched_randomness(), tempfile.TemporaryDirectory() as folder:
        start = randomness()
        whole, size = _at_a_stretch(make, steps, at)
        counted = Resumption(steps, at, len(whole[-1]), compared=size * (steps - at + 1))
        set_randomness(start)
        interrupted = make()
        for step in range(at):
            interrupted.step()
            found = first_difference(step + 1, digests(interrupted), whole[step])
            if found is not None:
                return replace(counted, offender=found, repeatable=False)
        out_of_reach = _save(interrupted, Path(folder), at, whole)
        answer = _in_a_new_process(make_run, Path(folder))
        return replace(counted, out_of_reach=tuple(out_of_reach), **answer)


def _at_a_stretch(make: Callable[[], Run], steps: int, at: int) -> tuple[list[Digests], int]:
    """Take all steps and return the digests after each, and how many elements each stands for."""
    run = make()
    found = []
    for _ in range(steps):
        run.step()
        found.append(digests(run))
    if all(later == found[at - 1] for later in found[at:]):
        raise NothingCompared("no step after the interruption changes what tensors() names")
    size = sum(v.numel() if isinstance(v, Tensor) else 1 for _, v in leaves(named(run)))
    return found, size


def _save(run: Run, folder: Path, at: int, whole: list[Digests]) -> list[str]:
    """Save the checkpoint, and beside it what the new process compares with."""
    generators = randomness()
    parts, out_of_reach = parts_of(run)
    values = clone(named(run))
    torch.save(run.state_dict(), folder / "checkpoint.pt")
    torch.save(Expected(at, whole[at - 1 :], values, parts, generators), folder / "expected.pt")
    return out_of_reach


@dataclass(frozen=True)
class _Surroundings:
    """What a new process does not inherit, and bits depend on."""

    threads: int = field(default_factory=torch.get_num_threads)
    deterministic: bool = field(default_factory=torch.are_deterministic_algorithms_enabled)
    warn_only: bool = field(default_factory=torch.is_deterministic_algorithms_warn_only_enabled)
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)

    def apply(self) -> None:
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.set_default_dtype(self.dtype)


def _in_a_new_process(make_run: MakeRun, folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(make_run, str(folder), _Surroundings()))
    process.start()
    process.join()
    result = folder / "result.pt"
    if not result.exists():
        raise RuntimeError(f"the new process ended with status {process.exitcode}, and no answer")
    answer: dict[str, Any] = torch.load(result, weights_only=False)  # our own bytes
    if "failed" in answer:
        raise RuntimeError(f"the run could not be resumed in a new process:\n{answer['failed']}")
    return answer


def _work(make_run: MakeRun, folder: str, surroundings: _Surroundings) -> None:
    """Resume in this, the new, process, and write down what came of it."""
    surroundings.apply()
    try:
        answer = _resumed(maker(make_run), Path(folder))
    except Exception:  # noqa: BLE001 - it is raised again in the process that asked
        answer = {"failed": traceback.format_exc()}
    part = Path(folder) / "result.part"
    torch.save(answer, part)
    part.replace(Path(folder) / "result.pt")


def _resumed(make: Callable[[], Run], folder: Path) -> dict[str, Any]:
    expected: Expected = torch.load(folder / "expected.pt", weights_only=False)  # our own bytes
    read = partial(torch.load, folder / "checkpoint.pt", weights_only=False)
    laboratory = Laboratory(make, read, expected)
    found, loaded = laboratory.resume()
    if found is None:
        return {}
    if found.step == expected.at:
        found = replace(found, what=described(found, loaded, expected.values))
    causes, together = laboratory.causes()
    causes = laboratory.miswired or causes
    return {
        "offender": found,
        "causes": tuple(causes),
        "together": together,
        "losses": tuple(losses(loaded, expected.values)),
    }


@contextmanager
def _untouched_randomness() -> Iterator[None]:
    before = randomness()
    try:
        yield
    finally:
        set_randomness(before)
