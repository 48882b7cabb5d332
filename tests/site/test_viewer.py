"""The step viewer: what is exported are the bits of the runs, and the page shows what is exported.

The page is opened in headless Chromium where there is one; the exporter's own tests need none.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import shutil
import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
import torch
from beside import LIBRARIES
from browsing import watch
from numpy.typing import NDArray
from torch import Tensor

import optimlab
from optimlab.lab.compare.integers import hexadecimal

sys.path.append(str(Path(__file__).parents[2] / "docs" / "viewer"))

import export
from presets import OPENING, PRESETS, Side, Situation
from recorded import CHOICES, Choice, Grid, record
from surfaces import POINTS, SURFACES, Surface

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(export.__file__).parent
SMALL = Grid(lrs=(0.05, 0.5, 1e15), momenta=(0.8, 0.9), steps=4)
"""A short grid; its last learning rate ends in infinity."""

Bits: TypeAlias = NDArray[np.uint32]
Plain: TypeAlias = dict[str, list[torch.Tensor]]


def begun(
    library: Any, choice: Choice, surface: Surface, start: int, values: tuple[float, float]
) -> tuple[Tensor, Any]:
    """Make a parameter of two elements, and its optimizer, as anybody would."""
    param = torch.nn.Parameter(torch.tensor(surface.starts[start][1:]))
    return param, getattr(library, choice.class_name)([param], **choice.hyperparameters(*values))


def plain_run(
    library: Any,
    choice: Choice,
    surface: Surface,
    start: int,
    values: tuple[float, float],
    steps: int,
) -> Plain:
    """Run an optimizer without a trace."""
    param, optimizer = begun(library, choice, surface, start, values)
    seen: Plain = {"param": [param.detach().clone()], "loss": [surface.losses(param.detach())]}
    for step in range(1, steps + 1):
        param.grad = surface.gradients(param, step)
        seen.setdefault("grad", []).append(param.grad.clone())
        optimizer.step()
        seen["param"].append(param.detach().clone())
        seen["loss"].append(surface.losses(param.detach()))
        for name, value in optimizer.state[param].items():
            if name != "step":
                seen.setdefault(name, []).append(value.clone())
    return seen


def as_bits(values: list[torch.Tensor]) -> list[Any]:
    """Return the values as integers, all NaN as one."""
    numbers = torch.stack(values).nan_to_num(nan=torch.nan)
    return numbers.view(torch.int32).tolist()


# What is exported.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the viewer with few runs."""
    folder = tmp_path_factory.mktemp("viewer") / "app"
    export.write(folder, SMALL)
    return folder


def content(path: Path) -> list[Any]:
    """Read what a file of the data hands over."""
    given = re.fullmatch(r"receive\.\w+\((.*)\);\n", path.read_text(encoding="ascii"))
    assert given is not None
    read: list[Any] = json.loads(f"[{given[1]}]")
    return read


def exported_run(site: Path, key: str, surface: str, pair: int, start: int) -> dict[str, Bits]:
    """Read one run as the integers that its numbers are stored as, by name and step."""
    _, rule = content(site / "data" / f"{key}.js")
    _, _, packed = content(site / "data" / f"{surface}-{key}.js")
    pairs = len(SMALL.pairs(CHOICES[key]))
    numbers = np.frombuffer(base64.b64decode(packed), "<u4").reshape(pairs, 3, -1)[pair, start]
    columns = iter(numbers)

    def take(count: int) -> list[Any]:
        return list(itertools.islice(columns, count))

    found: dict[str, list[Any]] = {"param": [take(2)], "loss": [*take(1)]}
    for step in range(SMALL.steps):
        found.setdefault("grad", []).append(take(2))
        operations = rule["kinds"][min(step, 1)]["operations"]
        written = {o["result"]: take(2) for o in operations if "place" in o}
        for name, value in written.items():
            found.setdefault(name, []).append(value)
        found["loss"] += take(1)
    assert not list(columns)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("key", CHOICES)
def test_exported_runs_have_the_bits_of_plain_runs(site: Path, library: Any, key: str) -> None:
    compared = set()
    for surface, (pair, values), start in itertools.product(
        SURFACES, enumerate(SMALL.pairs(CHOICES[key])), range(3)
    ):
        exported = exported_run(site, key, surface, pair, start)
        plain = plain_run(library, CHOICES[key], SURFACES[surface], start, values, SMALL.steps)
        for name, expected in plain.items():
            stored = torch.tensor(exported[name].astype(np.int64)).to(torch.int32)
            assert as_bits(list(stored.view(torch.float32))) == as_bits(expected), (surface, name)
            compared.add(name)
    state = {"momentum_buffer"} if key in {"momentum", "nesterov"} else set()
    assert compared >= {"param", "grad", "loss"} | state


@pytest.mark.parametrize("key", CHOICES)
def test_the_origins_written_beside_numbers_compute_them(site: Path, key: str) -> None:
    _, rule = content(site / "data" / f"{key}.js")
    scalars = np.frombuffer(base64.b64decode(rule["scalars"]), "<f8")
    named = {"alpha": 0.99, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
    rows = scalars.reshape(len(SMALL.pairs(CHOICES[key])), -1).tolist()
    for (lr, momentum), left in zip(SMALL.pairs(CHOICES[key]), rows, strict=True):
        named |= {"lr": lr, "momentum": momentum, "beta1": momentum}
        for step in range(1, SMALL.steps + 1):
            kind = rule["kinds"][min(step, 2) - 1]
            here = [left.pop(0) for _ in range(kind["slots"])]
            for operation in kind["operations"]:
                for argument in operation["arguments"]:
                    if origin := argument.get("origin"):
                        expected = eval(origin, {}, {**named, "step": float(step)})
                        assert here[argument["slot"]] == expected, origin
        assert not left


def test_no_run_is_exported_whose_operations_were_not_described() -> None:
    trace = SimpleNamespace(step=1, parameter=0, operations=[SimpleNamespace(function="aten.mul")])
    with pytest.raises(RuntimeError, match="step 1 of parameter 0 is another one"):
        sys.modules["recorded"]._refuse_other_operations([trace], {"functions": ["aten.add"]})


def test_the_command_writes_a_page_that_finds_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "_write_runs", lambda *_: None)
    assert export.main([str(tmp_path / "new")]) == 0
    page = Path(capsys.readouterr().out.strip())
    parts = re.findall(r'(?:src|href)="([^":#]+)"', page.read_text(encoding="utf-8"))
    assert "viewer.js" in parts
    assert [part for part in parts if not (page.parent / part).is_file()] == []


def test_the_surfaces_gradients_are_those_of_their_formulas() -> None:
    x, y, step = 0.75, -1.25, 2.0**-12
    for surface in SURFACES.values():
        places = torch.tensor([[x + step, y], [x - step, y], [x, y + step], [x, y - step]])
        right, left, above, below = surface.losses(places.double()).tolist()
        quiet = surface.gradients(torch.tensor([x, y], dtype=torch.float64), 1)
        noise = surface._noise(1) if surface.noise else torch.zeros(2)
        expected = [(right - left) / (2 * step), (above - below) / (2 * step)]
        assert (quiet - noise).tolist() == pytest.approx(expected, rel=1e-5)


def value_of(formula: str, x: Tensor, y: Tensor) -> Tensor:
    """Evaluate a loss as it is printed for people."""
    python = formula.partition(" = ")[2].partition(", and noise")[0].replace("−", "-")
    python = re.sub(r"mean of (.*) over 9 points", r"(\1).mean(-1)", python)
    for written, meant in {"½": "0.5 *", "¼": "0.25 *", "⅒": "0.1 *", "·": "*"}.items():
        python = python.replace(written, meant)
    python = re.sub("[²⁴]", lambda power: f"**{unicodedata.digit(power[0])}", python)
    python = re.sub(r"(\d) ([a-z])", r"\1 * \2", python)
    places, target = torch.tensor(POINTS, dtype=torch.float64).T
    names = {"w1": x[:, None], "w2": y[:, None], "x": places, "target": target}
    names |= {"softsign": torch.nn.functional.softsign}
    return torch.as_tensor(eval(python, names if "w1" in python else {"x": x, "y": y}))


@pytest.mark.parametrize("key", SURFACES)
def test_the_formula_printed_for_a_surface_is_what_is_minimized(key: str) -> None:
    surface = SURFACES[key]
    places = torch.tensor([[0.75, -1.25], [-2.0, 0.5], [1.5, 1.0]], dtype=torch.float64)
    printed = value_of(surface.formula, *places.T)
    torch.testing.assert_close(printed, surface.losses(places), rtol=1e-12, atol=0)
    assert (f"deviation {surface.noise}" in surface.formula) == bool(surface.noise)
    assert len(POINTS) == 9


# What the page says of its situations is so.


SITUATIONS = {each["title"]: each for each in [OPENING, *PRESETS]}


@pytest.mark.parametrize("title", SITUATIONS)
def test_situations_are_among_what_is_exported(title: str) -> None:
    grid, situation = Grid(), SITUATIONS[title]
    assert situation["start"] < len(SURFACES[situation["surface"]].starts)
    assert situation["step"] <= grid.steps
    for side in (situation["a"], situation["b"]):
        assert side["optimizer"] in CHOICES
        assert side["lr"] in grid.lrs
        assert side["momentum"] in grid.momenta


def paths(situation: Situation, steps: int = 50) -> tuple[Plain, Plain]:
    """Run both sides of a situation."""

    def run(side: Side) -> Plain:
        choice, surface = CHOICES[side["optimizer"]], SURFACES[situation["surface"]]
        chosen = (side["lr"], side["momentum"])
        return plain_run(optimlab, choice, surface, situation["start"], chosen, steps)

    return run(situation["a"]), run(situation["b"])


def moves(run: Plain) -> torch.Tensor:
    """Return the steps that a run takes."""
    return torch.stack(run["param"]).diff(dim=0)


def says_that_adams_path_is_straight_and_the_velocity_swings(a: Plain, b: Plain) -> None:
    assert moves(b)[0].tolist() == pytest.approx([0.2, -0.2])
    y = torch.stack(a["param"])[:15, 1]
    assert ((y[1:] < 0) != (y[:-1] < 0)).sum() == 3
    detours = [moves(r)[:14].norm(dim=1).sum() / moves(r)[:14].sum(0).norm() for r in (a, b)]
    assert detours[1] < 1.05 < 2 < detours[0]


def says_in_what_proportions_both_first_steps_are(a: Plain, b: Plain) -> None:
    gradient = a["grad"][0]
    assert (gradient[1] / gradient[0]).item() == pytest.approx(-9.6)
    assert (moves(a)[0][1] / moves(a)[0][0]).item() == pytest.approx(-9.6, rel=1e-5)
    assert moves(b)[0].tolist() == [0.5, -0.5]
    assert (b["exp_avg"][0] / gradient).tolist() == pytest.approx([0.1, 0.1])


def says_what_the_first_averages_hold_and_that_the_steps_are_alike(a: Plain, b: Plain) -> None:
    shares = [(run["exp_avg"][0] / run["grad"][0]).tolist() for run in (a, b)]
    assert shares == [pytest.approx([0.5, 0.5]), pytest.approx([0.01, 0.01])]
    assert [0.1 / (1 - 0.5), 0.1 / (1 - 0.99)] == pytest.approx([0.2, 10])
    for run in (a, b):
        assert moves(run)[0].tolist() == pytest.approx([0.1, -0.1], rel=1e-5)


def says_that_rmsprops_first_step_is_ten_times_adams(a: Plain, b: Plain) -> None:
    assert (a["square_avg"][0] / a["grad"][0] ** 2).tolist() == pytest.approx([0.01, 0.01])
    assert (moves(a)[0] / moves(b)[0]).tolist() == pytest.approx([10, 10], rel=1e-5)


def says_that_momentum_crosses_the_floor_and_is_faster_along_x(a: Plain, b: Plain) -> None:
    assert all(place[1] > 0 for place in a["param"])
    assert min(place[1].item() for place in b["param"]) < -1
    assert abs(b["param"][14][0].item()) < 0.05
    assert a["param"][14][0].item() < -2.5 / 2


def says_that_nesterov_ends_the_swing_along_y(a: Plain, b: Plain) -> None:
    assert max(abs(place[1].item()) for place in b["param"][8:16]) < 0.01
    assert max(abs(place[1].item()) for place in a["param"][8:16]) > 0.5


def says_by_what_factors_y_changes_and_how_it_ends_at_lr_0_5(a: Plain, b: Plain) -> None:
    for run, factor in ((a, -0.6), (b, -2.2)):
        y = torch.stack(run["param"])[:, 1]
        assert (y[1:] / y[:-1]).tolist() == pytest.approx([factor] * 50, rel=1e-4)
    assert abs(b["param"][50][0].item()) < 1e-4
    worst, _ = paths({**PRESETS[5], "a": {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9}})
    y = torch.stack(worst["param"])[:, 1]
    assert y.isinf().any()
    assert y[-1].isnan()


def says_who_leaves_the_saddle_and_that_nobody_leaves_the_ridge(a: Plain, b: Plain) -> None:
    assert a["param"][10][1] < 0.2 < 0.9 < b["param"][10][1]
    for run in paths({**PRESETS[6], "start": 1}):
        assert all(place[1] == 0 for place in run["param"])


def says_that_the_decay_is_the_only_difference(a: Plain, b: Plain) -> None:
    assert a["exp_avg"][0].equal(b["exp_avg"][0])
    assert a["exp_avg_sq"][0].equal(b["exp_avg_sq"][0])
    difference = b["param"][1] - a["param"][1]
    assert difference.tolist() == pytest.approx((-0.05 * a["param"][0]).tolist(), rel=1e-5)


def says_how_long_the_steps_are_and_how_far_both_stay(a: Plain, b: Plain) -> None:
    assert a["grad"][0].equal(b["grad"][0])
    lengths = [moves(run).norm(dim=1).mean().item() for run in (a, b)]
    assert lengths[1] / lengths[0] == pytest.approx(0.2, abs=0.03)
    distances = [torch.stack(run["param"]).norm(dim=1).mean().item() for run in (a, b)]
    assert distances[1] / distances[0] == pytest.approx(1, abs=0.2)


SAYS = [value for name, value in list(globals().items()) if name.startswith("says_")]


@pytest.mark.parametrize(("title", "says"), [*zip(SITUATIONS, SAYS, strict=True)])
def test_what_to_watch_for_is_to_be_seen(title: str, says: Callable[[Plain, Plain], None]) -> None:
    says(*paths(SITUATIONS[title]))


# The page, in a browser.


Open: TypeAlias = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser, site: Path) -> Iterator[Open]:
    """Open the page; at the end there must have been no error, and no request but for files."""
    complaints: list[str] = []
    contexts = []

    def open_page(hash_: str = "", path: str = "viewer.html", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        watch(page, complaints)
        page.goto(f"{(site / path).as_uri()}{hash_}")
        if path == "viewer.html":
            page.wait_for_selector("body[data-shown]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def show(page: Page, hash_: str) -> None:
    """Go to a situation and wait until it is shown."""
    page.evaluate("hash => { location.hash = hash; }", hash_)
    wait_until_shown(page, hash_)


def wait_until_shown(page: Page, *parts: str) -> None:
    """Wait until the page says that it shows a situation, by parts of its link."""
    script = "parts => parts.every(part => document.body.dataset.shown.includes(part))"
    page.wait_for_function(script, arg=list(parts))


def step_shown(page: Page) -> int:
    """Read the step that is shown."""
    said = page.locator("#counter").inner_text()
    found = re.fullmatch(rf"step (\d+) of {SMALL.steps}", said)
    assert found is not None
    return int(found[1])


@contextmanager
def moved(page: Page, to: int) -> Iterator[None]:
    """Expect that the step becomes another."""
    assert step_shown(page) != to
    yield
    wait_until_shown(page, f"step={to}&")
    page.wait_for_selector(f"#of-step:text-is('{to}')")
    assert step_shown(page) == to


def traced(
    choice: Choice, surface: Surface, start: int, values: tuple[float, float]
) -> list[dict[str, Any]]:
    """Trace a run by itself, and return its steps as the trace documents them."""
    param, optimizer = begun(optimlab, choice, surface, start, values)
    with optimlab.trace(optimizer, {param: [0, 1]}) as seen:
        for step in range(1, SMALL.steps + 1):
            param.grad = surface.gradients(param, step)
            optimizer.step()
    steps: list[dict[str, Any]] = seen.as_json()["steps"]
    return steps


def expected_operation(operation: dict[str, Any], place: int, how: str) -> list[str]:
    """Return the numbers of a documented operation: all that it was given, and its result."""
    (result,) = operation["results"]
    tensors = [o["values"][place][how] for o in operation["operands"]]
    scalars = []
    for scalar in operation["scalars"]:
        number = json.loads(scalar["value"]["decimal"])
        as_bits = isinstance(number, float) and how == "bits"
        scalars.append(f"0x{struct.pack('>d', number).hex()}" if as_bits else str(number))
    if operation["operation"] in {"zeros_like", "clone"}:
        tensors = []
    return [*sorted(set(tensors + scalars)), result["values"][place][how]]


def worked_out(line: str) -> float:
    """Compute what a line of arithmetic says, in Python's numbers."""
    python = line.replace("×", "*").replace("−", "-")
    python = re.sub(r"√([\d.e+-]+)", r"sqrt(\1)", python)
    return float(eval(python, {"sqrt": math.sqrt, "max": max}))


READ_ARITHMETIC = """side => [...document.querySelectorAll(
    `.worksheet[data-side=${side}] .operation`)].map(each => ({
  name: each.querySelector(".symbolic > var").textContent,
  lines: [...each.querySelectorAll(".numeric")].map(line => ({
    place: Number(line.dataset.coordinate),
    operands: [...line.querySelectorAll(".operand")].map(one => one.textContent),
    worked: line.querySelector(".worked")?.textContent,
    result: line.querySelector(".result").textContent,
  })),
}))"""


@pytest.mark.parametrize("key", CHOICES)
def test_the_arithmetic_shown_is_that_of_the_trace_digit_by_digit(opened: Open, key: str) -> None:
    page = opened()
    other = next(each for each in CHOICES if each != key)
    spellings = (("bits", "bits"), ("decimal", "exact"))
    for surface, start, lr, momentum in (("bowl", 0, 0.05, 0.8), ("network", 2, 0.5, 0.9)):
        documents = traced(CHOICES[key], SURFACES[surface], start, (lr, momentum))
        for step, (how, shown) in itertools.product((1, 2, SMALL.steps), spellings):
            sides = f"a={key},{lr},{momentum}&b={other},0.05,0.9&step={step}"
            show(page, f"#surface={surface}&start={start}&{sides}&coordinates=both&numbers={shown}")
            read = page.evaluate(READ_ARITHMETIC, "a")
            operations = documents[step - 1]["operations"]
            assert [o["name"] for o in read] == [o["results"][0]["name"] for o in operations]
            for each, operation in zip(read, operations, strict=True):
                for line in each["lines"]:
                    numbers = [*sorted(set(line["operands"])), line["result"]]
                    assert numbers == expected_operation(operation, line["place"], how)
                    if line["worked"] and shown == "exact":
                        result = pytest.approx(float(line["result"]), rel=1e-6, abs=1e-6)
                        assert worked_out(line["worked"]) == result


def test_the_places_and_states_shown_have_the_bits_of_plain_runs(opened: Open) -> None:
    page, every = opened(), itertools.product(CHOICES.items(), ((0.05, 0.9), (0.5, 0.8)))
    for (key, choice), (lr, momentum) in every:
        sides = f"a={key},{lr},{momentum}&b=sgd,0.05,0.9&step=3"
        show(page, f"#surface=valley&start=1&{sides}&coordinates=both&numbers=bits")
        run = plain_run(torch.optim, choice, SURFACES["valley"], 1, (lr, momentum), 3)
        expected = {".where": [*run["param"][3].tolist(), run["loss"][3].item()]}
        for name in run.keys() - {"param", "grad", "loss"}:
            expected[f".plot[data-name={name}]"] = run[name][-1].tolist()
        for place, numbers in expected.items():
            shown = page.locator(f".panel[data-side=a] {place} .value").all_inner_texts()
            assert shown == [hexadecimal(number, torch.float32) for number in numbers]


def test_six_digits_and_all_digits_are_spelt_as_python_spells_them(opened: Open) -> None:
    numbers = [0.0, -0.0, 1.0, -2.5, 0.1, 1e-5, 1.5e-8, 123456.0, 1234567.0, 1e16, 1.25e22, 2 / 3]
    numbers += [0.0001, 0.00012345678, 999999.5, 9999995.0, 5e-324, 1.7e308, 100.0, 1e15, 12345e12]
    numbers += [float(np.float32(x)) for x in (0.1, 1 / 3, 1e-20, 3e38)]
    spell = "([number, how]) => spelt({ number, dtype: 'float64' }, how)"
    page = opened()
    for number in numbers:
        assert page.evaluate(spell, [number, "exact"]) == repr(number)
        assert page.evaluate(spell, [number, "short"]) == f"{number:.6g}"


def test_runs_that_diverge_are_shown_as_such(opened: Open) -> None:
    page = opened("#surface=valley&start=0&a=sgd,1e15,0.9&b=adam,0.5,0.9&step=1")
    assert page.locator(".panel[data-side=a] .map").inner_text().endswith("outside the map")
    show(page, f"#surface=valley&start=0&a=sgd,{1e15:.0f},0.9&b=adam,0.5,0.9&step=4")
    said = page.locator(".panel[data-side=a] .map").inner_text()
    assert said.endswith("not a finite number any more")
    assert "nan" in page.locator(".panel[data-side=a] .where").inner_text()
    assert "nan" not in page.locator(".panel[data-side=b] .where").inner_text()


def test_every_surface_is_shown_with_every_optimizer_on_both_sides(opened: Open) -> None:
    page = opened()
    neighbours = zip(CHOICES, [*CHOICES][1:] + [*CHOICES][:1], strict=True)
    for surface, (key, other) in itertools.product(SURFACES, neighbours):
        show(page, f"#surface={surface}&start=1&a={key},0.05,0.9&b={other},0.05,0.8&step=2&")
        assert page.locator("#formula").inner_text() == SURFACES[surface].formula
        assert page.locator("polyline.path").count() == 2
    pixels = page.evaluate("""() => [...document.querySelectorAll("canvas")].map(canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
    })""")
    assert all(colours > 8 for colours in pixels)


def test_it_plays_by_button_and_by_keyboard(opened: Open) -> None:
    page = opened("#step=1")
    last = SMALL.steps
    with moved(page, 2):
        page.click("#forward")
    with moved(page, 1):
        page.click("#back")
    page.select_option("#speed", "fast")
    with moved(page, last):
        page.click("#play")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    with moved(page, 0):
        page.click("#first")
    page.locator("h1").click()
    for key, step in (("ArrowRight", 1), ("End", last), ("ArrowLeft", last - 1), ("Home", 0)):
        with moved(page, step):
            page.keyboard.press(key)
    with moved(page, last):
        page.keyboard.press("Space")
    page.focus("#step")
    with moved(page, 0):
        page.keyboard.press("Home")
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    assert page.locator("#spoken").inner_text().startswith(f"Step {step_shown(page)}. ")


def test_it_plays_by_touch_on_a_phone(opened: Open) -> None:
    page = opened("#step=0", viewport={"width": 360, "height": 740}, has_touch=True)
    with moved(page, 1):
        page.tap("#forward")
    with moved(page, SMALL.steps):
        page.tap("#play")
    page.tap("#coordinates label:has-text('both')")
    page.tap("#numbers label:has-text('bits')")
    wait_until_shown(page, "both&numbers=bits")
    assert page.locator(".result").first.inner_text().startswith("0x")


def test_nothing_must_be_scrolled_sideways_and_targets_are_large(opened: Open) -> None:
    page = opened()
    spellings = (("short", "momentum"), ("exact", "adamw"), ("bits", "amsgrad"))
    for width, (numbers, key) in itertools.product((320, 360, 700, 1280), spellings):
        page.set_viewport_size({"width": width, "height": 740})
        sides = f"a={key},0.5,0.9&b=adamw,{1e15:.0f},0.8&step=4"
        show(page, f"#surface=noisy&start=0&{sides}&coordinates=both&numbers={numbers}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate("""() => [...document.querySelectorAll(
        "button, select, input[type=range], input[type=radio]")].map(each => {
      const { width, height } = each.getBoundingClientRect();
      return [each.id || each.className || each.name, width, height];
    })""")
    assert len(sizes) > 20
    assert [each for each in sizes if min(each[1:]) < 40] == []


def test_it_is_light_by_day_and_dark_by_night(opened: Open) -> None:
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    drawn = "document.querySelector('canvas').toDataURL()"
    page = opened(color_scheme="light")
    assert min(page.evaluate(paper)) > 200
    by_day = page.evaluate(drawn)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"by_day => {drawn} !== by_day", arg=by_day)
    assert max(page.evaluate(paper)) < 60
    by_night = page.evaluate(drawn)
    assert opened(color_scheme="dark").evaluate(drawn) == by_night
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"by_day => {drawn} === by_day", arg=by_day)


def test_the_sites_page_frames_it_and_hands_its_theme_on(opened: Open, site: Path) -> None:
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    (raw,) = re.findall(r"```\{raw\} html\n(.*?)```", text, flags=re.DOTALL)
    outer = site.parent / "index.html"
    outer.write_text(f'<!doctype html><html lang="en" data-theme="dark">{raw}', encoding="utf-8")
    page = opened(path="../index.html", color_scheme="light")
    frame = page.frames[1]
    frame.wait_for_selector("html[data-theme=dark] body.embedded[data-shown]")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    frame.wait_for_selector("html[data-theme=light]")
    assert "tep viewer" in (page.get_attribute("iframe", "title") or "")
    assert (outer.parent / (page.get_attribute("a", "href") or "")).is_file()


def test_presets_set_the_controls_and_say_what_to_watch_for(opened: Open) -> None:
    page = opened()
    assert page.locator("#watch").inner_text() == OPENING["watch"]
    for preset in PRESETS:
        page.click(f"#presets >> text={preset['title']}")
        shown = f"#surface={preset['surface']}&start={preset['start']}&"
        wait_until_shown(page, shown, f"&step={min(preset['step'], SMALL.steps)}&")
        assert page.locator("#watch").inner_text() == preset["watch"]
        assert page.locator("[aria-pressed=true]").all_inner_texts() == [preset["title"]]
        for key, side in (("a", preset["a"]), ("b", preset["b"])):
            chosen = page.locator(f".panel[data-side={key}] select").input_value()
            assert chosen == side["optimizer"]


def test_what_to_watch_for_stays_while_the_reader_follows_it(opened: Open) -> None:
    page = opened()
    first, second = PRESETS[:2]
    page.click(f"#presets >> text={first['title']}")
    page.locator(".panel[data-side=a] input.lr").press("End")
    assert page.locator("[aria-pressed=true]").count() == 0
    page.check("#starts input[value='2']")
    page.click("#forward")
    assert page.locator("#watch").inner_text() == first["watch"]
    page.click(f"#presets >> text={second['title']}")
    assert page.locator("#watch").inner_text() == second["watch"]
    page.evaluate("location.hash = location.hash.replace(/step=\\d+/, 'step=0')")
    wait_until_shown(page, "step=0&")
    assert page.locator("#watch").inner_text() == second["watch"]
    other = next(key for key in SURFACES if key != second["surface"])
    page.evaluate("other => { location.hash = `#surface=${other}` }", other)
    page.wait_for_function("() => document.getElementById('watch').textContent === ''")
    page.click(f"#presets >> text={first['title']}")
    page.select_option("#surface", next(key for key in SURFACES if key != first["surface"]))
    assert page.locator("#watch").inner_text() == ""


def test_a_link_brings_back_the_situation_that_was_set_by_hand(opened: Open) -> None:
    page = opened()
    page.select_option("#surface", "saddle")
    page.check("#starts input[value='2']")
    page.select_option(".panel[data-side=a] select", "nesterov")
    page.select_option(".panel[data-side=b] select", "amsgrad")
    page.locator(".panel[data-side=b] input.lr").press("Home")
    page.locator(".panel[data-side=a] input.momentum").press("Home")
    page.fill("#step", "3")
    page.check("#coordinates input[value='1']")
    page.check("#numbers input[value='exact']")
    link = page.get_attribute("#link", "href") or ""
    expected = "#surface=saddle&start=2&a=nesterov,0.05,0.8&b=amsgrad,0.05,0.9&step=3"
    assert link == f"{expected}&coordinates=1&numbers=exact"
    page.wait_for_function("link => location.hash === link", arg=link)
    again = opened(link)
    assert again.locator("body").get_attribute("data-shown") == link
    for selector in ("#counter", "#arithmetic", "#panels"):
        assert again.locator(selector).inner_text() == page.locator(selector).inner_text()


@pytest.mark.parametrize("hash_", ["#surface=moon&a=,,&b=x&step=99&start=-1", "#%", "#step=&a=1"])
def test_what_cannot_be_read_in_a_link_is_left_as_it_was(opened: Open, hash_: str) -> None:
    page = opened(hash_)
    assert page.locator("#surface").input_value() == OPENING["surface"]
    assert page.locator(".panel[data-side=b] select").input_value() == OPENING["b"]["optimizer"]


def test_a_missing_part_is_named(browser: Browser, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "app")
    (tmp_path / "app" / "data" / "bowl-adam.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / "app" / "viewer.html").as_uri())
    page.wait_for_selector("#trouble:visible", timeout=10_000)
    assert "data/bowl-adam.js could not be loaded" in page.locator("#trouble").inner_text()
    page.close()


def test_one_traced_run_is_laid_out_without_gaps() -> None:
    recorded = record(CHOICES["adam"], SURFACES["bowl"], Grid(lrs=(0.5,), momenta=(0.9,), steps=2))
    assert [len(kind["operations"]) for kind in recorded.kinds] == [10, 8]
    assert recorded.numbers.shape == (1, 3, 3 + (3 + 2 * 9) + (3 + 2 * 7))
    assert recorded.numbers.dtype == np.float32
