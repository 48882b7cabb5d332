"""Builds the native kernel, a C library without Python in it, where a C compiler is at hand.

Everything else about the package stands in pyproject.toml. Without a compiler the package installs
all the same and executes every rule with torch's operations, to the same bits.
"""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# What ATen is compiled with: no contraction that the source does not ask for, no error flags. They
# come last on the command line and so win over CFLAGS of the user's, which can change arithmetic:
# of the kernel when it is compiled, and of the whole process when it is linked with start-up code.
FLAGS = ["-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LINK_FLAGS = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]
NICETIES = ["-falign-loops=32"]  # so that speed does not depend on where a loop happens to begin
THREADS = ["-fopenmp"]


class BuildKernel(build_ext):
    """Compiles the library, with threads where the compiler has OpenMP."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the file without a Python version: the library has no Python in it."""
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Export what the source exports; there is no module to initialize."""
        return list(ext.export_symbols)

    def build_extension(self, ext: Extension) -> None:
        """Compile the library; say so where that fails, and go on without it."""
        for more in ([*NICETIES, *THREADS], THREADS, []):
            ext.extra_compile_args = [*more, *FLAGS]
            ext.extra_link_args = [*(flag for flag in more if flag in THREADS), *LINK_FLAGS]
            try:
                super().build_extension(ext)
            except (BaseError, CCompilerError, OSError) as error:
                reason = error
            else:
                return
        print(
            f"optimlab: the native kernel was not built ({reason}); every step gives the same "
            "bits without it, more slowly",
            file=sys.stderr,
        )


class KernelWheel(bdist_wheel):
    """Marks the wheel as fit for every Python 3 of this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of the wheel's name."""
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(
    # The pytest plugin is a package of its own: pytest loads it in every run, also where neither
    # torch nor the rest of this package is wanted.
    packages=[*find_packages(include=["optimlab", "optimlab.*"]), "pytest_optimlab"],
    package_dir={"pytest_optimlab": "optimlab/pytest_plugin"},
    ext_modules=[
        Extension(
            "optimlab.native._kernel",
            ["optimlab/native/kernel/interpreter.c", "optimlab/native/kernel/guards.c"],
            depends=[str(path) for path in sorted(Path("optimlab/native/kernel").glob("*.h"))],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": KernelWheel},
)
