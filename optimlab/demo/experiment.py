"""The demo from beginning to end: train, interrupt, resume, draw, write."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from optimlab.demo.digits import Digits, read_digits
from optimlab.demo.figure import draw
from optimlab.demo.recipes import Settings
from optimlab.demo.report import Report, make_console
from optimlab.demo.results import Outcome, overall, write_json
from optimlab.demo.resume import interrupt, resume
from optimlab.demo.training import LockStep, reproducible
from optimlab.lab.compare.bits import Distance


def run(settings: Sequence[Settings], folder: Path, *, quiet: bool = False) -> Distance:
    """Train with each of the settings, print how it goes and write what was found.

    Args:
        settings: One for each optimizer.
        folder: An existing directory for figure and numbers, with a directory ``checkpoints``.
        quiet: Whether to print nothing.

    Returns:
        How far all compared elements are apart.
    """
    report = Report(make_console(quiet=quiet), settings)
    with reproducible(), report.progress:
        digits = read_digits()
        report.introduce()
        outcomes = [
            train_and_resume(each, digits, folder / "checkpoints", report) for each in settings
        ]
    report.conclude(outcomes, write_files(outcomes, folder))
    return overall(outcomes)


def train_and_resume(settings: Settings, digits: Digits, folder: Path, report: Report) -> Outcome:
    """Train in lock step, interrupt half-way, resume from the checkpoints in ``folder``."""
    report.start(settings)
    lock_step, epochs = LockStep(settings, digits), []
    for epoch in lock_step.train(half_way=partial(interrupt, folder)):
        report.epoch(epoch)
        epochs.append(epoch)
    report.resume(lock_step)
    outcome = Outcome.collect(lock_step, epochs, resume(folder, lock_step))
    report.outcome(outcome)
    return outcome


def write_files(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Write the figure and the numbers, and return the paths of both."""
    figure, numbers = folder / "loss-curves.png", folder / "result.json"
    draw(outcomes).savefig(figure)
    write_json(numbers, outcomes)
    return [figure, numbers]
