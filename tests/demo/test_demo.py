"""The demo: a short run from end to end, and that it notices what it is there to notice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn", reason="the demo's data come with scikit-learn")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
pytest.importorskip("rich", reason="the demo prints with rich")

from commands import Finished, finish
from matplotlib.image import imread

from optimlab.demo import checkpoint, libraries, resume
from optimlab.demo.digits import Batches, build_network, read_digits
from optimlab.demo.recipes import Settings
from optimlab.demo.results import PAIRS, Count
from optimlab.demo.training import LockStep, reproducible

PARAMETERS, TENSORS = 38_282, 8
ELEMENTS = {"momentum": 2 * PARAMETERS, "adam": 3 * PARAMETERS + TENSORS}
STEPS = 2 * 8  # two epochs of 1437 images, 192 at a time
SHORT = ("--epochs", "2", "--batch-size", "192")
# Of the significand; a difference in the lowest bits can be rounded away by the next step.
HIGH_BIT = 1 << 20
TINY = Settings("momentum", epochs=1, batch_size=512, seed=3, device="cpu")


def run_demo(folder: Path, *options: str) -> Finished:
    return finish("demo", folder, "result.json", *options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_demo(tmp_path_factory.mktemp("demo"), *SHORT, "--optimizers", *ELEMENTS)


def test_the_demo_ends_with_no_differing_element_and_status_0(finished: Finished) -> None:
    total = (STEPS + 3) * sum(ELEMENTS.values())
    verdict = f"The same bits: 0 of {total:,} compared elements differ"
    assert (finished.status, finished.last_line) == (0, verdict)
    finished.check_layout()


@pytest.mark.parametrize("recipe", ELEMENTS)
def test_all_parameters_and_state_are_compared_after_every_step(
    finished: Finished, recipe: str
) -> None:
    counted = {"elements_compared": STEPS * ELEMENTS[recipe], "elements_differing": 0}
    assert finished.numbers["optimizers"][recipe]["lock_step"] == counted


@pytest.mark.parametrize("recipe", ELEMENTS)
def test_all_resumed_runs_end_in_another_process_with_the_same_bits(
    finished: Finished, recipe: str
) -> None:
    resumed = finished.numbers["optimizers"][recipe]["resumed"]
    assert [(end["saved_by"], end["resumed_by"]) for end in resumed] == list(PAIRS)
    for end in resumed:
        assert end["process"] != finished.numbers["process"] == os.getpid()
        assert (end["elements_compared"], end["elements_differing"]) == (ELEMENTS[recipe], 0)


@pytest.mark.parametrize("recipe", ELEMENTS)
def test_the_network_learns_and_both_losses_are_the_same_number(
    finished: Finished, recipe: str
) -> None:
    first, last = finished.numbers["optimizers"][recipe]["epochs"]
    assert first["training_loss"]["optimlab"] == first["training_loss"]["torch"]
    assert last["training_loss"]["optimlab"] < first["training_loss"]["optimlab"]
    assert last["test_accuracy"]["optimlab"] == last["test_accuracy"]["torch"] > 0.3


def test_the_result_names_versions_device_and_settings(finished: Finished) -> None:
    numbers = finished.numbers
    assert numbers["versions"]["torch"] == torch.__version__
    assert numbers["device"] == f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    assert numbers["settings"] == {"epochs": 2, "batch_size": 192, "seed": 0, "device": "cpu"}


def test_the_figure_is_a_png_with_the_colours_of_the_trained_optimizers(
    finished: Finished,
) -> None:
    pixels = imread(finished.folder / "loss-curves.png")
    assert pixels.shape == (1200, 1800, 4)
    drawn = {tuple(pixel) for pixel in (pixels[::2, ::2, :3] * 255).round().reshape(-1, 3).tolist()}
    assert {(0xF2, 0xB4, 0x8A), (0xE6, 0xBC, 0xD3)} <= drawn
    assert (0x8C, 0xC4, 0xE8) not in drawn


def test_checkpoints_hold_plain_values_only_and_no_part_is_left(finished: Finished) -> None:
    files = sorted((finished.folder / "checkpoints").iterdir())
    assert len(files) == 2 * (2 + len(PAIRS))
    assert all(torch.load(file, weights_only=True) for file in files)


class OneWrongBit(torch.optim.SGD):
    """Turns over the lowest bit of one weight after every step."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.param_groups[0]["params"][4].detach().view(torch.int32)[0, 0] ^= 1
        return loss


def test_one_wrong_bit_is_reported_as_a_difference_and_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(libraries.LIBRARIES, "optimlab", SimpleNamespace(SGD=OneWrongBit))
    finished = run_demo(tmp_path, "--epochs", "1", "--batch-size", "1437", "--optimizers", "sgd")
    total = PARAMETERS * (1 + len(PAIRS))
    assert finished.status == 1
    verdict = f"Different bits: 3 of {total:,} compared elements differ"
    assert finished.last_line == verdict
    found = finished.numbers["optimizers"]["sgd"]
    assert finished.numbers["same_bits"] is False
    assert found["first_differing_step"] == 1
    assert found["lock_step"] == {"elements_compared": PARAMETERS, "elements_differing": 1}
    # The new process takes the real classes: what resumes with torch meets torch's bits again.
    assert [end["elements_differing"] for end in found["resumed"]] == [1, 1, 0]


def interrupted(folder: Path) -> LockStep:
    """Train the tiny run to its end, leaving the checkpoints of half-way in the folder."""
    lock_step = LockStep(TINY, read_digits())
    with reproducible():
        list(lock_step.train(partial(resume.interrupt, folder)))
    return lock_step


def carry_on(folder: Path, lock_step: LockStep) -> Mapping[str, Tensor]:
    end = folder / "end.pt"
    with reproducible():
        resume.carry_on(resume.half_way(folder, lock_step, "torch"), "optimlab", end)
    tensors: Mapping[str, Tensor] = checkpoint.read(end)["tensors"]
    return tensors


def flip_a_bit_of_a_parameter(content: dict[str, Any]) -> None:
    content["run"]["network"]["0.bias"].view(torch.int32)[5] ^= HIGH_BIT


def flip_a_bit_of_the_state(content: dict[str, Any]) -> None:
    content["run"]["optimizer"]["state"][3]["momentum_buffer"].view(torch.int32)[5] ^= HIGH_BIT


def change_the_learning_rate(content: dict[str, Any]) -> None:
    content["run"]["optimizer"]["param_groups"][0]["lr"] *= 2


def exchange_two_images(content: dict[str, Any]) -> None:
    order = content["batches"]["order"]
    order[[0, -1]] = order[[-1, 0]]


def draw_other_shifts(content: dict[str, Any]) -> None:
    content["batches"]["generator"] = torch.Generator().manual_seed(4).get_state()


def test_a_resumed_run_ends_with_the_bits_of_the_uninterrupted_one(tmp_path: Path) -> None:
    lock_step = interrupted(tmp_path)
    count = Count.of(carry_on(tmp_path, lock_step), lock_step.runs["torch"].tensors())
    assert count == Count(ELEMENTS["momentum"], 0)


@pytest.mark.parametrize(
    "change",
    [
        flip_a_bit_of_a_parameter,
        flip_a_bit_of_the_state,
        change_the_learning_rate,
        exchange_two_images,
        draw_other_shifts,
    ],
)
def test_every_part_of_a_checkpoint_decides_on_the_final_bits(tmp_path: Path, change: Any) -> None:
    lock_step = interrupted(tmp_path)
    path = resume.half_way(tmp_path, lock_step, "torch")
    content = checkpoint.read(path)
    change(content)
    checkpoint.write(path, content)
    count = Count.of(carry_on(tmp_path, lock_step), lock_step.runs["torch"].tensors())
    assert count.elements_differing


def test_a_process_that_cannot_resume_says_why(tmp_path: Path) -> None:
    lock_step = interrupted(tmp_path)
    resume.half_way(tmp_path, lock_step, "optimlab").write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match=r"(?s)could not resume.*UnpicklingError"):
        resume.resume(tmp_path, lock_step)


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    checkpoint.write(path, {"value": 1})
    with pytest.raises(AttributeError, match="pickle"):
        checkpoint.write(path, {"value": lambda: 2})
    assert checkpoint.read(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_restored_stream_goes_on_with_the_batch_that_was_next() -> None:
    saved, restored = (Batches(read_digits(), batch_size=100, seed=seed) for seed in (0, 1))
    for _ in range(4):
        saved.draw()
    restored.load_state_dict(saved.state_dict())
    for _ in range(saved.per_epoch):
        for ours, theirs in zip(restored.draw(), saved.draw(), strict=True):
            assert torch.equal(ours, theirs)


def test_the_network_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    networks = [dict(build_network(seed).named_parameters()) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert Count.of(networks[0], networks[1]).elements_differing == 0
    assert Count.of(networks[0], networks[2]).elements_differing > 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_the_bits_are_the_same_on_cuda(tmp_path: Path) -> None:
    finished = run_demo(tmp_path, *SHORT, "--device", "cuda", "--optimizers", *ELEMENTS)
    assert finished.status == 0
    assert finished.numbers["elements_compared"] == (STEPS + 3) * sum(ELEMENTS.values())


def test_with_json_nothing_but_the_numbers_is_printed(tmp_path: Path) -> None:
    options = ("--epochs", "1", "--batch-size", "1437", "--optimizers", "sgd")
    finished = run_demo(tmp_path, *options, "--json")
    assert json.loads(finished.printed) == finished.numbers
