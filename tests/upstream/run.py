"""Run PyTorch's own optimizer test suite with optimlab's optimizers in place of torch's.

    python tests/upstream/run.py PATH/TO/pytorch/test/test_optim.py [--stock] [pytest arguments]

    python tests/upstream/run.py ~/pytorch/test/test_optim.py -k "RMSprop or test_adam"

The suite is part of PyTorch's source tree and of no wheel. Any checkout at the tag of the installed
version has it, with the modules that it imports from the folder `optim` beside it:

    git clone --depth 1 --branch v2.13.0 https://github.com/pytorch/pytorch

The suite runs twice, each time in a process of its own: with torch's classes, which says what it
gives on this machine and with this version of torch, then with optimlab's SGD, Adam, AdamW and
RMSprop wherever the suite could find torch's: in `torch.optim` and its modules, and in the
`OptimizerInfo` entries of `torch.testing._internal.common_optimizers`. Tests that name another
optimizer are left out. `--stock` runs the first half only.

Every step is counted by the class that took it. The exit status is 0 if every test that passes with
torch passes with optimlab, optimlab's optimizers took steps and torch's own four took none; 1 if
not; 2 if there is no such file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("SGD", "Adam", "AdamW", "RMSprop")
SIDES = ("torch", "optimlab")
# Tests of torch's private functions, which no other class can pass.
BY_DESIGN = {
    "test_defaults_changed_to_foreach": "replaces torch's own _multi_tensor_* functions by a mock",
}


@dataclass
class Record:
    """What one run of the suite gave: the outcome of each test, and who took how many steps."""

    outcomes: dict[str, str] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)


class Recorder:
    """The pytest plugin that leaves out the other optimizers and fills a `Record`."""

    def __init__(self, record: Record, others: set[str]) -> None:
        self.record = record
        self.others = others

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect every test whose name has the name of another optimizer in it."""
        left_out = [item for item in items if self.others & set(item.name.lower().split("_"))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test: that of its call, unless setup or teardown ended it."""
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("::")[2]
            self.record.outcomes[name] = report.outcome
            if report.failed:
                self.record.tracebacks[name] = report.longreprtext

    def count_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Count one step for the class that took it (a hook after every optimizer's step)."""
        cls = type(optimizer)
        self.record.steps[f"{cls.__module__.partition('.')[0]}.{cls.__name__}"] += 1


def substitute() -> None:
    """Put optimlab's classes where the suite would find torch's."""
    from torch.testing._internal import common_optimizers

    import optimlab

    ours = {getattr(torch.optim, name): getattr(optimlab, name) for name in NAMES}
    modules = [m for name, m in sys.modules.items() if f"{name}.".startswith("torch.optim.")]
    for module in [*modules, common_optimizers]:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in ours:
                setattr(module, name, ours[value])
    for info in common_optimizers.optim_db:
        info.optim_cls = ours.get(info.optim_cls, info.optim_cls)


def run_side(side: str, test_file: Path, pytest_args: list[str]) -> Record:
    """Run the suite in this process, with the classes of one side."""
    sys.path[:0] = [str(test_file.parent), str(REPOSITORY)]
    # Only here, since importing it freezes torch's backend flags for the rest of the process.
    from torch.testing._internal import common_optimizers

    if side == "optimlab":
        substitute()
    named = {info.name.lower() for info in common_optimizers.optim_db}
    others = named - {name.lower() for name in NAMES}
    record = Record()
    recorder = Recorder(record, others)
    register_optimizer_step_post_hook(recorder.count_step)
    # The suite knows nothing of our settings for pytest, and PyTorch's own need its other plugins.
    options = ["--noconftest", "-c", os.devnull, f"--rootdir={test_file.parent}"]
    options += ["-p", "no:cacheprovider", "-q", "--tb=short", "--no-summary"]
    pytest.main([*options, *pytest_args, str(test_file)], plugins=[recorder])
    return record


def run_in_new_process(side: str, test_file: Path, pytest_args: list[str]) -> Record:
    """As `run_side`, in a fresh interpreter: a substitution is for the life of a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        options = [str(test_file), "--side", side, "--record", str(path)]
        print(f"\n{side}: {test_file}", flush=True)
        subprocess.run([sys.executable, __file__, *options, *pytest_args], check=False)
        if not path.exists():  # the interpreter itself ended early
            return Record()
        record = Record(**json.loads(path.read_text()))
    record.steps = Counter(record.steps)
    return record


def describe(side: str, record: Record) -> str:
    """One line: how many tests ended how, and the steps by class."""
    counts = Counter(record.outcomes.values())
    ended = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    four = {f"{package}.{name}" for package in SIDES for name in NAMES}
    steps = ", ".join(f"{name} {n}" for name, n in sorted(record.steps.items()) if name in four)
    return f"{side:>8}: {ended}; steps: {steps or 'none'}"


def proof_missing(ours: Record) -> str | None:
    """What shows that the run was not one of optimlab's classes alone, if anything does."""
    if not any(ours.steps[f"optimlab.{name}"] for name in NAMES):
        return "no step was taken by an optimlab class: this run shows nothing"
    stock = [f"torch.{name}" for name in NAMES if ours.steps[f"torch.{name}"]]
    return f"steps were taken by {', '.join(stock)}: not everything was replaced" if stock else None


def compare(stock: Record, ours: Record) -> int:
    """Print both runs and what differs; the exit status."""
    print(f"\ntorch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    print(describe("torch", stock))
    print(describe("optimlab", ours))
    passed = [name for name, outcome in stock.outcomes.items() if outcome == "passed"]
    ended = {name: ours.outcomes.get(name, "not run") for name in passed}
    broken = [name for name, outcome in ended.items() if outcome != "passed"]
    by_design = {n: why for n in broken for each, why in BY_DESIGN.items() if f"::{each}_" in n}
    for name in broken:
        if name in by_design:
            print(f"by design: {name}: {by_design[name]}")
        else:
            print(f"with optimlab only: {ended[name]} {name}\n{ours.tracebacks.get(name, '')}")
    if missing := proof_missing(ours):
        print(missing)
    if missing or len(broken) > len(by_design):
        return 1
    same = len(passed) - len(broken)
    print(f"of {len(passed)} tests that pass with torch, {same} pass with optimlab")
    return 0


def main() -> int:
    """The command line; `--side` and `--record` are for the processes it starts."""
    about = "PyTorch's optimizer test suite, on optimlab's classes. Other arguments are pytest's."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("test_file", type=Path, help="test/test_optim.py in a PyTorch checkout")
    parser.add_argument("--stock", action="store_true", help="run with torch's own classes only")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    args, pytest_args = parser.parse_known_args()
    test_file = args.test_file.resolve()
    if not test_file.is_file():
        parser.error(f"no such file: {args.test_file}")
    if args.side:
        args.record.write_text(json.dumps(vars(run_side(args.side, test_file, pytest_args))))
        return 0
    stock = run_in_new_process("torch", test_file, pytest_args)
    if args.stock:
        print(f"\ntorch {torch.__version__}\n{describe('torch', stock)}")
        return 1 if "failed" in stock.outcomes.values() or not stock.outcomes else 0
    return compare(stock, run_in_new_process("optimlab", test_file, pytest_args))


if __name__ == "__main__":
    raise SystemExit(main())
