"""Files as programs write them: nothing in one is run, and nothing beside an optimizer hides it."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import os
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import optimlab
from optimlab.lab.doctor import CheckpointError, repair
from optimlab.lab.doctor.formats import pickled

Options = dict[str, Any]


def trained(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.named_parameters(), **options)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def sick() -> Options:
    """The state dict of an optimizer that has a NaN, by which it is known to have been read."""
    saved: Options = trained()[1].state_dict()
    saved["state"][0]["exp_avg"][0, 0] = float("nan")
    return saved


def is_found_sick(source: Any) -> bool:
    found = optimlab.doctor(source)
    wrong = [finding for finding in found.findings if finding.severity != "note"]
    assert [finding.kind for finding in wrong] == ["not finite"], found
    return "exp_avg of parameter 0" in wrong[0].where


def gone(source: str) -> Any:
    """Make a value of a class whose module is not there when the file is read."""
    module = types.ModuleType("gone_away")
    exec(source, module.__dict__)
    sys.modules["gone_away"] = module
    return module.made


class Colour(enum.Enum):
    RED = 1


def cyclic() -> list[Any]:
    outer: list[Any] = []
    outer.append(outer)
    return outer


BESIDE: dict[str, Callable[[], Any]] = {
    "a NumPy scalar": lambda: np.float64(0.3),
    "a NumPy array": lambda: np.arange(6.0).reshape(2, 3),
    "a generator's state": np.random.get_state,
    "arguments": lambda: argparse.Namespace(lr=1, out=Path("/out")),
    "a date": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "an enum": lambda: Colour.RED,
    "a dict with a default": lambda: collections.defaultdict(list, loss=[1.0]),
    "a deque": lambda: collections.deque([1, 2], maxlen=3),
    "a config": lambda: gone("class C(dict): pass\nmade = C(lr=1)"),
    "a scaler": lambda: gone("class S: pass\nmade = S()\nmade.scale = 2.0"),
    "a list of one's own": lambda: gone("class L(list): pass\nmade = L([1, 2])"),
    "a slot": lambda: gone("class S: __slots__ = ('x',)\nmade = S()\nmade.x = 1"),
    "a model": lambda: trained()[0].to(torch.float16),
    "a set": lambda: {1, 2},
    "a complex number": lambda: 1j,
    "bytes": lambda: b"\x00\xff",
    "a generator of torch": lambda: torch.Generator().get_state(),
    "a float8 tensor": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "a meta tensor": lambda: torch.ones(3, device="meta"),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a subclass of Tensor": lambda: nn.Parameter(torch.ones(3)),
    "a size": lambda: (torch.Size([2]), torch.float16, torch.device("cpu")),
    "itself": cyclic,
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("write", [torch.save, "legacy", "pickle"])
def test_nothing_beside_an_optimizer_hides_it(beside: str, write: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    value = BESIDE[beside]()
    content = {"epoch": 3, "optimizer": sick(), "beside": value}
    if write == "pickle" and isinstance(value, np.ndarray | tuple | str | dict | set):
        path.write_bytes(pickle.dumps({**content, "optimizer": {"state": {}, "param_groups": []}}))
        assert optimlab.doctor(path).healthy
    elif write != "pickle":
        torch.save(content, path, _use_new_zipfile_serialization=write is torch.save)
        sys.modules.pop("gone_away", None)
        assert is_found_sick(path)


def test_objects_are_listed_and_a_repaired_copy_has_none(tmp_path: Path) -> None:
    content = {"optimizer": sick(), "args": argparse.Namespace(lr=1), "more": [1, Path("/out")]}
    torch.save(content, tmp_path / "run.pt")
    found = optimlab.doctor(tmp_path / "run.pt").of_kind("objects")
    assert "argparse.Namespace at run.pt['args']" in found[0].what
    repaired = repair(tmp_path / "run.pt", tmp_path / "fixed.pt")
    assert "left out run.pt['args'], a argparse.Namespace" in repaired.done
    fixed = torch.load(tmp_path / "fixed.pt", weights_only=True)
    assert (set(fixed), fixed["more"]) == ({"optimizer", "more"}, [1])
    (tmp_path / "new").touch()
    mode = (tmp_path / "new").stat().st_mode
    assert (tmp_path / "fixed.pt").stat().st_mode == mode


def test_the_order_and_the_versions_of_a_models_state_stay(tmp_path: Path) -> None:
    model, optimizer = trained()
    torch.save({"model": model.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "run.pt")
    repair(tmp_path / "run.pt", tmp_path / "fixed.pt")
    one, other = (torch.load(tmp_path / name)["model"] for name in ("run.pt", "fixed.pt"))
    assert one._metadata == other._metadata
    assert list(one) == list(other)


def test_a_whole_optimizer_is_examined(tmp_path: Path) -> None:
    _, optimizer = trained()
    optimizer.load_state_dict(sick())
    torch.save({"optimizer": optimizer}, tmp_path / "run.pt")
    assert is_found_sick(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="is inside an object"):
        repair(tmp_path / "run.pt")


class Trap:
    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = call, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [open, os.mkdir, eval, getattr, np.load])
def test_no_code_of_a_file_is_run(call: Any, legacy: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = Trap(call, str(sprung), "w") if call is open else Trap(call, str(sprung))
    content = {"optimizer": sick(), "trap": trap}
    torch.save(content, tmp_path / "run.pt", _use_new_zipfile_serialization=not legacy)
    assert is_found_sick(tmp_path / "run.pt")
    assert not sprung.exists()


# Directories and archives.


def of_a_trainer(path: Path) -> None:
    path.mkdir()
    torch.save(sick(), path / "optimizer.pt")
    torch.save({"last_epoch": 3, "_step_count": 4}, path / "scheduler.pt")
    (path / "trainer_state.json").write_text("{}")


def of_accelerate(path: Path) -> None:
    path.mkdir()
    torch.save(sick(), path / "optimizer.bin")
    (path / "random_states_0.pkl").write_bytes(pickle.dumps({"step": 3}))


def of_stable_baselines(path: Path) -> None:
    file = io.BytesIO()
    torch.save(sick(), file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.optimizer.pth", file.getvalue())


def distributed(path: Path) -> None:
    model, optimizer = trained()
    saved = get_optimizer_state_dict(model, optimizer)
    saved["state"]["0.weight"]["exp_avg"][0, 0] = float("nan")  # type: ignore[index, call-overload]
    content = {"optimizer": saved, "model": model.state_dict(), "epoch": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(content, checkpoint_id=path, no_dist=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [of_a_trainer, of_accelerate, of_stable_baselines, distributed])
def test_the_optimizer_in_a_directory_or_an_archive_is_examined(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "checkpoint")
    assert is_found_sick(tmp_path / "checkpoint")


# What is no optimizer's, or damaged.


def flipped(path: Path) -> None:
    torch.save(sick(), path)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(each for each in archive.infolist() if each.filename.endswith("data/1"))
    raw[info.header_offset + len(info.filename) + 100] ^= 0x80
    path.write_bytes(raw)


def nested(depth: int) -> Any:
    return {"optimizer": nested(depth - 1)} if depth else {}


def laughs() -> Any:
    value: Any = [0]
    for _ in range(60):
        value = [value] * 10
    return {"state": {0: {"x": value}}, "param_groups": [{"params": [0]}]}


def expanded() -> Options:
    saved = sick()
    saved["state"][0]["exp_avg"] = torch.zeros(1).expand(30_000, 30_000)
    return saved


def many_objects(path: Path) -> None:
    path.write_bytes(b"\x80\x02" + b"]" * 60_000)


def claims(path: Path) -> None:
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x03N", b"\x8a\x05" + b"\xff" * 4 + b"\x00N"))


def safetensors(path: Path) -> None:
    header = b'{"__metadata__":{},"w":{},"b":{}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "stripped": (lambda p: torch.save({"optimizer": None}, p), r"\['optimizer'\] is there, and is"),
    "a schedule": (lambda p: torch.save({"last_epoch": 1, "_step_count": 2}, p), "of a schedule"),
    "weights": (lambda p: torch.save({"w": torch.ones(2)}, p), "the weights of a model"),
    "an object": (lambda p: torch.save(argparse.Namespace(), p), "holds no optimizer"),
    "a flipped byte": (flipped, "checksum of .*data/1 does not fit"),
    "safetensors": (safetensors, "a file of safetensors, with 2 tensors, w, b, and no groups"),
    "deep": (lambda p: torch.save(nested(300), p), "nested deeper"),
    "laughs": (lambda p: torch.save(laughs(), p), "more than 2000000 entries"),
    "expanded": (lambda p: torch.save(expanded(), p), "expanded from 1 elements"),
    "many objects": (many_objects, "more than 50000 instructions"),
    "claims": (claims, "is no checkpoint"),
    "a fifo": (os.mkfifo, "neither a file nor a directory"),
    "an empty directory": (Path.mkdir, "no file in it is named after an optimizer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_without_an_optimizer_is_said_to_be_what_it_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickled, "MOST_INSTRUCTIONS", 50_000)
    make, complaint = REFUSED[kind]
    make(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=complaint):
        optimlab.doctor(tmp_path / "run.pt")
