"""The checkpoint doctor: each silent failure is shown to be silent in torch, and then found."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import (
    STATEFUL,
    Options,
    Pair,
    assert_equal,
    one_thread,  # noqa: F401 - applies to every test here
    ways,
)
from torch import Tensor, nn
from torch.optim import Optimizer

import optimlab
from optimlab.__main__ import main
from optimlab.lab.compare.bits import same_bits
from optimlab.lab.doctor import CheckpointError, Report, repair
from optimlab.lab.lockstep.clone import clone

SHAPE = (4, 3)


class Run:
    """Parameters with names, all of one shape, and torch's optimizer over them.

    The gradient of a parameter depends on its name and on the number of the step alone, so that two
    runs which differ in the order of their parameters do the same to each.
    """

    def __init__(
        self, make: type[Optimizer], names: str, dtype: torch.dtype, options: Options
    ) -> None:
        self.make, self.names, self.dtype, self.options = make, names, dtype, options
        self.params = {
            name: nn.Parameter(self.draw(name, 0).to(dtype)) for name in dict.fromkeys(names)
        }
        self.steps = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parameters that are given twice
            self.optimizer: Any = make([(name, self.params[name]) for name in names], **options)

    @staticmethod
    def draw(name: str, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * step + sum(map(ord, name)))
        return torch.randn(SHAPE, generator=generator)

    def step(self, times: int = 1) -> Run:
        for _ in range(times):
            self.steps += 1
            for name, param in self.params.items():
                param.grad = self.draw(name, self.steps).to(param.dtype)
            self.optimizer.step()
        return self

    def again(self, names: str = "", **changes: Any) -> Run:
        """Make a fresh run at the same point: same parameters, no state yet."""
        make = changes.pop("make", self.make)
        dtype = changes.pop("dtype", self.dtype)
        other = Run(make, names or self.names, dtype, {**self.options, **changes})
        other.steps = self.steps
        for name, param in other.params.items():
            if name in self.params:
                param.data.copy_(self.params[name].data)
        return other

    def saved(self) -> Options:
        saved: Options = clone(self.optimizer.state_dict())
        return saved

    def load(self, saved: Options) -> Run:
        """Load as torch does, in which any warning would be an error."""
        self.optimizer.load_state_dict(saved)
        return self


def run(name: str, names: str = "ab", **options: Any) -> Run:
    return Run(getattr(torch.optim, name), names, torch.float32, {"lr": 0.1, **options})


def next_steps_differ(one: Run, other: Run, name: str) -> bool:
    """Tell whether the next step gives a parameter other bits in one run than in the other."""
    one.step()
    other.step()
    return not same_bits(one.params[name].detach(), other.params[name].detach())


# The eight.


def nothing(saved: Options) -> None:
    pass


def in_groups(**values: Any) -> Callable[[Options], None]:
    return lambda saved: [group.update(values) for group in saved["param_groups"]].clear()


def rename_momentum(saved: Options) -> None:
    for held in saved["state"].values():  # to the names that the package optimi uses
        held["exp_avg"], held["kahan_comp"] = held.pop("momentum_buffer"), None
    in_groups(kahan_sum=None, decouple_wd=False, triton=False)(saved)


def drop_state(saved: Options) -> None:
    del saved["state"][1]


def drop_nesterov(saved: Options) -> None:
    del saved["param_groups"][0]["nesterov"]  # as in checkpoints from before there was one


MOMENTUM, NESTEROV = {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
INSTEAD = "no momentum_buffer; there is exp_avg, kahan_comp instead: the next step starts anew"
DECAY, ADAMW = {"weight_decay": 0.1}, {"make": torch.optim.AdamW}

# What is saved and becomes of it, who loads it, and what is found.
Failure = tuple[str, str, Options, Callable[[Options], Any], Options, str, str]
FAILURES: tuple[Failure, ...] = (
    ("Adam", "ab", {}, nothing, {"names": "ba"}, "order", "place 0 is a here and b in the live"),
    ("Adam", "ab", DECAY, nothing, ADAMW, "wrong class", "written by Adam, and is given to AdamW"),
    ("Adam", "ab", {}, nothing, {"lr": 0.01}, "hyperparameter overridden", "lr = 0.01 by 0.1"),
    ("Adam", "ab", {}, drop_state, {}, "missing state", "parameter 1 (b): no state, so that it"),
    ("Adam", "aab", {}, nothing, {"names": "abc"}, "duplicate", "more than one parameter"),
    ("SGD", "ab", MOMENTUM, rename_momentum, {}, "missing key", INSTEAD),
    ("SGD", "ab", NESTEROV, drop_nesterov, {}, "missing key", "nesterov = True by False, which it"),
)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure[-2])
def test_a_failure_that_is_silent_in_torch_is_found(failure: Failure) -> None:
    name, names, options, damage, resumes, kind, text = failure
    right = run(name, names, **options).step(3)
    saved = right.saved()
    damage(saved)
    resumed = right.again(**resumes)
    report = optimlab.doctor(saved, resumed.optimizer)
    for group in right.optimizer.param_groups:
        group["lr"] = resumes.get("lr", 0.1)  # what the resumed run asks for
    resumed.load(saved)
    assert next_steps_differ(resumed, right, "b"), "torch goes on to the right bits"
    found = [finding for finding in report.of_kind(kind) if text in finding.what]
    assert [f.severity for f in found] == ["warning" if "lr" in resumes else "error"], report
    assert not report.healthy


def test_two_optimizers_that_share_state_are_found_out() -> None:
    right = run("Adam").step(3)
    saved = right.saved()
    first, second = right.again().load(saved), right.again().load(saved)
    found = optimlab.doctor(first.optimizer, second.optimizer).of_kind("aliasing")
    first.step()  # which no one expects to change the second
    assert next_steps_differ(second, right, "a")
    assert "share memory" in found[0].what


def test_moments_that_loading_casts_are_found() -> None:
    right = run("Adam").step(3)
    halved = right.again(dtype=torch.bfloat16)
    found = optimlab.doctor(right.saved(), halved.optimizer).of_kind("dtype")
    assert next_steps_differ(right.again().load(halved.load(right.saved()).saved()), right, "a")
    text = "casts torch.float32 to torch.bfloat16 with loss, here and in 3 other tensors, 48 elem"
    assert (found[0].severity, text in found[0].what) == ("error", True)


# No false alarm.


@ways
def test_a_sound_checkpoint_is_healthy_alone_and_where_it_belongs(
    name: str, way: Options, tmp_path: Path
) -> None:
    pair = Pair(name, **{**STATEFUL[name], **way})
    pair.step(3)
    for side in pair.sides:
        torch.save({"optimizer": side.optimizer.state_dict()}, tmp_path / "run.pt")
        report = optimlab.doctor(tmp_path / "run.pt")
        assert report.healthy or set(kinds(report)) == {"missing state"}, report
        fresh = pair.new(side)
        before = clone(fresh.state_dict())
        # One parameter never has a gradient, and so no state: nobody can tell from the file.
        assert set(kinds(optimlab.doctor(tmp_path / "run.pt", fresh))) <= {"missing state"}
        assert_equal(fresh.state_dict(), before)
        assert set(kinds(optimlab.doctor(tmp_path / "run.pt", side.optimizer))) <= {"missing state"}
    ours, theirs = (clone(side.optimizer.state_dict()) for side in pair.sides)
    assert not optimlab.doctor(ours, theirs).of_kind("bits")


def kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings if finding.severity != "note"]


def test_a_live_optimizer_keeps_its_bits_and_its_hooks_are_not_called() -> None:
    right = run("Adam").step(3)
    other = right.again().step(2)
    other.optimizer.register_load_state_dict_pre_hook(lambda *_: pytest.fail("called"))
    other.optimizer.register_load_state_dict_post_hook(lambda *_: pytest.fail("called"))
    before, groups = other.saved(), other.optimizer.param_groups
    optimlab.doctor(right.saved(), other.optimizer)
    assert_equal(other.saved(), before)
    assert other.optimizer.param_groups is groups


# One checkpoint alone.


def changed(key: str, change: Callable[[Any], Any]) -> Callable[[Options], None]:
    def damage(saved: Options) -> None:
        saved["state"][0][key] = change(saved["state"][0][key])

    return damage


def element(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.clone().index_put_(
        (torch.tensor(1), torch.tensor(2)), tensor.new_tensor(value)
    )


def share(saved: Options) -> None:
    saved["state"][1]["exp_avg"] = saved["state"][0]["exp_avg"]


def overlap(saved: Options) -> None:
    memory = torch.rand(16)
    saved["state"][0]["exp_avg"] = memory[:12].view(SHAPE)
    saved["state"][0]["exp_avg_sq"] = memory[4:].view(SHAPE)


DAMAGES: dict[str, tuple[Callable[[Options], Any], str, str]] = {
    "NaN": (changed("exp_avg", element(float("nan"))), "not finite", "first at [1, 2]: nan"),
    "infinity": (changed("exp_avg_sq", element(float("inf"))), "not finite", "1 of 12 elements"),
    "negative square": (changed("exp_avg_sq", element(-0.5)), "negative", "at [1, 2]: -0.5"),
    "maximum too small": (
        changed("max_exp_avg_sq", element(0.0)),
        "inconsistent",
        "less than exp_avg_sq",
    ),
    "other shape": (changed("exp_avg", lambda t: t[:2].clone()), "shape", "exp_avg (2, 3)"),
    "bfloat16": (changed("exp_avg_sq", lambda t: t.bfloat16()), "half precision", "bfloat16"),
    "step as a number": (changed("step", int), "step", "plain number"),
    "step in half precision": (changed("step", lambda t: t.bfloat16()), "step", "beyond 256"),
    "step of NaN": (changed("step", lambda t: t * float("nan")), "step", "no number of steps"),
    "negative step": (changed("step", lambda t: -t), "step", "no number of steps"),
    "other step": (changed("step", lambda t: t + 5), "step", "not all the same"),
    "no element": (changed("exp_avg", lambda t: t[:0]), "empty", "shape (0, 3)"),
    "missing key": (lambda saved: saved["state"][0].pop("exp_avg"), "missing key", "no exp_avg"),
    "missing state": (lambda saved: saved["state"].pop(0), "missing state", "parameter 0 (a)"),
    "state of nobody": (lambda saved: saved["state"].update({7: {}}), "orphan state", "7"),
    "shared": (share, "aliasing", "exp_avg of parameter 0 (a) and exp_avg of parameter 1 (b)"),
    "overlapping": (overlap, "aliasing", "exp_avg of parameter 0 (a) and exp_avg_sq"),
    "twice": (in_groups(params=[0, 0, 1]), "duplicate", "number 0 stands for more than one"),
    "names twice": (in_groups(param_names=["a", "a", "c"]), "names", "a names more than one"),
    "lr of NaN": (in_groups(lr=float("nan")), "hyperparameter", "lr = nan"),
    "swapped betas": (in_groups(betas=(0.999, 0.9)), "hyperparameter", "as if they were swapped"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_inside_a_checkpoint_is_found(damage: str, tmp_path: Path) -> None:
    inflict, kind, text = DAMAGES[damage]
    saved = run("Adam", "abc", amsgrad=True).step(3).saved()
    assert optimlab.doctor(saved).findings == ()
    inflict(saved)
    torch.save(saved, tmp_path / "run.pt")
    for source in (saved, tmp_path / "run.pt"):
        found = optimlab.doctor(source).of_kind(kind)
        assert len(found) == 1, optimlab.doctor(source)
        assert text in found[0].what


# Two checkpoints.


def test_the_first_differing_bit_of_two_checkpoints_is_named() -> None:
    saved = run("Adam").step(3).saved()
    other = clone(saved)
    other["state"][1]["exp_avg_sq"][2, 1].view(torch.int32).bitwise_xor_(1)
    assert optimlab.doctor(saved, clone(saved)).healthy
    found = optimlab.doctor(saved, other).of_kind("bits")[0]
    assert "state 'exp_avg_sq' of parameter 1 (b)" in found.what
    assert "element [2, 1]" in found.what
    assert "1 ulp apart" in found.what


def test_the_same_moments_in_another_order_are_recognised_without_names() -> None:
    saved = run("SGD", momentum=0.9).step(3).saved()
    del saved["param_groups"][0]["param_names"]
    other = clone(saved)
    other["state"] = {0: saved["state"][1], 1: saved["state"][0]}
    other = clone(other)
    found = optimlab.doctor(saved, other).of_kind("order")
    assert "the state of parameter 0 is, bit for bit, that of parameter 1" in found[0].what


def test_rounded_moments_are_told_from_other_ones() -> None:
    right = run("Adam").step(3)
    rounded = right.again(dtype=torch.bfloat16).load(right.saved()).saved()
    found = optimlab.doctor(rounded, right.saved()).of_kind("dtype")
    assert "4 of them are the other's values, rounded" in found[0].what


DIFFERENT: dict[str, tuple[Callable[[Options], Any], str, str]] = {
    "lr": (in_groups(lr=0.5), "hyperparameter", "lr = 0.5"),
    "missing option": (lambda s: s["param_groups"][0].pop("eps"), "missing key", "has eps"),
    "foreign option": (in_groups(kahan_sum=True), "foreign key", "has kahan_sum"),
    "class": (in_groups(decoupled_weight_decay=True), "wrong class", "AdamW"),
    "names": (in_groups(param_names=["a", "z"]), "names", "here z"),
    "missing state": (lambda s: s["state"].pop(1), "missing state", "parameter 1 (b)"),
    "size": (in_groups(params=[0]), "groups", "[1] parameters"),
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_what_two_checkpoints_do_not_have_in_common_is_found(difference: str) -> None:
    inflict, kind, text = DIFFERENT[difference]
    saved = run("Adam").step(3).saved()
    other = clone(saved)
    inflict(other)
    found = optimlab.doctor(other, saved).of_kind(kind)
    assert any(text in finding.what for finding in found), found


# Which class wrote it.


@pytest.mark.parametrize("loads", ["SGD", "Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize(
    "wrote", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop"]
)
def test_the_class_that_wrote_a_checkpoint_is_told_from_the_one_that_loads_it(
    wrote: str, loads: str
) -> None:
    report = optimlab.doctor(run(wrote).step(1).saved(), run(loads).optimizer)
    found = [finding.what for finding in report.of_kind("wrong class")]
    expected = f"was written by {wrote}, and is given to {loads}, which loads it without an error"
    assert [text.partition(":")[0] for text in found] == ([expected] if wrote != loads else [])


def test_a_load_that_torch_refuses_is_reported_with_torchs_words() -> None:
    report = optimlab.doctor(run("Adam", "a").step(1).saved(), run("Adam").optimizer)
    assert "doesn't match the size of optimizer's group" in report.of_kind("refused")[0].what
    report = optimlab.doctor(run("SGD").step(1).saved(), run("Adam").optimizer)
    assert report.of_kind("missing key")


def test_another_library_of_optimizers_is_recognised_by_its_keys() -> None:
    saved = run("SGD", momentum=0.9).step(1).saved()
    in_groups(storage_dtype="float32")(saved)
    report = optimlab.doctor(saved, run("SGD", momentum=0.9).optimizer)
    assert "heavyball" in report.of_kind("wrong class")[0].what


# Where an optimizer is found, and where names come from.

WRAPPINGS: dict[str, Callable[[Options], Any]] = {
    "alone": lambda saved: saved,
    "with a model": lambda saved: {"model": {"w": torch.ones(2)}, "optimizer": saved},
    "of Lightning": lambda saved: {"state_dict": {}, "optimizer_states": [saved], "epoch": 1},
    "nested": lambda saved: {"train": {"optimizers": {"main": saved}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_an_optimizer_is_found_inside_a_checkpoint(wrapping: str, tmp_path: Path) -> None:
    right = run("Adam").step(2)
    torch.save(WRAPPINGS[wrapping](right.saved()), tmp_path / "run.pt")
    report = optimlab.doctor(tmp_path / "run.pt", right.again().optimizer)
    assert report.findings == ()
    assert "1 optimizer, 2 parameters, 6 state tensors" in report.verdict


def test_several_optimizers_are_examined_and_paired_in_order() -> None:
    one, other = run("Adam").step(2).saved(), run("SGD", momentum=0.9).step(2).saved()
    other["state"][0]["momentum_buffer"][0, 0] = float("nan")
    report = optimlab.doctor({"optimizers": [one, other]})
    assert report.of_kind("not finite")[0].where.startswith("state dict['optimizers'][1]")
    with pytest.raises(CheckpointError, match="2 optimizers on one side"):
        optimlab.doctor({"optimizers": [one, other]}, one)


def test_names_come_from_the_model_beside_the_optimizer() -> None:
    right = run("Adam").step(2)
    saved = right.saved()
    del saved["param_groups"][0]["param_names"]
    checkpoint = {"model": {name: p.detach() for name, p in right.params.items()}, "opt": saved}
    report = optimlab.doctor(checkpoint, right.again("ba").optimizer)
    assert "names from the order of ['model']" in report.of_kind("order")[0].where
    assert optimlab.doctor(checkpoint, right.again().optimizer).healthy


def test_names_of_a_live_optimizer_come_from_its_model() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    optimizer = torch.optim.Adam(list(model.parameters())[::-1])
    saved = torch.optim.Adam(model.named_parameters()).state_dict()
    assert optimlab.doctor(saved, optimizer, model=model).of_kind("order")
    assert "no names" in optimlab.doctor(saved, optimizer).of_kind("names")[0].what


# What is refused.


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code from a checkpoint was run')",)


def saved_as(path: Path, state: Any, **group: Any) -> None:
    torch.save({"state": state, "param_groups": [group]}, path)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda path: torch.save({"o": Malicious()}, path), "holds no optimizer"),
    "no optimizer": (lambda path: torch.save({"model": {}}, path), "holds no optimizer"),
    "a number": (lambda path: torch.save(3, path), "holds no optimizer"),
    "text": (lambda path: path.write_text("not a checkpoint"), "is no checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "is no checkpoint"),
    "cut short": (lambda path: path.write_bytes(b"\x80\x02."), "is no checkpoint"),
    "no list": (lambda path: saved_as(path, {}, params=None), "params of group 0 is NoneType"),
    "no numbers": (lambda path: saved_as(path, {}, params=[[0]]), "a list for a parameter's"),
    "no names": (lambda path: saved_as(path, {}, params=[0], param_names=3), "param_names of"),
    "no dict": (lambda path: saved_as(path, {0: 3}, params=[0]), "parameter 0 is int, not a dict"),
    "missing": (lambda path: None, "cannot be read: No such file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_safely_is_refused_with_status_2(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="the commands print with rich")
    make, complaint = REFUSED[kind]
    path = tmp_path / "run.pt"
    make(path)
    with pytest.raises(CheckpointError, match=complaint):
        optimlab.doctor(path)
    assert main(["doctor", str(path)]) == 2
    assert "optimlab doctor: " in capsys.readouterr().err


# Repairs.


def test_a_repaired_order_goes_on_to_the_right_bits(tmp_path: Path) -> None:
    right = run("Adam", "abc").step(3)
    torch.save({"optimizer": right.saved(), "epoch": 3}, tmp_path / "run.pt")
    original = (tmp_path / "run.pt").read_bytes()
    resumed = right.again("cab")
    repaired = repair(tmp_path / "run.pt", tmp_path / "fixed.pt", resumed.optimizer)
    assert repaired.report.healthy, repaired
    fixed = torch.load(tmp_path / "fixed.pt", weights_only=True)
    assert fixed["epoch"] == 3
    resumed.load(fixed["optimizer"])
    for name in right.params:
        assert not next_steps_differ(resumed, right, name)
    assert (tmp_path / "run.pt").read_bytes() == original


def test_chosen_hyperparameters_are_kept() -> None:
    right = run("Adam").step(3)
    resumed = right.again(lr=0.01, eps=1e-5)
    fixed = repair(right.saved(), None, resumed.optimizer, keep=["lr"])
    group = fixed.content["param_groups"][0]
    assert (group["lr"], group["eps"]) == (0.01, 1e-8)
    assert [f.kind for f in fixed.report.findings] == ["hyperparameter overridden"]
    with pytest.raises(CheckpointError, match="no hyperparameter momentum"):
        repair(right.saved(), None, resumed.optimizer, keep=["momentum"])


def test_float32_moments_are_restored_bit_for_bit_from_a_checkpoint_that_has_them() -> None:
    right = run("Adam").step(3)
    rounded = right.again(dtype=torch.bfloat16).load(right.saved()).saved()
    fixed = repair(rounded, None, right.saved())
    assert_equal(fixed.content, right.saved())
    assert fixed.report.healthy
    widened = repair(rounded).content["state"][0]["exp_avg"]
    assert widened.dtype is torch.float32
    assert same_bits(widened.bfloat16(), right.saved()["state"][0]["exp_avg"].bfloat16())


def test_shared_memory_is_separated() -> None:
    saved = run("Adam").step(3).saved()
    share(saved)
    assert repair(saved).report.healthy
    assert not optimlab.doctor(saved).healthy  # never in place


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    torch.save(run("Adam").step(1).saved(), tmp_path / "run.pt")
    original = (tmp_path / "run.pt").read_bytes()
    for out in ("run.pt", "./run.pt"):
        with pytest.raises(CheckpointError, match="not overwritten"):
            repair(tmp_path / "run.pt", tmp_path / out)
    with pytest.raises(CheckpointError, match="no directory"):
        repair(tmp_path / "run.pt", tmp_path / "nowhere" / "fixed.pt")
    assert (tmp_path / "run.pt").read_bytes() == original


def test_a_repair_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = run("Adam").step(1).saved()

    def fill_the_disk(_: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        repair(saved, tmp_path / "fixed.pt")
    assert list(tmp_path.iterdir()) == []


# The command.


def make_resumed() -> Optimizer:
    optimizer: Optimizer = run("Adam", "ba", lr=0.01).optimizer
    return optimizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pytest.importorskip("rich", reason="the commands print with rich")
    path = tmp_path / "run.pt"
    torch.save({"optimizer": run("Adam").step(3).saved()}, path)
    return path


def test_the_command_repairs_and_its_status_is_that_of_the_repaired_file(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", str(checkpoint), "--against", f"{__name__}:make_resumed"]
    assert main(["doctor", str(checkpoint)]) == 0
    assert main(words) == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    out = str(checkpoint.with_name("fixed.pt"))
    assert main([*words, "--repair", out]) == 1  # there is still the overridden lr
    again = str(checkpoint.with_name("again.pt"))
    assert main([*words, "--repair", again, "--keep", "lr"]) == 0
    printed = capsys.readouterr().out
    assert "brought 2 parameters into the order of the live Adam" in printed
    assert "kept lr of the live Adam" in printed
    assert main(["doctor", again, "--against", f"{__name__}:make_resumed"]) == 0
    assert main(["doctor", str(checkpoint), again]) == 1
    assert main(["doctor", out, out]) == 0


def test_the_command_prints_json_in_place_of_text(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against = f"{__name__}:make_resumed"
    assert main(["doctor", "--json", "--against", against, "--", str(checkpoint)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["healthy"] is False
    assert {"order", "hyperparameter overridden"} <= {f["kind"] for f in printed["findings"]}


MISUSES = (
    (["run.pt", "run.pt", "--against", "a:b"], "not with both"),
    (["run.pt", "--keep", "lr"], "goes with --repair"),
    (["run.pt", "--repair", "out.pt", "--keep", "lr"], "needs CKPT2 or --against"),
    (["run.pt", "--against", "no_such_module:make"], "no module"),
    (["run.pt", "--against", "builtins:dict"], "no optimizer"),
    (["run.pt", "--against", "torch.optim:Adam"], "raised TypeError"),
    (["run.pt", "--against", "math:pi"], "raised TypeError"),
)


@pytest.mark.parametrize(("words", "complaint"), MISUSES)
def test_options_that_make_no_sense_exit_with_status_2(
    words: list[str],
    complaint: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert main(["doctor", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        (0.5, torch.tensor(0.5), ["hyperparameter"]),
        (torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.5), ["hyperparameter"]),
        (torch.tensor(0.5), torch.tensor(0.5), []),
        (torch.ones(2), torch.ones(2), []),
        (torch.ones(2), torch.zeros(2), ["hyperparameter"]),
    ],
)
def test_a_hyperparameter_differs_by_its_bits_and_by_its_dtype(
    one: Any, other: Any, kinds: list[str]
) -> None:
    left, right = (run("Adam").step().saved() for _ in range(2))
    left["param_groups"][0]["lr"], right["param_groups"][0]["lr"] = one, other
    found = optimlab.doctor(left, right).findings
    assert [f.kind for f in found if "lr" in f.what or "tensor" in f.what] == kinds


def test_two_checkpoints_without_state_are_not_called_healthy(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="the commands print with rich")
    saved = run("SGD").step().saved()
    with pytest.raises(CheckpointError, match="nothing was compared"):
        optimlab.doctor(saved, copy.deepcopy(saved))
    path = str(tmp_path / "run.pt")
    torch.save(saved, path)
    assert main(["doctor", path, path]) == 2
    assert repair(saved, None, copy.deepcopy(saved)).report.healthy
    changed = copy.deepcopy(saved)
    changed["param_groups"][0]["lr"] = 0.7
    assert optimlab.doctor(saved, changed).of_kind("hyperparameter")
