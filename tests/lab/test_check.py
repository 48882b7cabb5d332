"""Checking any optimizer: what is right passes, one mistake fails, and the report says where."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from hidden_faults import HIDDEN, Hidden
from mutation import edited
from torch import Tensor
from torch.optim import Optimizer
from wrong_optimizers import (
    WRONG,
    CoupledDecay,
    DampenedFirstStep,
    IntegerStep,
    MaximumAfterTheRoot,
    MutatedGradient,
    PlainAdam,
    PlainSGD,
    SwappedBetas,
    Wrong,
)

from optimlab.__main__ import main
from optimlab.demo.training import reproducible
from optimlab.lab.lockstep import scenario as scenarios
from optimlab.lab.parity import (
    Difference,
    Equal,
    ExpectedFailure,
    NothingCompared,
    ParityResult,
    Scenario,
    check,
    compare,
)
from optimlab.lab.parity.configurations import Coverage
from optimlab.lab.parity.events import CROSSED, EVENTS, THOROUGH_EVENTS
from optimlab.lab.parity.programs import PROGRAMS
from optimlab.lab.parity.signatures import shared
from optimlab.lab.parity.table import DTYPES, EXCLUSIONS, IMPLEMENTATIONS, TABLE, Row

Group = dict[str, Any]
Make = Callable[..., Optimizer]

OF_SGD = ("foreach", "differentiable", "fused")
OF_ADAM = ("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")

every_wrong = pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))


def beside_sgd(mine: Make, **options: Any) -> ParityResult:
    """Check against SGD in float32."""
    arguments = {"dtypes": ["float32"], "ignore_options": OF_SGD, "quick": True, **options}
    return check(mine, torch.optim.SGD, **arguments)


def beside_adam(mine: Make, **options: Any) -> ParityResult:
    """Check against Adam in float32."""
    arguments = {"dtypes": ["float32"], "ignore_options": OF_ADAM, "quick": True, **options}
    return check(mine, torch.optim.Adam, **arguments)


def values_of(results: Any, name: str) -> set[str]:
    """Return in which dtypes, implementations or events some configurations are."""
    return {getattr(each.configuration, name) for each in results}


def words(result: ParityResult) -> str:
    """Return the report in one line."""
    return " ".join(str(result).split())


# What is right passes.


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_optimizers_of_optimlab_are_those_of_torch(row: Row) -> None:
    ways = [way for way in ("foreach", "fused") if way in row.implementations]
    judge = partial(check, row.ours, row.theirs, quick=True, dtypes=["float32"], strict=True)
    result = judge(implementations=ways)
    result.require()
    assert values_of(result.same, "implementation") == {*ways}


@pytest.mark.parametrize(
    ("mine", "right", "missing"),
    [(PlainSGD, torch.optim.SGD, OF_SGD), (PlainAdam, torch.optim.Adam, OF_ADAM)],
)
def test_a_plain_for_loop_is_the_optimizer_in_every_dtype_and_event(
    mine: Make, right: Make, missing: tuple[str, ...]
) -> None:
    result = check(mine, right, ignore_options=missing)
    result.require()
    assert values_of(result.same, "dtype") == {*DTYPES}
    sparse = {"sparse gradients"} if right is torch.optim.Adam else set()  # which Adam refuses
    assert values_of(result.same, "event") == {*EVENTS} - {CROSSED} - sparse
    assert not result.kinds.get("refused by mine")


# One mistake fails.


@every_wrong
def test_each_mistake_fails_the_check_and_the_same_code_without_it_passes(wrong: Wrong) -> None:
    judge = partial(check, quick=True, dtypes=["float32"], ignore_options=wrong.missing_options)
    judge(wrong.correct, wrong.right).require()
    result = judge(wrong.wrong, wrong.right)
    assert not result.equal
    with pytest.raises(AssertionError, match="Not equal"):
        result.require()


@every_wrong
def test_each_mistake_shows_first_in_the_step_that_the_table_names(wrong: Wrong) -> None:
    mine, theirs = (partial(each, **wrong.options) for each in (wrong.wrong, wrong.right))
    outcome = compare(mine, theirs, Scenario(), ignored=wrong.missing_options)
    assert isinstance(outcome, Difference)
    assert outcome.step == wrong.step


# What the report tells.


class Eager(PlainAdam):
    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            self.state[param] = self.first_state(param, self.param_groups[-1]["amsgrad"])


def with_momentum(params: Any, maximize: bool = False) -> Optimizer:
    """Leave few configurations to try."""
    return PlainSGD(params, momentum=0.9, maximize=maximize)


def with_another_lr(params: Any, lr: float = 0.5, momentum: float = 0.0) -> Optimizer:
    return PlainSGD(params, lr, momentum)


def swallowing(params: Any, lr: float = 1e-3, **options: Any) -> Optimizer:
    return PlainSGD(params, lr)


def beside_foreach(mine: Make) -> ParityResult:
    """Check against an optimizer that overwrites the gradients."""
    foreach = partial(torch.optim.SGD, foreach=True)
    options = {"momentum": 0.9, "nesterov": True}
    return check(mine, foreach, options=options, ignore_options=OF_SGD, dtypes=["float32"])


DAMPENED = ExpectedFailure("the first gradient is dampened, too", options={"dampening": 0.1})
ELSEWHERE = ExpectedFailure("half precision is not supported yet", dtype="float16")
MISSPELT = ExpectedFailure("rounds otherwise", implementation="fuzed")
LARGEST = "max_exp_avg_sq"

sgd, adam = partial(partial, beside_sgd), partial(partial, beside_adam)

# What is compared; whether it is equal; whether steps differ; what the report says.
TOLD: list[tuple[Callable[[], ParityResult], bool, bool, str]] = [
    (adam(MaximumAfterTheRoot), False, True, "exactly those with amsgrad=True"),
    (adam(IntegerStep), False, False, "state 'step': int in"),
    (adam(Eager), False, False, "state is made: before the first step"),
    (sgd(with_another_lr), False, False, "default of 'lr': 0.5"),
    (sgd(swallowing), True, False, "The same bits"),
    (partial(beside_foreach, PlainSGD), True, False, "The same bits"),
    (sgd(DampenedFirstStep, exceptions=[DAMPENED]), True, False, f"as declared: {DAMPENED}"),
    (sgd(PlainSGD, exceptions=[DAMPENED]), False, False, f"no longer different: {DAMPENED}"),
    (sgd(PlainSGD, exceptions=[ELSEWHERE]), True, False, "The same bits"),
    (
        sgd(with_momentum, exceptions=[MISSPELT], quick=False, dtypes=()),
        *(False, True, f"no longer different: {MISSPELT}"),
    ),
    (adam(IntegerStep, ignore_state=["step"]), True, False, "state 'step'"),
    (adam(MaximumAfterTheRoot, ignore_state=[LARGEST]), True, False, f"state '{LARGEST}'"),
    (adam(MaximumAfterTheRoot, ignore_state=["step"]), False, True, f"state '{LARGEST}' of"),
]


@pytest.mark.parametrize(("make", "equal", "differs", "text"), TOLD)
def test_the_report_tells_what_came_of_it(
    make: Callable[[], ParityResult], equal: bool, differs: bool, text: str
) -> None:
    result = make()
    assert (result.equal, bool(result.differences)) == (equal, differs)
    assert text in words(result)
    assert result.compared.steps > 0
    if not equal:
        with pytest.raises(AssertionError, match="Not equal"):
            result.require()


# Each event finds the mistake that only it can.


class Nameless(PlainSGD):
    def add_param_group(self, param_group: Group) -> None:
        params = param_group["params"]
        if not isinstance(params, Tensor):
            params = [each[1] if isinstance(each, tuple) else each for each in params]
        super().add_param_group({**param_group, "params": params})


class Forgetful(PlainSGD):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "state": {}})


ZEROS = "torch.zeros_like(param)"
FIRST = '"first", [id(p) for group in self.param_groups for p in group["params"]]'


def stepping_if(condition: str) -> type[Optimizer]:
    """Make an optimizer that steps a parameter only if a condition is true."""
    return edited(PlainSGD, "Sometimes", ("grad is not None", f"grad is not None and {condition}"))


def with_lr(lr: str) -> type[Optimizer]:
    """Make an optimizer that takes its learning rate from elsewhere."""
    return edited(PlainSGD, "OtherLr", ('alpha=-group["lr"]', f"alpha=-{lr}"))


MISTAKES = {
    "closure": edited(PlainSGD, "DropsLoss", ("return loss", "return None")),
    "NaN and infinite gradients": stepping_if("grad.isfinite().all()"),
    "large tensor": stepping_if("grad.numel() <= 32_768"),
    "gradients of None": edited(
        PlainSGD,
        "Zeros",
        ("grad = param.grad", f"grad = {ZEROS} if param.grad is None else param.grad"),
    ),
    "zero gradients": stepping_if("grad.any()"),
    "not contiguous": edited(
        PlainSGD,
        "Contiguous",
        ("grad = param.grad", "grad, param.data = param.grad, param.data.contiguous()"),
    ),
    "empty tensors": stepping_if("param.dim()"),
    "two groups": with_lr('self.param_groups[0]["lr"]'),
    "group added": stepping_if(f"id(param) in self.__dict__.setdefault({FIRST})"),
    "lr changed": with_lr('self.__dict__.setdefault("lr", {}).setdefault(id(group), group["lr"])'),
    "named parameters": Nameless,
    "state_dict loaded": Forgetful,
}


@pytest.mark.parametrize(("event", "mine"), MISTAKES.items())
def test_each_event_finds_what_plain_steps_do_not(event: str, mine: Make) -> None:
    fixed = {"lr": 0.05, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0}
    flags = {"nesterov": False, "maximize": False}
    result = beside_sgd(mine, options={**fixed, **flags}, quick=False)
    found = values_of(result.differences, "event")
    found |= {each.event for some in result.forms.values() for each in some}
    assert event in found
    assert "plain" not in found
    assert "plain" in values_of(result.same, "event")


@pytest.mark.parametrize("hidden", HIDDEN["default"].values(), ids=[*HIDDEN["default"]])
def test_the_default_extent_finds_what_is_wrong_in_one_situation(hidden: Hidden) -> None:
    result = check(hidden.wrong, hidden.right, dtypes=["float32"], implementations=["default"])
    assert not result.equal
    assert {"plain"} != values_of(result.same, "event") != set()  # it is right in most


@pytest.mark.parametrize("name", HIDDEN["thorough"])
def test_what_takes_size_or_length_is_found_by_an_event_of_the_thorough_extent(name: str) -> None:
    hidden = HIDDEN["thorough"][name]
    asked = shared(hidden.wrong, hidden.right, {}, {})
    coverage = Coverage(level="thorough")
    names = {event for _, event in asked.settings("default", "float32", coverage)}
    assert {*EVENTS, *THOROUGH_EVENTS, *PROGRAMS} == names
    plain: tuple[str, str, dict[str, Any]] = ("default", "float32", {})
    outcomes = [
        compare(hidden.wrong, hidden.right, asked.configuration(*plain, event, coverage).scenario)
        for event in THOROUGH_EVENTS
    ]
    assert 0 < sum(not outcome.equal for outcome in outcomes) < len(outcomes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_random_program_has_one_meaning_and_raises_no_false_alarm(name: str) -> None:
    asked = shared(torch.optim.Adam, torch.optim.Adam, {}, {})
    configuration = asked.configuration("default", "float32", {}, name, Coverage(level="thorough"))
    make = partial(configuration.make, torch.optim.Adam, {})
    assert isinstance(compare(make, make, configuration.scenario), Equal)
    source = configuration.scenario.as_source()
    assert eval(source, vars(scenarios)) == configuration.scenario


def test_a_check_is_quick_or_thorough() -> None:
    with pytest.raises(ValueError, match="not both"):
        check(PlainSGD, PlainSGD, quick=True, thorough=True)


def test_a_square_of_complex_numbers_is_found_in_complex_dtypes_alone() -> None:
    complex_square = edited(
        PlainAdam,
        "ComplexSquare",
        ("as_real(param), as_real(grad)", "as_real(param), as_real(grad.conj_physical())"),
    )
    result = beside_adam(complex_square, dtypes=["float64", "complex64"])
    assert values_of(result.differences, "dtype") == {"complex64"}


def test_what_torchs_kernel_leaves_to_chance_is_left_out() -> None:
    judge = partial(check, quick=True, implementations=["fused"], dtypes=["bfloat16", "float32"])
    result = judge(torch.optim.SGD, torch.optim.SGD)
    result.require()
    left_out = values_of(result.kinds.get("random", ()), "dtype")
    assert left_out == ({"bfloat16"} if EXCLUSIONS[0].applies else set())


# Gradients.


def test_mine_may_leave_in_the_gradients_what_the_reference_leaves_there() -> None:
    options = {"momentum": 0.9, "nesterov": True}
    nesterov = partial(check, options=options, implementations=["foreach"], quick=True)
    nesterov(torch.optim.SGD, torch.optim.SGD).require()

    class Untidy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            answer = super().step(closure)
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        param.grad.zero_()
            return answer

    result = nesterov(Untidy, torch.optim.SGD)
    assert all(isinstance(each.outcome, Difference) for each in result.differences)
    assert not result.same


def test_a_mutated_gradient_is_named() -> None:
    (found, *_) = beside_sgd(MutatedGradient).differences
    assert isinstance(found.outcome, Difference)
    assert found.outcome.path[0] == "gradients"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"reason": " ", "dtype": "float16"}, "needs a reason"),
        ({"reason": "it is another optimizer"}, "nothing to check"),
    ],
)
def test_an_exception_has_a_reason_and_an_extent(arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ExpectedFailure(**arguments)


# What only one keeps.


class RenamedState(PlainAdam):
    NAMES: ClassVar = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"}

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        self.rename(param, {mine: theirs for theirs, mine in self.NAMES.items()})
        super().update(param, grad, group)
        self.rename(param, self.NAMES)

    def rename(self, param: Tensor, names: dict[str, str]) -> None:
        state = self.state[param]
        self.state[param] = {names.get(name, name): value for name, value in state.items()}


def test_state_of_another_name_is_compared_once_the_names_are_told() -> None:
    untold = beside_adam(RenamedState)
    assert not untold.equal
    pairs = RenamedState.NAMES.items()
    assert {key for key, *_ in untold.forms} == {("state", name) for pair in pairs for name in pair}
    told = beside_adam(RenamedState, state_names=RenamedState.NAMES)
    told.require()
    assert told.compared.tensors > untold.compared.tensors
    wrong = type("Wrong", (RenamedState, SwappedBetas), {})
    (found, *_) = beside_adam(wrong, state_names=RenamedState.NAMES).differences
    assert isinstance(found.outcome, Difference)
    assert found.outcome.path[0] == "state"


def test_a_step_count_of_another_name_is_rounded_when_it_is_loaded() -> None:
    renamed = type("Renamed", (RenamedState,), {"NAMES": {"step": "t"}})
    result = beside_adam(renamed, dtypes=["bfloat16"], state_names={"step": "t"})
    assert [*result.forms] == [
        (("state", "step"), "bfloat16 scalar or float32 scalar", "float32 scalar")
    ]


def test_what_is_ignored_without_need_fails_a_check_of_everything() -> None:
    judge = partial(check, with_momentum, partial(torch.optim.SGD, momentum=0.9))
    names: dict[str, Any] = {
        "ignore_options": (*OF_SGD, "momentum"),
        "ignore_state": ["momentum_buffer", "m"],
    }
    judge(quick=True, **names).require()
    needless = ("option 'momentum'", "state 'm'", "state 'momentum_buffer'")
    assert judge(**names).outdated == [f"ignored without need: {each}" for each in needless]


# Refusals.


def test_what_one_side_refuses_is_counted_and_is_a_difference_only_if_that_is_asked_for() -> None:
    class NoHalves(PlainSGD):
        def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
            if param.dtype is torch.bfloat16:
                raise NotImplementedError("bfloat16 is not supported")
            super().update(param, grad, group)

    judge = partial(check, NoHalves, torch.optim.SGD, quick=True, ignore_options=OF_SGD)
    result = judge()
    result.require()
    refused = result.kinds["refused by mine"]
    assert values_of(refused, "dtype") == {"bfloat16"}
    assert "NoHalves alone: NotImplementedError: bfloat16 is not supported" in words(result)
    assert len(judge(strict=True).differences) == len(refused)


@pytest.mark.parametrize("quick", [True, False])
def test_an_error_in_a_step_that_only_the_event_explains_is_a_difference(quick: bool) -> None:
    class Crashes(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for param in group["params"]:
                    assert param.grad is not None, "no gradient"
            return super().step(closure)

    judge = partial(
        beside_sgd,
        Crashes,
        options={"lr": 0.1},
        implementations=["for-loop"],
        ignore_options=(),
        quick=quick,
    )
    result = judge()
    assert not result.equal
    found = values_of(result.differences, "event")
    assert {"all at once", "closure"} <= found
    assert quick or "gradients of None" in found
    assert "AssertionError: no gradient" in words(result)
    judge(exceptions=[ExpectedFailure("needs gradients", event=name) for name in found]).require()


def test_gradients_in_a_closure_are_made_with_gradients_enabled() -> None:
    class NoGradients(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                loss = closure() if closure is not None else None
            super().step()
            return loss

    result = beside_sgd(NoGradients, implementations=["for-loop"], ignore_options=())
    assert values_of(result.differences, "event") == {"closure"}
    assert "gradient mode in the closure" in str(result)


def test_an_error_later_than_the_first_step_is_a_difference() -> None:
    class Breaks(torch.optim.SGD):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise RuntimeError("cannot load")

    result = beside_sgd(Breaks, implementations=["for-loop"], ignore_options=(), quick=False)
    found = values_of(result.differences, "event")
    loaded = {name for name, event in EVENTS.items() if event.loads}
    assert found == loaded > {"state_dict loaded", CROSSED, "all at once"}


def test_equal_refusals_are_equal() -> None:
    result = beside_sgd(PlainSGD, strict=True)
    result.require()
    refused = result.kinds["refused"]
    assert all("nesterov=True" in each.configuration.facts for each in refused)


# Nothing compared.


def test_an_implementation_that_a_signature_hides_is_asked_for_with_advice() -> None:
    class Hides(torch.optim.Adam):
        def __init__(self, params: Any, lr: float = 1e-3, **kw: Any) -> None:
            super().__init__(params, lr, **kw)

    with pytest.raises(NothingCompared, match=r"does not name foreach .*: \*\*kw may take it"):
        check(Hides, torch.optim.Adam, implementations=["for-loop"])


STILL = stepping_if("False")
SAME = PlainSGD([torch.zeros(2)])


@pytest.mark.parametrize(
    ("error", "complaint", "mine", "options"),
    [
        (NothingCompared, "only supports 2D parameters", torch.optim.Muon, {"quick": True}),
        (NothingCompared, "no step changed a parameter", STILL, {"quick": True}),
        (NothingCompared, "both sides hold the same tensor", lambda params: SAME, {}),
        (TypeError, "no torch.optim.Optimizer", list, {}),
        (TypeError, "neither a class nor a function", torch.zeros(2), {}),
        (ValueError, "there is no dtype 'float99'", PlainSGD, {"dtypes": ["float99"]}),
        (ValueError, "no implementation 'slow'", PlainSGD, {"implementations": ["slow"]}),
    ],
)
def test_a_check_that_compares_nothing_is_an_error(
    error: type[Exception], complaint: str, mine: Any, options: Any
) -> None:
    with pytest.raises(error, match=complaint):
        check(mine, mine, **options)


# What is asked of both.


def test_what_is_varied_is_what_both_signatures_have() -> None:
    asked = shared(PlainAdam, torch.optim.Adam, {}, {})
    assert asked.implementations == ("default",)
    assert asked.values.keys() == {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"}
    assert asked.values["amsgrad"] == (True,)
    both = shared(torch.optim.Adam, torch.optim.Adam, {}, {})
    assert both.implementations == tuple(IMPLEMENTATIONS)


def test_given_options_are_not_varied_and_given_values_are() -> None:
    asked = shared(PlainSGD, torch.optim.SGD, {"lr": 0.1}, {"momentum": (0.5, 0.6)})
    assert asked.always == {"lr": 0.1}
    assert "lr" not in asked.values
    assert asked.values["momentum"] == (0.5, 0.6)


def test_a_given_option_stays_as_it_is_in_every_group() -> None:
    decay = ('grad = grad.add(param, alpha=group["weight_decay"])', "param.mul_(0.9)")
    decoupled = edited(PlainSGD, "Decoupled", decay)
    assert beside_sgd(decoupled).differences
    beside_sgd(decoupled, options={"weight_decay": 0}).require()


def test_a_learning_rate_without_a_default_is_given() -> None:
    def required(params: Any, lr: float) -> Optimizer:
        return PlainSGD(params, lr)

    assert shared(required, required, {}, {}).always == {"lr": 0.05}
    assert shared(required, torch.optim.SGD, {}, {}).always == {"lr": 1e-3}
    check(required, required, quick=True).require()


def test_as_many_options_as_go_together_are_tried_at_once() -> None:
    asked = shared(PlainSGD, torch.optim.SGD, {}, {})
    everything = {*asked.values}
    assert [set(options) for options in asked.fullest] == [
        everything - {"nesterov"},
        everything - {"dampening"},
    ]


def test_a_function_of_params_alone_is_compared_as_it_is() -> None:
    result = check(
        lambda params: PlainSGD(params, 0.1, momentum=0.9),
        lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
        ignore_options=OF_SGD,
    )
    result.require()
    assert values_of(result.same, "event") == {*EVENTS} - {CROSSED}


# The report and the command.


def test_the_report_fits_100_columns_and_its_numbers_add_up() -> None:
    result = check(CoupledDecay, torch.optim.AdamW, quick=True, ignore_options=OF_ADAM)
    assert max(map(len, str(result).splitlines())) <= 100
    told = json.loads(json.dumps(result.as_json()))
    assert sum(told["counts"].values()) == len(told["configurations"]) == len(result.results)
    assert told["equal"] is False
    assert told["counts"]["different"] == len(result.differences)
    assert told["compared"]["elements"] == result.compared.elements > 0
    assert "At most 20 steps in a configuration; the largest tensor has 33,001" in str(result)
    assert told["extent"]["steps"] == 20
    assert told["extent"]["hyperparameters"]["weight_decay"] == "0 to 0.1"
    assert "--thorough goes further" in str(result)


def test_progress_counts_every_configuration() -> None:
    told: list[tuple[int, int, str]] = []
    result = beside_sgd(PlainSGD, progress=lambda *now: told.append(now))
    assert [done for done, *_ in told] == list(range(len(result.results)))
    assert {total for _, total, _ in told} == {len(result.results)}


@pytest.mark.parametrize("library", ["optimlab", "torch"])
def test_the_example_proves_the_right_one_and_finds_the_mistake(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    with torch.random.fork_rng(), reproducible():
        example = importlib.import_module("prove_your_optimizer")
        assert example.main(["--optim", library, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    last = printed.splitlines()[-1].removeprefix("Shown: ")
    readme = Path(__file__).parents[2] / "examples" / "README.md"
    assert last in readme.read_text(encoding="utf-8")
    assert "(0x3f01), theirs" in printed  # the first differing element, with its bits


PAIR = ("wrong_optimizers:PlainSGD", "torch.optim:SGD", "--quick")
IGNORED = ("--ignore-option", *OF_SGD)


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, (*PAIR, *IGNORED)),
        (1, PAIR),
        (1, ("wrong_optimizers:DampenedFirstStep", *PAIR[1:], *IGNORED)),
        (2, PAIR[:1]),
        (2, ("wrong_optimizers:Missing", *PAIR[1:])),
        (2, ("wrong_optimizers:WRONG", *PAIR[1:])),
        (2, ("torch.optim:Muon", "torch.optim:Muon", "--quick")),
        (2, (*PAIR, "--dtype", "float99")),
        (2, (*PAIR, "--state-name", "exp_avg")),
        (2, (*PAIR, "--optimizer", "SGD")),
        (2, ("--dtype", "float32")),
    ],
)
def test_the_status_of_the_command_is_the_answer(
    status: int, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    assert main(["parity", *arguments]) == status
    printed = capsys.readouterr()
    assert bool(printed.err.strip()) is (status == 2)
    assert ("beside torch.optim.SGD, bit by bit" in printed.out) is (status < 2)


def test_the_command_prints_json_in_place_of_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rich")
    assert main(["parity", *PAIR, *IGNORED, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["mine"], told["equal"]) == ("wrong_optimizers.PlainSGD", True)
