"""Where two optimizers diverge: the step, the parameter, the operation, and the cause."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from beside import WAYS, Options, assert_equal, one_thread
from torch import Tensor
from torch.optim import Optimizer
from wrong_optimizers import WRONG, FusedOrder, PlainAdam

import optimlab
from optimlab import __main__ as command_line
from optimlab.lab.compare.bits import same_bits
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.explain import equivalence
from optimlab.lab.explain.equivalence import OPTIMIZERS, way_cell
from optimlab.lab.explain.explanation import Explanation
from optimlab.lab.explain.fma import fma
from optimlab.lab.lockstep.clone import clone, give_gradients
from optimlab.lab.parity import NothingCompared, Scenario, TensorSpec
from optimlab.lab.record.formulas import FORMULAS

__all__ = ["one_thread"]

Rule: TypeAlias = Callable[[Tensor, Tensor], object]

LR = 0.0123
ROUNDED_LR = torch.tensor(LR, dtype=torch.float32).item()
SCALE = 1 / 0.0316
SINGLE = (torch.float32,)
BOTH = (torch.float32, torch.float64)


class Ruled(Optimizer):
    """Applies a function of parameter and gradient."""

    def __init__(self, params: Any, rule: Rule) -> None:
        super().__init__(params, {})
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for param in parameters(self):
            if param.grad is not None:
                self.rule(param, param.grad)


def followed(base: Any, then: Callable[[Any], object], name: str) -> Any:
    """Make a subclass that does something after its parent's step."""

    @torch.no_grad()
    def step(self: Optimizer, closure: Any = None) -> Any:
        loss = base.step(self, closure)
        then(self)
        return loss

    return type(name, (base,), {"step": step})


def scenario(dtype: torch.dtype = torch.float32, **changes: Any) -> Scenario:
    tensors = (TensorSpec((50, 7), dtype), TensorSpec((5,), dtype))
    return Scenario(**{"tensors": tensors, "steps": 6, **changes})


def explain_rules(a: Rule, b: Rule, dtype: torch.dtype = torch.float32) -> Explanation:
    return optimlab.explain(partial(Ruled, rule=a), partial(Ruled, rule=b), scenario(dtype))


def kind(found: Explanation) -> str:
    assert found.cause is not None
    return found.cause.kind


# The ten wrong optimizers.


@pytest.fixture(scope="module")
def explained() -> Mapping[str, Explanation]:
    return {
        name: optimlab.explain(
            partial(each.wrong, **each.options), partial(each.right, **each.options)
        )
        for name, each in WRONG.items()
    }


CAUSES = {
    "eps inside the root": ("order of operations", "inside = exp_avg_sq.add(1e-08)"),
    "swapped betas": ("another scalar", "SwappedBetas takes 0.0010000000000000009"),
    "lost bias correction": ("an operation missing", "sqrt.div(0.031622776601683805)"),
    "L2 for decoupled decay": ("an operation missing", "grad.add(param, alpha=0.1)"),
    "dampening on the first step": ("an operation missing", "momentum_buffer.mul_(0.9)"),
    "amsgrad maximum after the root": ("another operand", "takes root where Adam takes exp_avg_sq"),
    "state in reduced precision": ("reduced precision", "keeps exp_avg in bfloat16"),
    "p.grad mutated": ("in place", "MutatedGradient overwrites grad"),
    "fused order": ("order of operations", "(1 - weight) * a + weight * b"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_each_wrong_optimizer_parts_at_its_mistake_which_is_named_with_its_class(
    name: str, explained: Mapping[str, Explanation]
) -> None:
    found, wrong = explained[name], WRONG[name]
    assert (found.step, found.operation_names[1]) == (wrong.step, wrong.operation)
    assert found.cause is not None
    assert found.cause.kind == CAUSES[name][0]
    assert CAUSES[name][1] in found.cause.text
    assert max(map(len, str(found).splitlines())) <= 100
    read = json.loads(json.dumps(found.as_json()))
    assert (read["equal"], read["cause"]["kind"]) == (False, found.cause.kind)
    assert read["lines"]


def test_a_number_that_equals_the_other_sides_tensor_is_no_difference(
    explained: Mapping[str, Explanation],
) -> None:
    assert explained["int step"].equal


@pytest.mark.parametrize("name", WRONG)
def test_the_same_code_without_the_mistake_does_not_part(name: str) -> None:
    wrong = WRONG[name]
    found = optimlab.explain(
        partial(wrong.correct, **wrong.options), partial(wrong.right, **wrong.options), steps=12
    )
    assert found.equal, str(found)
    assert found.elements > 10_000


def test_numbers_and_bits_of_both_sides_are_shown(explained: Mapping[str, Explanation]) -> None:
    shown = {each.name: each for each in explained["swapped betas"].values}
    assert shown["weight"].ours == repr(1 - 0.999)
    assert shown["weight"].theirs == repr(1 - 0.9)
    assert shown["exp_avg"].ours == shown["exp_avg"].theirs == "0 (0x00000000)"
    assert shown["result"].ours != shown["result"].theirs


def test_both_sequences_stand_side_by_side(explained: Mapping[str, Explanation]) -> None:
    lines = explained["fused order"].lines
    assert [line.mark for line in lines] == ["=", "≠", "", *"=====", ""]
    assert (lines[1].ours, lines[1].theirs) == ("exp_avg.mul_(0.9)", "exp_avg.lerp_(grad, 0.1)")
    assert lines[6].ours.startswith("root = sqrt.div(")
    assert lines[6].theirs.startswith("denom = sqrt.div(")


def test_shares_ulps_and_the_error_relative_to_the_update_are_counted() -> None:
    one_ulp = torch.finfo(torch.float32).eps

    def apart(param: Tensor, grad: Tensor) -> None:
        param.fill_(1.5)
        param[0] += one_ulp if param.dim() == 2 else 0

    found = explain_rules(apart, lambda param, grad: param.fill_(1.5))
    distance = found.distances["param"]
    assert (found.step, found.parameter, found.element) == (1, 0, (0, 0))
    assert (distance.elements, distance.differing, distance.histogram) == (350, 7, (7,))
    update = (scenario().start()[0] - 1.5).abs().max().item()
    assert found.relative_error == pytest.approx(one_ulp / update)
    assert "7 of 350 elements differ (2 %)" in str(found)


# Alignment.


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_optimlab_and_torch_have_the_same_bits(name: str, way: Options) -> None:
    ours, theirs = getattr(optimlab, name), getattr(torch.optim, name)
    found = optimlab.explain(partial(ours, **way), partial(theirs, **way), scenario())
    assert found.equal, str(found)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_operations_on_lists_align_with_those_on_single_tensors(name: str) -> None:
    """One wrong number, and every operation before it has its partner."""
    given = {**OPTIMIZERS[name], "foreach": False}
    single = partial(getattr(torch.optim, name), **given)
    listed = partial(getattr(torch.optim, name), **{**given, "lr": 0.02, "foreach": True})
    found = optimlab.explain(single, listed, scenario())
    marks = [line.mark for line in found.lines]
    if name == "AdamW":  # which shrinks the parameter by lr first
        assert found.operation_names == ("mul", "mul")
    else:
        assert marks.index("≠") == len(marks) - 1
        assert set(marks[:-1]) == {"="}
    assert kind(found) in ("another scalar", "an operation missing")


def test_another_order_of_independent_operations_is_no_difference() -> None:
    one: Rule = lambda p, g: p.add_((g * 2) * g.abs())  # noqa: E731
    another: Rule = lambda p, g: p.copy_(p + g.abs() * (g * 2))  # noqa: E731
    assert explain_rules(one, another).equal


def test_a_detour_that_ends_in_the_same_bits_is_passed_over() -> None:
    """The sides spell ``total`` differently; they part behind it."""

    def straight(param: Tensor, grad: Tensor) -> None:
        total = grad * 4
        param.add_(total.sqrt())

    def detour(param: Tensor, grad: Tensor) -> None:
        half = grad * 2
        total = half + half
        param.add_(total.square())

    found = explain_rules(straight, detour)
    assert found.operations == ("sqrt = total.sqrt()", "pow = total.pow(2)")


# Causes.


def plain(p: Tensor, g: Tensor) -> None:
    p.sub_(g * LR)


def sevenths(p: Tensor, g: Tensor) -> None:
    p.sub_(g * LR / 7.0)


def through(dtype: torch.dtype) -> Rule:
    return lambda p, g: p.sub_((g.to(dtype) * LR / 7.0).to(p.dtype))


def rooted(scaled: Callable[[Tensor], Tensor]) -> Rule:
    """Divides twice: by a number, if that is how it is scaled, and by a tensor."""
    return lambda p, g: p.addcdiv_(g, scaled(g.abs().sqrt()).add_(1e-8), value=-LR)


divided = rooted(lambda root: root / 0.0316)
NARROW, WIDE = (torch.bfloat16,), (torch.float64,)
NUMERIC: tuple[tuple[str, Rule, Rule, tuple[torch.dtype, ...]], ...] = (
    ("FMA", lambda p, g: p.add_(g * LR), lambda p, g: p.add_(g, alpha=LR), BOTH),
    ("reciprocal", lambda p, g: p.add_(g / 7.0), lambda p, g: p.add_(g * (1 / 7.0)), BOTH),
    ("reciprocal", lambda p, g: p.sub_(p / g), lambda p, g: p.sub_(p * g.reciprocal()), SINGLE),
    ("reciprocal", divided, rooted(lambda root: root * SCALE), SINGLE),
    # The quotient is not used.
    ("reciprocal", divided, rooted(lambda root: (root / 0.0316, root * SCALE)[1]), SINGLE),
    (
        "order of operations",
        lambda p, g: p.sub_((p * g) * LR),
        lambda p, g: p.sub_(p * (g * LR)),
        BOTH,
    ),
    ("Tensor scalar", lambda p, g: p.sub_(g * torch.tensor(LR, dtype=torch.float32)), plain, WIDE),
    ("reduced precision", through(torch.bfloat16), sevenths, SINGLE),
    ("higher precision", through(torch.float64), sevenths, SINGLE),
    ("reduced precision", lambda p, g: p.copy_(p.float() - g.float() * LR), plain, NARROW),
    ("another scalar", lambda p, g: p.sub_(g * -LR), plain, SINGLE),
    ("a rounded scalar", lambda p, g: p.sub_(g * ROUNDED_LR), plain, WIDE),
    ("an operation missing", lambda p, g: p.sub_(g.clamp(-1, 1) * LR), plain, SINGLE),
    ("unknown", lambda p, g: p.sub_(g.sin() * LR), lambda p, g: p.sub_(g.cos() * LR), SINGLE),
)


IN_DTYPES = [
    pytest.param(expected, a, b, dtype, id=f"{expected}-{dtype}")
    for expected, a, b, dtypes in NUMERIC
    for dtype in dtypes
]


@pytest.mark.parametrize(("expected", "a", "b", "dtype"), IN_DTYPES)
def test_a_planted_cause_is_told_by_experiment_from_either_side(
    expected: str, a: Rule, b: Rule, dtype: torch.dtype
) -> None:
    if expected == "FMA" and not adds_round_once():
        pytest.skip("the CPU capability of this process contracts nothing")
    assert kind(explain_rules(a, b, dtype)) == expected
    assert kind(explain_rules(b, a, dtype)) == expected


def adds_round_once() -> bool:
    x = torch.full((64,), 1 + 2**-12)
    return bool((torch.full((64,), -1 - 2**-11).add(x, alpha=1 + 2**-12) == 2**-24).all())


@pytest.mark.parametrize(
    ("name", "change", "dtype", "expected"),
    [
        ("SGD", {"foreach": True}, torch.bfloat16, "a rounded scalar"),
        ("Adam", {"lr": torch.tensor(0.01)}, torch.float32, "Tensor scalar"),
        ("AdamW", {"lr": torch.tensor(0.01)}, torch.float64, "Tensor scalar"),
        ("Adam", {"foreach": True}, torch.float32, "same"),
    ],
)
def test_what_a_flag_changes_is_told(
    name: str, change: Options, dtype: torch.dtype, expected: str
) -> None:
    assert expected in way_cell(name, OPTIMIZERS[name], change, dtype)


def test_a_measuring_process_ends_with_the_bits_of_this_one() -> None:
    ended = equivalence.Start("here").parameters(steps=2)
    assert_equal(ended, equivalence.run("torch.optim", 1, steps=2))
    assert_equal(ended, equivalence.run("optimlab", 1, steps=2))


def test_a_fused_kernel_is_one_operation() -> None:
    adam = torch.optim.Adam
    found = optimlab.explain(
        partial(adam, foreach=False), partial(adam, fused=True), scenario(torch.bfloat16)
    )
    assert found.operation_names[1] == "fused_adam"
    assert kind(found) == "reduced precision"


def test_state_that_starts_differently_is_another_operand() -> None:
    class Mean(Ruled):
        def __init__(self, params: Any, start: float) -> None:
            super().__init__(params, self.rule_of_mean)
            self.start = start

        def rule_of_mean(self, param: Tensor, grad: Tensor) -> None:
            held = self.state[param]
            if not held:
                held["mean"] = torch.full_like(param, self.start)
            held["mean"].lerp_(grad, 0.1)
            param.sub_(held["mean"])

    found = optimlab.explain(partial(Mean, start=0.0), partial(Mean, start=1.0), scenario())
    assert found.operation_names == ("lerp", "lerp")
    assert kind(found) == "another operand"


@pytest.mark.parametrize("operation", FORMULAS)
def test_every_formula_is_what_aten_computes(operation: str) -> None:
    a, b, c = torch.rand(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {"a": a, "b": b, "c": c, "weight": 0.3, "alpha": 0.7, "value": 0.9}
    functions = {"max": torch.maximum, "min": torch.minimum, "sign": torch.sign, "sqrt": torch.sqrt}
    used = [name for name in given if re.search(rf"\b{name}\b", FORMULAS[operation][0])]
    by_name = {name: given[name] for name in used if name in ("alpha", "value")}
    operands = [given[name] for name in used if name not in by_name]
    expected = getattr(torch, operation.partition(" ")[0])(*operands, **by_name)
    for formula in FORMULAS[operation]:
        assert torch.allclose(eval(formula, functions | given), expected)


@pytest.mark.parametrize("dtype", BOTH)
def test_the_emulated_fma_rounds_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4000, generator=generator, dtype=dtype) for _ in range(2))
    c = -(a * b) * (1 + torch.randn(4000, generator=generator, dtype=dtype).sign() * 2**-9)
    # What is left of a product and its negative rounding is exact, and nothing but an FMA has it.
    exact = fma(a, b, -(a * b))
    assert bool((exact != 0).any())
    assert same_bits((a * b) + exact, a * b)
    assert not same_bits(fma(a, b, c), a * b + c)
    if dtype is torch.float32 and adds_round_once():
        assert same_bits(fma(a, b, c), torch.addcmul(c, a, b))


def test_the_emulated_fma_does_not_round_through_double_precision() -> None:
    """The exact sum lies just below the middle of two floats, in double precision right in it."""
    odd = 1 + 2**-23
    a, b, c = (torch.tensor([x]) for x in (2**-24 * (1 + 2**-23), 1 - 2**-23, odd))
    assert (a.double() * b.double() + c.double()).float().item() == 1 + 2**-22
    assert fma(a, b, c).item() == odd


# Optimizers that there are already.


def network(**options: Any) -> Optimizer:
    params = [torch.nn.Parameter(value) for value in scenario().start()]
    made = torch.optim.Adam(params, **options)
    give_gradients(params, list(scenario().gradients(1)))
    made.step()
    give_gradients(params, list(scenario().gradients(2)))
    return made


def seen(optimizer: Optimizer) -> Options:
    params = parameters(optimizer)
    return {
        "params": [param.detach() for param in params],
        "grads": [param.grad for param in params],
        "state": optimizer.state_dict(),
        "hooks": len(optimizer._optimizer_step_pre_hooks),
    }


def test_optimizers_are_left_as_they_were() -> None:
    a, b = network(), network()
    b.param_groups[0].update(foreach=False, eps=1e-5)
    torch.optim.lr_scheduler.StepLR(a, 3)  # which wraps `step` of this very optimizer
    before = [clone(seen(each)) for each in (a, b)]
    found = optimlab.explain(a, b)
    assert (found.step, kind(found)) == (1, "another scalar")
    for optimizer, was in zip((a, b), before, strict=True):
        assert_equal(seen(optimizer), was)


def test_gradients_may_be_given() -> None:
    a, b = network(lr=0.5), network(lr=0.5)
    zeros: list[Tensor | None] = [torch.zeros_like(param) for param in parameters(a)]
    assert optimlab.explain(a, b, gradients=[zeros, zeros]).steps == 2
    assert optimlab.explain(a, b, gradients=lambda step: zeros, steps=3).steps == 3


def test_sides_that_do_not_start_alike_are_told_so() -> None:
    a, b = network(), network()
    with torch.no_grad():
        parameters(b)[1][2] += 1
    found = optimlab.explain(a, b)
    assert (found.step, found.parameter, found.element) == (0, 1, (2,))
    assert "start from equal bits" in str(found)


@pytest.mark.parametrize("when_watched", [False, True])
def test_a_cause_outside_aten_is_told_so(when_watched: bool) -> None:
    def write_through_numpy(optimizer: Optimizer) -> None:
        if when_watched or not torch._C._len_torch_dispatch_stack():
            parameters(optimizer)[0].detach().numpy()[0, 0] += 1

    hidden = followed(Ruled, write_through_numpy, "Hidden")
    found = optimlab.explain(partial(hidden, rule=plain), partial(Ruled, rule=plain), scenario())
    assert found.step == 1
    assert found.operations == ("", "")
    if when_watched:
        assert kind(found) == "outside the recorded operations"
    else:
        assert "code that does not go through them" in found.note


def test_what_a_subclass_does_after_its_parents_step_is_found() -> None:
    def halve(optimizer: Optimizer) -> None:
        for param in parameters(optimizer):
            param.mul_(0.5)

    sgd, halved = torch.optim.SGD, followed(torch.optim.SGD, halve, "Halved")
    found = optimlab.explain(partial(halved, foreach=False), partial(sgd, foreach=False))
    assert found.operations[0] == "param.mul_(0.5)"
    assert kind(found) == "an operation missing"


def test_a_gradient_set_to_zeros_is_paired_with_no_other_zeros() -> None:
    def zero(optimizer: Optimizer) -> None:
        for param in parameters(optimizer):
            if param.grad is not None:
                param.grad.zero_()

    zeroing = followed(PlainAdam, zero, "Zeroing")
    found = optimlab.explain(partial(zeroing, lr=0.01), partial(PlainAdam, lr=0.01), scenario())
    assert found.operations == ("grad.zero_()", "")
    assert found.cause is not None
    assert found.cause.kind == "in place"
    assert found.cause.text == "Zeroing writes to grad, PlainAdam does not"


def test_state_that_one_side_alone_keeps_is_noted() -> None:
    def count(optimizer: Optimizer) -> None:
        for param in parameters(optimizer):
            optimizer.state[param]["count"] = torch.ones(())

    counting = followed(torch.optim.SGD, count, "Counting")
    found = optimlab.explain(counting, torch.optim.SGD, scenario())
    assert found.equal
    assert found.note == "only Counting keeps count"
    assert found.note in str(found)


def decay_without_gradient(optimizer: Any) -> None:
    for param in parameters(optimizer):
        if param.grad is None:
            param.mul_(0.99)


def zeros_for_none(optimizer: Any, args: Any, kwargs: Any) -> None:
    for param in parameters(optimizer):
        param.grad = torch.zeros_like(param) if param.grad is None else param.grad


class ZeroGradients(torch.optim.AdamW):
    def step(self, closure: Any = None) -> Any:
        zeros_for_none(self, (), {})
        return super().step(closure)


@pytest.mark.parametrize(
    "wrong",
    [followed(torch.optim.AdamW, decay_without_gradient, "Decays"), ZeroGradients],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_missing_gradient_that_one_side_steps_with_is_told(wrong: Any, reverse: bool) -> None:
    both = (torch.optim.AdamW, wrong) if reverse else (wrong, torch.optim.AdamW)
    found = optimlab.explain(*both)
    assert found.cause is not None
    assert found.cause.kind == "a missing gradient"
    assert "AdamW leaves it alone" in found.cause.text


def laid_elsewhere(param: Tensor, step: Tensor) -> None:
    param.data = param.data - step


REPLACED: Mapping[str, Callable[[Tensor, Tensor], object]] = {
    "data": laid_elsewhere,
    "set_": lambda param, step: param.set_(param - step),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("way", REPLACED)
def test_a_step_that_lays_the_parameter_elsewhere_is_explained(way: str) -> None:
    replaced = REPLACED[way]
    found = explain_rules(lambda p, g: replaced(p, g * LR), lambda p, g: replaced(p, g * 0.02))
    assert kind(found) == "another scalar"
    assert explain_rules(lambda p, g: replaced(p, g * LR), plain).equal
    found = explain_rules(lambda p, g: replaced(p, g * LR), lambda p, g: p.add_(g, alpha=-LR))
    if not found.equal:
        assert kind(found) == "FMA"


def test_what_cannot_be_compared_is_refused() -> None:
    adam, sgd = torch.optim.Adam, torch.optim.SGD
    with pytest.raises(TypeError, match="two optimizers, or two classes"):
        optimlab.explain(network(), adam)
    with pytest.raises(ValueError, match="other shapes"):
        optimlab.explain(network(), adam([torch.zeros(3)]))
    with pytest.raises(ValueError, match="a scenario is for classes"):
        optimlab.explain(network(), network(), Scenario())
    with pytest.raises(ValueError, match="cannot be repeated"):
        optimlab.explain(adam, adam, Scenario(differentiable=True))
    with pytest.raises(NothingCompared):
        optimlab.explain(network(), network(), gradients=[])
    with pytest.raises(NothingCompared, match="no parameter moved"):
        optimlab.explain(partial(adam, lr=0.0), partial(sgd, lr=0.0), scenario())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float16])
def test_complex_and_half_precision_parameters_are_explained(dtype: torch.dtype) -> None:
    wrong = partial(FusedOrder, lr=0.01)
    found = optimlab.explain(wrong, partial(torch.optim.Adam, lr=0.01), scenario(dtype))
    assert found.operation_names[1] == "lerp"


def test_sparse_gradients_are_explained() -> None:
    sgd = partial(torch.optim.SGD, lr=0.01)
    sparse = scenario(sparse=True)
    assert optimlab.explain(sgd, sgd, sparse).equal
    found = optimlab.explain(partial(torch.optim.SGD, lr=0.02), sgd, sparse)
    assert found.operation_names == ("add", "add")


# The command.


def command(*words: str) -> int:
    return command_line.main(["explain", *words])


def test_the_command_says_equal_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--foreach", "optimlab:Adam", "torch.optim:Adam", "--steps", "4")
    assert command(*words, "--options", "lr=0.1", "betas=(0.8, 0.9)") == 0
    assert "the same bits in" in capsys.readouterr().out


def test_the_command_ignores_state(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("torch.optim:SGD", "torch.optim:SGD", "--options", "lr=0.1", "momentum=0.9")
    other = ("--steps", "1", "--options-b", "dampening=0.5", "momentum=0.8")
    assert command(*words, *other, "--ignore-state", "momentum_buffer") == 0
    assert "the same bits in" in capsys.readouterr().out


def test_the_command_explains_a_difference_and_exits_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "explained.json"
    words = ("torch.optim:SGD", "torch.optim:SGD", "--options", "lr=0.1", "momentum=0.9")
    assert command(*words, "--options-b", "momentum=0.8", "--json", str(path)) == 1
    printed = capsys.readouterr().out
    assert "momentum_buffer.mul_(0.8)" in printed
    assert "another scalar" in printed
    assert json.loads(path.read_text(encoding="utf-8"))["step"] == 2


@pytest.mark.parametrize(
    "words",
    [
        "torch.optim:SGD torch.optim:NoSuch",
        "torch.optim:SGD torch:zeros",
        *(
            f"torch.optim:SGD torch.optim:SGD --options {given}"
            for given in ("lr", "lr=f(", "betas=1", "lr=-1")
        ),
        "torch.optim:LBFGS torch.optim:LBFGS",
        "torch.optim:SparseAdam torch.optim:SparseAdam",
        "torch.optim:Adam torch.optim:SGD --options lr=0.0",
    ],
)
def test_misuse_of_the_command_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words.split()) == 2
    assert capsys.readouterr().err.startswith("optimlab explain: ")
