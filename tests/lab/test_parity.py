"""The table gives the bits of torch.optim, and would notice if it did not.

Run is a third of it, chosen by :mod:`covering`; `nox -s parity` runs it all, and
`docs/parity-cpu.txt` is the record of that.
"""

import inspect
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from covering import covering, facts, happenings

from optimlab.__main__ import main
from optimlab.lab.lockstep.scenario import Layout, Scenario, TensorSpec, laid_out
from optimlab.lab.parity import Difference, Equal, EqualError
from optimlab.lab.parity import cases as cases_module
from optimlab.lab.parity.cases import EDGE_SIZES, Case, cases
from optimlab.lab.parity.configurations import printed
from optimlab.lab.parity.events import TABLE_EVENTS
from optimlab.lab.parity.table import DTYPES, IMPLEMENTATIONS, TABLE, Row, excluded

RECORD = Path(__file__).parents[2] / "docs" / "parity-cpu.txt"
ALL = list(cases("tests"))
ON_CPU = covering(ALL)
ON_CUDA: list[Any] = [pytest.param(None, id="of the table")]
if torch.cuda.is_available():
    ON_CUDA = covering(cases("tests", device="cuda"))

LAYOUTS = {*get_args(Layout)}
ODD = {"expanded", "unaligned"}  # gradients of a check lie so, no parameter of the table

rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def in_grid(case: Case) -> bool:
    """Tells whether all options of a case come from the grid of its row."""
    return not case.event and all(
        any(value is choice for choice in case.row.grid.get(name, ()))
        for name, value in case.options.items()
    )


def refused(case: Case) -> bool:
    """Tells whether torch refuses a case of the grid."""
    options = case.options
    nesterov = options.get("nesterov") and ("dampening" in options or "momentum" not in options)
    capturable = "capturable" in case.implementation and case.scenario.device == "cpu"
    return nesterov or capturable or (case.implementation == "fused" and "complex" in case.dtype)


def check(case: Case) -> None:
    outcome = case.run()
    assert outcome.equal, f"{case}\n{outcome}"
    if in_grid(case):  # two equal errors must not pass for two equal optimizers
        assert isinstance(outcome, EqualError if refused(case) else Equal), outcome
    if in_grid(case) and isinstance(outcome, Equal):
        assert outcome.compared.steps == 12
        assert outcome.changed > 1 / 3
        assert outcome.finite > 9 / 10


@pytest.mark.parametrize("case", ON_CPU, ids=str)
def test_all_steps_give_the_bits_of_torch_on_the_cpu(case: Case) -> None:
    check(case)


@pytest.mark.cuda
@pytest.mark.parametrize("case", ON_CUDA, ids=str)
def test_all_steps_give_the_bits_of_torch_on_cuda(case: Case) -> None:
    check(case)


@contextmanager
def slightly_off(optimizer: torch.optim.Optimizer, name: str) -> Iterator[None]:
    """Makes a hyperparameter of every group a thousandth larger for a while."""
    before = [group[name] for group in optimizer.param_groups]
    for group, value in zip(optimizer.param_groups, before, strict=True):
        beta1, beta2 = value if name == "betas" else (0, 0)
        group[name] = (beta1 * 1.001, beta2 * 1.001) if name == "betas" else value * 1.001
    yield
    for group, value in zip(optimizer.param_groups, before, strict=True):
        group[name] = value


def off_by_a_thousandth(row: Row, name: str) -> type[torch.optim.Optimizer]:
    """Makes the row's class with steps in which one hyperparameter is slightly off."""

    class Off(row.theirs):  # type: ignore[name-defined,misc]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            with slightly_off(self, name):
                return super().step(closure)

    return Off


@pytest.mark.parametrize("implementation", ["for-loop", "foreach"])
@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for row in TABLE
        for name in ("lr", "betas", "alpha", "eps", "momentum", "dampening", "weight_decay")
        if name in inspect.signature(row.theirs).parameters
    ],
)
def test_a_hyperparameter_that_is_a_thousandth_off_is_noticed(
    row: Row, name: str, implementation: str
) -> None:
    options = dict(row.many)
    if name == "dampening":
        options |= {"nesterov": False, "dampening": 0.1}
    elif name == "eps":
        options["eps"] = 1e-3  # a thousandth of the default is lost in a few steps
    right = next(
        case
        for case in ON_CPU
        if (case.row.name, case.implementation, case.dtype) == (row.name, implementation, "float32")
    )
    right = replace(right, options=options)
    assert isinstance(right.run(), Equal)
    wrong = replace(right, row=replace(row, ours=off_by_a_thousandth(row, name)))
    outcome = wrong.run()
    assert isinstance(outcome, Difference)
    assert outcome.mismatch.what == "bits"
    assert outcome.mismatch.distance is not None


def test_every_case_has_a_name_of_its_own() -> None:
    for level in ("quick", "tests", "full"):
        names = [str(case) for case in cases(level)]
        assert len(set(names)) == len(names)


def test_the_record_is_of_all_cases_that_there_are() -> None:
    assert f"{len(list(cases())):,} cases: " in RECORD.read_text(encoding="utf-8")


def cells(row: Row) -> Iterator[tuple[str, str]]:
    """Yields the implementations and dtypes in which an optimizer is compared."""
    for implementation, dtype in itertools.product(row.implementations, DTYPES):
        if not excluded(row.name, implementation, dtype, "cpu"):
            yield implementation, dtype


def in_cell(chosen: list[Case], row: Row, implementation: str, dtype: str) -> list[Case]:
    cell = (row, implementation, dtype)
    return [case for case in chosen if (case.row, case.implementation, case.dtype) == cell]


@rows
def test_the_table_has_every_combination_of_options_in_every_cell(row: Row) -> None:
    combinations = 1
    for values in row.grid.values():
        combinations *= 1 + len(values)
    for cell in cells(row):
        assert sum(map(in_grid, in_cell(ALL, row, *cell))) == combinations


@rows
def test_a_third_of_the_table_has_every_value_and_event_in_every_cell(row: Row) -> None:
    assert len(ON_CPU) < len(ALL) * 0.35
    for implementation, dtype in cells(row):
        met = {fact for case in in_cell(ON_CPU, row, implementation, dtype) for fact in facts(case)}
        for name, values in row.grid.items():
            assert {(name, each) for each in ("default", *map(printed, values))} <= met
        for name, event in TABLE_EVENTS.items():
            left_out = event.size and implementation == "differentiable"
            if not name or (dtype in event.dtypes and not left_out):
                assert ("event", name) in met


@rows
def test_a_third_of_the_table_has_every_pair_of_options_dtypes_events_and_implementations(
    row: Row,
) -> None:
    there = [{*itertools.combinations(facts(case), 2)} for case in ALL if case.row is row]
    chosen = [{*itertools.combinations(facts(case), 2)} for case in ON_CPU if case.row is row]
    assert set().union(*there) == set().union(*chosen)
    values = [[(name, printed(each)) for each in row.grid[name]] for name in sorted(row.grid)]
    pairs = {pair for two in itertools.combinations(values, 2) for pair in itertools.product(*two)}
    assert pairs <= set().union(*chosen)
    settings = [{(name, printed(value)) for name, value in o.items()} for o in row.more]
    mine = [set(facts(case)) for case in ON_CPU if case.row is row]
    assert all(any(each <= found for found in mine) for each in settings)


@rows
def test_the_row_sets_every_option_that_the_constructor_has(row: Row) -> None:
    options = set(inspect.signature(row.theirs).parameters) - {"params"}
    in_row = {name for options in (row.grid, row.many, *row.more) for name in options}
    in_row |= {name for each in row.implementations for name in IMPLEMENTATIONS[each]}
    assert options == in_row


@rows
def test_every_implementation_meets_every_edge_and_event(row: Row) -> None:
    for implementation in row.implementations:
        found = [c for c in ON_CPU if (c.row, c.implementation) == (row, implementation)]
        met = {fact for case in found for fact in happenings(case)}
        differentiable = implementation == "differentiable"
        large = set() if differentiable else {32769, 300001}
        assert {("size", each) for each in {*EDGE_SIZES} | large} <= met
        assert {spec.layout for case in found for spec in case.scenario.tensors} == LAYOUTS - ODD
        assert {("named", True), ("named", False)} <= met
        assert sum(kind == "resume" for kind, _ in met) == (1 if differentiable else 3)


def test_a_seed_gives_other_numbers_and_the_same_seed_the_same() -> None:
    scenario = Scenario()
    again, other = Scenario(), Scenario(seed=1)
    for left, same, different in zip(scenario.start(), again.start(), other.start(), strict=True):
        assert torch.equal(left, same)
        assert not torch.equal(left, different)
    first, later = list(scenario.gradients(1)), list(scenario.gradients(2))
    assert first[0] is not None
    assert later[0] is not None
    assert not torch.equal(first[0], later[0])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_values_keep_their_places_in_every_layout_that_has_places(layout: Any) -> None:
    values = torch.arange(1.0, 121.0).view(2, 3, 4, 5)
    placed = laid_out(values, layout)
    one_element = torch.full_like(values, values[0, 0, 0, 0].item())
    assert torch.equal(placed, one_element if layout == "expanded" else values)
    assert placed.is_contiguous() == (layout in {"contiguous", "unaligned"})
    assert (placed.data_ptr() % 8 != 0) == (layout == "unaligned")


def test_gradients_are_absent_where_the_scenario_says_so() -> None:
    tensors = (
        TensorSpec((2,), gradients="late"),
        TensorSpec((2,), gradients="never"),
        TensorSpec((2,), gradients="sometimes"),
        TensorSpec((2,), group=1),
    )
    present = [
        [gradient is not None for gradient in Scenario(tensors).gradients(step)]
        for step in range(1, 7)
    ]
    late, never, sometimes, idle = zip(*present, strict=True)
    assert late == (False, False, False, False, True, True)
    assert not any(never)
    assert sometimes[0]
    assert not all(sometimes)
    assert idle == (True, True, True, False, True, True)


def test_the_command_prints_the_matrix_in_100_columns_and_writes_it_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "parity.json"
    assert main(["parity", "--quick", "--optimizer", "SGD", "--json", str(written)]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.splitlines())
    assert f"torch {torch.__version__}" in printed
    assert torch.backends.cpu.get_cpu_capability() in printed
    assert "for-loop" in printed
    assert "same 6" in printed
    result = json.loads(written.read_text(encoding="utf-8"))
    assert result["equal"]
    assert result["stepped"] + result["raised"] == result["cases"]
    assert result["differences"] == []
    assert [cell for cell in result["cells"] if cell["implementation"] == "foreach"]


def test_the_command_exits_1_and_names_what_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def wrong_cases(*_: object, **__: object) -> Iterator[Case]:
        for case in cases("quick", optimizers=["Adam"]):
            if case.implementation == "foreach" and case.dtype == "float32":
                yield replace(case, row=replace(case.row, ours=off_by_a_thousandth(case.row, "lr")))

    monkeypatch.setattr(cases_module, "cases", wrong_cases)
    written = tmp_path / "parity.json"
    assert main(["parity", "--json", str(written)]) == 1
    printed = capsys.readouterr().out
    assert "7 differ" in printed
    assert "Adam-foreach-float32-cpu" in printed
    assert "step 1, after step(): parameter 0" in printed
    differences = json.loads(written.read_text(encoding="utf-8"))["differences"]
    assert [found["where"].startswith("parameter 0") for found in differences] == [True] * 7


def test_the_command_exits_1_if_nothing_stepped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused_cases(*_: object, **__: object) -> Iterator[Case]:
        return (case for case in cases("quick") if "capturable" in case.implementation)

    monkeypatch.setattr(cases_module, "cases", refused_cases)
    assert main(["parity"]) == 1
    assert " 0 stepped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--optimizer", "Nadam"], "no optimizer Nadam in the table"),
        (["--json", "no/such/directory/file.json"], "there is no directory"),
        pytest.param(
            ["--device", "cuda"],
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_misuse_of_the_command_exits_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", *arguments]) == 2
    assert complaint in capsys.readouterr().err
