"""Checkpoints: what is saved, what loading makes of it, in one library and across both."""

import io
import pickle
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from beside import SMALL, STATEFUL, TENSORS, WAYS, Options, Pair, Side, assert_equal, names, ways
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec


def through_a_file(value: Any) -> Any:
    """Save a checkpoint and load it as one that is not trusted."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def in_mid_run(name: str, **options: Any) -> Pair:
    """Return a pair after three steps, with all the state there can be."""
    pair = Pair(name, **{**STATEFUL[name], **options})
    pair.step(3)
    return pair


def saved_by(side: Side) -> Options:
    """Return a state dict that shares nothing with the optimizer."""
    saved: Options = clone(side.optimizer.state_dict())
    return saved


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors in a nested value."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    held = items if isinstance(value, dict | list | tuple) else ()
    return [tensor for item in held for tensor in tensors_of(item)]


def memory(value: Any) -> set[int]:
    """Return where the tensors in a nested value lie."""
    return {tensor.data_ptr() for tensor in tensors_of(value)}


# Across both libraries. `Pair` compares state dicts, too, with the order of keys and all.


CAPTURABLE = [
    pytest.param(name, {"capturable": True, "foreach": foreach}, id=f"{name}-capturable-{foreach}")
    for name in ("Adam", "AdamW", "RMSprop")
    for foreach in (False, True)
]


@pytest.mark.parametrize("file", [False, True], ids=["copied", "through a file"])
@pytest.mark.parametrize(("name", "way"), [*WAYS, *CAPTURABLE])
def test_each_library_goes_on_from_the_others_checkpoint(
    name: str, way: Options, file: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_graphs_be_captured_on_cpu(monkeypatch)
    pair = in_mid_run(name, **way, device=device)
    saved = {id(side): saved_by(side) for side in pair.sides}
    for side, other in (pair.sides, pair.sides[::-1]):
        side.optimizer = pair.new(side)
        side.optimizer.load_state_dict(
            through_a_file(saved[id(other)]) if file else saved[id(other)]
        )
    pair.compare()
    pair.step(3)


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("copy", [clone, lambda saved: saved], ids=["copied", "its own"])
@ways
def test_a_state_dict_is_loaded_also_its_own_and_without_any_step(
    name: str, way: Options, copy: Callable[[Options], Options], steps_before: int
) -> None:
    pair = Pair(name, **STATEFUL[name], **way)
    pair.step(steps_before)
    pair.both(lambda side: side.optimizer.load_state_dict(copy(side.optimizer.state_dict())))
    pair.step(2)


@names
def test_a_run_goes_on_with_the_checkpoints_hyperparameters_and_implementation(name: str) -> None:
    pair = in_mid_run(name, foreach=True)
    saved = {id(side): saved_by(side) for side in pair.sides}
    pair.options = {"lr": 0.5, "maximize": True, "foreach": False}
    for side, other in (pair.sides, pair.sides[::-1]):
        side.optimizer = pair.new(side)
        side.optimizer.load_state_dict(saved[id(other)])
    pair.compare()
    assert pair.ours.optimizer.defaults["lr"] == 0.5
    assert pair.ours.optimizer.param_groups[0]["foreach"] is True
    pair.step(2)


# What is shared, and with whom.


@names
def test_a_state_dict_shows_live_tensors_in_dicts_of_its_own(name: str) -> None:
    pair = in_mid_run(name)
    optimizer = pair.ours.optimizer
    saved = optimizer.state_dict()
    assert memory(saved["state"]) == memory(dict(optimizer.state))
    before = saved_by(pair.ours)
    for held in saved["state"].values():
        held.clear()
    for group in saved["param_groups"]:
        group["params"].clear()
        group.clear()
    saved["state"].clear()
    assert_equal(optimizer.state_dict(), before)
    pair.step(2)


@ways
def test_loading_copies_every_tensor(name: str, way: Options) -> None:
    pair = in_mid_run(name, lr=torch.tensor(0.1), **{**way, "foreach": False})
    saved = pair.ours.optimizer.state_dict()
    original = saved_by(pair.ours)
    loaded = pair.new(pair.ours)
    loaded.load_state_dict(saved)
    assert not memory(loaded.state_dict()) & memory(saved)
    assert_equal(loaded.state_dict(), saved)
    loaded_before = clone(loaded.state_dict())
    pair.step(2)  # the source goes on, and the one that loaded from it stays
    assert_equal(loaded.state_dict(), loaded_before)
    assert_equal(loaded_before, original)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda value: value.flip(-1),
    "with gaps": lambda value: torch.stack([value, value], -1)[..., 0],
    "expanded": lambda value: value.flatten()[0].expand(value.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loaded_state_lies_in_memory_as_torch_leaves_it(layout: str) -> None:
    pair = Pair("Adam", SMALL)
    pair.step()
    found = []
    for side in pair.sides:
        saved = side.optimizer.state_dict()
        lies = saved["state"][0]["exp_avg"] = LAYOUTS[layout](saved["state"][0]["exp_avg"])
        side.optimizer.load_state_dict(saved)
        loaded = side.optimizer.state[side.params[0]]["exp_avg"]
        found.append((loaded.shape, loaded.stride(), lies.stride()))
    assert found[0] == found[1]
    assert found[0][1] == found[0][2]


@names
def test_loading_does_not_change_what_it_is_given(name: str) -> None:
    pair = in_mid_run(name)
    given = {id(side): saved_by(side) for side in pair.sides}
    for saved in given.values():
        for group in saved["param_groups"]:
            del group["foreach"], group["maximize"]
        for held in saved["state"].values():
            if "step" in held:
                held["step"] = 3
    before = clone(given[id(pair.ours)])
    pair.both(lambda side: side.optimizer.load_state_dict(given[id(side)]))
    assert_equal(given[id(pair.ours)], before)
    pair.step(2)
    assert_equal(given[id(pair.ours)], before)


# Dtypes and devices.


@pytest.mark.parametrize("saved", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@names
def test_state_takes_the_parameters_dtype_as_in_torch(
    name: str, dtype: torch.dtype, saved: torch.dtype
) -> None:
    tensors = (TensorSpec((5,)), TensorSpec((4, 3), group=1))

    def of(dtype: torch.dtype) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(spec.shape, dtype, group=spec.group) for spec in tensors)

    source, pair = Pair(name, of(saved), **STATEFUL[name]), Pair(name, of(dtype), **STATEFUL[name])
    source.step(2)
    checkpoint = source.theirs.optimizer.state_dict()
    pair.both(lambda side: side.optimizer.load_state_dict(clone(checkpoint)))
    if dtype.is_complex == saved.is_complex:
        pair.step(2)


@pytest.mark.parametrize(
    "after", [{}, {"capturable": True}, {"fused": True}], ids=["", "capturable", "fused"]
)
@pytest.mark.parametrize("before", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
def test_the_step_count_keeps_its_dtype_unless_it_is_on_the_device(
    name: str, before: torch.dtype, after: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_graphs_be_captured_on_cpu(monkeypatch)
    pair = in_mid_run(name)

    def load(side: Side) -> None:
        saved = saved_by(side)
        for held in saved["state"].values():
            held["step"] = held["step"].to(before)
        for group in saved["param_groups"]:
            group.update(after)
        side.optimizer.load_state_dict(saved)

    pair.both(load)
    steps = [held["step"] for held in pair.ours.optimizer.state.values()]
    assert {step.dtype for step in steps} == {torch.float32 if after else before}
    if name != "RMSprop" or "fused" not in after:
        pair.step(2)


@pytest.mark.cuda
@ways
def test_state_moves_to_the_parameters_device(name: str, way: Options) -> None:
    checkpoint = in_mid_run(name, **way).theirs.optimizer.state_dict()
    pair = Pair(name, device="cuda", **STATEFUL[name], **way)
    pair.both(lambda side: side.optimizer.load_state_dict(clone(checkpoint)))
    pair.step(3)


# Checkpoints of older versions.


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [3, 3.0])
@ways
def test_numbers_as_step_counts_become_tensors(
    name: str, way: Options, number: float, default: torch.dtype
) -> None:
    pair = in_mid_run(name, **way)

    def load(side: Side) -> None:
        saved = saved_by(side)
        for held in saved["state"].values():
            if "step" in held:
                held["step"] = number
        side.optimizer.load_state_dict(saved)

    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        pair.both(load)
    finally:
        torch.set_default_dtype(before)
    pair.step(2)


@names
def test_every_hyperparameter_but_the_necessary_ones_may_be_missing_as_in_torch(name: str) -> None:
    pair = in_mid_run(name)
    missing = 0
    for option in pair.ours.optimizer.defaults:
        outcomes = []
        for side in pair.sides:
            saved = saved_by(side)
            for group in saved["param_groups"]:
                del group[option]
            fresh = pair.new(side)
            fresh.load_state_dict(saved)
            group = fresh.param_groups[0]
            outcomes.append({key: group[key] for key in group if key != "params"})
        assert_equal(*outcomes)
        missing += option not in outcomes[0]
    assert 0 < missing < len(pair.ours.optimizer.defaults)


@names
def test_an_old_checkpoint_goes_on_to_torchs_bits(name: str) -> None:
    pair = Pair(name, **{k: v for k, v in STATEFUL[name].items() if k not in NEWER})
    pair.step(3)

    def load(side: Side) -> None:
        saved = saved_by(side)
        for group in saved["param_groups"]:
            for option in NEWER:
                group.pop(option, None)
        side.optimizer.load_state_dict(saved)

    pair.both(load)
    pair.step(3)


NEWER = (
    "amsgrad",
    "nesterov",
    "centered",
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
)


# What is refused.


def without(*keys: str) -> Callable[[Options], object]:
    """Take entries out of the state dict."""
    return lambda saved: [saved.pop(key) for key in keys]


def drop_step(saved: Options) -> None:
    """Take the step counts out of all state."""
    for held in saved["state"].values():
        held.pop("step", None)
        held.pop("momentum_buffer", None)
        held["other"] = torch.ones(2)


DAMAGES: dict[str, Callable[[Options], object]] = {
    "one group less": lambda saved: saved["param_groups"].pop(),
    "one group more": lambda saved: saved["param_groups"].append({"params": []}),
    "no groups": lambda saved: saved["param_groups"].clear(),
    "one parameter less": lambda saved: saved["param_groups"][0]["params"].pop(),
    "one parameter more": lambda saved: saved["param_groups"][1]["params"].append(99),
    "a parameter in the other group": lambda saved: saved["param_groups"][1]["params"].append(
        saved["param_groups"][0]["params"].pop()
    ),
    "without its state": without("state"),
    "without its groups": without("param_groups"),
    "empty": without("state", "param_groups"),
    "without parameters": lambda saved: saved["param_groups"][0].pop("params"),
    "None as state": lambda saved: saved.update(state=None),
    "None as groups": lambda saved: saved.update(param_groups=None),
    "a state that cannot be built": lambda saved: saved["state"][0].update(other=range(3)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@names
def test_a_refused_state_dict_leaves_the_optimizer_as_it_was(name: str, damage: str) -> None:
    pair = in_mid_run(name)

    def load(side: Side) -> None:
        saved = saved_by(side)
        DAMAGES[damage](saved)
        side.optimizer.load_state_dict(saved)

    pair.refused(load)
    for side in pair.sides:  # torch may be left half-loaded
        side.optimizer = pair.new(side)
    pair.step(2)


@pytest.mark.parametrize("given", [None, 3, [], "state"], ids=str)
@names
def test_what_is_no_state_dict_is_refused(name: str, given: Any) -> None:
    pair = in_mid_run(name)
    pair.refused(lambda side: side.optimizer.load_state_dict(given))
    pair.step(1)


@pytest.mark.parametrize("damage", ["of SGD", "without step counts"])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
def test_state_without_a_step_count_is_refused_and_nothing_is_loaded(
    name: str, damage: str
) -> None:
    pair = in_mid_run(name)
    foreign = in_mid_run("SGD")

    def load(side: Side) -> None:
        saved = saved_by(foreign.ours if damage == "of SGD" else side)
        if damage != "of SGD":
            drop_step(saved)
        side.optimizer.load_state_dict(saved)

    pair.refused(load)
    before = pair.ours.optimizer
    pair.ours.optimizer.step()
    assert pair.ours.optimizer is before


@names
def test_an_error_in_a_subclass_leaves_the_optimizer_as_it_was(name: str) -> None:
    pair = in_mid_run(name)

    def setstate(self: Any, state: Options) -> None:
        super(type(self), self).__setstate__(state)
        raise ArithmeticError("in a subclass")

    for side in pair.sides:
        failing = type("Failing", (side.optimizer_class,), {"__setstate__": setstate})
        side.optimizer = failing(pair.groups(side), **clone(pair.options))
    pair.step(2)
    pair.refused(lambda side: side.optimizer.load_state_dict(saved_by(side)))


# Names of parameters.


def named(side: Side, prefix: str) -> Any:
    """Make an optimizer whose parameters have names."""
    return side.optimizer_class([(f"{prefix}{i}", p) for i, p in enumerate(side.params)])


def unnamed(side: Side, _: str = "") -> Any:
    """Make an optimizer whose parameters have none."""
    return side.optimizer_class(side.params)


@pytest.mark.parametrize("saving", [named, unnamed])
@pytest.mark.parametrize("loading", [named, unnamed])
@names
def test_names_in_a_checkpoint_win_and_others_stay(
    name: str, saving: Callable[..., Any], loading: Callable[..., Any]
) -> None:
    pair = Pair(name)

    def load(side: Side) -> Any:
        side.optimizer = saving(side, "old")
        saved = saved_by(side)
        side.optimizer = loading(side, "new")
        side.optimizer.load_state_dict(saved)
        return side.optimizer.param_groups[0].get("param_names")

    loaded = pair.both(load)
    expected = "old" if saving is named else "new"
    has_names = named in (saving, loading)
    assert loaded == ([f"{expected}{i}" for i in range(len(TENSORS))] if has_names else None)
    pair.step(2)


# Whatever else is in the state.


@names
def test_state_that_belongs_to_no_parameter_is_kept(name: str) -> None:
    pair = in_mid_run(name)
    extra = {"text": ["a", 1], 77: torch.ones(2, dtype=torch.float64), None: None, "x": {"y": 2}}

    def extend(side: Side) -> None:
        side.optimizer.state.update(clone(extra))

    pair.both(extend)
    assert list(pair.ours.optimizer.state_dict()["state"])[-4:] == list(extra)

    def load(side: Side) -> None:
        saved = saved_by(side)
        side.optimizer = pair.new(side)
        side.optimizer.load_state_dict(saved)

    pair.both(load)
    pair.step(2)


NESTED = {
    "a number": 3,
    "nothing": None,
    "a list": [1, torch.ones(2, dtype=torch.float64)],
    "a tuple": (torch.ones(2, dtype=torch.float64), [2.5]),
    "a dict": {"step": torch.ones(2, dtype=torch.float64), "a": torch.ones(2, dtype=torch.float64)},
    "a deque": deque([1, 2]),
    "a set": {1, 2},
    "bytes": b"ab",
    "a shape": torch.Size([2, 3]),
    "integers": torch.arange(3),
    "a flag": torch.tensor(True),
}


@pytest.mark.parametrize("words", NESTED)
@names
def test_nested_state_is_loaded_as_in_torch(name: str, words: str) -> None:
    pair = in_mid_run(name)

    def load(side: Side) -> None:
        saved = saved_by(side)
        saved["state"][0]["extra"] = clone(NESTED[words])
        side.optimizer.load_state_dict(saved)

    pair.both(load)
    pair.step(2)


@names
def test_text_in_the_state_stays_text(name: str) -> None:
    # torch would make "<generator object ...>" of it.
    pair = in_mid_run(name)
    saved = saved_by(pair.ours)
    saved["state"][0]["extra"] = "text"
    pair.ours.optimizer.load_state_dict(saved)
    assert pair.ours.optimizer.state[pair.ours.params[0]]["extra"] == "text"


# Copies of the object itself.


def duplicated(side: Side, way: str) -> tuple[Any, list[Tensor]]:
    """Copy an optimizer together with its parameters."""
    pair = side.optimizer, side.params
    optimizer, params = deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    return optimizer, params


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle"])
@ways
def test_a_copy_and_its_original_go_on_independently(
    name: str, way: Options, duplicate: str
) -> None:
    pair, other = in_mid_run(name, **way), in_mid_run(name, **way)
    for side, twin in zip(pair.sides, other.sides, strict=True):
        twin.optimizer, twin.params = duplicated(side, duplicate)
        assert type(twin.optimizer) is side.optimizer_class
        assert not memory(twin.optimizer.state_dict()) & memory(side.optimizer.state_dict())
    pair.compare()
    other.compare()
    pair.step(3)  # other than its twin, which stays
    untouched = in_mid_run(name, **way)
    assert_equal(
        [param.detach() for param in other.ours.params],
        [param.detach() for param in untouched.ours.params],
    )
    other.step(3)
    assert_equal(*([param.detach() for param in p.ours.params] for p in (pair, other)))
    other.both(lambda side: side.optimizer.add_param_group({"params": torch.ones(2)}))


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle"])
@names
def test_a_copy_has_torchs_attributes_and_works(name: str, duplicate: str) -> None:
    attributes = []
    for side in in_mid_run(name).sides:
        side.optimizer.register_step_pre_hook(print_nothing)
        side.optimizer.extra = 1  # type: ignore[attr-defined]
        copy, _ = duplicated(side, duplicate)
        attributes.append(sorted(vars(copy)))
        assert not copy._optimizer_step_pre_hooks
        copy.zero_grad()
        copy.step()
    assert attributes[0] == attributes[1]


def print_nothing(*_: Any) -> None:
    """Do nothing, as a hook."""


@names
def test_a_pickle_keeps_a_shared_tensor_lr_shared(name: str) -> None:
    pair = Pair(name, lr=torch.tensor(0.1), tensors=SMALL[:2])
    for side in pair.sides:
        side.optimizer, side.params = duplicated(side, "pickle")
    pair.compare()
    optimizer = pair.ours.optimizer
    assert optimizer.defaults["lr"] is optimizer.param_groups[0]["lr"]
