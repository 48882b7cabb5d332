"""The development commands of optimlab.

`nox` runs what every change must pass, `nox -l` lists all sessions, and what stands after `--` goes
to the command that a session runs. `nox --no-venv -s NAME` runs a session in the Python that runs
nox and installs nothing: for a machine whose torch was put there on purpose, as on a GPU machine.
"""

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"  # torch is large; pip still brings a kept environment up to date

CONSTRAINTS = Path("constraints.txt")
PYTEST = ("-m", "pytest")
SPHINX = ("-m", "sphinx", "--fail-on-warning", "--keep-going", "-b", "html")
EXECUTION_TESTS = (
    "tests/programs/test_random_programs.py",
    "tests/core/test_program.py",
    "tests/native",
)
SANITIZED = (
    *("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    *("-shared", "-fPIC", "-fopenmp"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
TORCH_RELEASES = ("2.11.0", "2.13.0", "2.15.0")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, and that modules import from lower floors only."""
    install(session, "ruff", "import-linter")
    python(session, "-m", "ruff", "check", *session.posargs)
    python(session, "-m", "ruff", "format", "--check")
    # Reads the sources and imports nothing of them: torch need not be there.
    linter = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    python(session, "-c", linter, env={"PYTHONPATH": "."})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of optimlab, the tests and this file with mypy --strict."""
    install(session, "-e", ".[dev]")
    python(session, "-m", "mypy", "--strict", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and the examples in docstrings, with and without the native kernel.

    One test builds the site's pages without running their programs, warnings being errors.
    """
    install(session, "-e", ".[test,integrations,pages]")
    if not session.posargs:
        session.log("without the native kernel: what depends on how a rule is executed")
        python(session, *PYTEST, *EXECUTION_TESTS, *parallel(session), env={"OPTIMLAB_NATIVE": "0"})
        session.log("with it, where it was built: everything")
    # One thread each: two processes with two threads on two cores wait for one another.
    env = {"OMP_NUM_THREADS": "1"} if in_own_environment(session) else None
    python(session, *PYTEST, *session.posargs, *parallel(session), env=env)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Train on handwritten digits with torch.optim and optimlab and count differing elements."""
    install(session, "-e", ".[demo]")
    python(session, "-m", "optimlab", "demo", *session.posargs)


@nox.session(default=False)
def examples(session: nox.Session) -> None:
    """Run every program in examples/ with its defaults, or with the options given."""
    install(session, "-e", ".[examples,integrations]")
    for path in sorted(Path("examples").glob("*.py")):
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            # Under --no-venv nothing is installed, and optimlab is this directory.
            python(session, str(path), *session.posargs, env={"PYTHONPATH": "."})


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html, warnings being errors, and look at every page of it."""
    install(session, "-e", ".[docs,test]")
    site = Path("docs/_build/html")
    for made in (site, Path("docs/gallery")):
        shutil.rmtree(made, ignore_errors=True)  # what has no source any more would stay
    python(session, *SPHINX, *session.posargs, "docs", str(site))
    tests = ("tests/site/test_site.py", "tests/site/test_viewer.py")
    python(session, *PYTEST, "-p", "no:cacheprovider", "-rs", *tests)


@nox.session(default=False)
def parity(session: nox.Session) -> None:
    """Compare every configuration with torch.optim, bit by bit, for docs/parity-cpu.txt.

    The tests run a third of them, in which every pair of settings is met.
    """
    install(session, "-e", ".")
    python(session, "-m", "optimlab", "parity", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Time a step of optimlab against torch.optim and against the memory's bandwidth."""
    install(session, "-e", ".[demo]")
    python(session, "-m", "optimlab", "bench", *session.posargs)


@nox.session(default=False)
def sanitize(session: nox.Session) -> None:
    """Run the native kernel's tests with the C library under AddressSanitizer (needs gcc)."""
    install(session, "-e", ".[test]")
    library = str(Path(session.create_tmp()).resolve() / "kernel.so")
    sources = [str(path) for path in sorted(Path("optimlab/native/kernel").glob("*.c"))]
    session.run("gcc", *SANITIZED, *sources, "-o", library, external=True)
    runtimes = [
        str(session.run("gcc", f"-print-file-name={name}.so", silent=True, external=True)).strip()
        for name in ("libasan", "libubsan")
    ]
    env = {
        "OPTIMLAB_NATIVE": library,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory until the end
        "OPTIMLAB_RANDOM_PROGRAMS": "2000",
        "OMP_NUM_THREADS": "1",
    }
    tests = session.posargs or ("tests/native", "tests/programs")
    python(session, "-m", "pytest", "-p", "no:cacheprovider", *tests, env=env)


@nox.session(default=False)
def stress(session: nox.Session) -> None:
    """Let threads and a signal handler act on optimizers that step, for ten minutes."""
    install(session, "-e", ".")
    options = ("--seconds", "600", *session.posargs)
    python(session, "tests/programs/stress.py", *options, env={"PYTHONPATH": "."})


@nox.session(default=False)
def upstream(session: nox.Session) -> None:
    """Run PyTorch's own optimizer tests with optimlab's classes in place of torch's."""
    install(session, "-e", ".[test]")
    python(session, "tests/upstream/run.py", *session.posargs)


@nox.session(name="torch-matrix", default=False)
@nox.parametrize("torch", TORCH_RELEASES)
def torch_matrix(session: nox.Session, torch: str) -> None:
    """Run the tests on the oldest, the pinned and the newest torch (downloads several GB)."""
    install(session, "-e", ".[test]", constraints=constraints_for(session, torch))
    installed = installed_torch(session)
    if installed != torch:
        session.skip(f"this environment has torch {installed}")
    python(session, "-m", "pytest", *session.posargs)


def parallel(session: nox.Session) -> tuple[str, ...]:
    """Return the options that divide the test files among processes, where xdist is installed."""
    return ("-n", "auto", "--dist", "loadfile") if in_own_environment(session) else ()


def install(session: nox.Session, *packages: str, constraints: Path = CONSTRAINTS) -> None:
    """Install packages at their pinned versions, or nothing at all under --no-venv."""
    if in_own_environment(session):
        session.install("-c", str(constraints), *packages)


def python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run Python with the given arguments, under --no-venv the one that runs nox."""
    session.run(interpreter(session), *arguments, env=env)


def interpreter(session: nox.Session) -> str:
    # Without an environment of its own, "python" would be whatever comes first on the PATH.
    return "python" if in_own_environment(session) else sys.executable


def in_own_environment(session: nox.Session) -> bool:
    return session.virtualenv.venv_backend != "none"


def constraints_for(session: nox.Session, torch: str) -> Path:
    """Write the constraints with another torch in them, and nothing else changed."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    changed = [f"torch=={torch}" if line.startswith("torch==") else line for line in lines]
    path = Path(session.create_tmp()) / CONSTRAINTS.name
    path.write_text("\n".join(changed) + "\n", encoding="utf-8")
    return path


def installed_torch(session: nox.Session) -> str:
    """Ask for the torch release of the session's environment, without a local part such as +cpu."""
    question = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    answer = session.run(interpreter(session), "-c", question, silent=True)
    return str(answer).strip().partition("+")[0]
