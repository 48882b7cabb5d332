"""What a rule is encoded as: a user's own is served without a line of C, to the bits of ATen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from twins import needs_kernel

import optimlab
from optimlab.core.state import Like, StateSpec
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native import bytecode
from optimlab.native.bytecode import NotServedError, Opcode
from optimlab.native.tracing import encode_rule

pytestmark = needs_kernel

Rule = Callable[[Any, Any, Any], object]


def class_of(rule: Rule) -> Any:
    """Make an optimizer class of a rule on parameter, gradient and one state tensor."""

    class Ruled(optimlab.Rule):
        state_spec = StateSpec(Like("held"))

        def __init__(self, params: Any, foreach: bool | None = None) -> None:
            super().__init__(params, {"foreach": foreach})

        def update(
            self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
        ) -> None:
            rule(param, grad, state["held"])

    return Ruled


def lion(param: Any, grad: Any, held: Any) -> None:
    direction = held.mul(0.9).add_(grad, alpha=0.1).sign_()
    param.add_(direction, alpha=-0.01)
    held.lerp_(grad, 0.01)


SERVED: dict[str, tuple[Rule, list[Opcode]]] = {
    "Lion": (
        lion,
        [Opcode.MULTIPLY_SCALAR, Opcode.ADD_SCALED, Opcode.SIGN, Opcode.ADD_SCALED, Opcode.LERP],
    ),
    "a scalar is added": (lambda p, g, s: p.add_(0.5), [Opcode.ADD_SCALAR]),
    "a scalar is subtracted": (lambda p, g, s: p.sub_(0.5), [Opcode.ADD_SCALAR]),
    "by keyword": (
        lambda p, g, s: p.lerp_(end=g, weight=0.25).mul_(other=g), [Opcode.LERP, Opcode.MULTIPLY],
    ),
    "a square is a product": (
        lambda p, g, s: p.add_(g.square()), [Opcode.MULTIPLY, Opcode.ADD_SCALED],
    ),
}  # fmt: skip
REFUSED: dict[str, Rule] = {
    "a factor for a scalar": lambda p, g, s: p.add_(2.0, alpha=3),
    "a rounding mode": lambda p, g, s: p.div_(g, rounding_mode="floor"),
    "a tensor for a number": lambda p, g, s: p.mul_(torch.tensor(0.5)),
    "an integer of many digits": lambda p, g, s: p.mul_(2**60 + 1),
    "a weight that may be 1 in float32": lambda p, g, s: p.lerp_(g, 1 - 1e-9),
    "more instructions than there is room": lambda p, g, s: [
        p.add_(g, alpha=-0.01) for _ in range(70)
    ],
    "more temporaries than there is room": lambda p, g, s: [
        p.add_(each) for each in [g.mul(0.5 + k) for k in range(9)]
    ],
}


def bytecode_of(rule: Rule) -> list[Opcode]:
    optimizer = class_of(rule)([torch.zeros(1)])
    encoded = encode_rule(optimizer, ("param", "grad", "held"), 1.0, optimizer.param_groups[0])
    return [Opcode(int(number)) for number in encoded.opcodes]


@pytest.mark.parametrize(("rule", "opcodes"), SERVED.values(), ids=SERVED)
def test_what_the_kernel_knows_is_encoded(rule: Rule, opcodes: list[Opcode]) -> None:
    assert bytecode_of(rule) == opcodes


@pytest.mark.parametrize("rule", REFUSED.values(), ids=REFUSED)
def test_what_the_kernel_does_not_know_is_refused(rule: Rule) -> None:
    with pytest.raises(NotServedError):
        bytecode_of(rule)


RULES = {**{name: rule for name, (rule, _) in SERVED.items()}, **REFUSED}


@pytest.mark.parametrize("foreach", [None, True], ids=["by the kernel", "on lists"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_the_bits_of_the_loop(name: str, foreach: bool | None) -> None:
    if foreach and name in ("a rounding mode", "a factor for a scalar"):
        pytest.skip("lists have neither")
    params = [torch.linspace(-1, 1, size) for size in (5, 40, 16387)]
    expected = [param.clone() for param in params]
    held = [torch.zeros_like(param) for param in params]
    optimizer = class_of(RULES[name])(params, foreach)
    for step in range(4):
        for param, other, state in zip(params, expected, held, strict=True):
            param.grad = torch.cos(param * (step + 1))
            RULES[name](other, param.grad, state)
        optimizer.step()
    assert ("_cached_step" in vars(optimizer)) == (name in SERVED and not foreach)
    for param, other in zip(params, expected, strict=True):
        assert compare_tensors(param, other) is None


def test_info_names_what_serves_each_optimizer() -> None:
    text = str(optimlab.info(class_of(lion)))
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Ruled"):
        assert f"{name}:" in text
    assert ("native kernel" in text) or ("ATen" in text)


def test_the_opcodes_are_those_of_the_interpreter() -> None:
    header = Path(bytecode.__file__).parent / "kernel" / "program.h"
    listed = header.read_text(encoding="utf-8").split("COPY = 0,")[1].split("/*")[0]
    assert listed.replace(",", " ").split() == [opcode.name for opcode in Opcode][1:]
