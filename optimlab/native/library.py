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

from optimlab.native.look import Collections, Look, python
from optimlab.native.tape import NUMBERS

VARIABLE = "OPTIMLAB_NATIVE"
"""Set this environment variable to ``0`` to leave the machine unused, or to another library."""

# How the machine can take a square root; the numbers are those of machine.c.
ROOT_OF_PROCESSOR, ROOT_OF_MKL, ROOT_LIKE_MKL = 0, 1, 2


class Task(ctypes.Structure):
    """What :c:func:`optimlab_run` of ``machine.c`` is to run, field by field as there."""

    _fields_ = [
        ("numbers", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("length", ctypes.c_long),
        ("inputs", ctypes.c_long),
        ("count", ctypes.c_long),
        ("total", ctypes.c_long),
        ("step_count", ctypes.c_long),
        ("is_double", ctypes.c_int),
        ("steps_are_double", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("joined", ctypes.c_int),
    ]


class Machine:
    """The loaded library.

    Args:
        path: of the shared library.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._run = self._library.optimlab_run
        # PyDLL: with Python's lock held, because objects of Python are looked at.
        locked = ctypes.PyDLL(str(path))
        self._look, self._stayed = locked.optimlab_look, locked.optimlab_stayed
        self._look.restype = ctypes.c_double
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
        task = Task(
            pointers=pointers.buffer_info()[0],
            sizes=sizes.buffer_info()[0],
            inputs=inputs,
            count=len(sizes),
            total=total,
            is_double=is_double,
            threads=threads,
            joined=joined,
        )
        self.carry_out(task, program)

    def carry_out(self, task: Task, program: array[float]) -> None:
        """Run a program on the tensors of a task, and add 1 to its step counts.

        Raises:
            ValueError: if it is not a program of this machine; nothing was changed then.
        """
        task.numbers, task.length = program.buffer_info()[0], len(program) // NUMBERS
        if not self._run(ctypes.byref(task)):
            raise ValueError("not a program of this machine")

    def look(self, look: Look) -> float:
        """Look at the tensors of a step, before anything is changed.

        Returns:
            The step count that all have in common, or -1 if anything is not as it should be, or if
            this thread flushes denormal numbers to zero.

        Raises:
            RuntimeError: if torch cannot describe a tensor, such as a sparse one.
        """
        return float(self._look(ctypes.byref(look)))

    def stayed(self, collections: Collections) -> bool:
        """Tell whether collections still hold the same objects, in the same order."""
        records = collections.records
        return bool(self._stayed(ctypes.byref(python()), records, len(records)))


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
