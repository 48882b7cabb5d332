"""Loading the kernel: a C library without Python or torch in it, called through ctypes.

It is called with Python's lock held (``PyDLL``), because it looks at objects of Python, and because
nothing that it looked at may move before it is done.

The square root is the one instruction for which torch may ask another library (MKL's vector
mathematics). That function is taken from the libtorch_cpu that is already loaded, by name, so that
it is the one ATen calls.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from optimlab.native import guards
from optimlab.native.bytecode import INSTRUCTION_SIZE

VARIABLE = "OPTIMLAB_NATIVE"
"""Set this environment variable to ``0`` to leave the kernel unused, or to another library."""

VERSION = 3
"""Of all that Python and the library tell each other; that of program.h."""

# How the kernel can take a square root; the numbers are those of roots.h.
ROOT_OF_PROCESSOR, ROOT_OF_MKL, ROOT_LIKE_MKL = 0, 1, 2

# How a call ended; the numbers are those of program.h.
CHANGED, DONE, ESCAPED, NO_PROGRAM, DONE_BY_FEWER = range(5)

_FENV_BYTES = 256  # more than any system's fenv_t


class UnusableError(Exception):
    """There is a library, and it cannot be used; the text says why."""


class Launch(ctypes.Structure):
    """What the kernel guards and runs: the structure of program.h, field by field."""

    _fields_ = [
        ("tensors", ctypes.c_void_p),
        ("state_dicts", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("layouts", ctypes.c_void_p),
        ("written", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("length", ctypes.c_long),
        ("inputs", ctypes.c_long),
        ("count", ctypes.c_long),
        ("total", ctypes.c_long),
        ("step_count", ctypes.c_long),
        ("written_count", ctypes.c_long),
        ("is_double", ctypes.c_int),
        ("steps_are_double", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("joined", ctypes.c_int),
        ("is_given", ctypes.c_int),
    ]


class Kernel:
    """The loaded library.

    Args:
        path: of the shared library.

    Raises:
        UnusableError: if it is no library, or one of another version, or loading it has changed
            the floating-point arithmetic of this process, which is then as it was before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_whole(path)
        with _arithmetic_unchanged(path):
            try:
                library = ctypes.PyDLL(str(path))
            except OSError as error:
                raise UnusableError(f"{path} could not be loaded: {error}") from error
        try:
            version = library.optimlab_version()
            if version == VERSION:
                self._take_functions(library)
        except AttributeError as error:
            raise UnusableError(f"{path} is no library of this package: {error}") from error
        if version != VERSION:
            raise UnusableError(
                f"{path} is of version {version}, this package needs {VERSION}: build it again"
            )
        self.has_mkl = self._find_mkl()

    def _take_functions(self, library: ctypes.PyDLL) -> None:
        self._library = library
        self._python = ctypes.byref(guards.python())
        self._run, self._step = library.optimlab_run, library.optimlab_step
        self._stayed = library.optimlab_stayed
        self._odd_threads = library.optimlab_odd_threads
        self._odd_threads.restype = ctypes.c_long
        self._joined_length = library.optimlab_joined_length
        self._joined_length.restype = ctypes.c_long
        for name in ("has_usual_mode", "processor", "set_roots", "limit_instruction_set"):
            getattr(library, f"optimlab_{name}")

    def _find_mkl(self) -> bool:
        loaded = _libtorch_cpu()
        try:
            found = loaded.vmsSqrt, loaded.vmdSqrt, loaded.MKL_Set_Num_Threads_Local
        except AttributeError:
            return False
        self._library.optimlab_set_mkl(*[ctypes.cast(f, ctypes.c_void_p) for f in found])
        return True

    def has_usual_mode(self) -> bool:
        """Tell whether this thread rounds to nearest and keeps denormal numbers."""
        return bool(self._library.optimlab_has_usual_mode())

    def threads_are_alike(self, threads: int) -> bool:
        """Tell whether all of so many threads round and flush as this one does."""
        return threads < 2 or not self._odd_threads(threads)

    def processor(self) -> int:
        """Return the best instruction set that there is: 0 plain C, 1 AVX2, 2 AVX-512."""
        return int(self._library.optimlab_processor())

    def set_roots(self, single: int, double: int) -> None:
        """Choose how square roots of float32 and float64 are taken."""
        self._library.optimlab_set_roots(single, double)

    def limit_instruction_set(self, most: int) -> int:
        """Use at most this instruction set: 0 plain C, 1 AVX2, 2 AVX-512; return the one in use."""
        return int(self._library.optimlab_limit_instruction_set(most))

    def joined_length(self, program: array[float], inputs: int) -> int:
        """Return how many instructions are left of a program once they are joined."""
        start = ctypes.c_void_p(guards.start(program))
        return int(
            self._joined_length(start, ctypes.c_long(len(program) // INSTRUCTION_SIZE), inputs)
        )

    def run(
        self,
        program: Sequence[float],
        pointers: array[int],
        sizes: array[int],
        *,
        inputs: int,
        total: int,
        is_double: bool,
        threads: int,
        joined: bool = True,
    ) -> None:
        """Run a program over all tensors; nothing is asked of them.

        Args:
            program: six numbers for each instruction, see :mod:`optimlab.native.bytecode`.
            pointers: addresses: of each tensor's first register, then of each one's second, ...
            sizes: numbers of elements.
            inputs: number of registers that are tensors.
            total: number of all elements.
            is_double: whether the tensors are float64 rather than float32.
            threads: number of threads.
            joined: whether to join instructions that take up each other's result.

        Raises:
            ValueError: if it is not a program of this kernel; nothing was changed then.
        """
        code = array("d", [0.0, *program])
        launch = Launch(
            pointers=guards.start(pointers),
            sizes=guards.start(sizes),
            code=guards.start(code),
            length=len(program) // INSTRUCTION_SIZE,
            inputs=inputs,
            count=len(sizes),
            total=total,
            is_double=is_double,
            threads=threads,
            joined=joined,
        )
        if self._run(ctypes.byref(launch)) == NO_PROGRAM:
            raise ValueError("not a program of this kernel")

    def step(
        self, launches: ctypes.Array[Launch], others: array[int], escaped: int | None
    ) -> Callable[[], int]:
        """Return the call that looks at everything a step touches, and runs it or changes nothing.

        Args:
            launches: what is to be run.
            others: addresses of parameters that must have no gradient.
            escaped: where a byte tells whether somebody may have changed the state, which is
                otherwise not looked at; ``None`` to look at it.

        Returns:
            What is given must be kept for as long as this is called. It returns :data:`DONE` or
            another of the constants beside it.
        """
        return partial(
            self._step,
            self._python,
            launches,
            ctypes.c_long(len(launches)),
            ctypes.c_void_p(guards.start(others)),
            ctypes.c_long(len(others)),
            ctypes.c_void_p(escaped),
        )

    def stayed(self, identity: guards.Identity) -> Callable[[], int]:
        """Return the call that tells whether collections hold the same objects as before."""
        records = identity.records
        return partial(self._stayed, self._python, records, ctypes.c_long(len(records)))


def load() -> Kernel:
    """Load the library, once in a process.

    Raises:
        UnusableError: if there is none, it is disabled, or it cannot be used.
    """
    found = _found()
    if isinstance(found, UnusableError):
        raise found
    return found


@functools.cache
def _found() -> Kernel | UnusableError:
    try:
        return _load()
    except UnusableError as error:
        return error


def _load() -> Kernel:
    chosen = os.environ.get(VARIABLE)
    if chosen == "0":
        raise UnusableError(f"disabled by {VARIABLE}=0")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise UnusableError("this Python runs threads at once; the kernel relies on Python's lock")
    if guards.describer() is None:
        raise UnusableError("this torch does not describe tensors through DLPack's table")
    failed = UnusableError("not built: pip found no C compiler, or none that can build it")
    for path in [Path(chosen)] if chosen else candidates():
        try:
            return Kernel(path)
        except UnusableError as error:
            failed = error
    raise failed


def candidates() -> Sequence[Path]:
    """List the places where the library may be: beside this file, where the build puts it."""
    folder = Path(__file__).parent
    suffixes = [*importlib.machinery.EXTENSION_SUFFIXES, ".so", ".dylib"]
    return [p for suffix in suffixes for p in folder.glob(f"_kernel{suffix}")]


def _check_whole(path: Path) -> None:
    """Refuse a file that an interrupted copy has cut off: loading it would end the process.

    Raises:
        UnusableError: if an ELF file ends before what its header speaks of.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(64)
    except OSError:
        return  # about which loading it will tell
    if header[:5] == b"\x7fELF\x02" and len(header) == 64:
        order: Any = "little" if header[5] == 1 else "big"

        def number(place: int, length: int) -> int:
            return int.from_bytes(header[place : place + length], order)

        sections = number(0x28, 8) + number(0x3A, 2) * number(0x3C, 2)
        if size < sections:
            raise UnusableError(f"{path} is cut off: {size} bytes of at least {sections}")


@contextmanager
def _arithmetic_unchanged(path: Path) -> Iterator[None]:
    """Notice a library that changes how this thread calculates when it is loaded, and undo it.

    Fast-math flags link start-up code into a library that turns on the flushing of denormals.
    """
    mathematics: Any = ctypes.CDLL(None)
    before = (ctypes.c_char * _FENV_BYTES)()
    can_restore = hasattr(mathematics, "fegetenv") and not mathematics.fegetenv(before)
    samples = _samples()
    yield
    if _samples() != samples:
        if can_restore:
            mathematics.fesetenv(before)
        raise UnusableError(
            f"loading {path} changed how this process calculates (built with fast-math flags?)"
        )


def _samples() -> list[str]:
    """Calculate what comes out otherwise where denormals are flushed or rounding is another."""
    tiny, small, one = map(float, ("4e-320", "1e-30", "1"))
    numbers = (tiny * one, tiny / 2 + tiny, one + small, one - small, -one - small, one / 3)
    return [number.hex() for number in numbers]  # a denormal would compare equal to zero


@functools.cache
def _libtorch_cpu() -> Any:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None
