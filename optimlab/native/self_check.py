"""Self-check: at first use each instruction of the kernel is compared with ATen, bit for bit.

Which arithmetic ATen uses depends on the processor, on ``ATEN_CPU_CAPABILITY``, on how torch was
built. None of that is guessed: an instruction serves only where it gave ATen's bits on a few
thousand values, among them zeros of both signs, denormals, infinities, NaN, the largest and the
smallest numbers, from unaligned starts and with odd lengths. NaN equals NaN, whatever its payload.
Superinstructions are compared with the operations of ATen that they stand for, one after the other.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import torch
from torch import Tensor

from optimlab.native import guards
from optimlab.native.bytecode import INSTRUCTION_SIZE, SCALED, Opcode
from optimlab.native.library import (
    NOT_DONE,
    ROOT_LIKE_MKL,
    ROOT_OF_MKL,
    ROOT_OF_PROCESSOR,
    Kernel,
    LaunchRecord,
    UnusableError,
    load,
)
from optimlab.native.self_check_programs import (
    Instruction,
    superinstruction_programs,
    two_result_programs,
)

SIZE = 4099
TAIL = 7
SCALARS = (0.9, -1.25e-4, 1.0, 0.3)
_INSTRUCTION_SETS = {"AVX2": 1, "AVX512": 2}  # as torch calls them, and as the kernel does
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}

Reference = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# What each instruction must give: the ATen operation that it stands for. Each is in place or not as
# rules use it, because ATen may take another path; every scalar is one that rules could pass.
REFERENCES: Mapping[Opcode, Reference] = {
    Opcode.COPY: lambda a, b, c, s: a.clone(),
    Opcode.NEGATE: lambda a, b, c, s: -a,
    Opcode.ABSOLUTE: lambda a, b, c, s: a.abs(),
    Opcode.SIGN: lambda a, b, c, s: a.sign(),
    Opcode.SQUARE_ROOT: lambda a, b, c, s: a.sqrt(),
    Opcode.RECIPROCAL: lambda a, b, c, s: a.clone().reciprocal_(),
    Opcode.ADD_SCALED: lambda a, b, c, s: a.add(b, alpha=s),
    Opcode.ADD_SCALAR: lambda a, b, c, s: a.clone().add_(s),
    Opcode.MULTIPLY_SCALAR: lambda a, b, c, s: a.clone().mul_(s),
    Opcode.MULTIPLY: lambda a, b, c, s: a.mul(b),
    Opcode.DIVIDE_SCALAR: lambda a, b, c, s: a.clone().div_(s),
    Opcode.DIVIDE: lambda a, b, c, s: a.div(b),
    Opcode.LERP: lambda a, b, c, s: a.clone().lerp_(b, s),
    Opcode.ADD_PRODUCT: lambda a, b, c, s: a.addcmul(b, c, value=s),
    Opcode.ADD_QUOTIENT: lambda a, b, c, s: a.addcdiv(b, c, value=s),
    Opcode.MAXIMUM: lambda a, b, c, s: torch.maximum(a, b),
}


@dataclass(frozen=True)
class Capabilities:
    """What the kernel can do here, and so may be used for.

    Attributes:
        kernel: the library, or ``None`` if there is none to be used.
        trusted: for each dtype the instructions that gave ATen's bits.
        superinstructions: the dtypes for which they gave ATen's bits, too.
        reason: why there is no kernel, or what it may not be used for.
    """

    kernel: Kernel | None
    trusted: Mapping[torch.dtype, frozenset[float]] = field(default_factory=dict)
    superinstructions: frozenset[torch.dtype] = frozenset()
    reason: str = ""

    def serves(self, used: Iterable[float], dtype: torch.dtype) -> bool:
        """Tell whether a program of these instructions gives ATen's bits."""
        return self.trusted.get(dtype, frozenset()).issuperset(used)


def capabilities() -> Capabilities:
    """Tell what the kernel may be used for.

    It is loaded once in a process, and compared with ATen once; whether this thread computes in the
    usual mode, and what torch asks of the processor, is looked at each time.
    """
    try:
        kernel = _loaded()
        if not kernel.has_usual_mode():  # what is found out now would not hold later
            raise UnusableError("this thread flushes denormals, or does not round to nearest")
    except UnusableError as error:
        return Capabilities(None, reason=f"the native kernel is not used: {error}")
    return check(kernel)


def _loaded() -> Kernel:
    """Load the library once, for a processor that can do what torch asks of it."""
    kernel = load()
    if isinstance(kernel, UnusableError):
        raise kernel
    asked = torch.backends.cpu.get_cpu_capability()
    if _INSTRUCTION_SETS.get(asked, 0) > kernel.processor():
        raise UnusableError(f"ATEN_CPU_CAPABILITY asks for {asked}, which this processor lacks")
    return kernel


@functools.cache
def check(kernel: Kernel) -> Capabilities:
    """Compare instructions and superinstructions with ATen."""
    with torch.inference_mode(False), torch.no_grad():
        # The first use of MKL's vector mathematics must not be in several threads at once.
        torch.zeros(1, device="cpu").sqrt()
        _choose_roots(kernel)
        trusted = {
            dtype: frozenset(
                float(op) for op in REFERENCES if instruction_is_right(kernel, op, dtype)
            )
            for dtype in _INTEGERS
        }
        superinstructions = frozenset(
            dtype
            for dtype in _INTEGERS
            if all(
                _is_right(kernel, program, given)
                for program in _checkable(trusted[dtype])
                for given in (operands(dtype), next(_tails(dtype)))
            )
        )
    off = {op.name for op in REFERENCES for dtype in _INTEGERS if op not in trusted[dtype]}
    if len(superinstructions) < len(_INTEGERS):
        off.add("superinstructions")
    reason = f"not ATen's bits here: {', '.join(sorted(off))}" if off else ""
    return Capabilities(kernel, trusted, superinstructions, reason)


def _checkable(trusted: Iterable[float]) -> Iterator[list[Instruction]]:
    """Yield the superinstructions that are made of instructions that are trusted."""
    known = frozenset(trusted)
    for program in chain(
        superinstruction_programs(0, 1, 2, 3).values(), two_result_programs().values()
    ):
        if known.issuperset(float(instruction[0]) for instruction in program):
            yield program


def _is_right(kernel: Kernel, program: Sequence[Instruction], given: Sequence[Tensor]) -> bool:
    """Compare a program with ATen's operations, one after the other."""
    tensors = [*given, torch.zeros_like(given[0])]
    compared = range(len(tensors)) if len(program) > 1 else [program[0][1]]
    expected = {n: tensors[n].clone() for n in compared}
    registers = dict(enumerate(tensors))
    for operation, result, a, b, c, scalar in program:
        value = REFERENCES[operation](registers[a], registers[b], registers[c], scalar)
        registers[result] = expected[result] = value
    run_program(kernel, program, tensors)
    return all(same_bits(expected[n], tensors[n]) for n in compared)


def _choose_roots(kernel: Kernel) -> None:
    """Take the fastest square root that is ATen's."""
    modes = [ROOT_OF_PROCESSOR, *([ROOT_LIKE_MKL, ROOT_OF_MKL] if kernel.has_mkl else [])]
    chosen = {}
    for dtype in _INTEGERS:
        chosen[dtype] = modes[-1]
        for mode in modes:
            kernel.set_roots(mode, mode)
            root = Opcode.SQUARE_ROOT
            if instruction_is_right(kernel, root, dtype) and _root_is_right(kernel, dtype):
                chosen[dtype] = mode
                break
    kernel.set_roots(chosen[torch.float32], chosen[torch.float64])


def _root_is_right(kernel: Kernel, dtype: torch.dtype) -> bool:
    """Check the square root on many numbers of every exponent: estimates come out of tables."""
    generator = torch.Generator("cpu").manual_seed(7)
    largest = torch.finfo(dtype).max
    bits = torch.tensor(largest, dtype=dtype, device="cpu").view(_INTEGERS[dtype]).item()
    values = torch.randint(
        0, int(bits), (1 << 16,), generator=generator, dtype=_INTEGERS[dtype], device="cpu"
    )
    pieces = values.view(dtype).split(1 << 14)  # too few each for ATen to wake other threads
    root: list[Instruction] = [(Opcode.SQUARE_ROOT, 3, 0, 0, 0, 0.0)]
    return all(_is_right(kernel, root, [piece] * 3) for piece in pieces)


def instruction_is_right(kernel: Kernel, operation: Opcode, dtype: torch.dtype) -> bool:
    """Compare an instruction with ATen's operation."""
    for scalar in SCALARS if operation in SCALED else (0.0,):
        if operation is Opcode.LERP and scalar == 1:
            continue  # never encoded: see bytecode.py
        program: list[Instruction] = [(operation, 3, 0, 1, 2, scalar)]
        for given in (operands(dtype), *_tails(dtype)):
            if operation is Opcode.MAXIMUM:
                # Which zero is the larger one differs within ATen, between vectors and tails.
                given = [operand + 0.0 for operand in given]  # noqa: PLW2901
            if not _is_right(kernel, program, given):
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


def run_program(
    kernel: Kernel,
    program: Sequence[Instruction],
    registers: Sequence[Tensor],
    sizes: Sequence[int] | None = None,
    *,
    threads: int = 1,
    superinstructions: bool = True,
) -> None:
    """Run a program on one tensor for each register.

    Args:
        kernel: the kernel, which asks nothing of these tensors.
        program: its instructions.
        registers: contiguous tensors of one length and dtype.
        sizes: of the pieces into which each of them is cut; by default it stays whole.
        threads: how many run it.
        superinstructions: whether they are used.

    Raises:
        ValueError: if it is not a program of this kernel; nothing was changed then.
    """
    sizes = sizes or [registers[0].numel()]
    starts = [0, *accumulate(sizes)]
    addresses = [r.data_ptr() + r.element_size() * at for r in registers for at in starts[:-1]]
    pointers, lengths = array("q", addresses), array("q", sizes)
    code = array("d", [0.0, *chain.from_iterable(program)])
    launch = LaunchRecord(
        pointers=guards.address_of(pointers),
        sizes=guards.address_of(lengths),
        code=guards.address_of(code),
        length=len(code) // INSTRUCTION_SIZE,
        inputs=len(registers),
        count=len(sizes),
        total=starts[-1],
        is_double=registers[0].dtype == torch.float64,
        threads=threads,
        superinstructions=superinstructions,
    )
    if kernel.run(ctypes.byref(launch)) == NOT_DONE:
        raise ValueError("not a program of this kernel")


def joined_length(kernel: Kernel, program: Sequence[Instruction]) -> int:
    """Return how many instructions are left of a program on four tensors once they are joined."""
    code = array("d", chain.from_iterable(program))
    return kernel.joined_length(
        ctypes.c_void_p(guards.address_of(code)), ctypes.c_long(len(program)), 4
    )


def same_bits(expected: Tensor, actual: Tensor) -> bool:
    """Tell whether two tensors have the same bits; NaN equals NaN."""
    integers = _INTEGERS[expected.dtype]
    same = expected.view(integers) == actual.view(integers)
    return bool((same | (expected.isnan() & actual.isnan())).all())
