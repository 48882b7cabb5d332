"""Where and when it was measured, and what else the machine had to do."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from optimlab.version import __version__

_CPU_INFO, _CPU_TIMES = Path("/proc/cpuinfo"), Path("/proc/stat")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


def environment(device: str) -> Mapping[str, Any]:
    """Name all that times and bits depend on: hardware, threads, releases."""
    named = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
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
    """Return the name that the processor gives itself."""
    if _CPU_INFO.exists():
        text = _CPU_INFO.read_text(encoding="utf-8")
        named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        if named is not None:
            return named[1]
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Load:
    """What else ran while it was measured.

    Attributes:
        before: the load average of the last minute before, or ``None`` where there is none.
        others: how many cores other processes used on average, or ``None`` where it is unknown.
    """

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
        self._before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._began, self._all, self._own = os.times().elapsed, _busy_seconds(), _own_seconds()

    def read(self) -> Load:
        """Return the load since."""
        seconds, busy = os.times().elapsed - self._began, _busy_seconds()
        if busy is None or self._all is None or not seconds:
            return Load(self._before, None)
        others = busy - self._all - (_own_seconds() - self._own)
        return Load(self._before, max(others / seconds, 0.0))


def _busy_seconds() -> float | None:
    """Return how long all processors together were busy, also with other guests of the host."""
    if not _CPU_TIMES.exists():
        return None
    line = _CPU_TIMES.read_text(encoding="ascii").partition("\n")[0]
    ticks = [int(word) for word in line.split()[1 : 2 + _STEAL]]
    busy = sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]
    return busy / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system
