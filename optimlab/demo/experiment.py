"""The demo from beginning to end: train, interrupt, resume, draw, write."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from optimlab.demo.digits import Digits, read_digits
from optimlab.demo.figure import draw
from optimlab.demo.recipes import RECIPES, Settings
from optimlab.demo.report import Report
from optimlab.demo.results import Count, Outcome, Results
from optimlab.demo.resume import interrupt, resume
from optimlab.demo.training import LockStep, reproducible


def run(settings: Sequence[Settings], folder: Path, *, quiet: bool = False) -> Results:
    """Train with each of the settings, print how it goes, unless quiet, and write the findings."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    report = Report(settings, quiet=quiet)
    with reproducible(), report.running():
        digits = read_digits()
        results = Results(
            [train_and_resume(each, digits, folder / "checkpoints", report) for each in settings]
        )
    figure, numbers = folder / "loss-curves.png", folder / "result.json"
    draw(results).savefig(figure)
    text = json.dumps(results.as_json(), indent=2, allow_nan=False)
    numbers.write_text(text + "\n", encoding="utf-8")
    report.conclude(results, [figure, numbers])
    return results


def train_and_resume(settings: Settings, digits: Digits, folder: Path, report: Report) -> Outcome:
    """Train in lock step, interrupt half-way, resume from the checkpoints in ``folder``."""
    report.start(settings)
    lock_step, epochs = LockStep(settings, digits), []
    for epoch in lock_step.train(half_way=partial(interrupt, folder)):
        report.epoch(epoch)
        epochs.append(epoch)
    report.resume(settings, lock_step.half, lock_step.steps)
    outcome = Outcome(
        settings=settings,
        optimizer=str(RECIPES[settings.recipe]),
        steps=lock_step.steps,
        interrupted_after_step=lock_step.half,
        first_differing_step=lock_step.first_difference,
        lock_step=Count.total(epochs),
        resumed=resume(folder, lock_step),
        epochs=epochs,
    )
    report.outcome(outcome)
    return outcome
