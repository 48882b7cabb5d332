"""The comparer notices what it is there to notice, down to one flipped bit.

A parity test is worth what its comparison is worth: here optimizers that are wrong on purpose, in
one place and as little as possible, stand in for ours, and that place has to be named.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from optimlab.lab.compare.bits import (
    compare_floats,
    named_distances,
    tensor_distance,
    total_distance,
)
from optimlab.lab.compare.integers import as_integers, ordered
from optimlab.lab.parity import (
    Difference,
    Equal,
    EqualError,
    NothingCompared,
    Scenario,
    TensorSpec,
    compare,
    compare_tensors,
)

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)

Change = Callable[[torch.optim.Optimizer], object]


def adam_that_changes(change: Change, at: int = 3, **options: Any) -> Callable[[Any], Any]:
    """Makes torch's Adam, which after its step number `at` changes one thing about itself."""

    class Changing(torch.optim.Adam):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            self.steps += 1
            if self.steps == at:
                change(self)
            return loss

    return partial(Changing, **options)


def against_adam(change: Change, **options: Any) -> Difference:
    """Compares torch's Adam with one that changes one thing after its third step."""
    outcome = compare(adam_that_changes(change, **options), partial(torch.optim.Adam, **options))
    assert isinstance(outcome, Difference), outcome
    assert (outcome.step, outcome.during) == (3, "step()")
    assert not outcome.equal
    return outcome


def flip_lowest_bit(tensor: Tensor, *index: int) -> None:
    """Flips a bit of the element at an index, by default of the first."""
    integers = as_integers(tensor)
    integers[index or (0,) * integers.dim()] ^= 1


def first_param(optimizer: torch.optim.Optimizer) -> Tensor:
    param = optimizer.param_groups[0]["params"][0]
    assert isinstance(param, Tensor)
    return param


def first_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state[first_param(optimizer)]
    assert isinstance(state, dict)
    return state


def flip_in_parameter(optimizer: torch.optim.Optimizer) -> None:
    flip_lowest_bit(optimizer.param_groups[0]["params"][2].data, 2, 6)


def flip_in_group(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[1]["lr"] = math.nextafter(optimizer.param_groups[1]["lr"], 1)


def flip_in_state(key: str) -> Change:
    return lambda optimizer: flip_lowest_bit(first_state(optimizer)[key])


FLIPPED: list[tuple[Change, tuple[Any, ...], str]] = [
    (flip_in_parameter, ("parameters", 2), "parameter 2: element [2, 6]"),
    (flip_in_state("step"), ("state", 0, "step"), "state 'step' of parameter 0"),
    (flip_in_state("exp_avg"), ("state", 0, "exp_avg"), "state 'exp_avg' of parameter 0"),
    (flip_in_state("exp_avg_sq"), ("state", 0, "exp_avg_sq"), "state 'exp_avg_sq' of parameter 0"),
    (flip_in_group, ("param_groups", 1, "lr"), "param_groups[1]['lr']"),
]


@pytest.mark.parametrize(("change", "path", "words"), FLIPPED)
def test_one_flipped_bit_is_noticed(change: Change, path: tuple[Any, ...], words: str) -> None:
    found = against_adam(change)
    assert (found.path, found.mismatch.ulps, found.mismatch.what) == (path, 1, "bits")
    assert words in str(found)


def test_one_flipped_bit_is_counted_among_all_elements() -> None:
    found = against_adam(flip_in_parameter)
    distance = found.mismatch.distance
    assert distance is not None
    assert (distance.differing, distance.elements, distance.max_ulps) == (1, 561, 1)
    assert "1 of 561 elements differ (0.18 %), at most 1 ulp" in str(found)


def with_tensor_lr(optimizer: Callable[..., Any], params: Any) -> Any:
    """Makes a new tensor for each side: copied by `lr.clone()`, as a user's own two would."""
    return optimizer(params, lr=torch.tensor(0.01))


def test_one_flipped_bit_in_a_tensor_of_a_group_is_noticed() -> None:
    changing = adam_that_changes(lambda each: flip_lowest_bit(each.param_groups[0]["lr"]))
    adam = partial(with_tensor_lr, torch.optim.Adam)
    outcome = compare(partial(with_tensor_lr, changing), adam)
    assert isinstance(outcome, Difference)
    assert outcome.path == ("param_groups", 0, "lr")
    assert outcome.mismatch.ulps == 1


def reverse_keys(entries: Any) -> None:
    items = list(entries.items())
    entries.clear()
    entries.update(reversed(items))


def swap_two_parameters(optimizer: torch.optim.Optimizer) -> None:
    params = optimizer.param_groups[0]["params"]
    params[0], params[1] = params[1], params[0]


def replaced(key: str, change: Callable[[Tensor], object]) -> Change:
    def apply(optimizer: torch.optim.Optimizer) -> None:
        state = first_state(optimizer)
        state[key] = change(state[key])

    return apply


FIRST_STATE, AVERAGE = ("state", 0), ("state", 0, "exp_avg")
CHANGED: list[tuple[Change, tuple[Any, ...], str]] = [
    (lambda each: first_state(each).pop("exp_avg"), FIRST_STATE, "keys"),
    (lambda each: reverse_keys(first_state(each)), FIRST_STATE, "order of keys"),
    (lambda each: reverse_keys(each.state), ("state",), "order of keys"),
    (lambda each: reverse_keys(each.param_groups[0]), ("param_groups", 0), "order of keys"),
    (lambda each: each.param_groups[0].update(invented=1), ("param_groups", 0), "keys"),
    (swap_two_parameters, ("param_groups", 0, "params", 0), "value"),
    (lambda each: each.defaults.update(eps=1e-7), ("defaults", "eps"), "bits"),
    (replaced("step", int), ("state", 0, "step"), "type"),
    (replaced("exp_avg", lambda t: t.contiguous()), AVERAGE, "stride"),
    (replaced("exp_avg", lambda t: t.double()), AVERAGE, "dtype"),
    (replaced("exp_avg", lambda t: t.flatten()), AVERAGE, "shape"),
    (replaced("exp_avg", lambda t: t.to("meta")), AVERAGE, "device"),
    (replaced("exp_avg", lambda t: t.to_sparse()), AVERAGE, "layout"),
    (replaced("exp_avg", torch.nn.Parameter), AVERAGE, "type"),
    (replaced("exp_avg", lambda t: t.clone().requires_grad_()), AVERAGE, "requires_grad"),
]


@pytest.mark.parametrize(("change", "path", "what"), CHANGED)
def test_every_other_property_is_noticed(change: Change, path: tuple[Any, ...], what: str) -> None:
    found = against_adam(change)
    assert (found.path, found.mismatch.what) == (path, what)
    assert str(found)


def test_a_state_dict_that_packs_otherwise_is_noticed() -> None:
    class Packing(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            packed = super().state_dict()
            packed["param_groups"][0]["params"].reverse()
            return packed

    outcome = compare(Packing, torch.optim.SGD)
    assert isinstance(outcome, Difference)
    assert outcome.step == 0
    assert outcome.path == ("state_dict", "param_groups", 0, "params", 0)


def test_a_tensor_lr_that_groups_no_longer_share_is_noticed() -> None:
    class Copying(torch.optim.SGD):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            super().add_param_group(param_group)
            param_group["lr"] = param_group["lr"].clone()

    sgd = partial(with_tensor_lr, torch.optim.SGD)
    outcome = compare(partial(with_tensor_lr, Copying), sgd)
    assert isinstance(outcome, Difference)
    assert outcome.path[0] == "shared tensors"


def test_writing_into_the_gradient_is_noticed() -> None:
    # torch's own foreach implementation does, so it is not equal to itself.
    make = partial(torch.optim.SGD, momentum=0.9, nesterov=True, foreach=True)
    outcome = compare(make, make)
    assert isinstance(outcome, Difference)
    assert outcome.where == "gradient of parameter 0"


def test_a_derivative_that_is_lost_is_noticed() -> None:
    class Detaching(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for param in self.param_groups[0]["params"]:
                param.grad = None if param.grad is None else param.grad.detach()
            return super().step(closure)

    scenario = Scenario(differentiable=True)
    make = partial(torch.optim.SGD, differentiable=True)
    assert compare(make, make, scenario).equal
    outcome = compare(partial(Detaching, differentiable=True), make, scenario)
    assert isinstance(outcome, Difference)
    assert outcome.path[0] in {"backward", "gradients"}


@pytest.mark.parametrize("resume", ["from own checkpoint", "from the other's checkpoint"])
def test_state_that_is_lost_in_loading_is_noticed(resume: Any) -> None:
    class Forgetting(torch.optim.SGD):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            first_state(self)["momentum_buffer"].zero_()

    scenario = Scenario(resume=resume)
    make = partial(torch.optim.SGD, momentum=0.9)
    assert compare(make, make, scenario).equal
    outcome = compare(partial(Forgetting, momentum=0.9), make, scenario)
    assert isinstance(outcome, Difference)
    assert (outcome.step, outcome.during) == (scenario.resumed_at, "load_state_dict()")
    assert outcome.path == ("state", 0, "momentum_buffer")


def fail_with(raised: Exception) -> Change:
    def fail(_: torch.optim.Optimizer) -> None:
        raise raised

    return fail


def test_an_error_on_one_side_only_is_noticed() -> None:
    failing = adam_that_changes(fail_with(RuntimeError("only here")))
    for outcome in (compare(failing, torch.optim.Adam), compare(torch.optim.Adam, failing)):
        assert isinstance(outcome, Difference)
        assert (outcome.step, outcome.mismatch.what) == (3, "raised")
        assert "RuntimeError: only here" in str(outcome)


@pytest.mark.parametrize(
    ("error", "equal"),
    [(ValueError("lr"), True), (ValueError("other"), False), (TypeError("lr"), False)],
)
def test_errors_are_equal_if_type_and_message_and_moment_are(error: Exception, equal: bool) -> None:
    ours = adam_that_changes(fail_with(ValueError("lr")))
    outcome = compare(ours, adam_that_changes(fail_with(error)))
    assert outcome.equal is equal
    if isinstance(outcome, EqualError):
        assert (outcome.step, outcome.during, outcome.compared.steps) == (3, "step()", 2)
        assert outcome.error == "ValueError: lr"
    later = compare(ours, adam_that_changes(fail_with(error), at=4))
    assert isinstance(later, Difference)


def test_a_refused_option_is_an_equal_error_with_nothing_compared() -> None:
    outcome = compare(partial(torch.optim.SGD, lr=-1.0), partial(torch.optim.SGD, lr=-1.0))
    assert isinstance(outcome, EqualError)
    assert (outcome.step, outcome.during, outcome.compared.steps) == (0, "construction", 0)
    assert str(outcome) == (
        "equal error in construction, step 0: ValueError: Invalid learning rate: -1.0"
    )


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(steps=0),
        Scenario(tensors=()),
        Scenario(tensors=(TensorSpec((0,)), TensorSpec((3, 0), group=1))),
    ],
    ids=["no steps", "no tensors", "no elements"],
)
def test_comparing_nothing_is_an_error(scenario: Scenario) -> None:
    with pytest.raises(NothingCompared):
        compare(torch.optim.SGD, torch.optim.SGD, scenario)


def test_comparing_a_tensor_with_itself_is_an_error() -> None:
    shared = torch.tensor(0.1)
    make = partial(torch.optim.SGD, lr=shared)
    with pytest.raises(NothingCompared, match=r"same tensor: param_groups\[0\]\['lr'\]"):
        compare(make, make)


def test_a_warning_that_is_an_error_elsewhere_hides_nothing() -> None:
    class Warning(torch.optim.SGD):  # noqa: A001 - as in warnings.warn
        def step(self, closure: Any = None) -> Any:
            import warnings

            warnings.warn("loud", UserWarning, stacklevel=1)
            return super().step(closure)

    outcome = compare(Warning, Warning)
    assert isinstance(outcome, Equal)
    assert outcome.compared.steps == 20


def test_ignored_hyperparameters_are_not_compared_but_all_else_is() -> None:
    loop, lists = partial(torch.optim.SGD, foreach=False), partial(torch.optim.SGD, foreach=True)
    assert not compare(loop, lists).equal
    assert compare(loop, lists, ignored=("foreach", "fused")).equal
    assert not compare(loop, partial(lists, lr=0.1), ignored=("foreach", "fused")).equal


def test_the_answer_says_where_the_first_difference_leads() -> None:
    outcome = compare(partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.2))
    assert isinstance(outcome, Difference)
    assert outcome.final is not None
    assert outcome.final.share > 0.5
    assert "after the last step, of all parameters" in str(outcome)


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("index", [0, 4, 9])
def test_every_single_bit_of_an_element_counts(dtype: torch.dtype, index: int) -> None:
    theirs = torch.linspace(0.5, 2, 10, dtype=dtype)
    for bit in range(8 * theirs.element_size()):
        ours = theirs.clone()
        integers = as_integers(ours)
        integers[index] = int(integers[index]) ^ torch.tensor(1, dtype=integers.dtype) << bit
        mismatch = compare_tensors(ours, theirs)
        assert mismatch is not None
        assert mismatch.element == (index,)
        if bit < 7:
            assert mismatch.ulps == 2**bit


@pytest.mark.parametrize("dtype", [*FLOATING, *COMPLEX])
def test_nan_equals_nan_and_negative_zero_is_one_ulp_from_zero(dtype: torch.dtype) -> None:
    imaginary = complex(0, math.nan) if dtype.is_complex else 0
    nan = torch.full((3,), math.nan + imaginary, dtype=dtype)
    other_nan = nan.clone()
    as_integers(other_nan).bitwise_xor_(1)  # another payload
    assert compare_tensors(nan, other_nan) is None
    zeros = torch.zeros(3, dtype=dtype)
    mismatch = compare_tensors(zeros, -zeros)
    assert mismatch is not None
    assert mismatch.ulps == 1
    assert compare_tensors(nan, zeros) is not None


def test_nan_on_one_side_is_counted_by_itself() -> None:
    ours, theirs = torch.tensor([1.0, math.nan, 2.0]), torch.tensor([1.0, 1.0, 1.0])
    distance = tensor_distance(ours, theirs)
    assert (distance.differing, distance.one_sided_nan) == (2, 1)
    assert distance.max_ulps == 2**23
    mismatch = compare_tensors(ours, theirs)
    assert mismatch is not None
    assert (mismatch.element, mismatch.ulps) == ((1,), None)


@pytest.mark.parametrize("dtype", FLOATING)
def test_ulps_count_the_numbers_between(dtype: torch.dtype) -> None:
    infinity = torch.tensor(math.inf, dtype=dtype)
    tiny = torch.tensor(0.0, dtype=dtype)
    as_integers(tiny).add_(1)
    zero = torch.tensor(0.0, dtype=dtype)
    ends = torch.stack([-infinity, -tiny, -zero, zero, tiny, infinity])
    steps = ordered(as_integers(ends)).diff().tolist()
    largest = int(as_integers(infinity))
    assert [step % 2**64 for step in steps] == [largest - 1, 1, 1, 1, largest - 1]
    distance = tensor_distance(infinity, -infinity)
    assert distance.max_ulps == 2 * largest + 1
    assert sum(distance.histogram) == 1


def test_the_histogram_counts_distances_by_powers_of_two() -> None:
    theirs = torch.ones(6)
    ours = as_integers(theirs.clone()).add(torch.tensor([0, 1, 2, 3, 4, 1000], dtype=torch.int32))
    distance = tensor_distance(ours.view(torch.float32), theirs)
    assert distance.histogram == (1, 2, 1, 0, 0, 0, 0, 0, 0, 1)
    assert (distance + distance).histogram == (2, 4, 2, 0, 0, 0, 0, 0, 0, 2)
    assert (distance + distance).differing == 10


def test_complex_numbers_are_compared_part_by_part_and_counted_whole() -> None:
    theirs = torch.complex(torch.ones(2, 3), torch.ones(2, 3))
    ours = theirs.clone()
    flip_lowest_bit(torch.view_as_real(ours), 1, 0, 1)
    mismatch = compare_tensors(ours, theirs)
    assert mismatch is not None
    assert (mismatch.element, mismatch.ulps) == ((1, 0), 1)
    assert mismatch.distance is not None
    assert (mismatch.distance.differing, mismatch.distance.elements) == (1, 6)
    assert compare_tensors(theirs.conj(), theirs.conj().resolve_conj()) is None


STRIDED = torch.arange(24.0).view(4, 6).t()[::2]
ZEROS = [torch.zeros(1, 4, dtype=dtype) for dtype in (torch.int64, torch.uint8, torch.bool)]


@pytest.mark.parametrize(
    ("theirs", "ulps"), [(STRIDED, 33 * 2**20), *((each, None) for each in ZEROS)]
)
def test_elements_are_found_whatever_the_strides_and_without_ulps_of_integers(
    theirs: Tensor, ulps: int | None
) -> None:
    ours, theirs = deepcopy(theirs), deepcopy(theirs)
    assert compare_tensors(ours, theirs) is None
    ours[0, 3] = 1
    mismatch = compare_tensors(ours, theirs)
    assert mismatch is not None
    assert (mismatch.element, mismatch.ours, mismatch.ulps) == ((0, 3), 1, ulps)


def test_sparse_tensors_are_compared_by_indices_values_and_coalescence() -> None:
    indices, values = torch.tensor([[0, 2]]), torch.tensor([1.0, 2.0])

    def sparse(indices: Tensor = indices, values: Tensor = values) -> Tensor:
        return torch.sparse_coo_tensor(indices, values, (4,), check_invariants=False)

    assert compare_tensors(sparse(), sparse()) is None
    for other, what, part in (
        (sparse(values=values + 1), "bits", "values"),
        (sparse(indices=indices + 1), "bits", "indices"),
        (sparse(torch.tensor([[0, 2, 2]]), torch.ones(3)), "shape", "indices"),
        (sparse().coalesce(), "is_coalesced", ""),
    ):
        mismatch = compare_tensors(sparse(), other)
        assert mismatch is not None
        assert (mismatch.what, mismatch.part) == (what, part)


@pytest.mark.parametrize(
    ("ours", "theirs", "ulps"),
    [
        (0.1, 0.1, 0),
        (0.0, -0.0, 1),
        (1.0, 1 + 2**-52, 1),
        (1.0, 2.0, 2**52),
        (math.nan, -math.nan, 0),
        (math.nan, 1.0, None),
    ],
)
def test_python_floats_are_compared_by_their_bits(ours: float, theirs: float, ulps: int) -> None:
    mismatch = compare_floats(ours, theirs)
    assert (mismatch.ulps if mismatch else 0) == ulps


@pytest.mark.parametrize(
    ("theirs", "differing"),
    [
        ({"a": torch.ones(3), "b": torch.zeros(2)}, {}),
        ({"a": torch.ones(3), "b": torch.tensor([0.0, -0.0])}, {"b": 1}),
        ({"a": torch.ones(3).nextafter(torch.zeros(3)), "b": torch.zeros(2)}, {"a": 3}),
        ({"a": torch.ones(3)}, {"b": 2}),
        ({"a": torch.ones(3), "b": torch.zeros(2), "c": torch.zeros(7)}, {"c": 7}),
        ({"a": torch.ones(3, dtype=torch.float64), "b": torch.zeros(2)}, {"a": 3}),
        ({"a": torch.ones(4), "b": torch.zeros(2)}, {"a": 4}),
    ],
    ids=["equal", "minus zero", "1 ulp", "missing", "surplus", "dtype", "shape"],
)
@pytest.mark.parametrize("ulps", [False, True])
def test_the_elements_of_named_tensors_that_differ_are_counted(
    theirs: dict[str, Tensor], differing: dict[str, int], ulps: bool
) -> None:
    ours = {"a": torch.ones(3), "b": torch.zeros(2)}
    found = named_distances(ours, theirs, ulps=ulps)
    assert {name: each.differing for name, each in found.items() if each.differing} == differing
    assert total_distance(ours, theirs, ulps=ulps).differing == sum(differing.values())
