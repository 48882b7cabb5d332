"""The examples: each runs with both libraries and ends in the same bits, and prints what it says.

A run goes through `main`, as on the command line; what the example's `run` returns is compared.
"""

from __future__ import annotations

import ast
import gzip
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from beside import assert_equal
from running import EXAMPLES, ROOT, Finished, finish, misused, start
from torch import Tensor

pytest.importorskip("tensorboard", reason="an example writes a log for TensorBoard")

import autograd_tour
import idx
import line_fit
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from optimlab.demo.libraries import LIBRARIES

STEPS = {
    "autograd_tour": 2,
    "checkpoint_doctor": 8,
    "image_classifier": 12,
    "layer_wise_rates": 8,
    "lenet": 3,
    "line_fit": 120,
    "microscope": 20,
    "optimizer_tour": 50,
    "sgd_against_adam": 40,
    "sine_ladder": 220,
    "two_layer_network": 30,
}
"""Every example that is tested here, and the steps of its short run."""

FIGURES = {
    "sgd_against_adam": "sgd-against-adam.png",
    "sine_ladder": "sine-ladder.png",
    "two_layer_network": "two-layer-network.png",
}

Short: TypeAlias = Callable[..., Finished]


def of_short_run(name: str, *options: str) -> tuple[str, ...]:
    return name, "--steps", str(STEPS[name]), *options


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Short:
    """Give each run once: name of the example and options to what came of it."""
    return cache(lambda name, *options: finish(name, tmp_path_factory.mktemp(name), *options))


@pytest.fixture(scope="module")
def short(runs: Short) -> Short:
    """Give the short run of an example, with optimlab or as further options say."""
    return lambda name, *options: runs(*of_short_run(name, *options))


every_example = pytest.mark.parametrize("name", STEPS)


@every_example
def test_both_libraries_end_in_the_same_bits(name: str, short: Short) -> None:
    ours, theirs = short(name), short(name, "--optim", "torch")
    assert (ours.libraries, theirs.libraries) == ({"optimlab"}, {"torch"})
    assert_equal(ours.result, theirs.result)
    assert fingerprint(ours) == fingerprint(theirs)


def fingerprint(finished: Finished) -> str:
    """Return what the line before the last says of the result."""
    line = finished.lines[-2]
    assert re.fullmatch(r"SHA-256 of the result: [0-9a-f]{16}", line)
    return line


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning")
@every_example
def test_both_libraries_end_in_the_same_bits_on_cuda(name: str, short: Short) -> None:
    ours, theirs = (short(name, "--device", "cuda", "--optim", each) for each in LIBRARIES)
    assert_equal(ours.result, theirs.result)


def wrong(right: Any) -> Any:
    """Derive an optimizer that turns over one bit after its first step that has a gradient."""

    def step(self: Any, closure: Any = None) -> Any:
        loss = right.step(self, closure)
        group = self.param_groups[0]["params"]
        moved = [p for p in group if p.grad is not None and p.dtype is torch.float32]
        if moved and not vars(self).setdefault("wrong", False):
            self.wrong = True
            # Of the significand, but not its lowest: the next step can round that one away.
            moved[-1].detach().view(-1)[:1].view(torch.int32).bitwise_xor_(1 << 20)
        return loss

    return type(right.__name__, (right,), {"step": step})


@every_example
def test_one_wrong_bit_of_one_step_shows_in_the_result(
    name: str, short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = {each: getattr(torch.optim, each) for each in ("SGD", "Adam", "AdamW", "RMSprop")}
    changed = {each: wrong(its) if each != "AdamW" else its for each, its in stock.items()}
    monkeypatch.setitem(LIBRARIES, "torch", SimpleNamespace(**changed))
    of_wrong = finish(name, tmp_path, *of_short_run(name, "--optim", "torch")[1:])
    assert fingerprint(of_wrong) != fingerprint(short(name))
    with pytest.raises(pytest.fail.Exception, match="more"):
        assert_equal(of_wrong.result, short(name).result)


@every_example
def test_its_last_line_says_what_was_shown_and_the_readme_quotes_it(
    name: str, short: Short
) -> None:
    lines, numbers = short(name).lines, r"[0-9.]*[0-9]"
    assert lines[-1].startswith("Shown: ")
    assert lines[-1].endswith(".")
    assert len(lines) < 75
    assert not set(short(name).printed) & set("\r\x1b"), "control characters, and no terminal"
    shown = lines[-1].removeprefix("Shown: ")
    assert re.sub(numbers, "N", shown) == re.sub(numbers, "N", quoted(name))


@pytest.mark.parametrize(("name", "file"), FIGURES.items())
def test_a_figure_is_a_png_with_curves_of_several_colours(
    name: str, file: str, short: Short
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
    texts = {path: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    return sorted(path.stem for path, text in texts.items() if '__name__ == "__main__"' in text)


def test_every_example_is_tested() -> None:
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    texts = [path.read_text(encoding="utf-8") for path in others]
    untested = set(examples()) - set(STEPS)
    assert set(STEPS) <= set(examples())
    assert [name for name in untested if not any(re.search(rf"\b{name}\b", t) for t in texts)] == []


def test_the_readme_has_a_line_for_every_example_and_no_other() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", text, flags=re.MULTILINE)
    assert sorted(listed) == examples()


def quoted(name: str) -> str:
    """Return what the table says an example prints at the end."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| [`{name}.py`]"))
    return row.split("|")[4].strip()


def written(tree: ast.Module) -> Iterator[str]:
    """Yield the texts of a source as patterns: any text may be in place of a value."""
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None
            for part in parts
        ]
        if sum(len(text or "") for text in texts) > 20:
            yield "".join(".+" if text is None else re.escape(text) for text in texts)


@pytest.mark.parametrize("name", examples())
def test_an_example_says_what_one_learns_how_to_run_it_and_what_the_readme_quotes(
    name: str,
) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    assert len(docstring) > 200
    assert f"examples/{name}.py" in docstring
    assert any(re.fullmatch(pattern, quoted(name)) for pattern in written(tree))


# The line.


def test_an_optimizer_that_was_built_too_early_moves_nothing(short: Short) -> None:
    finished = short("line_fit")
    assert finished.result["held"] == (2, 0)
    assert finished.result["state built too early"] == 0
    said = dict(line.split(": ", 1) for line in finished.lines if ": " in line)
    assert said["before"] == said["after 100 steps"]
    assert "error: lost parameters" in finished.printed.lower()


def test_the_line_is_found_and_the_loss_printed_every_1000_steps(runs: Short) -> None:
    finished = runs("line_fit")
    a, b = finished.result["line"]
    assert finished.result["loss"] < 1e-5
    assert abs(a.item() - 2) < 1e-3
    assert abs(b.item() - 1) < 1e-2
    printed = [int(step) for step in re.findall(r"^step +(\d+)", finished.printed, re.MULTILINE)]
    assert printed[:-1] == [1000 * (n + 1) for n in range(len(printed) - 1)]
    assert f"a = {a.item():.6f}, b = {b.item():.6f}" in finished.printed


def test_a_line_that_is_moved_without_detach_could_not_be_optimized() -> None:
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        LIBRARIES["optimlab"].Adam([line_fit.Line().a * 1])


# Autograd, the residual network, the layers that stay.


def test_the_tour_of_autograd_shows_gradients_a_step_by_hand_and_every_hyperparameter(
    short: Short,
) -> None:
    finished = short("autograd_tour")
    a, b = torch.tensor([2.0, 3.0]), torch.tensor([6.0, 4.0])
    assert_equal(finished.result["gradients"], [9 * a**2, -2 * b])
    moved = [finished.result[name].detach() for name in "ab"]
    assert_equal(moved, [a - 4.5 * a**2, b + b])
    by_hand = "by hand and by SGD, first step: all 11689512 elements have the same bits"
    assert by_hand in finished.printed
    listed = dict(re.findall(r"^    (\w+): (.+)$", finished.printed, re.MULTILINE))
    made = torch.optim.SGD([torch.zeros(1)], lr=1e-2, momentum=0.9)
    assert listed == {name: str(value) for name, value in made.defaults.items()}


def test_the_network_has_18_layers_and_the_parameters_of_resnet_18() -> None:
    modules = [*autograd_tour.ResNet18().named_modules()]
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [name for name, each in modules if isinstance(each, kinds) and "shortcut" not in name]
    assert len(layers) == 18
    assert sum(param.numel() for param in modules[0][1].parameters()) == 11_689_512


def test_frozen_layers_stay_and_have_no_state(short: Short) -> None:
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
def test_the_hand_written_update_is_sgd_wherever_it_rounds_as_often(
    steps: int, runs: Short
) -> None:
    result = runs("lenet", "--steps", str(steps)).result
    assert result["rounded_once 0.01"].elements == 61_706
    assert result["rounded_once 0.01"].differing == 0
    assert result["as_written 0.0078125"].differing == 0
    assert (result["as_written 0.01"].differing > 0) is add_rounds_once()


def test_two_layers_by_hand_are_those_of_sgd_where_they_round_as_often(short: Short) -> None:
    result = short("two_layer_network").result
    assert result["w.add_(w.grad, alpha=-lr)"].elements == 101_000
    assert result["w.add_(w.grad, alpha=-lr)"].differing == 0
    assert (result["w -= lr * w.grad"].differing > 0) is add_rounds_once()
    losses = result["losses"]
    assert losses["SGD"] == losses["w.add_(w.grad, alpha=-lr)"]
    assert losses["SGD"][-1] < 0.01 * losses["SGD"][0]


def test_rungs_of_the_ladder_with_the_same_operations_have_the_same_bits(short: Short) -> None:
    same, layers, *others = short("sine_ladder").result["agreements"].values()
    assert (same.elements, same.differing) == (layers.elements, layers.differing) == (4, 0)
    # Gradients of other operations, and of another precision: a few ulp in so many steps.
    assert [other.elements for other in others] == [4, 4]
    assert all((other.max_ulps or 0) < 1000 for other in others)


def test_every_rung_prints_its_losses_and_its_polynomial(short: Short) -> None:
    finished = short("sine_ladder")
    numbered = re.findall(r"^ +(\d+)((?: +\d+\.\d+){6})$", finished.printed, re.MULTILINE)
    assert [number for number, _ in numbered] == ["99", "199"]
    polynomial = re.compile(r"^(\d) .* y = .* x \+ .* x\^2 \+ .* x\^3$", re.MULTILINE)
    assert "".join(polynomial.findall(finished.printed)) == "123456"
    for losses in finished.result["losses"].values():
        assert len(losses) == STEPS["sine_ladder"]
        assert losses[-1] < losses[0]


# The tour.


def test_the_tour_steps_by_lr_and_goes_on_from_its_file_with_the_same_bits(short: Short) -> None:
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
    # One step was made with the first weight alone, the last by the resumed optimizer.
    sums = [10 * (1 - 0.9**steps) for steps in (52, 51)]
    buffers = [held["momentum_buffer"].mean().item() for held in result["state"]["state"].values()]
    assert buffers == pytest.approx(sums, rel=1e-5)


REFUSED = {
    "not a leaf": "ValueError: can't optimize a non-leaf",
    "a set": "sets will change",
    "overlap": "more than one",
    "another number of groups": "different number",
    "a group of another size": "doesn't match the size",
}
WARNED = {"a parameter given twice": "UserWarning: optimizer contains a parameter group with dup"}


def test_the_tour_shows_refusals_and_a_warning_each_with_its_message(short: Short) -> None:
    messages = short("optimizer_tour").result["messages"]
    for text, fragment in zip(messages, [*REFUSED.values(), *WARNED.values()], strict=True):
        assert fragment in text
    _, refused = short("optimizer_tour").printed.split("Refused, and the optimizer stays as it was")
    refused, warned = refused.split("Warned about")
    assert all(f"\n{words}: " in refused for words in REFUSED)
    assert all(f"\n{words}: " in warned for words in WARNED)
    assert "groups: 2, as before" in refused


def test_the_tour_shows_that_loading_leaves_the_defaults_in_lines_that_fit(short: Short) -> None:
    lines = short("optimizer_tour").lines
    assert "  defaults: lr 0.5, momentum 0" in lines
    restored = [line for line in lines if "unlike the defaults" in line]
    assert ["'lr': 0.1," in restored[0], "'nesterov': True" in restored[1]] == [True, True]
    assert max(len(line) for line in lines if not line.startswith("wrote ")) <= 100


# Rates, and two optimizers.


def test_two_groups_are_two_optimizers_and_what_is_in_no_group_stays(short: Short) -> None:
    result = short("layer_wise_rates").result
    assert result["two optimizers"].elements > 20_000
    assert result["two optimizers"].differing == 0
    for name, after in result["network"].items():
        assert torch.equal(after, result["before"][name]) is name.startswith("0.")


def test_sgd_and_adam_start_from_one_loss_and_adam_is_ahead_in_the_end(runs: Short) -> None:
    losses = runs("sgd_against_adam", "--steps", "300").result["losses"]
    assert losses["SGD"][0] == losses["Adam"][0]
    assert 0.009 < losses["Adam"][-1] < losses["SGD"][-1] < losses["SGD"][0]


# The classifier.


def test_the_classifier_learns_the_digits(runs: Short) -> None:
    finished = runs("image_classifier")
    assert finished.result["accuracy"] > 0.95
    assert len(finished.result["losses"]) == 10 * math.ceil(1437 / 64)
    epochs = re.findall(r"^epoch +(\d+)  batch +1 of 23  loss", finished.printed, re.MULTILINE)
    assert epochs == [str(epoch) for epoch in range(1, 11)]


def logged(folder: Path) -> list[tuple[int, float]]:
    """Read steps and losses back, as TensorBoard does."""
    log = EventAccumulator(str(folder / "tensorboard" / "optimlab"))
    log.Reload()
    return [(event.step, event.value) for event in log.Scalars("train_loss")]


def test_tensorboard_reads_every_loss_back_of_the_last_run(tmp_path: Path, short: Short) -> None:
    first = short("image_classifier")
    assert logged(first.folder) == [*enumerate(first.result["losses"], 1)]
    finish("image_classifier", tmp_path, "--steps", "2")
    second = finish("image_classifier", tmp_path, "--steps", "1", "--seed", "1")
    assert logged(tmp_path) == [(1, second.result["losses"][0])]
    assert "Shown: 1 step of Adam" in second.printed


def idx_bytes(values: Tensor) -> bytes:
    header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    return header + bytes(values.flatten().tolist())


Pictures: TypeAlias = tuple[Path, Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Give a folder with four files as Fashion-MNIST has them, and what is in them."""
    folder, values = tmp_path_factory.mktemp("pictures"), {}
    generator = torch.Generator().manual_seed(1)
    for part, count, packed in (("train", 150, "labels"), ("t10k", 30, "images")):
        for what, shape, high in (("images", (28, 28), 256), ("labels", (), 10)):
            name = f"{part}-{what}-idx{1 + len(shape)}-ubyte"
            drawn = torch.randint(0, high, (count, *shape), generator=generator).byte()
            content, values[name] = idx_bytes(drawn), drawn
            path = folder / (f"{name}.gz" if what == packed else name)
            path.write_bytes(gzip.compress(content) if what == packed else content)
    return folder, values


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_idx_files_are_read_compressed_or_not(part: str, pictures: Pictures) -> None:
    folder, written = pictures
    images, labels = idx.read_pictures(folder, part)
    assert images.dtype == torch.float32
    assert torch.equal(images, written[f"{part}-images-idx3-ubyte"].unsqueeze(1) / 255)
    assert torch.equal(labels, written[f"{part}-labels-idx1-ubyte"].long())


def test_the_classifier_trains_on_idx_files_to_the_same_bits(
    pictures: Pictures, runs: Short
) -> None:
    options = ("image_classifier", "--data", str(pictures[0]), "--epochs", "2")
    ours, theirs = runs(*options), runs(*options, "--optim", "torch")
    assert ours.result["model"]["head.weight"].shape == (10, 32 * 7 * 7)
    assert len(ours.result["losses"]) == 2 * 3
    assert "of 30 test pictures" in ours.printed
    assert_equal(ours.result, theirs.result)


WHOLE = idx_bytes(torch.zeros(2, 3, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("file", b"GIF89a" + WHOLE, "is not an IDX file"),
        ("file", WHOLE[:2] + bytes([13]) + WHOLE[3:], "of unsigned bytes"),
        ("file", WHOLE[:10], "ends within its header"),
        ("file", WHOLE[:-1], "should hold 18 elements, and holds 17"),
        ("file", WHOLE + b"\0", "should hold 18 elements, and holds 19"),
        ("file.gz", gzip.compress(WHOLE, mtime=0)[:-9], "is not a whole gzip file"),
        ("file.gz", WHOLE, "is not a whole gzip file"),
    ],
)
def test_a_file_that_is_no_whole_idx_file_is_refused(
    file: str, content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        idx.read_idx(tmp_path / "file")


def test_pictures_without_as_many_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(WHOLE)
    labels = idx_bytes(torch.zeros(3, dtype=torch.uint8))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match="do not belong together"):
        idx.read_pictures(tmp_path, "train")


# The command line.

NONSENSE = [("--optim", "sgd"), ("--steps", "0"), ("--device", "tpu"), ("--seed", "-1")]


@every_example
@pytest.mark.parametrize("options", NONSENSE)
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


def test_another_seed_gives_another_run(short: Short) -> None:
    assert short("line_fit").result["loss"] != short("line_fit", "--seed", "1").result["loss"]


def test_an_example_runs_as_a_program_from_any_directory(tmp_path: Path) -> None:
    ended = start(str(EXAMPLES / "line_fit.py"), "--steps", "5", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("Shown: ")
