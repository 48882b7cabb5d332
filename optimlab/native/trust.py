"""Trust: at first use each instruction of the machine is compared with ATen, bit for bit.

Which arithmetic ATen uses depends on the processor, on ``ATEN_CPU_CAPABILITY``, on how torch was
built. None of that is guessed: an instruction serves only where it gave ATen's bits on a few
thousand values, among them zeros of both signs, denormals, infinities, NaN, the largest and the
smallest numbers, from unaligned starts and with odd lengths. NaN equals NaN, whatever its payload.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimlab.native.library import (
    ROOT_LIKE_MKL,
    ROOT_OF_MKL,
    ROOT_OF_PROCESSOR,
    VARIABLE,
    Machine,
    machine,
)
from optimlab.native.look import describer
from optimlab.native.tape import Operation

SIZE = 4099
TAIL = 7
SCALARS = (0.9, -1.25e-4, 1.0, 0.3)
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}

Reference = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# What each instruction must give: the ATen operation that it stands for. Each is in place or not as
# rules use it, because ATen may take another path; every scalar is one that rules could pass.
REFERENCES: Mapping[Operation, Reference] = {
    Operation.COPY: lambda a, b, c, s: a.clone(),
    Operation.NEGATE: lambda a, b, c, s: -a,
    Operation.ABSOLUTE: lambda a, b, c, s: a.abs(),
    Operation.SIGN: lambda a, b, c, s: a.sign(),
    Operation.SQUARE_ROOT: lambda a, b, c, s: a.sqrt(),
    Operation.RECIPROCAL: lambda a, b, c, s: a.clone().reciprocal_(),
    Operation.ADD_SCALED: lambda a, b, c, s: a.add(b, alpha=s),
    Operation.ADD_SCALAR: lambda a, b, c, s: a.clone().add_(s),
    Operation.MULTIPLY_SCALAR: lambda a, b, c, s: a.clone().mul_(s),
    Operation.MULTIPLY: lambda a, b, c, s: a.mul(b),
    Operation.DIVIDE_SCALAR: lambda a, b, c, s: a.clone().div_(s),
    Operation.DIVIDE: lambda a, b, c, s: a.div(b),
    Operation.LERP: lambda a, b, c, s: a.clone().lerp_(b, s),
    Operation.ADD_PRODUCT: lambda a, b, c, s: a.addcmul(b, c, value=s),
    Operation.ADD_QUOTIENT: lambda a, b, c, s: a.addcdiv(b, c, value=s),
    Operation.MAXIMUM: lambda a, b, c, s: torch.maximum(a, b),
}
_WITHOUT_SCALAR = {
    *(Operation.COPY, Operation.NEGATE, Operation.ABSOLUTE, Operation.SIGN),
    *(Operation.SQUARE_ROOT, Operation.RECIPROCAL, Operation.MULTIPLY, Operation.DIVIDE),
    Operation.MAXIMUM,
}


@dataclass(frozen=True)
class Trust:
    """What the machine may be used for.

    Attributes:
        machine: the library, or ``None`` if there is none.
        trusted: for each dtype the instructions that gave ATen's bits.
        reason: why there is no machine, or which instructions are off.
    """

    machine: Machine | None
    trusted: Mapping[torch.dtype, frozenset[float]] = field(default_factory=dict)
    reason: str = ""

    def serves(self, used: Iterable[float], dtype: torch.dtype) -> bool:
        """Tell whether a program of these instructions gives ATen's bits."""
        return self.trusted.get(dtype, frozenset()).issuperset(used)


@functools.cache
def trust() -> Trust:
    """Load the machine and check it, once in a process."""
    loaded = machine()
    if loaded is None:
        disabled = os.environ.get(VARIABLE) == "0"
        reason = f"disabled by {VARIABLE}=0" if disabled else "not built: pip found no C compiler?"
        return Trust(None, reason=f"the native library is {reason}")
    if describer() is None:
        return Trust(None, reason="this torch does not describe tensors through DLPack's table")
    with torch.inference_mode(False), torch.no_grad():
        # The first use of MKL's vector mathematics must not be in several threads at once.
        torch.zeros(1, device="cpu").sqrt()
        _choose_roots(loaded)
        trusted = {
            dtype: frozenset(float(op) for op in REFERENCES if _is_right(loaded, op, dtype))
            for dtype in _INTEGERS
        }
    off = {op.name for op in REFERENCES for dtype in _INTEGERS if op not in trusted[dtype]}
    reason = f"not ATen's bits here: {', '.join(sorted(off))}" if off else ""
    return Trust(loaded, trusted, reason)


def _choose_roots(loaded: Machine) -> None:
    """Take the fastest square root that is ATen's."""
    modes = [ROOT_OF_PROCESSOR, *([ROOT_LIKE_MKL, ROOT_OF_MKL] if loaded.has_mkl else [])]
    chosen = {}
    for dtype in _INTEGERS:
        chosen[dtype] = modes[-1]
        for mode in modes:
            loaded.set_roots(mode, mode)
            if _is_right(loaded, Operation.SQUARE_ROOT, dtype) and _root_is_right(loaded, dtype):
                chosen[dtype] = mode
                break
    loaded.set_roots(chosen[torch.float32], chosen[torch.float64])


def _root_is_right(loaded: Machine, dtype: torch.dtype) -> bool:
    """Check the square root on many numbers of every exponent: estimates come out of tables."""
    generator = torch.Generator("cpu").manual_seed(7)
    largest = torch.finfo(dtype).max
    bits = torch.tensor(largest, dtype=dtype, device="cpu").view(_INTEGERS[dtype]).item()
    values = torch.randint(
        0, int(bits), (1 << 16,), generator=generator, dtype=_INTEGERS[dtype], device="cpu"
    )
    pieces = values.view(dtype).split(1 << 14)  # too few each for ATen to wake other threads
    return all(
        same_bits(piece.sqrt(), _run(loaded, Operation.SQUARE_ROOT, [piece] * 3, 0.0))
        for piece in pieces
    )


def _is_right(loaded: Machine, operation: Operation, dtype: torch.dtype) -> bool:
    scalars = (0.0,) if operation in _WITHOUT_SCALAR else SCALARS
    for scalar in scalars:
        if operation is Operation.LERP and scalar == 1:
            continue  # never encoded: see tape.py
        for given in (operands(dtype), *_tails(dtype)):
            if operation is Operation.MAXIMUM:
                # Which zero is the larger one differs within ATen, between vectors and tails.
                given = [operand + 0.0 for operand in given]  # noqa: PLW2901
            a, b, c = given
            expected = REFERENCES[operation](a, b, c, scalar)
            if not same_bits(expected, _run(loaded, operation, given, scalar)):
                return False
    return True


def _tails(dtype: torch.dtype) -> Iterator[Sequence[Tensor]]:
    """Cut out tensors so short that vectorized code takes every element one by one."""
    for start in range(0, 8 * TAIL, TAIL):
        yield [operand[start : start + TAIL] for operand in operands(dtype)]


@functools.cache
def operands(dtype: torch.dtype) -> list[Tensor]:
    """Make three unaligned tensors of odd length, full of values that arithmetic goes wrong on."""
    generator = torch.Generator("cpu").manual_seed(3)
    info = torch.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")]
    special += [info.max, -info.max, info.tiny, -info.tiny, info.tiny / 8, info.smallest_normal]
    odd = torch.tensor(special, dtype=dtype, device="cpu")
    made = []
    for i in range(3):
        exponents = torch.empty(SIZE + 3, dtype=torch.float64, device="cpu")
        exponents.uniform_(-60, 30, generator=generator)
        values = torch.empty_like(exponents).normal_(generator=generator) * 2**exponents
        values = values.to(dtype)
        places = torch.empty_like(exponents).uniform_(generator=generator) < 0.25
        chosen = torch.randint(len(odd), (SIZE + 3,), generator=generator, device="cpu")
        made.append(torch.where(places, odd[chosen], values)[i + 1 : i + 1 + SIZE])
    return made


def _run(
    loaded: Machine, operation: Operation, operands: Sequence[Tensor], scalar: float
) -> Tensor:
    result = torch.empty_like(operands[0])
    tensors = [result, *operands]
    loaded.run(
        array("d", [operation, 0, 1, 2, 3, scalar]),
        array("q", [tensor.data_ptr() for tensor in tensors]),
        array("q", [result.numel()]),
        inputs=len(tensors),
        total=result.numel(),
        is_double=result.dtype == torch.float64,
        threads=1,
    )
    return result


def same_bits(expected: Tensor, actual: Tensor) -> bool:
    """Tell whether two tensors have the same bits; NaN equals NaN."""
    integers = _INTEGERS[expected.dtype]
    same = expected.view(integers) == actual.view(integers)
    return bool((same | (expected.isnan() & actual.isnan())).all())
