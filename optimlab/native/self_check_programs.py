"""Programs for the self-check, each of which ``kernel/peephole.h`` makes one superinstruction."""

from __future__ import annotations

from optimlab.native.bytecode import Opcode

Instruction = tuple[Opcode, int, int, int, int, float]
"""Opcode, result, three operands and a scalar; results and operands are numbers of registers."""

_T1, _T2 = 4, 5  # temporaries; 0 to 3 are tensors


def superinstruction_programs(a: int, b: int, c: int, result: int) -> dict[str, list[Instruction]]:
    """Write down programs that become a single superinstruction, on given registers."""
    op = Opcode
    scale = (op.MULTIPLY_SCALAR, _T1, a, a, a, 0.9)
    sign = (op.SIGN, _T2, b, b, b, 0.0)
    add = (op.ADD_SCALED, _T2, b, c, c, 0.7)
    root = (op.SQUARE_ROOT, _T2, c, c, c, 0.0)
    divide = (op.DIVIDE_SCALAR, _T2, _T2, _T2, _T2, 0.3)
    add_eps = (op.ADD_SCALAR, _T2, _T2, _T2, _T2, 1e-8)
    divide_c = (op.DIVIDE_SCALAR, _T2, c, c, c, 0.3)
    add_eps_to_c = (op.ADD_SCALAR, _T2, c, c, c, 1e-8)

    def quotient(of: int) -> Instruction:
        return (op.ADD_QUOTIENT, result, of, b, _T2, -0.01)

    return {
        "scaled, plus": [scale, (op.ADD_SCALED, result, _T1, b, b, 0.3)],
        "scaled, plus product": [scale, (op.ADD_PRODUCT, result, _T1, b, c, 0.01)],
        "scaled, plus quotient": [scale, (op.ADD_QUOTIENT, result, _T1, b, c, -0.01)],
        "plus sign": [sign, (op.ADD_SCALED, result, a, _T2, a, -0.01)],
        "scaled, plus sign": [sign, scale, (op.ADD_SCALED, result, _T1, _T2, _T1, -0.01)],
        "plus sum": [add, (op.ADD_SCALED, result, a, _T2, a, -0.01)],
        "scaled, plus sum": [scale, add, (op.ADD_SCALED, result, _T1, _T2, _T1, -0.01)],
        "divided, plus": [
            (op.DIVIDE_SCALAR, _T1, a, a, a, 0.3),
            (op.ADD_SCALAR, result, _T1, _T1, _T1, 0.5),
        ],
        "plus quotient by sum": [add_eps_to_c, quotient(a)],
        "scaled, plus quotient by sum": [scale, add_eps_to_c, quotient(_T1)],
        "plus quotient by quotient": [divide_c, add_eps, quotient(a)],
        "scaled, plus quotient by quotient": [divide_c, add_eps, scale, quotient(_T1)],
        "plus quotient by root": [root, add_eps, quotient(a)],
        "scaled, plus quotient by root": [root, scale, add_eps, quotient(_T1)],
        "plus quotient by divided root": [root, divide, add_eps, quotient(a)],
        "scaled, plus quotient by divided root": [scale, root, divide, add_eps, quotient(_T1)],
    }


def two_result_programs() -> dict[str, list[Instruction]]:
    """Write down programs that become one superinstruction with two results."""
    op = Opcode
    squares = [(op.MULTIPLY_SCALAR, 2, 2, 2, 2, 0.99), (op.ADD_PRODUCT, 2, 2, 1, 1, 0.01)]
    first: Instruction = (op.ADD_SCALED, 0, 0, 1, 1, 0.7)
    second: Instruction = (op.ADD_SCALED, 2, 2, 0, 2, -0.3)
    scale_first: Instruction = (op.MULTIPLY_SCALAR, 0, 0, 0, 0, 0.9)
    scale_second: Instruction = (op.MULTIPLY_SCALAR, 2, 2, 2, 2, 1.1)
    return {
        "average and squares": [(op.LERP, 0, 0, 1, 0, 0.1), *squares],
        "average and squares, from the other end": [(op.LERP, 0, 0, 1, 0, 0.7), *squares],
        "sum and sum with it": [first, second],
        "scaled sum and scaled sum with it": [scale_first, first, scale_second, second],
    }
