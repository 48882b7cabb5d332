"""The examples: each runs with both libraries and ends in the same bits, and prints what it says.

A run goes through `main`, as on the command line; what the example's `run` returns is compared.
"""

from __future__ import annotations

import ast
import gzip
import importlib
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from beside import assert_equal
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

pytest.importorskip("sklearn", reason="the examples' digits come with scikit-learn")
pytest.importorskip("matplotlib", reason="the examples draw with matplotlib")
pytest.importorskip("rich", reason="the examples show their progress with rich")
pytest.importorskip("tensorboard", reason="an example writes a log for TensorBoard")

import autograd_tour
import idx
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from optimlab.demo.libraries import LIBRARIES
from optimlab.demo.training import reproducible

FOLDER = Path(__file__).parents[2] / "examples"

SHORT = {
    "autograd_tour": ("--steps", "2"),
    "checkpoint_doctor": ("--steps", "8"),
    "image_classifier": ("--steps", "12"),
    "layer_wise_rates": ("--steps", "8"),
    "lenet": ("--steps", "3"),
    "line_fit": ("--steps", "120"),
    "microscope": ("--steps", "20"),
    "optimizer_tour": ("--steps", "50"),
    "sgd_against_adam": ("--steps", "40"),
    "sine_ladder": ("--steps", "120"),
    "two_layer_network": ("--steps", "30"),
}
"""Every example that is tested here, and the options that make it short."""

FIGURES = {
    "sgd_against_adam": "sgd-against-adam.png",
    "sine_ladder": "sine-ladder.png",
    "two_layer_network": "two-layer-network.png",
}


@dataclass(frozen=True)
class Finished:
    """A run of an example.

    Attributes:
        result: what its `run` returned.
        printed: what it printed.
        folder: where it wrote its files.
        libraries: the packages of all optimizers that made a step.
    """

    result: Any
    printed: str
    folder: Path
    libraries: set[str]


Runs: TypeAlias = Callable[..., Finished]


def finish(name: str, folder: Path, *options: str) -> Finished:
    """Run an example through `main`."""
    example = importlib.import_module(name)
    results, libraries, run = [], set(), example.run

    def watched(parsed: object) -> None:
        results.append(run(parsed))

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        libraries.add(type(optimizer).__module__.partition(".")[0])

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(example, "run", watched)
        hook = register_optimizer_step_pre_hook(note)
        try:
            with reproducible(), torch.random.fork_rng():
                assert example.main([*options, "--out", str(folder)]) == 0
        finally:
            hook.remove()
    return Finished(results[0], printed.getvalue(), folder, libraries)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Give each run once: name of the example and options to what came of it."""

    @cache
    def run(name: str, *options: str) -> Finished:
        return finish(name, tmp_path_factory.mktemp(name), *options)

    return run


@pytest.fixture
def short(runs: Runs) -> Callable[[str], Finished]:
    """Give the short run of an example with optimlab."""
    return lambda name: runs(name, *SHORT[name])


every_example = pytest.mark.parametrize("name", SHORT)


@every_example
def test_both_libraries_end_in_the_same_bits(name: str, runs: Runs) -> None:
    ours, theirs = runs(name, *SHORT[name]), runs(name, *SHORT[name], "--optim", "torch")
    assert (ours.libraries, theirs.libraries) == ({"optimlab"}, {"torch"})
    assert_equal(ours.result, theirs.result)
    assert fingerprint(ours) == fingerprint(theirs)


def fingerprint(finished: Finished) -> str:
    """Return what the line before the last says of the result."""
    line = finished.printed.splitlines()[-2]
    assert re.fullmatch(r"SHA-256 of the result: [0-9a-f]{16}", line)
    return line


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning")
@every_example
def test_both_libraries_end_in_the_same_bits_on_cuda(name: str, runs: Runs) -> None:
    options = (name, *SHORT[name], "--device", "cuda")
    assert_equal(runs(*options).result, runs(*options, "--optim", "torch").result)


class Wrong:
    """Turns over one bit of one number after the first step that has a gradient."""

    wrong = False

    def step(self: Any, closure: Any = None) -> Any:
        loss = super().step(closure)  # type: ignore[misc]
        group = self.param_groups[0]["params"]
        moved = [p for p in group if p.grad is not None and p.dtype is torch.float32]
        if moved and not self.wrong:
            self.wrong = True
            # Of the significand, but not its lowest: the next step can round that one away.
            moved[-1].detach().view(-1)[:1].view(torch.int32).bitwise_xor_(1 << 20)
        return loss


class WrongSGD(Wrong, torch.optim.SGD):
    pass


class WrongAdam(Wrong, torch.optim.Adam):
    pass


class WrongRMSprop(Wrong, torch.optim.RMSprop):
    pass


@every_example
def test_one_wrong_bit_of_one_step_shows_in_the_result(
    name: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = runs(name, *SHORT[name])
    wrong = SimpleNamespace(SGD=WrongSGD, Adam=WrongAdam, RMSprop=WrongRMSprop)
    wrong.AdamW = torch.optim.AdamW  # which one example makes, and never steps
    monkeypatch.setitem(LIBRARIES, "torch", wrong)
    changed = finish(name, tmp_path, *SHORT[name], "--optim", "torch")
    assert fingerprint(changed) != fingerprint(right)
    with pytest.raises(pytest.fail.Exception, match="more"):
        assert_equal(changed.result, right.result)


@every_example
def test_the_last_line_says_in_one_line_what_was_shown(
    name: str, short: Callable[[str], Finished]
) -> None:
    lines = short(name).printed.splitlines()
    assert lines[-1].startswith("Shown: ")
    assert lines[-1].endswith(".")
    assert len(lines) < 75


@every_example
def test_no_control_characters_reach_what_is_not_a_terminal(
    name: str, short: Callable[[str], Finished]
) -> None:
    assert set(short(name).printed) & set("\r\x1b") == set()


@pytest.mark.parametrize(("name", "file"), FIGURES.items())
def test_a_figure_is_a_png_with_curves_of_several_colours(
    name: str, file: str, short: Callable[[str], Finished]
) -> None:
    path = short(name).folder / file
    pixels = imread(path)
    assert pixels.shape == (540, 960, 4)
    seen = (pixels[::2, ::2, :3] * 255).round().reshape(-1, 3)
    colours = {tuple(pixel) for pixel in seen.tolist()}
    assert {(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)} <= colours
    assert f"wrote {path}" in short(name).printed


# Nothing is forgotten.


def examples() -> list[str]:
    """Return the names of all files that are programs, not parts of one."""
    texts = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    return sorted(path.stem for path, text in texts.items() if '__name__ == "__main__"' in text)


def test_every_example_is_tested() -> None:
    here = Path(__file__)
    others = [path for path in here.parent.glob("test_*.py") if path != here]
    texts = [path.read_text(encoding="utf-8") for path in others]
    untested = set(examples()) - set(SHORT)
    assert set(SHORT) <= set(examples())
    assert [name for name in untested if not any(re.search(rf"\b{name}\b", t) for t in texts)] == []


@pytest.mark.parametrize("name", examples())
def test_every_example_says_what_one_learns_and_how_to_run_it(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    assert docstring is not None
    assert len(docstring) > 200
    assert f"examples/{name}.py" in docstring


def test_the_readme_has_a_line_for_every_example_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", text, flags=re.MULTILINE)
    assert sorted(listed) == examples()


def quoted(name: str) -> str:
    """Return what the table says an example prints at the end."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| [`{name}.py`]"))
    return row.split("|")[4].strip()


def written(name: str) -> Iterator[str]:
    """Yield the texts of an example's source as patterns: any text may be in place of a value."""
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None
            for part in parts
        ]
        if sum(len(text or "") for text in texts) > 20:
            yield "".join(".+" if text is None else re.escape(text) for text in texts)


@pytest.mark.parametrize("name", examples())
def test_what_the_readme_quotes_is_in_the_text_of_the_example(name: str) -> None:
    assert any(re.fullmatch(pattern, quoted(name)) for pattern in written(name))


@every_example
def test_what_the_readme_says_about_the_last_line_is_so(
    name: str, short: Callable[[str], Finished]
) -> None:
    numbers = r"[0-9.]*[0-9]"
    shown = short(name).printed.splitlines()[-1].removeprefix("Shown: ")
    assert re.sub(numbers, "N", shown) == re.sub(numbers, "N", quoted(name))


# The line.


def test_an_optimizer_that_was_built_too_early_moves_nothing(
    short: Callable[[str], Finished],
) -> None:
    finished = short("line_fit")
    assert finished.result["held"] == (2, 0)
    assert finished.result["state built too early"] == 0
    lines = finished.printed.splitlines()
    before = next(line for line in lines if line.startswith("before: "))
    after = next(line for line in lines if line.startswith("after 100 steps: "))
    assert before.partition(": ")[2] == after.partition(": ")[2]
    assert "error: lost parameters" in finished.printed.lower()


def test_the_line_is_found_and_the_loss_printed_every_1000_steps(runs: Runs) -> None:
    finished = runs("line_fit")
    a, b = finished.result["line"]
    assert finished.result["loss"] < 1e-5
    assert abs(a.item() - 2) < 1e-3
    assert abs(b.item() - 1) < 1e-2
    printed = [int(step) for step in re.findall(r"^step +(\d+)", finished.printed, re.MULTILINE)]
    assert printed[:-1] == [1000 * (n + 1) for n in range(len(printed) - 1)]
    assert f"a = {a.item():.6f}, b = {b.item():.6f}" in finished.printed


def test_a_line_that_is_moved_without_detach_could_not_be_optimized() -> None:
    line = importlib.import_module("line_fit").Line()
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        LIBRARIES["optimlab"].Adam([line.a * 1])


# Autograd, the residual network, the layers that stay.


def test_the_gradients_are_those_of_the_formulas(short: Callable[[str], Finished]) -> None:
    result = short("autograd_tour").result
    a, b = torch.tensor([2.0, 3.0]), torch.tensor([6.0, 4.0])
    assert_equal(result["gradients"], [9 * a**2, -2 * b])
    assert_equal([result["a"].detach(), result["b"].detach()], [a - 4.5 * a**2, b + b])


def test_the_network_has_18_layers_and_the_parameters_of_resnet_18() -> None:
    modules = [*autograd_tour.ResNet18().named_modules()]
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [name for name, each in modules if isinstance(each, kinds) and "shortcut" not in name]
    assert len(layers) == 18
    assert sum(param.numel() for param in modules[0][1].parameters()) == 11_689_512


def test_the_first_step_of_the_network_is_the_one_by_hand(
    short: Callable[[str], Finished],
) -> None:
    printed = short("autograd_tour").printed
    assert "by hand and by SGD, first step: all 11689512 elements have the same bits" in printed


def test_the_printed_optimizer_lists_every_hyperparameter(
    short: Callable[[str], Finished],
) -> None:
    listed = dict(re.findall(r"^    (\w+): (.+)$", short("autograd_tour").printed, re.MULTILINE))
    made = LIBRARIES["torch"].SGD([torch.zeros(1)], lr=1e-2, momentum=0.9)
    assert listed == {name: str(value) for name, value in made.defaults.items()}


def test_frozen_layers_stay_and_have_no_state(short: Callable[[str], Finished]) -> None:
    result = short("autograd_tour").result
    assert (result["changed"], result["buffers"]) == (["head.weight", "head.bias"], 2)
    trained, frozen = result["residual network"], result["frozen"]
    for name in set(trained) - {"head.weight", "head.bias"}:
        assert torch.equal(trained[name], frozen[name])


# By hand.


def add_rounds_once() -> bool:
    """Tell whether `add_(x, alpha=a)` is a fused multiply-add here, for vectors."""
    x = torch.full((64,), 1 + 2**-12)
    return bool((torch.full((64,), -1 - 2**-11).add(x, alpha=1 + 2**-12) == 2**-24).all())


@pytest.mark.parametrize("steps", [1, 3])
def test_the_hand_written_update_is_sgd_wherever_it_rounds_as_often(steps: int, runs: Runs) -> None:
    result = runs("lenet", "--steps", str(steps)).result
    assert result["rounded_once 0.01"].elements == 61_706
    assert result["rounded_once 0.01"].differing == 0
    assert result["as_written 0.0078125"].differing == 0
    assert (result["as_written 0.01"].differing > 0) is add_rounds_once()


def test_two_layers_by_hand_are_those_of_sgd_where_they_round_as_often(
    short: Callable[[str], Finished],
) -> None:
    result = short("two_layer_network").result
    assert result["w.add_(w.grad, alpha=-lr)"].elements == 101_000
    assert result["w.add_(w.grad, alpha=-lr)"].differing == 0
    assert (result["w -= lr * w.grad"].differing > 0) is add_rounds_once()
    losses = result["losses"]
    assert losses["SGD"] == losses["w.add_(w.grad, alpha=-lr)"]
    assert losses["SGD"][-1] < 0.01 * losses["SGD"][0]


def test_rungs_of_the_ladder_with_the_same_operations_have_the_same_bits(
    short: Callable[[str], Finished],
) -> None:
    same, layers, *others = short("sine_ladder").result["agreements"].values()
    assert (same.elements, same.differing) == (layers.elements, layers.differing) == (4, 0)
    # Gradients of other operations, and of another precision: a few ulp in so many steps.
    assert [other.elements for other in others] == [4, 4]
    assert all((other.max_ulps or 0) < 1000 for other in others)


def test_every_rung_prints_its_losses_and_its_polynomial(runs: Runs) -> None:
    finished = runs("sine_ladder", "--steps", "300")
    numbered = re.findall(r"^ +(\d+)((?: +\d+\.\d+){6})$", finished.printed, re.MULTILINE)
    assert [number for number, _ in numbered] == ["99", "199", "299"]
    for rung in "123456":
        assert re.search(
            rf"^{rung} .* y = .* x \+ .* x\^2 \+ .* x\^3$", finished.printed, re.MULTILINE
        )
    for losses in finished.result["losses"].values():
        assert len(losses) == 300
        assert losses[-1] < losses[0]


# The tour.


def test_the_tour_steps_by_lr_and_goes_on_from_its_file_with_the_same_bits(
    short: Callable[[str], Finished],
) -> None:
    finished = short("optimizer_tour")
    result = finished.result
    torch.manual_seed(0)
    start = torch.randn(2, 2)
    assert_equal(result["weight after one step"], start.add(torch.ones(2, 2), alpha=-0.1))
    assert_equal(result["resumed"], result["weights"])
    assert_equal(result["resumed state"], result["state"])
    assert "the next step of both: all 13 elements have the same bits" in finished.printed
    saved = torch.load(finished.folder / "optimizer-tour.pt", weights_only=True)
    assert saved["optimizer"]["state"].keys() == {0, 1}


def test_the_tour_shows_the_momentum_of_51_and_of_50_steps_with_ones(
    short: Callable[[str], Finished],
) -> None:
    # One step was made with the first weight alone, the last by the resumed optimizer.
    sums = [10 * (1 - 0.9**steps) for steps in (52, 51)]
    buffers = [
        held["momentum_buffer"]
        for held in short("optimizer_tour").result["state"]["state"].values()
    ]
    for buffer, expected in zip(buffers, sums, strict=True):
        assert math.isclose(buffer.mean().item(), expected, rel_tol=1e-5)


REFUSED = {
    "not a leaf": "ValueError: can't optimize a non-leaf",
    "a set": "sets will change",
    "overlap": "more than one",
    "another number of groups": "different number",
    "a group of another size": "doesn't match the size",
}
WARNED = {"a parameter given twice": "UserWarning: optimizer contains a parameter group with dup"}


def test_the_tour_shows_refusals_and_a_warning_each_with_its_message(
    short: Callable[[str], Finished],
) -> None:
    messages = short("optimizer_tour").result["messages"]
    for text, fragment in zip(messages, [*REFUSED.values(), *WARNED.values()], strict=True):
        assert fragment in text
    _, refused = short("optimizer_tour").printed.split("Refused, and the optimizer stays as it was")
    refused, warned = refused.split("Warned about")
    assert all(f"\n{words}: " in refused for words in REFUSED)
    assert all(f"\n{words}: " in warned for words in WARNED)
    assert "groups: 2, as before" in refused


def test_the_tour_shows_that_loading_leaves_the_defaults_in_lines_that_fit(
    short: Callable[[str], Finished],
) -> None:
    lines = short("optimizer_tour").printed.splitlines()
    assert "  defaults: lr 0.5, momentum 0" in lines
    restored = [line for line in lines if "unlike the defaults" in line]
    assert ["'lr': 0.1," in restored[0], "'nesterov': True" in restored[1]] == [True, True]
    assert max(len(line) for line in lines if not line.startswith("wrote ")) <= 100


# Rates, and two optimizers.


def test_two_groups_are_two_optimizers_and_what_is_in_no_group_stays(
    short: Callable[[str], Finished],
) -> None:
    result = short("layer_wise_rates").result
    assert result["two optimizers"].elements > 20_000
    assert result["two optimizers"].differing == 0
    for name, after in result["network"].items():
        assert torch.equal(after, result["before"][name]) is name.startswith("0.")


def test_sgd_and_adam_start_from_one_loss_and_adam_is_ahead_in_the_end(runs: Runs) -> None:
    losses = runs("sgd_against_adam", "--steps", "300").result["losses"]
    assert losses["SGD"][0] == losses["Adam"][0]
    assert 0.009 < losses["Adam"][-1] < losses["SGD"][-1] < losses["SGD"][0]


# The classifier.


def test_the_classifier_learns_the_digits(runs: Runs) -> None:
    finished = runs("image_classifier")
    assert finished.result["accuracy"] > 0.95
    assert len(finished.result["losses"]) == 10 * math.ceil(1437 / 64)
    epochs = re.findall(r"^epoch +(\d+)  batch +1 of 23  loss", finished.printed, re.MULTILINE)
    assert epochs == [str(epoch) for epoch in range(1, 11)]


def test_tensorboard_reads_every_loss_back(short: Callable[[str], Finished]) -> None:
    finished = short("image_classifier")
    log = EventAccumulator(str(finished.folder / "tensorboard" / "optimlab"))
    log.Reload()
    events = log.Scalars("train_loss")
    assert [event.step for event in events] == list(range(1, 13))
    assert [event.value for event in events] == finished.result["losses"]


def test_a_second_run_takes_the_place_of_the_first_in_tensorboard(tmp_path: Path) -> None:
    finish("image_classifier", tmp_path, "--steps", "2")
    second = finish("image_classifier", tmp_path, "--steps", "1", "--seed", "1")
    log = EventAccumulator(str(tmp_path / "tensorboard" / "optimlab"))
    log.Reload()
    events = log.Scalars("train_loss")
    assert [(event.step, event.value) for event in events] == [(1, second.result["losses"][0])]
    assert "Shown: 1 step of Adam" in second.printed


def idx_bytes(values: Tensor) -> bytes:
    header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    return header + bytes(values.flatten().tolist())


def write_pictures(folder: Path) -> dict[str, Tensor]:
    """Write four files as Fashion-MNIST has them, two of them compressed."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "train-images-idx3-ubyte": (150, 28, 28),
        "train-labels-idx1-ubyte.gz": (150,),
        "t10k-images-idx3-ubyte.gz": (30, 28, 28),
        "t10k-labels-idx1-ubyte": (30,),
    }
    written = {}
    for name, shape in shapes.items():
        high = 10 if "labels" in name else 256
        values = torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)
        content = idx_bytes(values)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        written[name.removesuffix(".gz")] = values
    return written


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Tensor]]:
    """Give a folder with four IDX files, and what is in them."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder, write_pictures(folder)


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_idx_files_are_read_compressed_or_not(
    part: str, pictures: tuple[Path, Mapping[str, Tensor]]
) -> None:
    folder, written = pictures
    images, labels = idx.read_pictures(folder, part)
    assert images.dtype == torch.float32
    assert torch.equal(images, written[f"{part}-images-idx3-ubyte"].unsqueeze(1) / 255)
    assert torch.equal(labels, written[f"{part}-labels-idx1-ubyte"].long())


def test_the_classifier_trains_on_idx_files_to_the_same_bits(
    pictures: tuple[Path, Mapping[str, Tensor]], runs: Runs
) -> None:
    options = ("image_classifier", "--data", str(pictures[0]), "--epochs", "2")
    ours, theirs = runs(*options), runs(*options, "--optim", "torch")
    assert ours.result["model"]["head.weight"].shape == (10, 32 * 7 * 7)
    assert len(ours.result["losses"]) == 2 * 3
    assert "of 30 test pictures" in ours.printed
    assert_equal(ours.result, theirs.result)


WHOLE = idx_bytes(torch.zeros(2, 3, 3, dtype=torch.uint8))
DAMAGED = {
    "is not an IDX file": b"GIF89a" + WHOLE,
    "of unsigned bytes": WHOLE[:2] + bytes([13]) + WHOLE[3:],
    "ends within its header": WHOLE[:10],
    "should hold 18 elements, and holds 17": WHOLE[:-1],
    "should hold 18 elements, and holds 19": WHOLE + b"\0",
}


@pytest.mark.parametrize(("complaint", "content"), DAMAGED.items())
def test_a_file_that_is_no_whole_idx_file_is_refused(
    complaint: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        idx.read_idx(path)


@pytest.mark.parametrize(
    "content", [gzip.compress(WHOLE)[:-9], WHOLE], ids=["cut off", "not packed"]
)
def test_a_file_that_is_no_whole_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole gzip file"):
        idx.read_idx(tmp_path / "file")


def test_pictures_without_as_many_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(WHOLE)
    labels = idx_bytes(torch.zeros(3, dtype=torch.uint8))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match="do not belong together"):
        idx.read_pictures(tmp_path, "train")


# The command line.


@contextmanager
def misused() -> Iterator[StringIO]:
    """Expect an exit with status 2 and give what was complained."""
    with redirect_stderr(StringIO()) as complaint, pytest.raises(SystemExit) as ending:
        yield complaint
    assert ending.value.code == 2


@every_example
@pytest.mark.parametrize(
    "options", [("--optim", "sgd"), ("--steps", "0"), ("--device", "tpu"), ("--seed", "-1")]
)
def test_options_that_make_no_sense_end_with_status_2(
    name: str, options: tuple[str, str], tmp_path: Path
) -> None:
    with misused():
        finish(name, tmp_path, *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_named(tmp_path: Path) -> None:
    with misused() as complaint:
        finish("line_fit", tmp_path, "--device", "cuda")
    assert "there is no CUDA device here" in complaint.getvalue()


def test_a_folder_without_pictures_ends_with_status_2(tmp_path: Path) -> None:
    with misused() as complaint:
        finish("image_classifier", tmp_path, "--data", str(tmp_path))
    assert "train-images-idx3-ubyte" in complaint.getvalue()


def test_another_seed_gives_another_run(runs: Runs) -> None:
    options = ("line_fit", *SHORT["line_fit"])
    assert runs(*options).result["loss"] != runs(*options, "--seed", "1").result["loss"]


def test_an_example_runs_as_a_program_from_any_directory(tmp_path: Path) -> None:
    process = [sys.executable, str(FOLDER / "line_fit.py"), "--steps", "5"]
    surroundings = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    ended = subprocess.run(
        process, check=False, cwd=tmp_path, env=surroundings, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("Shown: ")
