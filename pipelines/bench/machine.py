"""The machine and the versions that figures belong to, and whether it was idle."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import torch

from pipelines.bench.serving import version_of

__all__ = ["Load", "described", "lines_of"]

PACKAGES = ("torch", "numpy", "numba", "finufft", "triton", "astra-toolbox", "scikit-image", "sigpy", "scipy")
#: Share of the cores from which a machine is no longer idle. Its load average tells of minutes that are over.
BUSY = 0.1


def described() -> dict[str, object]:
    """Return what the figures were measured on, as plain values."""
    found: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES if version_of(name)},
        "environment": {n: v for n, v in os.environ.items() if n.endswith("_NUM_THREADS") or "OMP" in n},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return found


def lines_of(machine: dict[str, object], load: Load) -> list[str]:
    """Return lines for a person, with a warning where the machine is not idle."""
    versions = machine["versions"]
    named = ", ".join(f"{name} {v}" for name, v in versions.items()) if isinstance(versions, dict) else ""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"GPU: {machine['gpu'] or 'none'}",
        f"{machine['system']}, Python {machine['python']}, {named}",
        f"before the run: load {load.average:.2f}, {load.busy:.0%} of the cores busy",
    ]
    return [*lines, load.warning] if load.warning else lines


class Load:
    """How busy the machine is when this is made, and with what is not ours until `others` is asked."""

    def __init__(self, seconds: float = 3.0) -> None:
        self.average = os.getloadavg()[0]
        before = _ticks()
        time.sleep(seconds)
        self._begun, self._own = _ticks(), _own_seconds()
        passed = self._begun[1] - before[1]
        self.busy = (self._begun[0] - before[0]) / passed if passed else 0.0

    @property
    def warning(self) -> str:
        """What to tell where the machine was not idle, or nothing."""
        if self.busy <= BUSY:
            return ""
        return "WARNING: this machine is not idle; the figures below are not to be quoted."

    def others(self) -> float:
        """Return the share of the cores that other processes took since this was made.

        What workers took counts as ours once they are closed.
        """
        busy, total = (now - then for now, then in zip(_ticks(), self._begun, strict=True))
        if not total:
            return 0.0
        own = (_own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
        return min(max(busy - own, 0.0) / total, 1.0)


def _ticks() -> tuple[float, float]:
    """Return the ticks of all cores, busy and in all, since the start of the machine."""
    if not sys.platform.startswith("linux"):
        return 0.0, 0.0
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    values = [float(field) for field in fields]
    return sum(values) - values[3] - values[4], sum(values)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
