"""Superinstructions, threads and roots give the bits of one operation at a time."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from twins import FOUND, needs_kernel

from optimlab.lab.parity import compare_tensors
from optimlab.native import self_check
from optimlab.native.bytecode import Opcode
from optimlab.native.launch import DTYPES
from optimlab.native.self_check import joined_length, run_program
from optimlab.native.self_check_programs import Instruction, superinstruction_programs

pytestmark = needs_kernel


@pytest.fixture(autouse=True)
def no_limit() -> Iterator[None]:
    """Let the kernel use all instruction sets again."""
    yield
    if FOUND.kernel is not None:
        FOUND.kernel.limit_instruction_set(2)


def each_instruction_set() -> Iterator[int]:
    """Limit the kernel to each instruction set in turn."""
    assert FOUND.kernel is not None
    for most in (0, 1, 2):
        FOUND.kernel.limit_instruction_set(most)
        yield most


def test_every_instruction_set_gives_the_same_bits() -> None:
    assert FOUND.kernel is not None
    for _, operation, dtype in itertools.product(each_instruction_set(), Opcode, DTYPES):
        expected = int(operation) in FOUND.trusted[dtype]
        assert self_check.instruction_is_right(FOUND.kernel, operation, dtype) == expected, (
            operation
        )


T1, T2 = 4, 5  # temporaries; the registers 0 to 3 are tensors
# Which of the operands a, b, c and the result are the same register.
ALIASES = [
    (a, b, c, result)
    for a, b, c in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2))
    for result in sorted({a, b, c, 3})
]


def in_place() -> list[tuple[list[Instruction], int]]:
    """Write down what becomes a superinstruction, or not, for other uses, and how much is left."""
    op = Opcode
    scale = (op.MULTIPLY_SCALAR, 0, 0, 0, 0, 0.9)
    add = (op.ADD_SCALED, 0, 0, 1, 0, 0.3)
    add_eps = (op.ADD_SCALAR, T1, 1, 1, 1, 1e-8)
    quotient = (op.ADD_QUOTIENT, 0, 0, 2, T1, -0.01)
    return [
        ([scale, add], 1),
        ([scale, scale, add], 2),
        ([scale, scale, (op.SIGN, T1, 1, 1, 1, 0.0), (op.ADD_SCALED, 0, 0, T1, 0, 0.3)], 2),
        ([scale, scale, add_eps, quotient], 2),
        ([scale, (op.ADD_SCALED, 0, 0, 0, 0, 0.3)], 2),
        ([scale, (op.ADD_SCALED, 1, 0, 1, 1, 0.3)], 2),  # a tensor must have its new value
        ([scale, (op.ADD_PRODUCT, 0, 0, 1, 1, 0.3)], 1),
        ([scale, (op.ADD_PRODUCT, 0, 0, 1, 0, 0.3)], 2),
        ([scale, (op.ADD_PRODUCT, 0, 0, 0, 1, 0.3)], 2),
        ([scale, (op.ADD_QUOTIENT, 0, 0, 1, 0, 0.3)], 2),
        ([(op.MULTIPLY_SCALAR, 0, 1, 1, 1, 0.9), (op.ADD_PRODUCT, 0, 0, 2, 0, 0.3)], 2),
        ([(op.MULTIPLY_SCALAR, 0, 1, 1, 1, 0.9), (op.ADD_SCALED, 0, 0, 1, 0, 0.3)], 1),
        # In between what has nothing to do with it, reads it, writes it, writes its operand
        ([scale, (op.LERP, 2, 2, 1, 2, 0.1), add], 2),
        ([scale, (op.LERP, 2, 2, 0, 2, 0.1), add], 3),
        ([scale, (op.COPY, 0, 2, 2, 2, 0.0), add], 3),
        ([(op.MULTIPLY_SCALAR, T1, 0, 0, 0, 0.9), (op.NEGATE, 0, 0, 0, 0, 0.0),
          (op.ADD_SCALED, 2, T1, 1, 1, 0.3)], 3),
        ([(op.MULTIPLY_SCALAR, T1, 0, 0, 0, 0.9), (op.ADD_SCALED, 0, T1, 0, 0, 0.3)], 1),
        # A temporary that is read once more, or is written first
        ([add_eps, quotient], 1),
        ([add_eps, quotient, (op.MULTIPLY, 3, T1, 1, 1, 0.0)], 3),
        ([add_eps, quotient, add_eps, (op.MULTIPLY, 3, T1, 1, 1, 0.0)], 3),
        ([(op.ADD_SCALAR, 3, 1, 1, 1, 1e-8), (op.ADD_QUOTIENT, 0, 0, 2, 3, -0.01)], 2),
        ([(op.ADD_SCALAR, 0, 1, 1, 1, 1e-8), (op.ADD_QUOTIENT, 0, 3, 2, 0, -0.01)], 1),
        ([add_eps, (op.ADD_QUOTIENT, 0, 0, T1, T1, -0.01)], 2),
        ([add_eps, (op.ADD_QUOTIENT, 0, T1, 2, T1, -0.01)], 2),
        ([(op.SIGN, T1, 0, 0, 0, 0.0), (op.ADD_SCALED, 0, T1, T1, 0, 0.3)], 2),
        ([(op.SIGN, T1, 0, 0, 0, 0.0), (op.ADD_SCALED, 0, T1, 1, 0, 0.3)], 2),
        ([(op.ADD_SCALED, T1, 0, 1, 0, 0.7), (op.ADD_SCALED, 0, T1, 1, 0, 0.3)], 2),
        ([(op.ADD_SCALED, 0, 1, 2, 0, 0.7), (op.ADD_SCALED, 0, 3, 0, 0, 0.3)], 1),
        ([(op.SQUARE_ROOT, 0, 0, 0, 0, 0.0), add_eps, (op.ADD_QUOTIENT, 2, 2, 0, T1, 0.1)], 2),
        # Two results in one pass
        ([add, (op.ADD_SCALED, 2, 2, 0, 0, 0.7)], 1),
        ([add, (op.ADD_SCALED, 1, 1, 0, 0, 0.7), (op.ADD_SCALED, 2, 2, 1, 0, -0.1)], 2),
        ([add, (op.ADD_SCALED, 2, 3, 0, 0, 0.7)], 2),
        ([add, (op.ADD_SCALED, 0, 0, 0, 0, 0.7)], 2),
        (lerp_and_square(0, 1, 2, 0.1), 1),
        (lerp_and_square(0, 1, 2, 0.7), 1),
        (lerp_and_square(0, 1, 1, 0.1), 3),
        (lerp_and_square(0, 0, 1, 0.1), 2),
        ([(op.LERP, 3, 0, 1, 0, 0.1), *lerp_and_square(0, 1, 2, 0.1)[1:]], 1),
        ([(op.LERP, 0, 0, 3, 0, 0.1), *lerp_and_square(0, 1, 2, 0.1)[1:]], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 2, 2, 1, 3, 0.01)], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 2, 2, 3, 1, 0.01)], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 3, 2, 1, 1, 0.01)], 3),
    ]  # fmt: skip


def lerp_and_square(a: int, b: int, c: int, weight: float) -> list[Instruction]:
    return [
        (Opcode.LERP, a, a, b, a, weight),
        (Opcode.MULTIPLY_SCALAR, c, c, c, c, 0.99),
        (Opcode.ADD_PRODUCT, c, c, b, b, 0.01),
    ]


def two_results() -> Iterator[list[Instruction]]:
    """Write down an average and a sum of squares, or two sums of which one takes up the other."""
    for result, a, b, c in itertools.product(range(3), repeat=4):
        scaled_a = (Opcode.MULTIPLY_SCALAR, T1, a, a, a, 0.9)
        scaled_c = (Opcode.MULTIPLY_SCALAR, T2, c, c, c, 1.1)
        first = (Opcode.ADD_SCALED, result, a, b, b, 0.7)
        second = (Opcode.ADD_SCALED, c, c, result, c, -0.3)
        scaled_first = [scaled_a, (Opcode.ADD_SCALED, result, T1, b, b, 0.7)]
        scaled_second = [scaled_c, (Opcode.ADD_SCALED, c, T2, result, c, -0.3)]
        for begin, end in itertools.product(([first], scaled_first), ([second], scaled_second)):
            yield [*begin, *end]
        for weight in (0.1, 0.7):
            average = (Opcode.LERP, result, a, b, a, weight)
            yield [average, scaled_c, (Opcode.ADD_PRODUCT, c, T2, b, b, 0.01)]


# Around the lengths of vectors, of pairs of vectors and of chunks; many, and empty ones in between.
SHORT = (*range(34), 63, 64, 65, 127, 129, 255, 256, 257, 511, 513, 0, 1023, 1024, 1025)


def values_for(dtype: torch.dtype, total: int) -> list[list[Tensor]]:
    """Make operands that are full of special values, without any, and with few."""
    special = [
        operand.repeat(total // self_check.SIZE + 1)[:total]
        for operand in self_check.operands(dtype)
    ]
    special.append(special[0].flip(0))
    generator = torch.Generator().manual_seed(5)
    tame = [torch.rand(total, generator=generator, dtype=dtype) * 3 + 1e-6 for _ in special]
    odd = [torch.rand(total, generator=generator) < 0.01 for _ in special]
    few = [torch.where(*each) for each in zip(odd, special, tame, strict=True)]
    return [special, tame, few]


def run_of(
    program: list[Instruction],
    values: list[Tensor],
    sizes: tuple[int, ...] | None,
    *,
    superinstructions: bool,
    threads: int = 1,
) -> list[Tensor]:
    """Run a program on copies, cut into tensors of these sizes."""
    assert FOUND.kernel is not None
    registers = [tensor.clone() for tensor in values]
    run_program(
        FOUND.kernel,
        program,
        registers,
        sizes,
        superinstructions=superinstructions,
        threads=threads,
    )
    return registers


def left(program: list[Instruction]) -> int:
    assert FOUND.kernel is not None
    return joined_length(FOUND.kernel, program)


def assert_same(expected: list[Tensor], found: list[Tensor], where: object) -> None:
    for mine, other in zip(expected, found, strict=True):
        assert compare_tensors(mine, other) is None, where


def compare_with_superinstructions(program: list[Instruction], dtype: torch.dtype) -> None:
    assert FOUND.kernel is not None
    for values in values_for(dtype, sum(SHORT)):
        FOUND.kernel.limit_instruction_set(0)
        expected = run_of(program, values, SHORT, superinstructions=False)
        for most in each_instruction_set():
            found = run_of(program, values, SHORT, superinstructions=True)
            assert_same(expected, found, (program, most))


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("name", superinstruction_programs(0, 1, 2, 3))
def test_a_superinstruction_rounds_as_one_instruction_after_the_other(
    name: str, dtype: torch.dtype
) -> None:
    for aliases in ALIASES:
        program = superinstruction_programs(*aliases)[name]
        assert left(program) == 1, aliases
        compare_with_superinstructions(program, dtype)


@dtypes
@pytest.mark.parametrize(("program", "length"), in_place())
def test_what_is_needed_once_more_is_in_no_superinstruction(
    program: list[Instruction], length: int, dtype: torch.dtype
) -> None:
    assert left(program) == length
    compare_with_superinstructions(program, dtype)


@dtypes
def test_two_results_in_one_pass_are_those_of_two(dtype: torch.dtype) -> None:
    lengths = set()
    for program in two_results():
        lengths.add(left(program))
        compare_with_superinstructions(program, dtype)
    assert lengths == {1, 2}


PIECE = 16384  # that of program.h
DIVISIONS = {
    "one tensor": (2 * PIECE + 77,),
    "shares of one piece and a little": (2 * PIECE + 130, 1, 63),
    "around the borders of pieces": (PIECE - 1, 2, PIECE, 0, 1, PIECE + 1, 100, 3 * PIECE - 5),
    "thousands of tensors": tuple(17 * i % 41 for i in range(5000)),
    "less than a cache line for each thread": (5, 0, 60, 3),
    "nothing": (0, 0),
    "too much for the caches": (1_000_003, 40, 100_000),
}


@dtypes
@pytest.mark.parametrize("sizes", DIVISIONS.values(), ids=DIVISIONS)
def test_every_division_among_threads_gives_the_same_bits(
    dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    several = [step for program, _ in in_place()[:6] for step in program]
    quotient = superinstruction_programs(0, 1, 2, 0)["scaled, plus quotient by divided root"]
    for program, values in itertools.product((quotient, several), values_for(dtype, sum(sizes))):
        expected = run_of(program, values, None, superinstructions=False)
        for threads in (1, 2, 3, 9):
            found = run_of(program, values, sizes, superinstructions=True, threads=threads)
            assert_same(expected, found, threads)


def test_fewer_threads_than_asked_for_leave_nothing_out() -> None:
    assert FOUND.kernel is not None
    try:
        set_dynamic = FOUND.kernel._library.omp_set_dynamic
    except AttributeError:
        pytest.skip("the kernel was built without threads")
    program = superinstruction_programs(0, 1, 2, 0)["scaled, plus"]
    values = values_for(torch.float32, 9 * PIECE)[1]
    expected = run_of(program, values, None, superinstructions=True)
    set_dynamic(1)  # no more threads than there are processors
    try:
        found = run_of(program, values, None, superinstructions=True, threads=200)
    finally:
        set_dynamic(0)
    assert_same(expected[:1], found[:1], "first")


def test_roots_of_few_numbers_are_those_of_torch() -> None:
    root = [(Opcode.SQUARE_ROOT, 0, 0, 0, 0, 0.0)]
    generator = torch.Generator().manual_seed(9)
    bits = torch.randint(0, 0x7F7FFFFF, (8000,), generator=generator, dtype=torch.int32)
    for most, size in itertools.product(each_instruction_set(), (1, 3, 7, 8, 9, 15, 31)):
        pieces = bits[: 8000 // size * size].view(torch.float32).split(size)
        found = run_of(root, [torch.cat(pieces)], (size,) * len(pieces), superinstructions=True)
        assert_same([torch.cat([piece.sqrt() for piece in pieces])], found, (most, size))


@pytest.mark.parametrize("wrong", [(99, 0, 0, 0, 0), (0, 40, 0, 0, 0), (0, 0, -1, 0, 0)])
def test_what_is_not_a_program_is_refused(wrong: tuple[int, ...]) -> None:
    assert FOUND.kernel is not None
    tensor = torch.ones(4)
    program: list[Any] = [(*wrong, 0.0)]
    with pytest.raises(ValueError, match="not a program"):
        run_program(FOUND.kernel, program, [tensor])
    assert tensor.tolist() == [1.0] * 4
