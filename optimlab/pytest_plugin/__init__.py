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

    from optimlab.parity import Verdict


@pytest.fixture(scope="session")
def optimizer_parity() -> Callable[..., Verdict]:
    """Compare an optimizer with another, bit for bit, and fail with the report unless it is equal.

    Takes the arguments of optimlab.parity.check and returns its verdict. A comparison of nothing is
    an error.
    """

    def assert_parity(*args: object, **options: object) -> Verdict:
        __tracebackhide__ = True
        from optimlab.parity import check

        verdict: Verdict = check(*args, **options)  # type: ignore[arg-type]
        verdict.require()
        return verdict

    return assert_parity
