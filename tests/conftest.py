"""What all tests share: the devices they run on."""

import pytest
import torch

# It has no examples to run, and docs/ has a module of the same name.
collect_ignore = ["conftest.py"]


DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device type in turn."""
    return torch.device(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no CUDA device, and say so."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
