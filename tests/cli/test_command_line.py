"""The command line around the commands, and the command that continuous integration runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
import torch

import optimlab
from optimlab import cli
from optimlab.cli import COMMANDS, common, main

ROOT = Path(__file__).parents[2]

HELP = f"""
import sys
from optimlab.cli import main
for arguments in {[[], *([command] for command in COMMANDS)]}:
    assert main([*arguments, "--help"]) == 0
assert not {{"torch", "numpy", "rich", *{[*common.EXTRAS]}}} & set(sys.modules)
"""


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a function as the only command, `optimlab probe WORD...`."""

    def run_as_command(function: Callable[..., object], *words: str) -> int:
        module = ModuleType("optimlab.cli.probe")
        command = common.command("probes", "Probes.", "optimlab probe")(function)
        module.probe = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, "COMMANDS", ("probe",))
        return main(["probe", *words])

    return run_as_command


def test_python_m_optimlab_prints_the_version_of_the_package() -> None:
    finished = run_python("-m", "optimlab", "--version")
    assert (finished.returncode, finished.stdout) == (0, f"optimlab {optimlab.__version__}\n")


def test_no_command_prints_help_that_names_every_command_and_exits_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Usage: optimlab")
    for command in COMMANDS:
        assert f"\n  {command} " in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_gives_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert f"optimlab {command} -" in capsys.readouterr().out.partition("Example:")[2]


def test_help_imports_neither_torch_nor_rich_nor_what_is_optional() -> None:
    finished = run_python("-c", HELP)
    assert (finished.returncode, finished.stderr) == (0, "")
    for command in COMMANDS:
        assert f"Usage: optimlab {command} " in finished.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("optimlab pa", "parity"),
        ("optimlab bench --wo", "--workload"),
        ("optimlab bench --workload tin", "tiny"),
        ("optimlab parity --device cu", "cuda"),
    ],
)
def test_the_shell_completes_commands_options_and_values(words: str, completed: str) -> None:
    place = str(len(words.split()) - 1)
    finished = run_python(
        "-m", "optimlab", _OPTIMLAB_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place
    )
    assert finished.stdout.split(",") == ["plain", f"{completed}\n"], finished.stderr


def test_the_status_of_a_command_is_the_exit_status(probe: Callable[..., int]) -> None:
    statuses = iter((0, 1, 2))
    assert [probe(lambda: next(statuses)) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(("package", "extra"), common.EXTRAS.items())
def test_a_missing_optional_package_exits_2_and_names_its_extra(
    package: str,
    extra: str,
    probe: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert probe(lambda: __import__(package)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"optimlab probe needs the package {package}")
    assert f'pip install "optimlab[{extra}]"' in said


@pytest.mark.parametrize(
    ("crash", "error"),
    [
        (lambda: __import__("no_such_module"), "ModuleNotFoundError: No module"),
        (lambda: 1 // 0, "ZeroDivisionError: "),
        (lambda: pickle.loads(b""), "EOFError: "),  # which is no end of what a user types
    ],
)
def test_an_unexpected_error_prints_its_traceback_and_is_not_taken_for_a_difference(
    crash: Callable[[], object],
    error: str,
    probe: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert probe(crash) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback ")
    assert error in printed


def test_an_interruption_is_no_answer(probe: Callable[..., int]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(interrupt)


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("", ()),
        ("--word a", ("a",)),
        ("--word a b --flag", ("a", "b")),
        ("--word a --word b c -- --word", ("a", "b", "c")),
        ("--flag --word=a", ("a",)),
    ],
)
def test_an_option_of_several_words_takes_all_up_to_the_next_option(
    words: str, read: tuple[str, ...], probe: Callable[..., int]
) -> None:
    seen = []

    @common.words("--word", "words")
    @click.option("--flag", is_flag=True)
    @click.argument("rest", required=False)
    def command(word: tuple[str, ...], **_: object) -> int:
        seen.append(word)
        return 0

    assert probe(command, *words.split()) == 0
    assert seen == [read]


MISUSES = (
    "no-such-command",
    "--no-such-option",
    "bench --optimizer adagrad",
    "bench --optimizer --quick",
    "bench --workload vgg",
    "bench --workload",
    "bench --repeats 0",
    "bench --threads -1",
    "bench --device tpu",
    "demo --epochs 0",
    "demo --batch-size -1",
    "demo --optimizers rmsprop",
    "demo --device tpu",
    "doctor",
    "explain torch.optim:SGD",
    "explain torch.optim:SGD torch.optim:SGD --dtype int8",
)


@pytest.mark.parametrize("words", MISUSES)
def test_misuse_says_how_a_command_is_used_and_exits_2(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("Usage: optimlab")
    assert "\nError: " in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("command", ["bench", "demo"])
def test_files_that_cannot_be_written_end_with_status_2_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([command, "--output", str(tmp_path / "file" / "directory")]) == 2
    assert capsys.readouterr().err.startswith(f"optimlab {command}: cannot write to ")
    assert main([command, "--json", str(tmp_path / "none" / "file")]) == 2
    assert "there is no directory" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("words", ["bench", "demo", "parity", "explain a:b c:d"])
def test_a_missing_cuda_device_ends_with_status_2(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--device", "cuda"]) == 2
    said = f"optimlab {words.split(maxsplit=1)[0]}: there is no CUDA device here\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


WITHOUT_EXTRA = """
import sys
from optimlab.cli import main

class Hider:
    @staticmethod
    def find_spec(name, path, target=None):
        if name in {"matplotlib", "psutil", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hider)
assert main(["demo", "--output", sys.argv[1]]) == 2
assert main(["bench", "--output", sys.argv[1]]) == 2
"""


def test_without_their_extra_commands_say_what_to_install_and_make_no_directory(
    tmp_path: Path,
) -> None:
    ended = run_python("-c", WITHOUT_EXTRA, str(tmp_path / "output"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count('pip install "optimlab[demo]"') == 2
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "output").exists()


def test_continuous_integration_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert len(commands) == 1
    assert commands[0].endswith("nox -s tests")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert commands[0] in [line.strip() for line in readme]
