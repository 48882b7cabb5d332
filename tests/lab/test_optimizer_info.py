"""torch's own table of optimizer configurations and errors, as a second source beside ours."""

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here

import optimlab
from optimlab.lab.parity import Equal, Scenario, TensorSpec, compare

# As it is imported, the table's module forbids assignments to torch's backend flags for the rest of
# the process, and warns where hypothesis is missing, which the table has no use for.
with torch.backends.__allow_nonbracketed_mutation(), warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)
    from torch.testing._internal.common_optimizers import (
        ErrorOptimizerInput,
        OptimizerInfo,
        optim_db,
    )

STEPS = 20
TABLE = [info for info in optim_db if info.name in ("SGD", "Adam", "AdamW", "RMSprop")]
DEVICES = {"cpu": (), "cuda": (pytest.mark.cuda,)}
DTYPES = (torch.float32, torch.float64)
# Each has a gradient at every step: fused SGD refuses momentum that starts later for some.
SHAPES = ((16, 3, 3, 3), (33, 17), (33,), ())


def implementations(info: OptimizerInfo, device: str) -> Iterator[dict[str, bool]]:
    """Yield the flag of each implementation that the table says there is on a device."""
    yield {"foreach": False}
    for flag in info.supported_impls:
        if flag != "fused" or device in info.supports_fused_on:
            yield {flag: True}


def configurations() -> Iterator[Any]:
    """Yield device, entry, keyword arguments and dtype of everything in the table."""
    for device, marks in DEVICES.items():
        for info in TABLE:
            for implementation in implementations(info, device):
                way = "".join(f"{flag}={value}" for flag, value in implementation.items())
                for dtype in DTYPES:
                    for entry in info.optim_inputs_func(device=device, dtype=dtype):
                        kwargs = {**entry.kwargs, **implementation}
                        name = f"{info.name}-{entry.desc}-{way}-{dtype}-{device}"
                        yield pytest.param(device, info, kwargs, dtype, marks=marks, id=name)


@pytest.mark.parametrize(("device", "info", "kwargs", "dtype"), list(configurations()))
def test_every_configuration_of_torchs_table_gives_torchs_bits(
    device: str, info: OptimizerInfo, kwargs: dict[str, Any], dtype: torch.dtype
) -> None:
    scenario = Scenario(
        tensors=tuple(TensorSpec(shape, dtype, group=i % 2) for i, shape in enumerate(SHAPES)),
        steps=STEPS,
        differentiable=kwargs.get("differentiable", False),
        device=device,
    )
    outcome = compare(
        lambda groups: getattr(optimlab, info.name)(groups, **deepcopy(kwargs)),
        lambda groups: getattr(torch.optim, info.name)(groups, **deepcopy(kwargs)),
        scenario,
    )
    # The same error on both sides is equal too, and ends a comparison. The only one here is that of
    # backward(), after all steps, through what amsgrad and centered change in place.
    assert outcome.equal, str(outcome)
    assert outcome.compared.steps == STEPS, str(outcome)
    if isinstance(outcome, Equal):
        assert outcome.changed > 0.9
        assert outcome.finite == 1


def provoke(make: Any, error: ErrorOptimizerInput) -> tuple[type[BaseException], str]:
    """Return the type and message of what an erroneous entry of the table raises or warns."""
    entry = error.optimizer_error_input
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error.error_type) as caught:
            # Nothing after the first error runs: a step is taken only if construction succeeds.
            make(entry.params, **deepcopy(entry.kwargs)).step()
    return caught.type, str(caught.value)


@pytest.mark.parametrize("device", [pytest.param(d, marks=m) for d, m in DEVICES.items()])
@pytest.mark.parametrize("info", TABLE, ids=lambda info: info.name)
def test_every_error_of_torchs_table_has_torchs_type_and_message(
    device: str, info: OptimizerInfo
) -> None:
    errors = info.optim_error_inputs_func(device=device, dtype=torch.float32)
    ours = [provoke(getattr(optimlab, info.name), error) for error in errors]
    theirs = [provoke(getattr(torch.optim, info.name), error) for error in errors]
    assert ours == theirs
