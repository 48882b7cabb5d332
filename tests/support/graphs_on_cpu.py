"""The arithmetic of `capturable`, on machines without a CUDA device."""

import sys

import pytest

from optimlab.core import devices


def let_graphs_be_captured_on_cpu(patch: pytest.MonkeyPatch) -> None:
    """Let both libraries run their capturable arithmetic on the CPU.

    Nothing but a check stands in its way: the operations exist there too.
    """
    name = "_get_capturable_supported_devices"
    asked = getattr(devices, name)
    for module in (devices, sys.modules["torch.optim.adam"], sys.modules["torch.optim.rmsprop"]):
        patch.setattr(module, name, lambda supports_xla=True: [*asked(supports_xla), "cpu"])
