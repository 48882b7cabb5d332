"""Loading the machine: a C library without Python or torch in it, called through ctypes.

The square root is the one instruction for which torch may ask another library (MKL's vector
mathematics). That function is taken from the libtorch_cpu that is already loaded, by name, so that
it is the one ATen calls.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

VARIABLE = "OPTIMLAB_NATIVE"
"""Set this environment variable to ``0`` to leave the machine unused, or to another library."""

# How the machine can take a square root; the numbers are those of machine.c.
ROOT_OF_PROCESSOR, ROOT_OF_MKL, ROOT_LIKE_MKL = 0, 1, 2


class Machine:
    """The loaded library.

    Args:
        path: of the shared library.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        double, pointer, long = ctypes.c_double, ctypes.c_void_p, ctypes.c_long
        self._run = self._library.optimlab_run
        self._run.argtypes = [
            *(ctypes.c_int, ctypes.c_int, pointer, long, pointer, pointer),
            *(long, long, long, ctypes.c_int),
        ]
        self._common_step = self._library.optimlab_common_step
        self._common_step.argtypes = [pointer, long, ctypes.c_int]
        self._common_step.restype = double
        self._count_steps = self._library.optimlab_count_steps
        self._count_steps.argtypes = [pointer, long, ctypes.c_int]
        self._count_steps.restype = None
        self.has_mkl = self._find_mkl()

    def _find_mkl(self) -> bool:
        loaded = _libtorch_cpu()
        try:
            found = loaded.vmsSqrt, loaded.vmdSqrt, loaded.MKL_Set_Num_Threads_Local
        except AttributeError:
            return False
        self._library.optimlab_set_mkl(*[ctypes.cast(f, ctypes.c_void_p) for f in found])
        return True

    def flushes_denormals(self) -> bool:
        """Tell whether this thread flushes denormal numbers to zero (torch.set_flush_denormal)."""
        return bool(self._library.optimlab_flushes_denormals())

    def set_roots(self, single: int, double: int) -> None:
        """Choose how square roots of float32 and float64 are taken."""
        self._library.optimlab_set_roots(single, double)

    def limit_instruction_set(self, most: int) -> int:
        """Use at most this instruction set: 0 plain C, 1 AVX2, 2 AVX-512; return the one in use."""
        return int(self._library.optimlab_limit_instruction_set(most))

    def run(
        self,
        program: array[float],
        pointers: array[int],
        sizes: array[int],
        *,
        inputs: int,
        total: int,
        is_double: bool,
        threads: int,
        joined: bool = True,
    ) -> None:
        """Run a program over all tensors.

        Args:
            program: six numbers for each instruction, see :mod:`optimlab.native.tape`.
            pointers: addresses: of each tensor's first register, then of each one's second, ...
            sizes: numbers of elements.
            inputs: number of registers that are tensors.
            total: number of all elements.
            is_double: whether the tensors are float64 rather than float32.
            threads: number of threads.
            joined: whether to join instructions that take up each other's result.

        Raises:
            ValueError: if it is not a program of this machine; nothing was changed then.
        """
        done = self._run(
            is_double,
            joined,
            program.buffer_info()[0],
            len(program) // 6,
            pointers.buffer_info()[0],
            sizes.buffer_info()[0],
            inputs,
            len(sizes),
            total,
            threads,
        )
        if not done:
            raise ValueError("not a program of this machine")

    def common_step(self, pointers: array[int], *, is_double: bool) -> float:
        """Return the step count that all tensors have, or -1 if they differ."""
        return float(self._common_step(pointers.buffer_info()[0], len(pointers), is_double))

    def count_steps(self, pointers: array[int], *, is_double: bool) -> None:
        """Add 1 to every step count."""
        self._count_steps(pointers.buffer_info()[0], len(pointers), is_double)


@functools.cache
def machine() -> Machine | None:
    """Load the library, if there is one and it is not disabled."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "0":
        return None
    for path in [Path(chosen)] if chosen else candidates():
        try:
            return Machine(path)
        except OSError:  # built for another system
            continue
    return None


def candidates() -> Sequence[Path]:
    """List the places where the library may be: beside this file, where the build puts it."""
    folder = Path(__file__).parent
    suffixes = [*importlib.machinery.EXTENSION_SUFFIXES, ".so", ".dylib"]
    return [p for suffix in suffixes for p in folder.glob(f"_machine{suffix}")]


def _libtorch_cpu() -> Any:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None
