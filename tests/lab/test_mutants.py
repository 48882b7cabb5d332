"""Changing any one operation, constant, sign, name or statement of an update rule is noticed.

Every mutant of a rule is put in its place and compared with torch in a small table of settings that
together reach all branches. One that gives torch's bits in all of them survives, and has to be
listed with the reason why no comparison on this machine could tell it from the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import pytest
import torch
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from mutation import Mutant, mutants
from torch import Tensor

import optimlab
from optimlab import adam, rmsprop, sgd
from optimlab.core import values
from optimlab.core.program import Symbol
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import LATE
from optimlab.lab.parity import Equal, Outcome, Scenario, TensorSpec, compare

Options: TypeAlias = dict[str, Any]

MODULES = (values, sgd, adam, rmsprop)

#: Variables and keys that are tried in each other's place.
FAMILIES = (
    ("lr", "eps", "weight_decay", "momentum", "dampening", "alpha", "beta1", "beta2"),
    ("maximize", "amsgrad", "nesterov", "centered", "decoupled_weight_decay", "differentiable"),
    ("param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg"),
    ("grad", "velocity", "direction", "momentum_buffer", "second_moment", "denom"),
    ("bias_correction2", "step_size", "negative_step_size", "root", "scaled_root", "step"),
    ("value", "other", "scale", "divisor"),
    ("_fused_adam_", "_fused_adamw_"),
)

# How a step is carried out.
LOOP: Options = {"foreach": False}
LIST: Options = {"foreach": True}
FUSED: Options = {"fused": True}
DIFFERENTIABLE: Options = {"differentiable": True}
CAPTURABLE: Options = {"capturable": True, "foreach": False}
CAPTURABLE_LIST: Options = {"capturable": True, "foreach": True}
NOT_FUSED = (LOOP, LIST, CAPTURABLE, CAPTURABLE_LIST)


@dataclass(frozen=True)
class Setting:
    """One comparison.

    Attributes:
        optimizer: the name of the class.
        options: its keyword arguments.
        scenario: what it is put through.
        recorded: whether our rule is carried out by running the program that it is recorded as.
        reused: whether each parameter keeps one gradient tensor, which gets new values.
    """

    optimizer: str
    options: Options
    scenario: Scenario
    recorded: bool = False
    reused: bool = False

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.options.items()]
        flags = [flag for flag in ("recorded", "reused") if getattr(self, flag)]
        return ", ".join([self.optimizer, *options, *flags, str(self.scenario.tensors[0].dtype)])

    def outcome(self) -> Outcome:
        """Compare our optimizer with torch's."""
        ours = getattr(optimlab, self.optimizer)
        theirs = getattr(torch.optim, self.optimizer)
        if self.recorded:
            ours = type(ours.__name__, (Recorded, ours), {})
        return compare(partial(self._make, ours), partial(self._make, theirs), self.scenario)

    def _make(self, optimizer: Any, groups: list[Options]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = optimizer(groups, **clone(self.options))
        if self.reused:
            made.register_step_pre_hook(partial(reuse_gradients, {}))
        return made


class Recorded(optimlab.Rule):
    """Carries out the rule of another class by recording it and running what was recorded."""

    def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
        if isinstance(param, Symbol):
            super().update(param, grad, state, step, group)
            return
        program = self.program(group, step=int(step))
        made = program.run({"param": param, "grad": grad, **state})
        state.update({name: value for name, value in made.items() if name != "param"})


def reuse_gradients(
    kept: dict[int, Tensor], optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
) -> None:
    """Put new gradients into the tensors of the first ones, as `zero_grad(False)` leads to."""
    for param in chain.from_iterable(group["params"] for group in optimizer.param_groups):
        if param.grad is not None:
            tensor = kept.setdefault(id(param), param.grad)
            param.grad = tensor.copy_(param.grad)


def settings(
    optimizer: str,
    options: Options,
    *ways: Options,
    dtype: torch.dtype = torch.float32,
    scalars: int = 1,
    recorded: bool = False,
    reused: bool = False,
    late: bool = False,
    **scenario: Any,
) -> Iterator[Setting]:
    """Combine options with ways to carry out a step."""
    tensors = (
        TensorSpec((7,), dtype),
        TensorSpec((2, 3), dtype, gradients="sometimes"),
        *[TensorSpec((), dtype)] * scalars,
        *[TensorSpec((5,), dtype, gradients="late")] * late,
    )
    for way in ways:
        arguments = {**scenario, "differentiable": way is DIFFERENTIABLE}
        steps = LATE + 1 if late else 4
        played = Scenario(tensors, steps=steps, backward_after=(1, 4), threads=1, **arguments)
        yield Setting(optimizer, {**options, **way}, played, recorded, reused)


VECTOR = torch.tensor([0.02])
LEARNED = torch.tensor(0.02, requires_grad=True)
# Without maximize, torch adds a decay that is learned to the gradient in place.
LEARNED_DECAY: Options = {"weight_decay": LEARNED, "maximize": True}
HEAVY: Options = {"lr": 0.1, "momentum": 0.9}
ADAM: Options = {"lr": 0.1, "betas": (0.4, 0.9), "eps": 0.2}
BETAS = (torch.tensor(0.4), torch.tensor([0.9]))
LEARNED_BETAS = (torch.tensor(0.4, requires_grad=True), torch.tensor(0.9, requires_grad=True))
RMSPROP: Options = {"lr": 0.1, "alpha": 0.4, "eps": 0.2}
DECAY: Options = {"weight_decay": 0.3}
# Values for which a condition, and not only an operation, makes a difference.
WHOLE: Options = {"weight_decay": 1.0, "momentum": 1.0}
UP: Options = {"maximize": True}

SGD_SETTINGS = (
    *settings("SGD", {"lr": 0.1, **DECAY}, LOOP, LIST, FUSED),
    *settings("SGD", {**HEAVY, **DECAY, **UP, "dampening": 0.2}, LOOP, LIST, FUSED),
    *settings("SGD", {**HEAVY, "nesterov": True}, LOOP, LIST, FUSED),
    *settings("SGD", {"lr": 0.1, **WHOLE}, LOOP, FUSED),
    *settings("SGD", {**HEAVY, "lr": VECTOR}, LOOP),
    *settings("SGD", {**HEAVY, **LEARNED_DECAY, "lr": LEARNED}, LOOP, DIFFERENTIABLE),
    *settings("SGD", {**HEAVY, **DECAY}, DIFFERENTIABLE),
    *settings("SGD", HEAVY, FUSED, unscale=True),
    *settings("SGD", HEAVY, LOOP, LIST, reused=True),
    *settings("SGD", {**HEAVY, "dampening": 0.2}, LIST, late=True),
)
ADAM_SETTINGS = (
    *settings("Adam", ADAM, *NOT_FUSED, FUSED),
    *settings("Adam", {**ADAM, **DECAY, "amsgrad": True}, *NOT_FUSED, FUSED),
    *settings("Adam", {**ADAM, **UP, "weight_decay": 1.0}, LOOP, FUSED),
    *settings("Adam", {**ADAM, **DECAY, "decoupled_weight_decay": True}, *NOT_FUSED, FUSED),
    *settings("Adam", {**ADAM, **DECAY, "betas": (0.0, 0.9)}, LOOP),
    *settings("Adam", {**ADAM, **DECAY}, LOOP, LIST, dtype=torch.complex64),
    *settings("Adam", {**ADAM, "lr": VECTOR, "betas": BETAS}, LOOP, CAPTURABLE, CAPTURABLE_LIST),
    *settings("Adam", {**ADAM, "lr": VECTOR, "betas": BETAS}, LOOP, FUSED, dtype=torch.float64),
    # What is divided by a tensor is rounded otherwise in place, if it has no dimensions.
    *settings("Adam", {**ADAM, "betas": BETAS}, LOOP, dtype=torch.bfloat16, scalars=32),
    *settings("Adam", {**ADAM, **LEARNED_DECAY, "lr": LEARNED}, DIFFERENTIABLE),
    *settings("Adam", {**ADAM, "amsgrad": True}, LOOP, dtype=torch.bfloat16),
    *settings("Adam", ADAM, LIST, late=True),
    *settings("Adam", {**ADAM, "lr": LEARNED, "betas": LEARNED_BETAS}, LOOP, DIFFERENTIABLE),
    *settings("Adam", {**ADAM, "amsgrad": True}, DIFFERENTIABLE),
    *settings("Adam", {**ADAM, "betas": BETAS}, DIFFERENTIABLE),
    *settings("Adam", ADAM, DIFFERENTIABLE),
    *settings("Adam", ADAM, FUSED, unscale=True),
    *settings("Adam", {**ADAM, **DECAY, "amsgrad": True}, LOOP, LIST, recorded=True),
)
RMSPROP_SETTINGS = (
    *settings("RMSprop", RMSPROP, *NOT_FUSED),
    *settings("RMSprop", {**RMSPROP, **DECAY, "momentum": 0.9, "centered": True}, *NOT_FUSED),
    *settings("RMSprop", {**RMSPROP, **WHOLE, **UP}, LOOP),
    *settings("RMSprop", {**RMSPROP, **DECAY}, LOOP, LIST, dtype=torch.complex64),
    *settings("RMSprop", {**RMSPROP, "lr": VECTOR}, LOOP, LIST, CAPTURABLE_LIST),
    *settings("RMSprop", {**RMSPROP, "lr": VECTOR, "momentum": 0.9}, LOOP, CAPTURABLE_LIST),
    *settings("RMSprop", {**RMSPROP, "momentum": 0.9}, DIFFERENTIABLE),
    *settings("RMSprop", RMSPROP, DIFFERENTIABLE),
)
# Which torch refuses, with an error that has to be the same.
ADAM_ERRORS = (*settings("Adam", {**ADAM, **LEARNED_DECAY}, LOOP),)
RMSPROP_ERRORS = (*settings("RMSprop", {**RMSPROP, **LEARNED_DECAY}, LOOP, DIFFERENTIABLE),)
ALL_SETTINGS = (*SGD_SETTINGS, *ADAM_SETTINGS, *RMSPROP_SETTINGS)

#: Each part of a rule, by its name: the function, and the settings that it is compared in.
RULES: Mapping[str, tuple[Callable[..., Any], tuple[Setting, ...]]] = {
    "heavy_ball": (sgd.heavy_ball, SGD_SETTINGS),
    "look_ahead": (sgd.look_ahead, SGD_SETTINGS),
    "SGD.update": (optimlab.SGD.update, SGD_SETTINGS),
    "SGD.fused_update": (optimlab.SGD.fused_update, SGD_SETTINGS),
    "Adam.update": (optimlab.Adam.update, (*ADAM_SETTINGS, *ADAM_ERRORS)),
    "second_moment": (adam.second_moment, ADAM_SETTINGS),
    "Adam.fused_update": (optimlab.Adam.fused_update, ADAM_SETTINGS),
    "RMSprop.update": (optimlab.RMSprop.update, (*RMSPROP_SETTINGS, *RMSPROP_ERRORS)),
    "add_scaled": (values.add_scaled, (*SGD_SETTINGS, *ADAM_SETTINGS)),
    "subtract_scaled_": (values.subtract_scaled_, SGD_SETTINGS),
    "maximum_": (values.maximum_, ADAM_SETTINGS),
    "divide_": (values.divide_, ADAM_SETTINGS),
}

_ONE_TYPE = "parameters, gradients and state are all tensors, all lists or all symbols"
_ONE_PLACE = "a gradient has the device and dtype of its parameter"
_IN_ANY_ORDER = "a product, or a maximum, is the same in either order"
_IN_NEW_MEMORY = "the bits are the same in new memory"
_IN_PLACE = "`Tensor.divide_` is `Tensor.div_` by another name"
_ONE_DEVICE = "a tensor lr has no other device to be on"
_SQUEEZED = "the constructor has taken the dimensions away"
_TOLD = "this package's rules say whether autograd may ask"

#: Mutants that no comparison of bits on a CPU could tell from the rule, each with the reason.
EQUIVALENT: Mapping[str, Mapping[str, str]] = {
    "SGD.update": {
        "grad -> direction in velocity = heavy_ball(grad, state, momentum, dampening)": (
            "the direction is the gradient until momentum changes it"
        ),
    },
    "Adam.update": {
        "param -> grad in exp_avg.lerp_(grad, 1 - beside(beta1, param, group))": _ONE_PLACE,
        "param -> grad in if is_many(param):": _ONE_TYPE,
    },
    "second_moment": {
        "maximum_(state['max_exp_avg_sq'], state['exp_avg_sq'], derive=derive) -> "
        "maximum_(state['max_exp_avg_sq'], state['exp_avg_sq']) "
        "in return maximum_(state['max_exp_avg_sq'], state['exp_avg_sq']": (
            "only where a group is not differentiable though the optimizer is; see test_adam.py"
        ),
    },
    "Adam.fused_update": {
        "beside(group['lr'], param, group) -> group['lr'] "
        "in fused_kernel('_fused_adamw_' if group['decoupled_weight_deca": _ONE_DEVICE,
        "beside(group['lr'], param, group) -> beside(group['lr'], group, param) "
        "in fused_kernel('_fused_adamw_' if group['decoupled_weight_deca": _ONE_DEVICE,
        "as_scalar(beta1) -> beta1 "
        "in fused_kernel('_fused_adamw_' if group['decoupled_weight_deca": _SQUEEZED,
        "as_scalar(beta2) -> beta2 "
        "in fused_kernel('_fused_adamw_' if group['decoupled_weight_deca": _SQUEEZED,
        "param -> grad "
        "in fused_kernel('_fused_adamw_' if group['decoupled_weight_deca, place 2": _ONE_PLACE,
    },
    "add_scaled": {
        "value -> other in if derive and isinstance(value, Tensor) and wants_gradient(s": _ONE_TYPE,
        "without if isinstance(value, TensorList) and value.is_temporary:": _IN_NEW_MEMORY,
        "value -> other in if isinstance(value, TensorList) and value.is_temporary:": _ONE_TYPE,
        "value -> other in if isinstance(value, TensorList) and value.is_temporary:, place 2": (
            _IN_NEW_MEMORY
        ),
        "without return value.add_(other, alpha=scale)": _IN_NEW_MEMORY,
        "value.clone().addcmul_(other.clone(), scale) -> "
        "value.clone().addcmul_(scale, other.clone()) "
        "in return value.clone().addcmul_(other.clone(), scale)": _IN_ANY_ORDER,
        "value.clone() -> value in return value.clone().addcmul_(other.clone(), scale)": (
            "it writes into the gradient, which test_sgd.py notices"
        ),
    },
    "subtract_scaled_": {
        "value -> other in if isinstance(value, Tensor) and wants_gradient(scale):": _ONE_TYPE,
        "value.addcmul_(other, scale, value=-1) -> value.addcmul_(scale, other, value=-1) "
        "in return value.addcmul_(other, scale, value=-1)": _IN_ANY_ORDER,
    },
    "maximum_": {
        "other -> value in if not isinstance(other, Tensor):": _ONE_TYPE,
        "without derive = torch.is_grad_enabled() if derive is None else derive": _TOLD,
        "torch.is_grad_enabled() if derive is None else derive -> "
        "derive if derive is None else torch.is_grad_enabled() "
        "in derive = torch.is_grad_enabled() if derive is None else deri": _TOLD,
        "derive is None -> derive is not None "
        "in derive = torch.is_grad_enabled() if derive is None else deri": _TOLD,
        "torch.is_grad_enabled() -> torch "
        "in derive = torch.is_grad_enabled() if derive is None else deri": _TOLD,
        "torch.compiler.is_compiling() -> torch.compiler "
        "in if derive or torch.compiler.is_compiling():": _IN_NEW_MEMORY,
        "torch.maximum(value.clone(), other) -> torch.maximum(other, value.clone()) "
        "in return value.copy_(torch.maximum(value.clone(), other))": _IN_ANY_ORDER,
        "torch.maximum(value, other, out=value) -> torch.maximum(other, value, out=value) "
        "in return torch.maximum(value, other, out=value)": _IN_ANY_ORDER,
    },
    "divide_": {
        "value -> divisor in if not isinstance(value, Tensor):": _IN_PLACE,
        "divisor -> value "
        "in return value.div_(divisor) if isinstance(divisor, float) els": _IN_NEW_MEMORY,
    },
}


def put_in_place(mutant: Mutant, rule: str, patch: pytest.MonkeyPatch) -> None:
    """Let a mutant take the place of a function, wherever rules know it."""
    owner, _, name = rule.rpartition(".")
    if owner:
        patch.setattr(getattr(optimlab, owner), name, mutant.function)
        return
    for module in MODULES:
        if hasattr(module, name):
            patch.setattr(module, name, mutant.function)


def all_mutants() -> Iterator[Any]:
    for rule, (function, _) in RULES.items():
        for mutant in mutants(function, FAMILIES):
            yield pytest.param(rule, mutant, id=f"{rule}: {mutant.change}")


@pytest.fixture(autouse=True)
def graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    let_graphs_be_captured_on_cpu(monkeypatch)


@pytest.mark.parametrize("setting", ALL_SETTINGS, ids=str)
def test_the_rule_itself_gives_torchs_bits_in_every_setting(setting: Setting) -> None:
    outcome = setting.outcome()
    assert isinstance(outcome, Equal), str(outcome)
    assert outcome.compared.steps == setting.scenario.steps


@pytest.mark.parametrize(("rule", "mutant"), [*all_mutants()])
def test_a_changed_rule_is_noticed(
    rule: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(mutant, rule, monkeypatch)
    survived = all(setting.outcome().equal for setting in RULES[rule][1])
    reason = EQUIVALENT.get(rule, {}).get(mutant.change)
    if reason is None:
        assert not survived, f"nothing notices that {mutant.change}"
    else:
        assert survived, f"noticed, though it is listed as equivalent because {reason}"


@pytest.mark.parametrize("rule", RULES)
def test_what_is_listed_as_equivalent_is_a_mutant(rule: str) -> None:
    changes = {mutant.change for mutant in mutants(RULES[rule][0], FAMILIES)}
    assert set(EQUIVALENT.get(rule, {})) <= changes
