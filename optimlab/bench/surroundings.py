"""Where and when it was measured, and what else the machine had to do."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from optimlab.version import __version__

_CPU_INFO = Path("/proc/cpuinfo")
_AT_WORK = ("user", "nice", "system", "irq", "softirq", "steal")


def environment(device: str) -> Mapping[str, Any]:
    """Name all that times and bits depend on: hardware, threads, releases."""
    named = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        **named,
        "threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "optimlab": __version__,
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the name that the processor gives itself, where the system tells it."""
    text = _CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Load:
    """The load average before it was measured, and how many cores others used meanwhile."""

    before: float | None
    others: float | None

    @property
    def disturbing(self) -> bool:
        """Whether absolute times are not to be trusted."""
        return self.others is not None and self.others > 0.1

    def __str__(self) -> str:
        before = "unknown" if self.before is None else f"{self.before:.2f}"
        others = "unknown" if self.others is None else f"{self.others:.2f} cores"
        return f"load average {before} before, other processes used {others} meanwhile"


class LoadMeter:
    """Measures the load from its making to :meth:`read`.

    The load average after a run counts the run itself; how much the other processes did meanwhile
    is the processor time of all less that of this process and its children.
    """

    def __init__(self) -> None:
        self._before = psutil.getloadavg()[0]
        self._began, self._others = time.perf_counter(), _seconds_of_others()

    def read(self) -> Load:
        """Return the load since."""
        seconds = time.perf_counter() - self._began
        return Load(self._before, max((_seconds_of_others() - self._others) / seconds, 0.0))


def _seconds_of_others() -> float:
    """Return how long the processors were busy with others, other guests of the host among them."""
    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy: float = sum(getattr(everything, name, 0.0) for name in _AT_WORK)
    return busy - float(own.user + own.system + own.children_user + own.children_system)
