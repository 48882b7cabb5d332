"""The command line around the commands, and the command that continuous integration runs."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import optimlab
from optimlab import __main__ as command_line

ROOT = Path(__file__).parents[2]
COMMANDS = tuple(command_line.COMMANDS)
OPTIONAL_PACKAGES = command_line.OPTIONAL_PACKAGES


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], int]:
    """Runs a function as the only command, `optimlab probe`."""

    def run_as_command(function: Callable[[], int]) -> int:
        monkeypatch.setitem(sys.modules, "optimlab.cli.probe", probe_module(function))
        monkeypatch.setattr(command_line, "COMMANDS", {"probe": "probing"})
        return command_line.main(["probe"])

    return run_as_command


def probe_module(function: Callable[[], int]) -> ModuleType:
    def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        subparsers.add_parser("probe").set_defaults(run=lambda _: function())

    module = ModuleType("optimlab.cli.probe")
    module.add_parser = add_parser  # type: ignore[attr-defined]
    return module


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


HELP_WITHOUT_OPTIONAL_PACKAGES = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL_PACKAGES!r}))  # none of them can be imported
from optimlab.__main__ import main
for arguments in {[[], *([command] for command in COMMANDS)]}:
    try:
        main([*arguments, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, arguments
    else:
        raise AssertionError(arguments)
"""


def test_python_m_optimlab_prints_the_version_of_the_package() -> None:
    finished = run_python("-m", "optimlab", "--version")
    assert (finished.returncode, finished.stdout) == (0, f"optimlab {optimlab.__version__}\n")


def test_no_command_prints_help_that_names_every_command_and_exits_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main([]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: optimlab")
    for command in COMMANDS:
        assert f"\n    {command} " in printed


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"]])
def test_misuse_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        command_line.main(arguments)
    assert "usage: optimlab" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_gives_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        command_line.main([command, "--help"])
    printed = capsys.readouterr().out
    assert "example" in printed.lower()
    assert f"optimlab {command} -" in printed.partition("xample")[2]


def test_help_needs_none_of_the_optional_packages() -> None:
    finished = run_python("-c", HELP_WITHOUT_OPTIONAL_PACKAGES)
    assert (finished.returncode, finished.stderr) == (0, "")
    for command in COMMANDS:
        assert f"usage: optimlab {command} " in finished.stdout


def test_the_status_of_a_command_is_the_exit_status(
    probe: Callable[[Callable[[], int]], int],
) -> None:
    assert [probe(partial(int, status)) for status in (0, 1, 2)] == [0, 1, 2]


@pytest.mark.parametrize("package", OPTIONAL_PACKAGES)
def test_a_missing_optional_package_exits_2_and_names_its_extra(
    package: str,
    probe: Callable[[Callable[[], int]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert probe(lambda: bool(__import__(package))) == 2
    assert 'pip install "optimlab[probing]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("crash", "error"),
    [
        (lambda: bool(__import__("no_such_module")), "ModuleNotFoundError: No module"),
        (lambda: 1 // 0, "ZeroDivisionError: "),
    ],
)
def test_an_unexpected_error_prints_its_traceback_and_is_not_taken_for_a_difference(
    crash: Callable[[], int],
    error: str,
    probe: Callable[[Callable[[], int]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert probe(crash) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback ")
    assert error in printed


def test_continuous_integration_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert len(commands) == 1
    assert commands[0].endswith("nox -s tests")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert commands[0] in [line.strip() for line in readme]


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "--optimizer", "adagrad"),
        ("bench", "--workload", "vgg"),
        ("bench", "--repeats", "0"),
        ("bench", "--threads", "-1"),
        ("bench", "--device", "tpu"),
        ("demo", "--epochs", "0"),
        ("demo", "--batch-size", "-1"),
        ("demo", "--optimizers", "rmsprop"),
        ("demo", "--device", "tpu"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_end_with_status_2(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ending:
        command_line.main(arguments)
    assert ending.value.code == 2
