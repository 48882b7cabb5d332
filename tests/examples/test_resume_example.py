"""examples/resume.py: whatever happens to its processes and files, it ends in the same bits."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from operator import getitem
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import pytest
import torch
from beside import (
    assert_equal,
    one_thread,  # noqa: F401 - applies to every test here
)
from running import finish, misused

pytest.importorskip("fcntl", reason="the example needs Linux or macOS")

import checkpoints
import resume

import optimlab
from optimlab.demo.digits import read_digits
from optimlab.demo.training import reproducible
from optimlab.lab.compare.diff import Diff
from optimlab.lab.lockstep.clone import clone

Content = dict[str, Any]
SHORT, LONG = 4, 100


@pytest.fixture(autouse=True, scope="module")
def as_before() -> Iterator[None]:
    """Leave torch as it was: an example makes its results repeatable, for its whole process."""
    strict = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(strict)


def options(*arguments: str, steps: int = SHORT, every: int = 1) -> resume.Options:
    both = ["--steps", str(steps), "--every", str(every)]
    return resume.parser().parse_args([*both, *arguments], resume.Options())


def train(directory: Path, *arguments: str, **numbers: int) -> Content:
    return resume.train_in(directory, options(*arguments, **numbers))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"lock"}


def file_of(step: int) -> str:
    return f"step-{step:08}.pt"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The last checkpoint of a short run of torch.optim without interruption."""
    return train(tmp_path_factory.mktemp("straight"), "--optim", "torch", every=SHORT)


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the first three checkpoints of that run. To be copied, not changed."""
    directory = tmp_path_factory.mktemp("half-way")
    train(directory, steps=3)
    return directory


@pytest.fixture
def begun(half_way: Path, tmp_path: Path) -> Path:
    """A copy of that directory."""
    return Path(shutil.copytree(half_way, tmp_path / "begun"))


# Killed processes.


def prepare_to_fork() -> None:
    """Import and read once what every killed process needs; start no threads."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # imports a good part of torch
    read_digits()


@pytest.fixture(scope="module")
def forking() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process that may fork: no thread and no CUDA is in it."""
    with ProcessPoolExecutor(1, get_context("spawn"), prepare_to_fork) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


def train_killed(directory: Path, given: resume.Options) -> list[int | None]:
    return resume.train_killed(directory, given, get_context("fork"))


def test_ten_kills_at_random_moments_end_in_the_bits_of_the_uninterrupted_run(
    forking: Callable[..., Any], tmp_path: Path
) -> None:
    codes = forking(train_killed, tmp_path / "killed", options("--kills", "10", steps=LONG))
    assert codes == [-signal.SIGKILL] * 10 + [0]
    resumed = checkpoints.read(tmp_path / "killed" / file_of(LONG))
    assert_equal(resumed, train(tmp_path / "straight", steps=LONG, every=LONG))


def test_a_run_of_one_step_can_be_killed(forking: Callable[..., Any], tmp_path: Path) -> None:
    codes = forking(train_killed, tmp_path / "killed", options("--kills", "2", steps=1))
    assert codes[-1] == 0
    assert set(codes) <= {0, -signal.SIGKILL}


@pytest.mark.parametrize("option", ["--seed", "--kills"])
def test_negative_numbers_are_refused(option: str) -> None:
    with misused() as complaint:
        options(option, "-1")
    assert "-1 is negative" in complaint.getvalue()


def killed_before_line(number: int, directory: Path) -> None:
    """Train, and be killed before so many lines of checkpoints.py have run."""
    lines = itertools.count()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != checkpoints.__file__:
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    train(directory, "--keep", "1")


@dataclass
class File(io.BytesIO):
    """A file of which only the first bytes reach the disk before the process is killed."""

    file: BinaryIO
    limit: int

    def write(self, data: Any) -> int:
        self.limit -= self.file.write(bytes(data)[: self.limit])
        if self.limit == 0:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(data)


def killed_while_writing(number: int, directory: Path) -> None:
    """Train, and be killed in the middle of the bytes of a checkpoint."""
    size = (directory / file_of(3)).stat().st_size
    limits = [1, 2, 100, 4096, size // 2, size - 1]
    save = torch.save

    def save_a_part(content: Content, file: BinaryIO) -> None:
        save(content, File(file, limits[number]))

    if number < len(limits):
        pytest.MonkeyPatch().setattr(torch, "save", save_a_part)
    train(directory, "--keep", "1")


def kill_at_each(killed: Callable[[int, Path], None], begun: Path, directory: Path) -> None:
    """Train in one process after another, each killed a little later, until one is not."""
    for number in itertools.count():
        folder = Path(shutil.copytree(begun, directory / f"{number:03}"))
        process = get_context("fork").Process(target=killed, args=(number, folder))
        process.start()
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL, process.exitcode


@pytest.mark.parametrize(
    ("killed", "fewest", "last"), [(killed_before_line, 30, 4), (killed_while_writing, 6, 3)]
)
def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint_and_its_bits(
    forking: Callable[..., Any],
    killed: Callable[[int, Path], None],
    fewest: int,
    last: int,
    half_way: Path,
    straight: Content,
    tmp_path: Path,
) -> None:
    forking(kill_at_each, killed, half_way, tmp_path)
    *folders, whole = sorted(tmp_path.iterdir())
    assert len(folders) >= fewest
    assert names(whole) == {file_of(4)}
    assert any(any(folder.glob("*.part")) for folder in folders)
    newest = [checkpoints.newest_first(folder)[0] for folder in folders]
    reached = [checkpoints.read(path)["step"] for path in newest]
    assert reached == sorted(reached)
    assert (reached[0], reached[-1]) == (3, last)
    for folder in folders:
        assert_equal(train(folder), straight)
        assert not list(folder.glob("*.part"))


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name_and_an_older_one_goes(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a kill cannot show: after one, the kernel still writes what a power cut would lose.
    done: list[str] = []

    def note(owner: Any, name: str, say: Callable[..., str]) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            done.append(say(*arguments))
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, noted)

    def size_of(file: int) -> object:
        status = os.fstat(file)
        return "directory" if stat.S_ISDIR(status.st_mode) else status.st_size

    note(os, "fsync", lambda file: f"fsync {size_of(file)}")
    note(Path, "replace", lambda path, target: f"{path.name} -> {target.name}")
    note(Path, "unlink", lambda path: f"delete {path.name}" if path.exists() else "")
    train(begun)
    size = (begun / file_of(4)).stat().st_size
    names_it = "step-00000004.part -> step-00000004.pt"
    assert [*filter(None, done)] == [
        f"fsync {size}",
        names_it,
        "fsync directory",
        "delete step-00000001.pt",
    ]


def test_a_failed_save_leaves_the_older_checkpoints_and_no_part(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = names(begun)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(begun)
    assert names(begun) == before


# Damaged and foreign files.


class Harmful:
    """Says, when it is unpickled without care, that it was."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a file was trusted",)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def zipped(name: str, text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, text)
    return file.getvalue()


def with_a_bit_flipped(whole: bytes) -> bytes:
    """Flip a bit in the middle of the largest tensor, where no structure shows it."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    middle = largest.header_offset + largest.file_size // 2
    return whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]


CUT, FOREIGN, UNTRUSTED = "cut short, or was never", "by another program", "more than tensors"
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", CUT),
    "without its last byte": (lambda whole: whole[:-1], CUT),
    "half, then zeros": (lambda whole: whole[: len(whole) // 2].ljust(len(whole), b"\0"), CUT),
    "with a flipped bit": (with_a_bit_flipped, "wrong checksum"),
    "random bytes": (lambda whole: random.Random(0).randbytes(len(whole)), CUT),
    "a harmful pickle": (lambda whole: pickle.dumps(Harmful()), CUT),
    "a harmful checkpoint": (lambda whole: saved({"program": Harmful()}), UNTRUSTED),
    "a whole module": (lambda whole: saved(torch.nn.Linear(2, 2)), UNTRUSTED),
    "a zip of something else": (lambda whole: zipped("readme.txt", "hello"), "no checkpoint"),
    "another program's checkpoint": (lambda whole: saved({"step": 3, "model": {}}), FOREIGN),
    "a list": (lambda whole: saved([1, 2]), FOREIGN),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_refused_and_the_last_good_one_used(
    damage: str, begun: Path, straight: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = DAMAGES[damage]
    damaged = change((begun / file_of(3)).read_bytes())
    (begun / file_of(3)).write_bytes(damaged)
    assert_equal(train(begun), straight)
    refused, continuing, *_ = capsys.readouterr().out.splitlines()
    assert refused.startswith(f"refused {file_of(3)}: it ")
    assert reason in refused
    assert len(refused) <= 100
    assert continuing == f"continuing from {file_of(2)}"
    assert (begun / f"{file_of(3)}.refused").read_bytes() == damaged
    assert checkpoints.read(begun / file_of(3))["step"] == 3


def test_a_file_cut_short_at_any_length_is_refused(begun: Path) -> None:
    path = begun / file_of(3)
    whole = path.read_bytes()
    for length in [1, *range(0, len(whole), 499), *range(len(whole) - 100, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(checkpoints.RefusedError, match=CUT):
            checkpoints.read(path)
    path.write_bytes(whole)
    assert checkpoints.read(path)["step"] == 3


@pytest.mark.parametrize("damaged", [2, 3])
def test_several_damaged_files_are_passed_over_also_if_none_is_left(
    damaged: int, begun: Path, straight: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoints.newest_first(begun)[:damaged]:
        path.write_bytes(path.read_bytes()[:-1])
    assert_equal(train(begun), straight)
    printed = capsys.readouterr().out
    assert printed.count("refused") == damaged
    assert printed.count("continuing") == (damaged < 3)


# What stays in the directory.


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_few_checkpoints_stay(keep: int, tmp_path: Path) -> None:
    train(tmp_path, "--keep", str(keep), steps=7)
    assert names(tmp_path) == {file_of(step) for step in range(1, 8)[-keep:]}


def test_fewer_are_kept_from_the_next_save_on(begun: Path) -> None:
    train(begun, "--keep", "1")
    assert names(begun) == {file_of(4)}


def test_a_refused_file_of_a_later_step_does_not_count_as_kept(begun: Path) -> None:
    (begun / file_of(9)).write_bytes(b"of another program")
    with checkpoints.opened(begun, keep=1) as opened:  # and not loaded
        opened.save(4, {"step": 4})
    assert names(begun) == {file_of(4), file_of(9)}


def test_parts_of_killed_processes_are_cleaned_up_and_nothing_else(begun: Path) -> None:
    others = {"notes.txt", "step-12.pt", "other.part", "step-00000009.pt.refused"}
    for name in [*others, "step-00000004.part", "step-00000007.part"]:
        (begun / name).touch()
    train(begun)
    assert names(begun) == {file_of(2), file_of(3), file_of(4), *others}


# Other options.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seed", "1"], "of a run with --seed 0"),
        (["--lr", "0.1"], "of a run with --lr 0.01"),
        (["--lr", "0.1", "--seed", "1"], "of a run with --seed 0, --lr 0.01"),
        (["--steps", "2"], "of step 3, beyond --steps 2"),
    ],
)
def test_a_run_with_other_settings_is_refused_with_status_2_and_nothing_is_changed(
    arguments: list[str], complaint: str, begun: Path
) -> None:
    before = {path: path.read_bytes() for path in begun.iterdir()}
    with misused() as said:
        resume.main(["--directory", str(begun), "--steps", str(SHORT), *arguments])
    assert complaint in said.getvalue()
    assert {path: path.read_bytes() for path in begun.iterdir()} == before


def test_a_second_process_in_the_same_directory_is_refused_with_status_2(begun: Path) -> None:
    with checkpoints.opened(begun, keep=3), misused() as said:
        resume.main(["--directory", str(begun)])
    assert "another process is training in" in said.getvalue()


def test_a_run_may_be_lengthened_and_saved_at_other_steps(
    begun: Path, straight: Content, tmp_path: Path
) -> None:
    train(begun, "--keep", "9", steps=10, every=4)
    assert names(begun) == {file_of(step) for step in (1, 2, 3, 4, 8, 10)}
    assert_equal(train(begun, steps=11), train(tmp_path / "straight", steps=11, every=11))


@pytest.mark.parametrize("libraries", [("torch", "optimlab"), ("optimlab", "torch")])
def test_a_run_goes_on_with_the_other_librarys_optimizer(
    libraries: tuple[str, str], straight: Content, tmp_path: Path
) -> None:
    for library, steps in zip(libraries, ("2", str(SHORT)), strict=True):
        arguments = ["--directory", str(tmp_path), "--optim", library, "--steps", steps]
        assert resume.main(arguments) == 0
    assert_equal(checkpoints.read(tmp_path / file_of(SHORT)), straight)


# What has to be in a checkpoint. One part after the other is left as a new run has it.

HALF = 110
ENTRIES: list[Any] = [
    *(("parts", part) for part in ("model", "optimizer", "scheduler", "scaler")),
    *(("parts", "order", entry) for entry in ("generator", "permutation", "position")),
    *(("parts", "random", entry) for entry in ("python", "numpy", "torch")),
]


def new_run(device: str) -> resume.Run:
    return resume.Run(resume.Settings(seed=0, lr=0.01, device=device), optimlab)


def trained(run: resume.Run, steps: int) -> Content:
    with reproducible():
        while run.step < steps:
            run.train_step()
    return clone(run.state_dict())  # type: ignore[no-any-return]


def halves(device: str) -> tuple[Content, Content]:
    """Return what a run consists of half-way and at its end."""
    run = new_run(device)
    return trained(run, HALF), trained(run, 2 * HALF)


def resumed(content: Content, device: str, forgotten: Sequence[str] = ()) -> Content:
    """Train to the end, with one entry left as a run has it that has just begun."""
    run = new_run(device)
    content = clone(content)
    if forgotten:
        *way, last = forgotten
        changed, new = (reduce(getitem, way, each) for each in (content, clone(run.state_dict())))
        changed[last] = new[last]
    run.load_state_dict(content)
    return trained(run, 2 * HALF)


def assert_every_parameter_differs(one: Content, other: Content) -> None:
    parameters = one["parts"]["model"], other["parts"]["model"]
    assert len(Diff().differences(*parameters)) == len(parameters[0]) == 4


@pytest.fixture(scope="module")
def on_cpu() -> tuple[Content, Content]:
    return halves("cpu")


def test_all_parts_together_are_enough(on_cpu: tuple[Content, Content]) -> None:
    half_way, end = on_cpu
    assert_equal(resumed(half_way, "cpu"), end)
    run = new_run("cpu")
    run.load_state_dict(clone(half_way))
    assert_equal(clone(run.state_dict()), half_way)  # it would save the same
    scale = half_way["parts"]["scaler"]["scale"], end["parts"]["scaler"]["scale"]
    # It grew until float16 overflowed: otherwise the scaler would not have to be in a checkpoint.
    assert scale[0] > 2.0**13
    assert scale[1] < 2.0 ** (13 + 2 * HALF // 20)


@pytest.mark.parametrize("entry", ENTRIES, ids=".".join)
def test_without_any_one_part_the_run_ends_in_other_bits(
    entry: tuple[str, ...], on_cpu: tuple[Content, Content]
) -> None:
    half_way, end = on_cpu
    assert_every_parameter_differs(resumed(half_way, "cpu", entry), end)


@pytest.mark.cuda
def test_on_cuda_its_generator_belongs_to_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    half_way, end = halves("cuda")
    assert_equal(resumed(half_way, "cuda"), end)
    without = resumed(half_way, "cuda", ("parts", "random", "cuda"))
    assert_every_parameter_differs(without, end)


# The demonstration.


def test_the_demonstration_finds_no_difference(tmp_path: Path) -> None:
    # Without a kill, which is another start of Python; killing as such is tested above.
    lines = finish("resume", tmp_path, "--steps", "20", "--every", "7", "--kills", "0").lines
    assert re.fullmatch("Shown: after 0 SIGKILLs 0 of [67].. tensors and values .*", lines[-1])
    assert max(map(len, lines)) <= 100
    assert not list(tmp_path.iterdir())


def test_the_demonstration_says_which_bits_differ_and_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_otherwise(directory: Path, given: resume.Options, _: object) -> list[int | None]:
        given.lr *= 1.5
        resume.train_in(directory, given)
        return [-signal.SIGKILL, -signal.SIGKILL, 0]

    monkeypatch.setattr(resume, "train_killed", train_otherwise)
    assert resume.main(["--steps", "5", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "parts['model']['1.weight']: " in printed
    assert re.search("Shown: after 2 SIGKILLs [0-9]+ of ", printed)


@pytest.mark.parametrize("codes", [[1, 0], [-signal.SIGKILL, 1], [-signal.SIGSEGV, 0]])
def test_a_process_that_fails_by_itself_is_no_killed_one(
    codes: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "train_killed", lambda *_: codes)
    with pytest.raises(RuntimeError, match="could not go on"):
        resume.main(["--steps", "1", "--out", str(tmp_path)])
