"""The container: signatures, parameters, subclasses; hooks are in test_hooks.py."""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from actions import (
    LIBRARIES,
    leaf,
)
from beside import (
    NAMES,
    STATEFUL,
    Options,
    Pair,
    Side,
    all_warnings,
    assert_equal,
    names,
    profiled,
    raised,
)
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor, nn
from torch.optim.optimizer import (
    required,
)

import optimlab
from optimlab.lab.compare.snapshot import snapshot
from optimlab.lab.lockstep.clone import clone

# Signatures and classes.


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of each parameter of a function."""
    signature = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in signature]


@names
def test_the_constructor_has_torchs_signature(name: str) -> None:
    assert parameters(getattr(optimlab, name)) == parameters(getattr(torch.optim, name))


@names
@pytest.mark.parametrize(
    "method",
    ["step", "zero_grad", "state_dict", "load_state_dict", "add_param_group", "__setstate__"],
)
def test_every_method_has_torchs_signature(name: str, method: str) -> None:
    ours, theirs = (parameters(getattr(getattr(lib, name), method)) for lib in LIBRARIES)
    assert ours == theirs


@names
def test_an_optimizer_is_one_of_torchs(name: str) -> None:
    assert issubclass(getattr(optimlab, name), optimlab.Optimizer)
    assert issubclass(optimlab.Optimizer, torch.optim.Optimizer)
    # But nothing is inherited from torch's class of that name.
    assert not issubclass(getattr(optimlab, name), getattr(torch.optim, name))


@names
@pytest.mark.parametrize("other", NAMES)
def test_classes_are_subclasses_of_each_other_as_in_torch(name: str, other: str) -> None:
    ours, theirs = (issubclass(getattr(lib, name), getattr(lib, other)) for lib in LIBRARIES)
    assert ours == theirs


@names
def test_the_names_of_a_class_and_its_step_are_torchs(name: str) -> None:
    ours, theirs = (getattr(library, name) for library in LIBRARIES)
    assert ours.__name__ == theirs.__name__
    assert ours.__qualname__ == theirs.__qualname__
    assert ours.step.__name__ == theirs.step.__name__
    assert ours.step.__qualname__ == theirs.step.__qualname__


@names
def test_all_arguments_can_be_given_by_position(name: str) -> None:
    signature = inspect.signature(getattr(torch.optim, name)).parameters.values()
    values = {"betas": (0.5, 0.75), "momentum": 0.5, "nesterov": True}
    positional = [
        values.get(parameter.name, parameter.default)
        for parameter in signature
        if parameter.kind is not parameter.KEYWORD_ONLY
    ][1:]
    seen = []
    for library in LIBRARIES:
        param = nn.Parameter(torch.ones(2))
        seen.append(snapshot(getattr(library, name)([param], *positional), [param]))
        too_many = raised(partial(getattr(library, name), [param], *positional, True))
        assert too_many is not None
        assert too_many[0] is TypeError
    assert_equal(*seen)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@names
def test_a_tensor_lr_stays_the_very_object_in_every_group(name: str, shape: tuple[int]) -> None:
    for library in LIBRARIES:
        lr = torch.full(shape, 0.1)
        groups = [{"params": [nn.Parameter(torch.ones(2))]} for _ in range(2)]
        optimizer = getattr(library, name)(groups, lr=lr)
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(2))})
        assert optimizer.defaults["lr"] is lr
        assert all(group["lr"] is lr for group in optimizer.param_groups)


# Parameters that are given.


def retained() -> Tensor:
    """Make a tensor that is no leaf, but keeps its gradient."""
    tensor = leaf(2) * 2
    tensor.retain_grad()
    return tensor


PARAMS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [leaf(2), leaf(3)],
    "a tuple": lambda: (leaf(2), leaf(3)),
    "a generator": lambda: (leaf(2) for _ in range(2)),
    "an iterator": lambda: iter([leaf(2)]),
    "a module's parameters": lambda: nn.LayerNorm(2).parameters(),
    "a module's named parameters": lambda: nn.LayerNorm(2).named_parameters(),
    "a parameter list": lambda: nn.ParameterList([leaf(2)]),
    "values of a dict": lambda: OrderedDict(a=leaf(2)).values(),
    "items of a dict": lambda: OrderedDict(a=leaf(2)).items(),
    "a plain tensor": lambda: [torch.ones(2)],
    "an integer tensor": lambda: [torch.ones(2, dtype=torch.int64)],
    "a complex tensor": lambda: [torch.ones(2, dtype=torch.complex64)],
    "an empty tensor": lambda: [torch.ones(0)],
    "a tensor that retains its gradient": lambda: [retained()],
    "groups": lambda: [{"params": [leaf(2)], "lr": 0.5}, {"params": leaf(3)}],
    "groups in a generator": lambda: ({"params": leaf(2)} for _ in range(2)),
    "an ordered dict as group": lambda: [OrderedDict(params=[leaf(2)], lr=0.5)],
    "named groups": lambda: [{"params": [("a", leaf(2))]}, {"params": [("b", leaf(2))]}],
    "names given beside the parameters": lambda: [{"params": [leaf(2)], "param_names": ["a"]}],
    "one name twice": lambda: [("a", leaf(2)), ("a", leaf(2))],
    "a group without parameters": lambda: [{"params": []}],
    "a group with unknown options": lambda: [{"params": [leaf(2)], "color": "red"}],
    "a group with invalid options": lambda: [{"params": [leaf(2)], "lr": -1.0}],
    "a tensor": lambda: leaf(2),
    "nothing": list,
    "None": lambda: None,
    "a number": lambda: 3,
    "a string": lambda: "parameters",
    "an empty group": lambda: [{}],
    "numbers": lambda: [1.5],
    "None in a list": lambda: [leaf(2), None],
    "lists": lambda: [[leaf(2)]],
    "no leaf": lambda: [leaf(2) * 2],
    "no leaf in a group": lambda: [{"params": leaf(2) * 2}],
    "a tensor after a group": lambda: [{"params": leaf(2)}, leaf(2)],
    "a group after a tensor": lambda: [leaf(2), {"params": leaf(2)}],
    "a set in a group": lambda: [{"params": {leaf(2)}}],
    "a number as group's parameters": lambda: [{"params": 3}],
    "a parameter in two groups": lambda: [{"params": p} for p in [leaf(2)] * 2],
    "only some with names": lambda: [("a", leaf(2)), leaf(2)],
    "only some groups with names": lambda: [{"params": [("a", leaf(2))]}, {"params": leaf(2)}],
    "only some groups without names": lambda: [{"params": leaf(2)}, {"params": [("a", leaf(2))]}],
    "a name without a parameter": lambda: [("a",)],
    "a parameter before its name": lambda: [(leaf(2), "a")],
    "not even options": lambda: [{"lr": 0.1}],
}


@pytest.mark.parametrize("given", PARAMS)
@pytest.mark.parametrize("options", [{}, {"differentiable": True}], ids=["", "differentiable"])
@names
def test_parameters_are_taken_or_refused_as_in_torch(
    name: str, given: str, options: Options
) -> None:
    outcomes = []
    for library in LIBRARIES:
        try:
            optimizer = getattr(library, name)(PARAMS[given](), **options)
        except Exception as error:  # noqa: BLE001 - which errors are raised is what is compared
            outcomes.append({"raised": type(error), "message": str(error)})
        else:
            params = [param for group in optimizer.param_groups for param in group["params"]]
            outcomes.append({"printed": repr(optimizer), **snapshot(optimizer, params)})
    assert_equal(*outcomes)


@names
def test_a_set_of_parameters_is_taken_with_torchs_warning(name: str) -> None:
    given = []
    for library in LIBRARIES:
        with all_warnings() as caught:
            getattr(library, name)({leaf(2)})
        given.append([(warning.category, str(warning.message)) for warning in caught])
    assert given[0] == given[1]


@names
def test_a_repeated_parameter_gets_torchs_warning(name: str) -> None:
    given = []
    for library in LIBRARIES:
        param = leaf(2)
        with all_warnings() as caught:
            getattr(library, name)([param, param])
        (warning,) = caught
        given.append((warning.category, str(warning.message), warning.filename, warning.lineno))
    assert given[0] == given[1]


@names
def test_the_list_of_parameters_is_the_optimizers_own(name: str) -> None:
    params = [leaf(2)]
    optimizer = getattr(optimlab, name)(params)
    params.append(leaf(2))
    assert len(optimizer.param_groups[0]["params"]) == 1


@names
def test_two_optimizers_made_from_one_dict_do_not_share_their_learning_rate(name: str) -> None:
    group = {"params": [leaf(2)]}
    first, second = (getattr(optimlab, name)([group], lr=lr) for lr in (0.5, 0.25))
    assert list(group) == ["params"]
    assert first.param_groups[0] is not second.param_groups[0]
    assert [o.param_groups[0]["lr"] for o in (first, second)] == [0.5, 0.25]


def test_a_hyperparameter_may_be_required_of_every_group() -> None:
    defaults = {"lr": required}
    errors = [
        raised(partial(base, [{"params": leaf(2)}], defaults))
        for base in (optimlab.Optimizer, torch.optim.Optimizer)
    ]
    assert errors[0] == errors[1]
    assert errors[0] is not None
    assert errors[0][0] is ValueError


# Subclasses that users write.


def with_state_of_its_own(side: Side) -> Any:
    """Make a subclass whose step logs and calls torch's, and which completes old checkpoints."""
    base: Any = side.optimizer_class

    class Logged(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.log: list[str] = []
            super().__init__(*arguments, **options)

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            self.log.append("before")
            loss = super().step(closure)
            self.log.append("after")
            return loss

        def __setstate__(self, state: Options) -> None:
            super().__setstate__(state)
            self.log = [*getattr(self, "log", []), "set"]
            for group in self.param_groups:
                group.setdefault("color", "red")

    return Logged


@names
def test_a_subclass_may_override_step_and_setstate(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    for side in pair.sides:
        side.optimizer = with_state_of_its_own(side)(pair.groups(side), **clone(pair.options))
    assert pair.both(lambda side: side.optimizer.step(lambda: 0.25)) == 0.25
    pair.step(2)

    def reload(side: Side) -> Any:
        side.optimizer.load_state_dict(clone(side.optimizer.state_dict()))
        return side.optimizer.log  # type: ignore[attr-defined]

    assert pair.both(reload) == ["before", "after"] * 3 + ["set"]
    assert all(group["color"] == "red" for group in pair.ours.optimizer.param_groups)
    pair.step(2)


@pytest.mark.parametrize("base", [optimlab.Optimizer, optimlab.Rule])
def test_a_base_class_has_no_rule_and_says_so(base: Any) -> None:
    param = leaf(2)
    param.grad = torch.ones(2)
    optimizer = base([param], {"lr": 0.1})
    with pytest.raises(NotImplementedError):
        optimizer.step()
    assert torch.equal(param, torch.ones(2))


class Descent(optimlab.Optimizer):
    """A container with a step of its own, as LBFGS has one."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                held = self.state[param]
                held["seen"] = held.get("seen", torch.zeros(())) + 1
                param.sub_(param.grad, alpha=group["lr"])
        return loss


def test_the_container_carries_an_optimizer_with_a_step_of_its_own() -> None:
    param = leaf(2)
    optimizer = Descent([param])
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param * param).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert param.tolist() == [0.0, 0.0]
    assert calls == ["pre", "post"]
    assert "Optimizer.step#Descent.step" in profiled(lambda: optimizer.step(closure))
    assert list(optimizer.param_groups[0]) == ["params", "lr"]
    again = Descent([leaf(2)], lr=0.25)
    again.load_state_dict(deepcopy(optimizer).state_dict())
    assert_equal(again.state_dict(), optimizer.state_dict())
    optimizer.add_param_group({"params": leaf(3)})
    assert len(optimizer.param_groups) == 2
    assert not isinstance(optimizer, optimlab.Rule)
