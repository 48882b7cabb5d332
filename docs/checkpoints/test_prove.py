"""The run of the page resumes to the bit, and what it leaves out is named."""

import prove
import pytest


def test_the_whole_run_is_proved_and_the_missing_generator_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run the script of the page."""
    assert prove.main() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("proved: 3 steps")
    assert "not restored: random numbers: torch's CPU generator" in printed
