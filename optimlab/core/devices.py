"""What the installed torch says about its devices and its compiler, in one place.

Which devices have foreach kernels, fused kernels or graph capture depends on the build of torch,
so torch is asked. These are the only private parts of torch that are used besides its operations
and the hook machinery of :class:`torch.optim.Optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.optimizer import (
    _device_dtype_check_for_fused,
    _get_capturable_supported_devices,
)
from torch.utils._foreach_utils import _get_foreach_kernels_supported_devices

outside_compile = torch._disable_dynamo  # type: ignore[attr-defined]
"""Decorator: run the function as it is, also within ``torch.compile``."""

HAS_GRAPHS = bool(torch._C._has_cuda or torch._C._has_xpu)
"""Whether this torch was built for a device on which steps can be captured into a graph."""

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def foreach_by_default(params: Iterable[Tensor], *, differentiable: bool) -> bool:
    """Tell whether ``foreach=None`` means foreach: plain tensors on devices with such kernels.

    ``True`` for no parameters at all, as in torch.
    """
    devices = _get_foreach_kernels_supported_devices()
    return not differentiable and all(
        type(param) in _PLAIN_TYPES and param.device.type in devices for param in params
    )


def check_capturable(pairs: Iterable[tuple[Tensor, Tensor]], *, supports_xla: bool) -> None:
    """Check that parameters and their step counts are where a graph can be captured."""
    if torch.compiler.is_compiling():  # the compiler checks for itself
        return
    devices = _get_capturable_supported_devices(supports_xla=supports_xla)
    for param, step in pairs:
        if not (param.device.type == step.device.type and param.device.type in devices):
            raise AssertionError(
                "If capturable=True, params and state_steps must be on supported devices: "
                f"{devices}."
            )


def check_fused(param: Tensor) -> None:
    """Check that torch's fused kernels take a parameter: floating point, on some devices."""
    _device_dtype_check_for_fused(param)


def step_dtype(*, fused: bool | None = False) -> torch.dtype:
    """Return the dtype of step counts: float32, or float64 where that is the default dtype."""
    if not fused and torch.get_default_dtype() == torch.float64:
        return torch.float64
    return torch.float32
