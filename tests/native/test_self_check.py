"""An instruction that does not give ATen's bits is not used."""

from typing import Any

import pytest
import torch
from torch import Tensor
from twins import FOUND, needs_kernel

from optimlab.native import self_check
from optimlab.native.bytecode import Opcode
from optimlab.native.launch import DTYPES
from optimlab.native.library import UnusableError
from optimlab.native.self_check_programs import (
    Instruction,
    superinstruction_programs,
    two_result_programs,
)

pytestmark = needs_kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_instructions_give_atens_bits_here(dtype: torch.dtype) -> None:
    if FOUND.reason:
        pytest.skip(FOUND.reason)
    assert FOUND.trusted[dtype] == {int(operation) for operation in Opcode}


def test_an_instruction_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**self_check.REFERENCES, Opcode.LERP: lambda a, b, c, s: a + s * (b - a)}
    monkeypatch.setattr(self_check, "REFERENCES", wrong)
    found = self_check.check.__wrapped__(FOUND.kernel)
    assert "LERP" in found.reason
    assert not found.serves(frozenset({int(Opcode.LERP)}), torch.float32)
    assert found.serves(frozenset({int(Opcode.MULTIPLY)}), torch.float32)


SUPERINSTRUCTIONS = {**superinstruction_programs(0, 1, 2, 3), **two_result_programs()}


@pytest.mark.parametrize("name", SUPERINSTRUCTIONS)
def test_superinstructions_that_are_wrong_are_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FOUND.kernel is not None
    run = self_check.run_program
    assert self_check.joined_length(FOUND.kernel, SUPERINSTRUCTIONS[name]) == 1

    def run_wrongly(kernel: Any, given: list[Instruction], registers: list[Tensor]) -> None:
        run(kernel, given, registers)
        if given == SUPERINSTRUCTIONS[name]:
            registers[given[-1][1]].neg_()

    monkeypatch.setattr(self_check, "run_program", run_wrongly)
    found = self_check.check.__wrapped__(FOUND.kernel)
    assert not found.superinstructions
    assert "superinstructions" in found.reason
    assert found.trusted == FOUND.trusted


def test_a_capability_that_the_processor_lacks_leaves_the_kernel_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FOUND.kernel, "processor", lambda: 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(UnusableError, match="AVX512, which this processor lacks"):
        self_check._loaded()
