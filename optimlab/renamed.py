"""Names that have moved since the last release: until the next one they work, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

RENAMED = {
    "optimlab.adam.AdamW": "optimlab.adamw.AdamW",
    "optimlab.bench.command": "optimlab.cli.bench",
    "optimlab.checkpoint": "optimlab.core.checkpoint",
    "optimlab.demo.command": "optimlab.cli.demo",
    "optimlab.demo.differences": "optimlab.lab.compare.bits",
    "optimlab.demo.differences.compare": "optimlab.lab.compare.bits.total_distance",
    "optimlab.demo.recipes.LIBRARIES": "optimlab.demo.libraries.LIBRARIES",
    "optimlab.demo.recipes.LibraryName": "optimlab.demo.libraries.LibraryName",
    "optimlab.devices": "optimlab.core.devices",
    "optimlab.digest": "optimlab.lab.compare.digest",
    "optimlab.doctor": "optimlab.lab.doctor",
    "optimlab.doctor.command": "optimlab.cli.doctor",
    "optimlab.doctor.comparing": "optimlab.lab.doctor.comparing",
    "optimlab.doctor.examination": "optimlab.lab.doctor.examination",
    "optimlab.doctor.findings": "optimlab.lab.doctor.report",
    "optimlab.doctor.findings.Finding": "optimlab.lab.findings.Finding",
    "optimlab.doctor.hyperparameters": "optimlab.lab.doctor.hyperparameters",
    "optimlab.doctor.inside": "optimlab.lab.doctor.state_checks",
    "optimlab.doctor.kinds": "optimlab.lab.doctor.author",
    "optimlab.doctor.linting": "optimlab.lab.doctor.linting",
    "optimlab.doctor.loading": "optimlab.lab.doctor.loading",
    "optimlab.doctor.memory": "optimlab.lab.doctor.aliasing",
    "optimlab.doctor.places": "optimlab.lab.doctor.order",
    "optimlab.doctor.repairing": "optimlab.lab.doctor.repairing",
    "optimlab.doctor.subject": "optimlab.lab.doctor.checkpoint",
    "optimlab.doctor.subject.CheckpointError": "optimlab.lab.doctor.errors.CheckpointError",
    "optimlab.doctor.subject.Subject": "optimlab.lab.doctor.checkpoint.Checkpoint",
    "optimlab.explain": "optimlab.lab.explain",
    "optimlab.explain.command": "optimlab.cli.explain",
    "optimlab.groups": "optimlab.core.groups",
    "optimlab.info": "optimlab.lab.info",
    "optimlab.info.command": "optimlab.cli.info",
    "optimlab.instruments": "optimlab.lab",
    "optimlab.instruments.cases": "optimlab.lab.explain.explanation",
    "optimlab.instruments.causes": "optimlab.lab.explain.diagnosis",
    "optimlab.instruments.copies": "optimlab.lab.lockstep.clone",
    "optimlab.instruments.equivalence": "optimlab.lab.explain.equivalence",
    "optimlab.instruments.explain": "optimlab.lab.explain.explaining",
    "optimlab.instruments.explanation": "optimlab.lab.explain.explanation",
    "optimlab.instruments.extent": "optimlab.lab.record.step_scope",
    "optimlab.instruments.fma": "optimlab.lab.explain.fma",
    "optimlab.instruments.formulas": "optimlab.lab.explain.expressions",
    "optimlab.instruments.manners": "optimlab.lab.explain.variants",
    "optimlab.instruments.origins": "optimlab.lab.record.provenance",
    "optimlab.instruments.pairs": "optimlab.lab.record.pair",
    "optimlab.instruments.parting": "optimlab.lab.explain.divergence",
    "optimlab.instruments.recording": "optimlab.lab.record.recording",
    "optimlab.instruments.registers": "optimlab.lab.record.registers",
    "optimlab.instruments.roundings": "optimlab.lab.explain.experiments",
    "optimlab.instruments.trace": "optimlab.lab.trace.trace",
    "optimlab.instruments.watch": "optimlab.lab.watch",
    "optimlab.instruments.worked": "optimlab.lab.trace.worked",
    "optimlab.instruments.writing": "optimlab.lab.record.writing",
    "optimlab.optimizer.Step": "optimlab.rule.Step",
    "optimlab.optimizer.pure": "optimlab.rule.pure",
    "optimlab.optimizer.unequal_steps": "optimlab.rule.unequal_steps",
    "optimlab.parity.Excepted": "optimlab.lab.parity.case_result.excepted",
    "optimlab.parity.Tried": "optimlab.lab.parity.CaseResult",
    "optimlab.parity.Verdict": "optimlab.lab.parity.ParityResult",
    "optimlab.parity.account": "optimlab.lab.parity.report",
    "optimlab.parity.bits": "optimlab.lab.compare.bits",
    "optimlab.parity.bits.as_integers": "optimlab.lab.compare.integers.as_integers",
    "optimlab.parity.bits.hexadecimal": "optimlab.lab.compare.integers.hexadecimal",
    "optimlab.parity.bits.ordered": "optimlab.lab.compare.integers.ordered",
    "optimlab.parity.cases": "optimlab.lab.parity.cases",
    "optimlab.parity.check": "optimlab.lab.parity.checking",
    "optimlab.parity.command": "optimlab.cli.parity",
    "optimlab.parity.configurations": "optimlab.lab.parity.configurations",
    "optimlab.parity.configurations.Extent": "optimlab.lab.parity.configurations.Coverage",
    "optimlab.parity.lockstep": "optimlab.lab.lockstep.lockstep",
    "optimlab.parity.observed": "optimlab.lab.compare.snapshot",
    "optimlab.parity.observed.Comparison": "optimlab.lab.compare.diff.Diff",
    "optimlab.parity.observed.NothingCompared": "optimlab.lab.compare.diff.NothingCompared",
    "optimlab.parity.observed.observe": "optimlab.lab.compare.snapshot.snapshot",
    "optimlab.parity.observed.place_name": "optimlab.lab.compare.diff.path_name",
    "optimlab.parity.outcome": "optimlab.lab.lockstep.outcome",
    "optimlab.parity.outcome.Compared": "optimlab.lab.compare.diff.Compared",
    "optimlab.parity.report": "optimlab.lab.parity.report",
    "optimlab.parity.report.Report": "optimlab.lab.parity.table_result.TableResult",
    "optimlab.parity.scenario": "optimlab.lab.lockstep.scenario",
    "optimlab.parity.side": "optimlab.lab.lockstep.replica",
    "optimlab.parity.side.Side": "optimlab.lab.lockstep.replica.Replica",
    "optimlab.parity.side.copied": "optimlab.lab.lockstep.clone.clone",
    "optimlab.parity.signatures": "optimlab.lab.parity.signatures",
    "optimlab.parity.table": "optimlab.lab.parity.table",
    "optimlab.parity.verdict": "optimlab.lab.parity.result",
    "optimlab.parity.verdict.Excepted": "optimlab.lab.parity.case_result.excepted",
    "optimlab.parity.verdict.Tried": "optimlab.lab.parity.case_result.CaseResult",
    "optimlab.parity.verdict.Verdict": "optimlab.lab.parity.result.ParityResult",
    "optimlab.parity.views": "optimlab.lab.parity.mask",
    "optimlab.parity.views.View": "optimlab.lab.parity.mask.Mask",
    "optimlab.program": "optimlab.core.program",
    "optimlab.resume": "optimlab.lab.resume",
    "optimlab.resume.Cause": "optimlab.lab.findings.Finding",
    "optimlab.resume.contract": "optimlab.lab.resume.run",
    "optimlab.resume.experiment": "optimlab.lab.resume.experiment",
    "optimlab.resume.outcome": "optimlab.lab.resume.outcome",
    "optimlab.resume.outcome.Cause": "optimlab.lab.findings.Finding",
    "optimlab.resume.parts": "optimlab.lab.resume.parts",
    "optimlab.resume.proof": "optimlab.lab.resume.proof",
    "optimlab.scalar": "optimlab.core.scalar",
    "optimlab.shadow": "optimlab.lab.shadow",
    "optimlab.terminal": "optimlab.lab.report",
    "optimlab.terminal.MisuseError": "optimlab.cli.common.MisuseError",
    "optimlab.terminal.resolve": "optimlab.lab.importing.import_named",
    "optimlab.values.Unread": "optimlab.core.values.StepCount",
}
"""Each old name of a module, class or function, and where it is now.

What stands below an old module and has no row of its own is looked for below the new one. A module
that is still there, and of which a name has moved, says
``__getattr__ = renamed.moved_from(__name__)``.
"""

HIDDEN = (
    "optimlab.doctor",
    "optimlab.explain",
    "optimlab.info",
    "optimlab.parity.check",
    "optimlab.shadow",
)
"""Old modules that bear the name of a function; importing one must not bind it in its place."""


_INSIDE = ("optimlab", "importlib")


def moved_from(module: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module of which some names have moved."""

    def find(name: str) -> Any:
        old = f"{module}.{name}"
        if old not in RENAMED:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(old)
        return resolve(RENAMED[old])

    return find


def attribute(old: str, new: str) -> Any:
    """Return a property that leads from the old name of an attribute to its new one."""

    def get(self: object) -> Any:
        warn(f"{type(self).__name__}.{old} is {new} now; the old name works for one release")
        return getattr(self, new)

    return property(get)


class Renamed(ModuleType):
    """Stands for a module under its old name; what is taken from it comes from the new one."""

    def __getattr__(self, name: str) -> Any:
        module = self.__name__
        old = f"{module}.{name}"
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        if old in RENAMED:
            _warn(old)
            found = resolve(RENAMED[old])
        else:
            if module in HIDDEN:
                _warn(module)
            found = getattr(resolve(RENAMED[module]), name)
        setattr(self, name, found)
        return found


class Finder:
    """Finds modules under their old names; asked last, when no other finder knows a name."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what makes the module, ``None`` for any name but the old ones."""
        return self.spec_of(name) if name in RENAMED else None

    def spec_of(self, name: str) -> ModuleSpec:
        """Return what makes a module: a package, because others are imported from below it."""
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module; the new one is imported when something is taken from it."""
        return Renamed(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Warn whoever imports it."""
        _warn(module.__name__)


def install() -> None:
    """Let old names be imported."""
    finder = Finder()
    sys.meta_path.append(finder)
    for name in HIDDEN:
        sys.modules[name] = module_from_spec(finder.spec_of(name))


def _warn(old: str) -> None:
    warn(f"{old} is {RENAMED[old]} now; the old name works for one release")


def warn(text: str) -> None:
    """Warn the first caller that is neither this package nor importlib: the user."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        frame = frame.f_back
    warnings.warn_explicit(
        text,
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def resolve(name: str) -> Any:
    """Return a module, or an attribute of one, by its dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        module, _, attribute = name.rpartition(".")
        if error.name != name or not module:
            raise
        return getattr(resolve(module), attribute)
