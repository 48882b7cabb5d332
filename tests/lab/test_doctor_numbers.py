"""What is said of healthy optimizers, nothing; and of numbers that make the next step go wrong."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optimlab
from optimlab.lab.doctor import Report, repair

Options = dict[str, Any]
TORCHS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if name not in ("Optimizer", "SparseAdam")
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def made(name: str, model: nn.Module, **options: Any) -> Any:
    named = list(model.named_parameters())
    matrices = [(name, param) for name, param in named if param.dim() == 2]
    kind = getattr(torch.optim, name)
    return kind(matrices if name == "Muon" else named, **{"lr": 0.01, **options})


def train(model: nn.Module, optimizer: Any, steps: int = 3) -> Options:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    saved: Options = copy.deepcopy(optimizer.state_dict())
    return saved


def alarms(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings if finding.severity != "note"]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", TORCHS)
def test_no_alarm_is_raised_of_a_healthy_optimizer(name: str, steps: int) -> None:
    model = network()
    optimizer = made(name, model)
    saved = train(model, optimizer, steps)
    for report in (
        optimlab.doctor(saved),
        optimlab.lint(optimizer),
        optimlab.doctor(saved, made(name, network())),
    ):
        assert alarms(report) == []


QUANTIZED = {"state1": torch.zeros(64), "state2": torch.zeros(64)}
LARGE = {**{key: t.clone() for key, t in QUANTIZED.items()}, "absmax1": torch.ones(32)}
FACTORED = {"exp_avg_sq_row": torch.ones(6), "exp_avg_sq_col": torch.ones(4)}
MIXED: dict[str, list[Options]] = {
    "bitsandbytes": [{"step": 2, "__bnb_optimizer_quant_state__": LARGE}, {"step": 2, **QUANTIZED}],
    "its older layout": [{"step": 2, **LARGE}, {"step": 2, **QUANTIZED}],
    "Adafactor": [{"step": 3, **FACTORED}, {"step": 3, "exp_avg_sq": torch.ones(6)}],
}


@pytest.mark.parametrize("name", MIXED)
def test_state_may_differ_from_parameter_to_parameter(name: str) -> None:
    state = dict(enumerate(MIXED[name]))
    group = {"lr": 1e-3, "alpha": 0.0, "params": [0, 1]}
    assert alarms(optimlab.doctor({"state": state, "param_groups": [group]})) == []


def test_bitsandbytes_is_known_by_its_keys() -> None:
    state = dict(enumerate(MIXED["bitsandbytes"]))
    saved = {"state": state, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]}
    found = optimlab.doctor(saved, torch.optim.AdamW(nn.Linear(8, 8).parameters()))
    assert "written by bitsandbytes" in found.of_kind("wrong class")[0].what


# Files that would go wrong.


def rounded(saved: Options) -> None:
    for held in saved["state"].values():
        held["exp_avg_sq"] = torch.zeros_like(held["exp_avg_sq"])


def without_steps(saved: Options) -> None:
    for held in saved["state"].values():
        del held["step"]


def on_meta(saved: Options) -> None:
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].to("meta")


def huge(saved: Options) -> None:
    saved["param_groups"][0]["lr"] = 10**5000


WRONG: dict[str, tuple[Callable[[Options], None], str, str]] = {
    "squares rounded to zero": (rounded, "underflow", "the next step moves one by up to"),
    "no step counts": (without_steps, "step", "moments without a step count"),
    "meta": (on_meta, "empty", "on the meta device"),
    "no float": (huge, "hyperparameter", "lr = inf: no step size"),
    "no state": (lambda saved: saved["state"].clear(), "missing state", "after epoch 30"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_go_wrong_is_found_in_a_file(case: str, tmp_path: Path) -> None:
    inflict, kind, text = WRONG[case]
    model = network()
    saved = train(model, made("AdamW", model))
    inflict(saved)
    torch.save({"epoch": 30, "model": model.state_dict(), "opt": saved}, tmp_path / "run.pt")
    found = optimlab.doctor(tmp_path / "run.pt").of_kind(kind)
    assert any(text in finding.what for finding in found), found


def test_weights_that_are_not_finite_are_found_beside_and_in_an_optimizer() -> None:
    model = network()
    optimizer = made("Adam", model)
    train(model, optimizer)
    nn.init.constant_(model[0].weight, math.nan)  # type: ignore[arg-type]
    both = {"model": model.state_dict(), "opt": optimizer.state_dict()}
    for report in (optimlab.doctor(both), optimlab.lint(optimizer)):
        assert "0.weight" in report.of_kind("not finite")[0].what


# Live optimizers whose next step fails, or does nothing.


def test_what_half_precision_cannot_tell_from_nothing_is_named() -> None:
    half, brain, full = (
        nn.Parameter(torch.ones(2, dtype=dtype))
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
    )
    assert "eps = 1e-08 is zero" in alarms(optimlab.lint(torch.optim.Adam([half])))[0]
    assert "no parameter ever decays" in alarms(optimlab.lint(torch.optim.AdamW([brain])))[0]
    assert alarms(optimlab.lint(torch.optim.AdamW([brain], weight_decay=0))) == []
    assert alarms(optimlab.lint(torch.optim.AdamW([full]))) == []


def test_a_step_that_will_raise_is_foretold() -> None:
    model = network()
    optimizer = made("AdamW", model)
    train(model, optimizer)
    for key in ("lr", "betas"):
        del optimizer.param_groups[0][key]
    assert "has no lr, betas: the next step raises" in alarms(optimlab.lint(optimizer))[0]
    optimizer = made("Adam", model)
    train(model, optimizer)
    optimizer.state[model[0].weight]["step"] = 3
    assert "is the number 3, and no tensor" in alarms(optimlab.lint(optimizer))[0]


def test_what_was_trained_and_is_frozen_is_warned_of() -> None:
    model = network()
    optimizer = made("Adam", model)
    train(model, optimizer)
    optimizer.zero_grad()
    model[0].requires_grad_(False)
    assert "0.weight), parameter 1 (0.bias): trained until" in alarms(optimlab.lint(optimizer))[0]
    model.requires_grad_(False)
    assert "nothing can move" in alarms(optimlab.lint(optimizer))[0]


# Names, sizes and schedules.


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_the_prefix_of_a_wrapper_is_no_part_of_a_name(prefix: str) -> None:
    model = network()
    saved = train(model, made("Adam", model))
    group = saved["param_groups"][0]
    group["param_names"] = [f"{prefix}{name}" for name in group["param_names"]]
    assert alarms(optimlab.doctor(saved, made("Adam", network()))) == []


def test_keys_that_are_names_are_names() -> None:
    model = network()
    saved = train(model, made("Adam", model))
    names = saved["param_groups"][0].pop("param_names")
    saved["param_groups"][0]["params"] = names
    saved["state"] = {names[number]: held for number, held in saved["state"].items()}
    assert optimlab.doctor(saved, made("Adam", network())).findings == ()
    params = list(network().named_parameters())[::-1]
    other = torch.optim.Adam(params, lr=0.01)
    assert optimlab.doctor(saved, other).of_kind("order")
    other.load_state_dict(repair(saved, None, other).content)
    exp_avg = saved["state"]["0.weight"]["exp_avg"]
    assert torch.equal(other.state[dict(params)["0.weight"]]["exp_avg"], exp_avg)


def test_a_flat_state_dict_is_put_in_order() -> None:
    model = network()
    saved = train(model, made("Adam", model))
    group = saved["param_groups"][0]
    names, options = group["param_names"], {k: v for k, v in group.items() if k[:5] != "param"}
    flat = {
        f"state.{names[n]}.{k}": v for n, held in saved["state"].items() for k, v in held.items()
    }
    flat |= {f"param_groups.{name}.{k}": v for name in names for k, v in options.items()}
    assert optimlab.doctor({"optimizer": flat}, made("Adam", network())).findings == ()
    flat["state.0.weight.exp_avg"][0, 0] = math.nan
    flat["param_groups.2.bias.lr"] = 1.0
    found = optimlab.doctor({"optimizer": flat})
    assert "exp_avg of parameter 0 (0.weight)" in found.of_kind("not finite")[0].where
    other = torch.optim.Adam([{"params": names} for names in ([*model.parameters()],)])
    assert "its groups have [5, 1]" in optimlab.doctor(flat, other).of_kind("refused")[0].what


def test_a_refused_load_says_what_only_one_side_has() -> None:
    model = network()
    saved = train(model, made("Adam", model))
    found = optimlab.doctor(saved, made("Adam", model[:2])).of_kind("refused")[0].what
    assert "its groups have [6] parameters, those of the live Adam [4]" in found
    assert "only here 2.weight, 2.bias" in found


def test_a_kept_rate_is_kept_for_the_schedule_too() -> None:
    model = network()
    optimizer = made("Adam", model, lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    saved = train(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule.step()
    live = made("Adam", network(), lr=0.01)
    assert "goes by initial_lr, max_lr, min_lr" in alarms(optimlab.doctor(saved, live))[0]
    fixed = repair(saved, None, live, keep=["lr"])
    group = fixed.content["param_groups"][0]
    assert (group["lr"], group["initial_lr"]) == (0.01, 0.01)
    ratio = 0.01 / saved["param_groups"][0]["lr"]
    assert group["max_lr"] == pytest.approx(ratio * saved["param_groups"][0]["max_lr"])


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    model = network()
    saved = train(model, made("Adam", model))
    for number in (2, 4):
        (tmp_path / f"checkpoint-{number}").mkdir()
        torch.save(saved, tmp_path / f"checkpoint-{number}" / "optimizer.pt")
    paths = [tmp_path / f"checkpoint-{number}" / "optimizer.pt" for number in (2, 4)]
    report = optimlab.doctor(*paths)
    assert report.subject == "checkpoint-2/optimizer.pt against checkpoint-4/optimizer.pt"
