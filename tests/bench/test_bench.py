"""The benchmark: a short run from end to end, what it counts, and that it notices wrong bits.

How long anything takes is never asserted.
"""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
from torch import Tensor

pytest.importorskip("matplotlib", reason="the benchmark draws with matplotlib")
pytest.importorskip("psutil", reason="the benchmark asks it what else runs")

import psutil
from commands import Finished, finish
from matplotlib.image import imread

import optimlab
from optimlab.bench import implementations, limit, memory, surroundings, timing, workloads
from optimlab.bench.implementations import IMPLEMENTATIONS, Run, Values
from optimlab.bench.phases import PHASES
from optimlab.bench.results import Bits
from optimlab.bench.rules import RULES
from optimlab.bench.workloads import WORKLOADS, Workload

BYTES = dict(zip(RULES, (12, 20, 20, 28, 28, 20, 20), strict=True))
SHAPES = {  # tensors and elements
    "mlp": (4, 203_530),
    "small": (400, 832_000),
    "tiny": (2_000, 58_000),
    "resnet50": (161, 25_557_032),
    "gpt2": (148, 124_439_808),
    "large": (1, 25_000_000),
}
MLP = SHAPES["mlp"][1]
ROOT = Path(__file__).parents[2]
MEASURED = ("sgd", "adam", "rmsprop")
SHORT = ("--quick", "--workload", "mlp", "--threads", "1", "--repeats", "1")
FEW = Workload("Few", ((3, 2), (5,)))
needs_high_water_mark = pytest.mark.skipif(
    bool(memory.available("cpu")), reason=memory.available("cpu") or "measured here"
)


def run_bench(folder: Path, *options: str) -> Finished:
    return finish("bench", folder, "bench.json", *options)


def made_up_memory(request: memory.Request) -> dict[str, memory.Extra]:
    return {name: memory.Extra(0, 2**20 * len(name)) for name in request.implementations}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with everything but what takes longest: real compiling, and a process for memory."""
    folder = tmp_path_factory.mktemp("bench")
    options = ("--compile", "--scaling", "--json", str(folder / "copy.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function: function)
        patch.setattr(workloads, "TENSOR_COUNTS", (1, 2, 30))
        patch.setattr(workloads, "ELEMENT_COUNTS", (10, 100, 1000))
        patch.setattr(memory, "LEAST_ELEMENTS", MLP)
        patch.setattr(memory, "available", lambda device: "")
        patch.setattr(memory, "measure", made_up_memory)
        return run_bench(folder, *SHORT, "--optimizer", *MEASURED, *options)


@pytest.fixture(scope="module")
def document(finished: Finished) -> str:
    return (finished.folder / "bench.md").read_text(encoding="utf-8")


def test_a_short_run_ends_with_the_same_bits_and_status_0(finished: Finished) -> None:
    assert (finished.status, finished.last_line) == (0, "The same bits")
    assert finished.numbers["same_bits"] is True
    assert json.loads((finished.folder / "copy.json").read_text("utf-8")) == finished.numbers
    finished.check_layout()


@pytest.mark.parametrize(("position", "rule"), list(enumerate(MEASURED)))
def test_an_outcome_compares_all_state_counts_all_bytes_and_relates_the_medians(
    finished: Finished, position: int, rule: str
) -> None:
    outcome = finished.numbers["outcomes"][position]
    state = BYTES[rule] // 8 - 1  # each state tensor is read and written
    steps = 4 if state else 0  # a step count for each tensor
    compared = {"elements": MLP * (1 + state) + steps, "differing": 0, "where": []}
    assert (outcome["rule"], outcome["bits"]["optimlab"]) == (rule, compared)
    assert outcome["limit"]["kernel"] in limit.KERNELS
    sizes = [outcome["limit"][name] for name in ("bytes_per_element", "bytes")]
    assert sizes == [BYTES[rule], BYTES[rule] * MLP]
    medians = {name: timing["median"] for name, timing in outcome["seconds"].items()}
    ours = medians["optimlab"]
    assert outcome["times_optimlab"] == {name: each / ours for name, each in medians.items()}
    assert outcome["share_of_limit"] == outcome["limit"]["seconds"] / ours
    assert all(timing["repeats"] >= 4 for timing in outcome["seconds"].values())
    assert [*outcome["phases"]] == ["step", *PHASES, "rest"]


def test_every_implementation_is_timed_unless_torch_has_none(
    finished: Finished, document: str
) -> None:
    timed = [set(outcome["seconds"]) for outcome in finished.numbers["outcomes"]]
    assert timed == [set(IMPLEMENTATIONS)] * 2 + [set(IMPLEMENTATIONS) - {"fused"}]
    reason = "torch has no fused RMSprop"
    assert finished.numbers["outcomes"][2]["missing"] == {"fused": reason}
    assert all(f"fused: {reason}" in text for text in (finished.printed, document))


def test_the_series_grow_up_to_a_tenth_in_a_quick_run(finished: Finished) -> None:
    series = finished.numbers["scaling"]
    assert [each["tensors"] for each in series["tensors"]] == [1, 2]
    assert [each["elements"] for each in series["elements"]] == [10, 100]
    assert {each["rule"] for name in series for each in series[name]} == {"adam"}


def test_the_results_name_machine_threads_load_versions_and_date(
    finished: Finished, document: str
) -> None:
    environment = finished.numbers["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["optimlab"] == optimlab.__version__
    assert environment["threads"] == 1
    assert environment["cpu"] == surroundings.cpu_model() != ""
    for fact in ("date", "cpu", "threads", "torch"):
        assert f"* {fact}: {environment[fact]}\n" in document
    assert "* load: load average" in document
    assert set(finished.numbers["load"]) == {"before", "others"}


def test_the_document_has_a_table_for_each_workload_and_series_and_shows_the_figures(
    document: str,
) -> None:
    for heading in (str(WORKLOADS["mlp"]), "Ever more tensors", "Ever more elements", "Bits"):
        assert f"\n## {heading}" in document
    for rule in MEASURED:
        row = next(x for x in document.splitlines() if x.startswith(f"| {RULES[rule].title} |"))
        assert row.endswith("| same |")
    for name in ("bench.png", "scaling.png"):
        assert f"![{name}]({name})" in document


@pytest.mark.parametrize("name", ["bench.png", "scaling.png"])
def test_the_figures_are_images_with_the_colour_of_every_implementation(
    finished: Finished, name: str
) -> None:
    pixels = (imread(finished.folder / name)[:, :, :3] * 255).round().astype(int)
    packed = torch.from_numpy(pixels) @ torch.tensor([1 << 16, 1 << 8, 1])
    drawn = Counter(packed.flatten().tolist())
    colours = ("#d55e00", "#e69f00", "#0072b2", "#cc79a7", "#009e73")
    assert all(drawn[int(colour[1:], 16)] > 20 for colour in colours)


def test_a_quick_run_measures_the_peak_memory_of_one_rule(
    finished: Finished, document: str
) -> None:
    (measured,) = finished.numbers["memory"]
    assert measured["rule"] == "adam"
    assert set(measured["extra_bytes"]) == set(IMPLEMENTATIONS) - {"compiled"}
    assert "| MLP, Adam | 0.8 | 8.0 | 7.0 | 5.0 | **8.0** |" in document


def test_times_are_kept_when_memory_cannot_be_measured_and_threads_are_set_for_the_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: memory.Request) -> dict[str, memory.Extra]:
        raise RuntimeError("no memory left to measure memory")

    monkeypatch.setattr(memory, "LEAST_ELEMENTS", MLP)
    monkeypatch.setattr(memory, "available", lambda device: "")
    monkeypatch.setattr(memory, "measure", fail)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        numbers = run_bench(tmp_path, *SHORT, "--optimizer", "sgd", "--json").numbers
        assert (numbers["environment"]["threads"], torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)
    assert numbers["remarks"] == ["no memory left to measure memory"]
    assert (len(numbers["outcomes"]), numbers["memory"]) == (1, [])
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "no memory left to measure memory\n" in text


def keys_of(value: Any, inside: str = "") -> set[str]:
    """Name all keys of a JSON document but those that are names of what was measured."""
    if isinstance(value, list):
        return set().union(*(keys_of(each, inside) for each in value))
    if not isinstance(value, dict):
        return set()
    named = {"phases", "missing", "settings", "environment"}
    keys = set() if named & {inside} or {*value} <= {*IMPLEMENTATIONS} else {*value}
    return {f"{inside} {key}" for key in keys}.union(
        *(keys_of(each, key if key in keys else inside) for key, each in value.items())
    )


def test_the_numbers_have_the_keys_of_the_record_in_the_documentation(finished: Finished) -> None:
    record = json.loads((ROOT / "docs" / "bench" / "bench.json").read_text(encoding="utf-8"))
    assert keys_of(finished.numbers) == keys_of(record)
    assert {*finished.numbers["settings"]} == {*record["settings"]}
    assert {*finished.numbers["environment"]} == {*record["environment"]}


# What is noticed.


def one_wrong_weight(params: list[Tensor], state: Any) -> None:
    params[2].detach().view(torch.int32)[0, 0] ^= 1


def one_wrong_element_of_the_state(params: list[Tensor], state: Any) -> None:
    state[params[3]]["momentum_buffer"].view(torch.int32)[1] ^= 1


def one_state_tensor_less(params: list[Tensor], state: Any) -> None:
    state[params[1]].clear()


@pytest.mark.parametrize(
    ("spoil", "rule", "where"),
    [
        (one_wrong_weight, "sgd", "parameter 2"),
        (one_wrong_element_of_the_state, "momentum", "momentum_buffer of parameter 3"),
        (one_state_tensor_less, "momentum", "momentum_buffer of parameter 1"),
    ],
)
def test_a_wrong_optimizer_is_named_and_ends_with_status_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[list[Tensor], Any], None],
    rule: str,
    where: str,
) -> None:
    class Wrong(torch.optim.SGD):
        def state_dict(self) -> Any:
            raise AssertionError("the live state is compared, not a copy of it")

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            spoil(self.param_groups[0]["params"], self.state)

    monkeypatch.setitem(implementations.LIBRARIES, "optimlab", SimpleNamespace(SGD=Wrong))
    finished = run_bench(tmp_path, *SHORT, "--optimizer", rule)
    found = finished.numbers["outcomes"][0]["bits"]
    assert (finished.status, finished.numbers["same_bits"]) == (1, False)
    assert where in found["optimlab"]["where"]
    assert found["optimlab"]["differing"] >= 1
    assert found["foreach"]["differing"] == 0
    assert finished.last_line.startswith("Different bits, first in ")
    assert "| DIFFER |" in (tmp_path / "bench.md").read_text(encoding="utf-8")


def test_a_step_that_does_not_compile_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled() -> None:
        raise RuntimeError("no working C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", lambda step: compiled)
    finished = run_bench(tmp_path, *SHORT, "--optimizer", "sgd", "--compile")
    reason = "does not compile here: no working C++ compiler"
    assert finished.numbers["outcomes"][0]["missing"] == {"compiled": reason}
    assert finished.status == 0


def test_many_tensors_are_not_compiled() -> None:
    reasons = [IMPLEMENTATIONS["compiled"].missing(RULES["sgd"], w) for w in WORKLOADS.values()]
    assert [bool(reason) for reason in reasons] == [len(w.shapes) > 32 for w in WORKLOADS.values()]
    assert "take minutes to compile" in reasons[-2]


# What is counted and taken turns with.


@pytest.mark.parametrize("rule", RULES)
def test_a_step_moves_the_gradient_in_and_parameter_and_state_in_and_out(rule: str) -> None:
    traffic = limit.traffic_of(RULES[rule])
    assert traffic.bytes() == BYTES[rule]
    assert traffic.bytes(elements=10, itemsize=8) == 20 * BYTES[rule]
    assert traffic.reads == traffic.writes + 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_the_tensors_and_elements_it_should(name: str) -> None:
    assert (len(WORKLOADS[name].shapes), WORKLOADS[name].elements) == SHAPES[name]


def test_the_full_series_reach_ten_thousand_tensors_and_a_hundred_million_elements() -> None:
    series = workloads.scaling(quick=False)
    tensors = [len(workload.shapes) for workload in series["tensors"]]
    elements = [workload.elements for workload in series["elements"]]
    assert (tensors[0], tensors[-1], elements[0], elements[-1]) == (10, 10**4, 10**3, 10**8)
    assert (tensors, elements) == (sorted(tensors), sorted(elements))


@pytest.mark.parametrize("kernel", limit.KERNELS)
@pytest.mark.parametrize("rule", RULES)
def test_a_loop_moves_nearly_the_bytes_of_the_rule_and_keeps_to_normal_numbers(
    kernel: str, rule: str
) -> None:
    traffic = limit.traffic_of(RULES[rule])
    loop = limit.KERNELS[kernel](traffic, 10_000, "cpu")
    loop.run()
    assert abs(loop.bytes - traffic.bytes(10_000)) < 20


def test_the_fastest_loop_by_bandwidth_is_the_limit() -> None:
    loops = {"slow": limit.Loop(gc.isenabled, 100), "fast": limit.Loop(gc.isenabled, 50)}
    found = limit.fastest(loops, {"slow": 1.0, "fast": 0.25}, limit.Traffic(3, 2), 10)
    assert found == limit.Limit("fast", 1.0, 200, 20, 200.0)


@pytest.mark.parametrize("turn", [timing.Turn(1, 4), timing.Turn(0, 1)])
def test_all_take_the_same_steps_in_turns_of_which_the_first_is_not_timed(
    turn: timing.Turn,
) -> None:
    seen: list[tuple[str, str, int]] = []

    def entrant(name: str) -> timing.Entrant:
        steps: list[int] = []

        def prepare(step: int) -> None:
            assert not gc.isenabled()
            steps.append(step)
            seen.append((name, "prepare", step))

        return timing.Entrant(lambda: seen.append((name, "run", steps[-1])), prepare)

    seconds, following = timing.time_in_turns(
        {name: entrant(name) for name in "abc"},
        effort=timing.Effort(least_steps=10, least_seconds=0.0),
        turn=turn,
        first_step=7,
        device="cpu",
    )
    rounds, steps = -(-10 // turn.timed), turn.untimed + turn.timed
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(
        "abc", rounds * turn.timed
    )
    assert following == 7 + rounds * steps
    for name in "abc":
        expected = [(x, n) for n in range(7, following) for x in ("prepare", "run")]
        assert [(what, step) for who, what, step in seen if who == name] == expected
    starters = {seen[2 * 3 * steps * number][0] for number in range(rounds)}
    assert len(starters) > 1, "the order is drawn anew"
    assert gc.isenabled()


def test_a_workload_that_outgrows_the_caches_is_stepped_one_step_at_a_time() -> None:
    turns = {name: timing.Turn.for_elements(w.elements) for name, w in WORKLOADS.items()}
    one_by_one = {name for name, turn in turns.items() if turn == timing.Turn(0, 1)}
    assert one_by_one == {"resnet50", "gpt2", "large"}


@pytest.mark.parametrize("seconds", [[2.0], [1.0, 2.0, 3.0, 4.0, 100.0]])
def test_times_are_summed_up_by_quartiles(seconds: list[float]) -> None:
    found = timing.Timing.of(seconds)
    assert found.least <= found.first_quartile <= found.median <= found.third_quartile
    assert (found.repeats, found.median) == (len(seconds), sorted(seconds)[len(seconds) // 2])


def test_gradients_are_new_tensors_at_changing_addresses_in_every_step() -> None:
    values, taken = Values(FEW, "cpu"), []
    run = Run(IMPLEMENTATIONS["optimlab"], RULES["sgd"], values.start)
    for step in range(4):
        run.take(values.gradients_of(step))
        taken.append(run.params[0].grad)
    addresses = [gradient.data_ptr() for gradient in taken if gradient is not None]
    assert len({id(gradient) for gradient in taken}) == 4
    assert (len(set(addresses[:3])), addresses[3]) == (3, addresses[0])


def test_all_runs_start_from_the_same_values_in_memory_of_their_own() -> None:
    ours, theirs = (
        Run(IMPLEMENTATIONS[name], RULES["sgd"], Values(FEW, "cpu").start)
        for name in ("fused", "optimlab")
    )
    assert Bits.compare(ours.tensors(), theirs.tensors()) == Bits(FEW.elements)
    assert ours.params[0].data_ptr() != theirs.params[0].data_ptr()


@pytest.mark.parametrize(
    ("name", "optimizer", "options"),
    [
        ("for-loop", torch.optim.Adam, {"foreach": False, "fused": None}),
        ("foreach", torch.optim.Adam, {"foreach": True, "fused": None}),
        ("fused", torch.optim.Adam, {"foreach": None, "fused": True}),
        ("compiled", torch.optim.Adam, {"foreach": None, "fused": None}),
        ("optimlab", optimlab.Adam, {"foreach": None, "fused": None}),
    ],
)
def test_an_implementation_is_what_it_is_called(
    name: str,
    optimizer: type[torch.optim.Optimizer],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = Mock(side_effect=lambda step: step)
    monkeypatch.setattr(torch, "compile", compiler)
    run = Run(IMPLEMENTATIONS[name], RULES["adam"], Values(FEW, "cpu").start)
    assert type(run.optimizer) is optimizer
    assert options.items() <= run.optimizer.param_groups[0].items()
    assert compiler.mock_calls == ([call(run.optimizer.step)] if name == "compiled" else [])


@needs_high_water_mark
def test_the_peak_memory_of_a_step_is_that_of_its_temporaries() -> None:
    workload = Workload("One", ((1000, 2000),))
    request = memory.Request(workload, "adam", ("for-loop", "foreach", "fused"), 1, "cpu")
    peaks = {name: extra.peak / 2**20 for name, extra in memory.measure(request).items()}
    parameter = 4 * workload.elements / 2**20
    assert peaks["for-loop"] == pytest.approx(2 * parameter, abs=0.5)
    assert peaks["foreach"] == pytest.approx(parameter, abs=0.5)
    assert peaks["fused"] == pytest.approx(0, abs=0.5)


def test_a_process_that_cannot_measure_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "GIVE_BACK", {"PYTHONHOME": "no such directory"})
    with pytest.raises(RuntimeError, match=r"(?s)could not measure.*No module named"):
        memory.measure(memory.Request(FEW, "adam", ("fused",), 1, "cpu"))


def test_other_processes_are_counted_without_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    work = dict.fromkeys(("user", "nice", "system", "irq", "softirq", "steal"), 20.0)
    every = iter([SimpleNamespace(**work), SimpleNamespace(**{**work, "user": 27.0})])
    own = dict.fromkeys(("user", "system", "children_user", "children_system"), 2.0)
    mine = iter([SimpleNamespace(**own), SimpleNamespace(**{**own, "children_user": 7.0})])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(every))
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda self: next(mine))
    monkeypatch.setattr(time, "perf_counter", iter([50.0, 54.0]).__next__)
    load = surroundings.LoadMeter().read()
    assert (load.others, load.disturbing) == (0.5, True)


@pytest.mark.cuda
def test_the_bits_are_the_same_on_cuda(tmp_path: Path) -> None:
    finished = run_bench(tmp_path, "--quick", "--workload", "mlp", "--device", "cuda")
    assert finished.status == 0
    assert len(finished.numbers["outcomes"]) == len(RULES)
