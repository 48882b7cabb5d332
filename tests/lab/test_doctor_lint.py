"""The linter of live optimizers: what torch takes without a word is named, and nothing else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import (
    STATEFUL,
    Options,
    Pair,
    assert_equal,
    one_thread,  # noqa: F401 - applies to every test here
    ways,
)
from torch import Tensor, nn
from torch.optim import Optimizer

import optimlab
from optimlab.lab.lockstep.clone import clone


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


Case = tuple[Any, nn.Module]


def built_too_early() -> Case:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    for layer in model:  # as a move to a device does that makes new parameters
        for name, param in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(param.detach().clone()))
    return optimizer, model


def left_out() -> Case:
    model = network()
    return torch.optim.SGD(model[0].parameters(), lr=0.1), model


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.more = nn.Linear(3, 3), [nn.Linear(3, 3)]
        self.scales = {"a": nn.Parameter(torch.ones(3))}
        self.tied = [self.first]


def in_a_list() -> Case:
    model = Listed()
    return torch.optim.SGD(model.parameters()), model


def frozen_with_a_gradient() -> Case:
    model = network()
    model(torch.ones(3)).sum().backward()
    model[0].requires_grad_(False)
    return torch.optim.Adam(model.parameters()), model


def given_twice() -> Case:
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.optim.SGD([*model.parameters(), *model[0].parameters()]), model


def in_shared_memory() -> Case:
    memory = torch.zeros(6)
    model = nn.ParameterList([memory[:4], memory[3:]])
    return torch.optim.SGD(model.parameters()), model


def sharing_lr() -> Case:
    model, lr = network(), torch.tensor(0.1)
    groups = [{"params": layer.parameters(), "lr": lr} for layer in (model[0], model[2])]
    return torch.optim.SGD(groups), model


def two_sharing_lr() -> Case:
    model, lr = network(), torch.tensor(0.1)
    return [torch.optim.SGD(model[i].parameters(), lr=lr) for i in (0, 2)], model


def two_sharing_parameters() -> Case:
    model = network()
    return [torch.optim.SGD(model.parameters()), torch.optim.Adam(model[0].parameters())], model


def hundreds_of_groups() -> Case:
    model = nn.ParameterList([torch.zeros(1) for _ in range(200)])
    return torch.optim.Adam([{"params": [param]} for param in model.parameters()]), model


def state_of_a_parameter_that_left() -> Case:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    return optimizer, model


CASES: dict[str, tuple[Callable[[], Case], str, str, str]] = {
    "moved": (
        built_too_early,
        "error",
        "lost parameters",
        "4 of the 4 parameters it holds are not",
    ),
    "new": (built_too_early, "warning", "left out", "0.weight, 0.bias, 2.weight, 2.bias"),
    "in a list": (in_a_list, "warning", "left out", "Listed.more, Listed.scales: parameters that"),
    "left out": (left_out, "warning", "left out", "2 parameters of the model are in no group"),
    "frozen": (frozen_with_a_gradient, "warning", "frozen", "there is still a gradient"),
    "twice": (given_twice, "error", "duplicate", "updated twice in every step"),
    "shared memory": (in_shared_memory, "error", "aliasing", "share memory"),
    "shared lr": (sharing_lr, "warning", "shared lr", "lr is one tensor for all of them"),
    "lr of two optimizers": (two_sharing_lr, "warning", "shared lr", "lr is one tensor"),
    "two": (two_sharing_parameters, "warning", "two optimizers", "2 parameters are held"),
    "equal groups": (hundreds_of_groups, "warning", "equal groups", "200 of 200 groups"),
    "left behind": (state_of_a_parameter_that_left, "warning", "orphan state", "shape (2,)"),
}

OF_TORCH = vars(torch.optim)
ADAM, ADAMW, SGD, RMSPROP = (OF_TORCH[name] for name in ("Adam", "AdamW", "SGD", "RMSprop"))
HYPERPARAMETERS: tuple[tuple[Any, dict[str, Any], str, str], ...] = (
    (ADAM, {"lr": math.nan}, "error", "lr = nan"),
    (ADAM, {"lr": math.inf}, "error", "lr = inf"),
    (ADAM, {"lr": 0.0}, "warning", "no step moves anything"),
    (ADAM, {"lr": torch.tensor(-1.0)}, "error", "tensor(-1)"),
    (ADAM, {"betas": (0.999, 0.9)}, "warning", "swapped"),
    (ADAM, {"betas": (0.9, 1.0)}, "error", "divides by zero"),
    (ADAM, {"eps": -1e-8}, "error", "eps = -1e-08"),
    (ADAM, {"eps": 0.0}, "warning", "0/0"),
    (ADAM, {"eps": 1.0}, "warning", "drowns"),
    (ADAM, {"weight_decay": -0.1}, "error", "grow"),
    (ADAMW, {"lr": 0.5, "weight_decay": 3.0}, "error", "turns the parameters' signs over"),
    (SGD, {"weight_decay": 3.0}, "warning", "weight_decay = 3: large"),
    (SGD, {"momentum": 1.0}, "warning", "grows without bound"),
    (SGD, {"momentum": math.nan}, "error", "momentum = nan"),
    (SGD, {"momentum": 0.9, "dampening": 1.0}, "warning", "no gradient after the first"),
    (RMSPROP, {"alpha": 2.0}, "error", "can turn negative"),
    (RMSPROP, {"alpha": 1.0}, "warning", "stays zero"),
    (ADAM, {"weight_decy": 0.1}, "warning", "'weight_decay' may be"),
    (ADAM, {"layer": "head"}, "note", "'layer' is no hyperparameter"),
)


@pytest.mark.parametrize(("make", "values", "severity", "text"), HYPERPARAMETERS)
def test_hyperparameters_that_make_no_sense_are_found(
    make: Any, values: dict[str, Any], severity: str, text: str
) -> None:
    model = network()
    report = optimlab.lint(make([{"params": model.parameters(), **values}]), model)
    found = [finding for finding in report.findings if text in finding.what]
    kind = "hyperparameter" if values.keys() <= make(model.parameters()).defaults.keys() else ""
    assert [f.severity for f in found] == [severity], report
    assert found[0].kind == (kind or "unknown key")
    assert report.healthy is (severity == "note")


@pytest.mark.parametrize("case", CASES)
def test_what_torch_takes_without_a_word_is_found(case: str) -> None:
    build, severity, kind, text = CASES[case]
    optimizer, model = build()
    report = optimlab.lint(optimizer, model)
    found = [finding for finding in report.of_kind(kind) if text in finding.what]
    assert len(found) == 1, report
    assert found[0].severity == severity
    assert found[0].advice
    assert report.healthy is (severity == "note")
    assert str(report).splitlines()[0] == report.verdict


@ways
def test_a_sound_optimizer_has_no_finding_and_stays_as_it_is(name: str, way: Options) -> None:
    pair = Pair(name, **{**STATEFUL[name], **way})
    pair.step(3)
    for side in pair.sides:
        model = nn.ParameterList(side.params)
        for parameter in side.params:
            parameter.requires_grad_()
        before = clone(side.optimizer.state_dict())
        report = optimlab.lint(side.optimizer, model)
        # One parameter of the scenario never has a gradient.
        assert {f.kind for f in report.findings if f.severity != "note"} <= {"missing state"}
        assert_equal(side.optimizer.state_dict(), before)


def test_a_common_recipe_is_healthy() -> None:
    model = network()
    matrices = [param for param in model.parameters() if param.dim() > 1]
    vectors = [param for param in model.parameters() if param.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=10)
    assert optimlab.lint(optimizer, model).findings == ()


def test_one_group_less_than_many_is_not_complained_of() -> None:
    params = [nn.Parameter(torch.zeros(1)) for _ in range(49)]
    assert optimlab.lint(torch.optim.Adam([{"params": [p]} for p in params])).findings == ()


def test_frozen_parameters_without_a_gradient_are_only_noted() -> None:
    model = network()
    model[0].requires_grad_(False)
    report = optimlab.lint(torch.optim.Adam(model.parameters()), model)
    assert report.healthy
    assert "parameter 0 (0.weight), parameter 1 (0.bias)" in report.of_kind("frozen")[0].what


def test_any_optimizer_is_linted() -> None:
    class Other(Optimizer):
        def __init__(self, params: list[Tensor]) -> None:
            super().__init__(params, {"lr": 0.1})

    weight = nn.Parameter(torch.zeros(2))
    assert optimlab.lint(Other([weight]), nn.ParameterList([weight])).findings == ()


@pytest.mark.parametrize("given", [None, [], [None], "Adam"])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(TypeError):
        optimlab.lint(given)
