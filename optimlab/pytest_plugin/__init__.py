"""A pytest plugin: the fixture ``optimizer_parity``, which asserts that two optimizers are one.

::

    def test_my_adam_is_adam(optimizer_parity):
        optimizer_parity(MyAdam, torch.optim.Adam)

It is installed as ``pytest_optimlab``, beside the package, and imports nothing that takes time,
because pytest loads it in every run wherever optimlab is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from optimlab.parity import ParityResult


@pytest.fixture(scope="session")
def optimizer_parity() -> Callable[..., ParityResult]:
    """Compare an optimizer with another, bit for bit, and fail with the report unless it is equal.

    Takes the arguments of optimlab.parity.check and returns its result. A comparison of nothing is
    an error.
    """

    def assert_parity(*args: object, **options: object) -> ParityResult:
        __tracebackhide__ = True
        from optimlab.parity import check

        result: ParityResult = check(*args, **options)  # type: ignore[arg-type]
        result.require()
        return result

    return assert_parity
