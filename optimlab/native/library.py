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
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from optimlab.native import guards

VARIABLE = "OPTIMLAB_NATIVE"
"""Set this environment variable to ``0`` to leave the kernel unused, or to another library."""

VERSION = 4
"""Of all that Python and the library tell each other; that of program.h."""

# How the kernel can take a square root; the numbers are those of roots.h.
ROOT_OF_PROCESSOR, ROOT_OF_MKL, ROOT_LIKE_MKL = 0, 1, 2

# How a call ended; the numbers are those of program.h.
NOT_DONE, DONE, DONE_BY_FEWER = range(3)

_FENV_BYTES = 256  # more than any system's fenv_t


class UnusableError(Exception):
    """There is a library, and it cannot be used; the text says why."""


class LaunchRecord(ctypes.Structure):
    """What the kernel guards and runs: the structure ``Launch`` of program.h, field by field."""

    _ADDRESSES = (
        *("tensors", "state_dicts", "names", "gradients", "layouts", "written"),
        *("pointers", "sizes", "steps", "code"),
    )
    _LONGS = ("length", "inputs", "count", "total", "step_count", "written_count")
    _fields_ = [
        *zip(_ADDRESSES, repeat(ctypes.c_void_p)),
        *zip(_LONGS, repeat(ctypes.c_long)),
        *zip(
            ("is_double", "steps_are_double", "threads", "superinstructions"), repeat(ctypes.c_int)
        ),
    ]


class Kernel:
    """The loaded library.

    Args:
        path: of the shared library.

    Raises:
        UnusableError: if it is no library, or one of another version, or loading it has changed
            the floating-point arithmetic of this process, which is then as it was before.

    Attributes:
        has_usual_mode: tells whether this thread rounds to nearest and keeps denormal numbers.
        processor: returns the best instruction set that there is: 0 plain C, 1 AVX2, 2 AVX-512.
        limit_instruction_set: has it use at most that one; returns the one in use.
        set_roots: chooses how square roots of float32, and of float64, are taken.
        run: runs a launch without looking at its tensors.
        joined_length: tells how many instructions are left of a program once they are joined.
        has_mkl: whether torch brings MKL's square roots.
    """

    has_usual_mode: Callable[[], int]
    processor: Callable[[], int]
    limit_instruction_set: Callable[[int], int]
    set_roots: Callable[[int, int], None]
    run: Callable[[Any], int]
    joined_length: Callable[[Any, Any, int], int]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alike = 1  # of how many threads it is known that they round and flush alike
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
        names = ("has_usual_mode", "processor", "limit_instruction_set", "set_roots", "run")
        for name in (*names, "joined_length"):
            setattr(self, name, getattr(library, f"optimlab_{name}"))
        self._step, self._same_objects = library.optimlab_step, library.optimlab_stayed
        self._odd_threads = library.optimlab_odd_threads
        for function in (library.optimlab_joined_length, library.optimlab_odd_threads):
            function.restype = ctypes.c_long
        self._library = library
        self._python = ctypes.byref(guards.python())

    def _find_mkl(self) -> bool:
        loaded = _libtorch_cpu()
        try:
            found = loaded.vmsSqrt, loaded.vmdSqrt, loaded.MKL_Set_Num_Threads_Local
        except AttributeError:
            return False
        self._library.optimlab_set_mkl(*[ctypes.cast(f, ctypes.c_void_p) for f in found])
        return True

    def same_objects(self, expected: guards.IdentityGuards) -> Callable[[], int]:
        """Return the call that tells whether lists and dicts hold the same objects as before."""
        records = expected.records
        return partial(self._same_objects, self._python, records, ctypes.c_long(len(records)))

    def step(
        self, launches: Sequence[LaunchRecord], others: array[int], escaped: int | None
    ) -> Callable[[], int]:
        """Return the call that looks at everything a step touches, and runs it or changes nothing.

        Args:
            launches: what is to be run.
            others: addresses of parameters that must have no gradient.
            escaped: where a byte tells whether somebody may have changed the state, which is
                otherwise not looked at; ``None`` to look at it.

        Returns:
            What is given must be kept for as long as this is called; what it returns is for
            :meth:`was_made`.
        """
        pointers = (ctypes.POINTER(LaunchRecord) * len(launches))(*map(ctypes.pointer, launches))
        return partial(
            self._step,
            self._python,
            pointers,
            ctypes.c_long(len(launches)),
            ctypes.c_void_p(guards.address_of(others)),
            ctypes.c_long(len(others)),
            ctypes.c_void_p(escaped),
        )

    def was_made(self, status: int) -> bool:
        """Tell whether a step was made; if some threads had no part in it, ask them again later."""
        if status == DONE_BY_FEWER:
            self._alike = 1
        return status != NOT_DONE

    def share(self, launches: Sequence[LaunchRecord]) -> bool:
        """Divide launches among torch's threads; tell whether all round and flush alike."""
        threads = 1 if _forked else torch.get_num_threads()
        if threads > self._alike:
            if self._odd_threads(threads):
                return False
            self._alike = threads
        for launch in launches:
            launch.threads = threads
        return True


_forked = False


def _note_fork() -> None:
    """Go on with one thread: a pool does not survive a fork, and would be waited for."""
    global _forked  # noqa: PLW0603 - there is one process
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@functools.cache
def load() -> Kernel | UnusableError:
    """Load the library, once in a process; return the error if it cannot be used."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "0":
        return UnusableError(f"disabled by {VARIABLE}=0")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return UnusableError("this Python runs threads at once; the kernel relies on Python's lock")
    if guards.describer() is None:
        return UnusableError("this torch does not describe tensors through DLPack's table")
    failed = UnusableError("not built: pip found no C compiler, or none that can build it")
    for path in [Path(chosen)] if chosen else candidates():
        try:
            return Kernel(path)
        except UnusableError as error:
            failed = error
    return failed


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
