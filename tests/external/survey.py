"""Check the optimizers of other packages beside torch's, and write down what came of it.

Run it in an environment of its own, which has the packages (docs/external-optimizers.md says how):

    python tests/external/survey.py --write docs/external-optimizers.md

A package that is not installed is left out, and the table says so. It takes some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from optimlab.lab.parity import CaseResult, Difference, NothingCompared, ParityResult, check
from optimlab.lab.parity.case_result import environment
from optimlab.lab.parity.report import alike, common

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Pair:
    """An optimizer of a package, and the one of torch that it is compared with.

    Attributes:
        package: as on PyPI.
        module: what to import.
        name: of its class.
        reference: of torch's class.
        given: options of the class that make it the reference, as far as they can.
        beside: options of the reference that make it the class.
        always: options that both get in every configuration.
        state_names: the class's names of the reference's state.
    """

    package: str
    module: str
    name: str
    reference: str
    given: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    state_names: Mapping[str, str] = field(default_factory=dict)

    def check(self, quick: bool) -> ParityResult:
        """Compare the two."""
        mine = partial(getattr(importlib.import_module(self.module), self.name), **self.given)
        theirs = partial(getattr(torch.optim, self.reference), **self.beside)
        names = self.state_names
        return check(mine, theirs, options=self.always, state_names=names, quick=quick)

    def __str__(self) -> str:
        return f"`{self.name}{_options({**self.given, **self.always})}`"


TIMM = ("timm", "timm.optim")
KOZISTR = ("pytorch_optimizer", "pytorch_optimizer")
OPTIMI = ("torch-optimi", "optimi")
BYTES = ("bitsandbytes", "bitsandbytes.optim")
NO_DECAY = {"weight_decay": 0.0}
NO_KAHAN = {"kahan_sum": False}
MOMENTS = {"exp_avg": "state1", "exp_avg_sq": "state2"}

PAIRS = (
    Pair(*TIMM, "AdamWLegacy", "AdamW"),
    Pair(*TIMM, "NAdamLegacy", "NAdam"),
    Pair(*TIMM, "NAdamW", "NAdam", beside={"decoupled_weight_decay": True}),
    Pair(*TIMM, "RAdamLegacy", "RAdam"),
    Pair(*TIMM, "RMSpropTF", "RMSprop"),
    Pair(*TIMM, "SGDW", "SGD", always=NO_DECAY),
    Pair(*KOZISTR, "AdaDelta", "Adadelta"),
    Pair(*KOZISTR, "AdaMax", "Adamax"),
    Pair(*KOZISTR, "RAdam", "RAdam", given={"weight_decouple": False}),
    Pair(*KOZISTR, "SGDW", "SGD", always=NO_DECAY),
    Pair(*OPTIMI, "Adam", "Adam", given=NO_KAHAN),
    Pair(*OPTIMI, "AdamW", "AdamW", given=NO_KAHAN),
    Pair(*OPTIMI, "RAdam", "RAdam", given=NO_KAHAN),
    Pair(*OPTIMI, "SGD", "SGD", given=NO_KAHAN, state_names={"momentum_buffer": "exp_avg"}),
    Pair(*BYTES, "Adagrad", "Adagrad", state_names={"sum": "state1"}),
    Pair(*BYTES, "Adam", "Adam", state_names=MOMENTS),
    Pair(*BYTES, "AdamW", "AdamW", state_names=MOMENTS),
    Pair(*BYTES, "RMSprop", "RMSprop", state_names={"square_avg": "state1"}),
    Pair(*BYTES, "SGD", "SGD", given={}, state_names={"momentum_buffer": "state1"}),
)


def main() -> int:
    """Check every pair whose package is here, and print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this file")
    parser.add_argument("--quick", action="store_true", help="a few configurations of each")
    parser.add_argument("--report", metavar="NAME", help="print the whole report of this class")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.report:
        for pair in PAIRS:
            if pair.name == args.report and _installed(pair.package):
                print(pair.check(args.quick), end="\n\n")
        return 0
    table = "\n".join(lines(args.quick))
    if args.write is None:
        print(table)
    else:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        args.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return 0


def lines(quick: bool) -> Iterator[str]:
    """Yield the lines of the table, with what they depend on."""
    about = environment("cpu")
    yield (
        f"{datetime.date.today()}, torch {about['torch']}, Python {about['python']}, "
        f"{about['device']}, {about['cpu capability']}, one thread."
    )
    for package, module in (TIMM, KOZISTR, OPTIMI, BYTES):
        release = _installed(package)
        if release is None:
            yield f"\n**{package}** was not installed."
            continue
        yield f"\n**{package} {release}**\n"
        if torchs := _torchs(module):
            yield f"Torch's own classes under another name, the same by definition: {torchs}.\n"
        yield "| optimizer | beside | same bits | same parameters | what differs first |"
        yield "|---|---|---|---|---|"
        for pair in PAIRS:
            if pair.package == package:
                print(f"{package} {pair.name}", file=sys.stderr)
                yield row(pair, quick)


def row(pair: Pair, quick: bool) -> str:
    """Lay out one line of the table."""
    beside = f"`{pair.reference}{_options(pair.beside)}`"
    try:
        result = pair.check(quick)
    except NothingCompared as error:
        return f"| {pair} | {beside} | – | – | nothing compared: {str(error).splitlines()[-1]} |"
    compared = [each for each in result.results if each.compared]
    ended = sum(map(ends_the_same, compared))
    said = "; ".join(differences(result, compared)) or "nothing"
    of = f"of {len(compared)}"
    return f"| {pair} | {beside} | {len(result.same)} {of} | {ended} {of} | {said} |"


def ends_the_same(each: CaseResult) -> bool:
    """Tell whether all parameters have the same bits after the last step."""
    outcome = each.outcome
    if isinstance(outcome, Difference):
        return outcome.final is not None and outcome.final.differing == 0
    return outcome is not None


def differences(result: ParityResult, compared: list[CaseResult]) -> Iterator[str]:
    """Say what differs first in most configurations, and what is refused."""
    for found in alike(result.differences)[:2]:
        outcome = found[0].outcome
        assert isinstance(outcome, Difference)
        mismatch = outcome.mismatch
        place = f"{outcome.where.partition(' of parameter')[0]} {mismatch.what}"
        said = {"parameters": f"parameter {mismatch.what}", "gradients": "writes to `p.grad`"}
        text = said.get(str(outcome.path[0]), place)
        ulps = f", {mismatch.ulps} ulp" if mismatch.ulps and "grad" not in text else ""
        where = common(found, compared)
        yield f"{text} in step {outcome.step}{ulps} ({len(found)}{where})"
    refused = result.kinds.get("refused by mine", ())
    if refused:
        yield f"refuses {len(refused)} that torch accepts"


def _options(options: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"({inside})" if inside else ""


def _installed(package: str) -> str | None:
    """Return the release of a package, ``None`` if it is not here."""
    try:
        release = version(package)
    except PackageNotFoundError:
        return None
    if package == "timm" and "timm" not in sys.modules:
        _load_timm_without_models()
    return release


def _load_timm_without_models() -> None:
    """Let ``timm.optim`` be imported by itself: the models need a torchvision that fits torch."""
    found = importlib.util.find_spec("timm")
    assert found is not None
    package, models = types.ModuleType("timm"), types.ModuleType("timm.models")
    package.__path__ = list(found.submodule_search_locations or ())
    models.group_parameters = None  # type: ignore[attr-defined]
    sys.modules.update({"timm": package, "timm.models": models})


def _torchs(module: str) -> str:
    """Name what a package hands on from torch."""
    found = inspect.getmembers(importlib.import_module(module), inspect.isclass)
    classes = {name: each for name, each in found if issubclass(each, Optimizer)}
    classes.pop("Optimizer", None)
    torchs = [n for n, each in classes.items() if each.__module__.startswith("torch.optim")]
    return ", ".join(f"`{name}`" for name in torchs)


if __name__ == "__main__":
    sys.exit(main())
