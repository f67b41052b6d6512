"""What works on this machine: versions, hardware, and the optional parts, without importing any of them.

Native libraries are asked in child processes (probes.py, beside this file); everything else is read from
metadata. The answer is one JSON-ready dictionary; view.py prints it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines import DISTRIBUTION, installed_version
from pipelines.doctor.extras import package_version, report_extras
from pipelines.doctor.probes import ASTRA, TORCH, probe

# Raised when a key changes its meaning or goes; new keys alone do not raise it.
SCHEMA = 1
OWN_PACKAGES = ("operators", "workbench", "pipelines")
# napari brings none: which one is the user's choice.
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


def examine() -> dict[str, Any]:
    """Return the whole report; `healthy` is False when the core cannot work, which `problems` explains."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        torch_answer = pool.submit(probe, "torch", TORCH)
        astra_answer = pool.submit(probe, "astra", ASTRA)
        torch, astra = torch_answer.result(), astra_answer.result()
    numpy, xarray = _core_package("numpy"), _core_package("xarray")
    triton = _optional_package("triton")
    problems = [
        *_core_problems({"torch": torch, "numpy": numpy, "xarray": xarray}),
        *(f"the package `{name}` is not importable" for name in OWN_PACKAGES if not _found(name)),
    ]
    return {
        "schema": SCHEMA,
        "healthy": not problems,
        "problems": problems,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "workbench": {"version": installed_version(), "location": str(Path(__file__).resolve().parents[2])},
        "cpu": cpu(),
        "memory": memory(),
        "torch": torch,
        "numpy": numpy,
        "xarray": xarray,
        "astra": astra,
        "triton": triton,
        "gl": graphics(os.environ),
        "extras": report_extras(),
    }


def cpu() -> dict[str, Any]:
    """Return the number of logical CPUs, and of those this process may use."""
    total = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return {"logical": total, "usable": usable}


def memory(root: Path = Path("/")) -> dict[str, Any]:
    """Return total and available memory in bytes, no more than a container allows; None where unknown."""
    total = available = None
    try:
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        total, available = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read_bytes(root / "sys/fs/cgroup/memory.max")
    used = _read_bytes(root / "sys/fs/cgroup/memory.current")
    limited = limit is not None and total is not None and limit < total
    if limit is not None and total is not None and limited:
        total = limit
        if available is not None and used is not None:
            # Page cache counts as used here though it can be dropped, so this errs on the low side.
            available = min(available, max(limit - used, 0))
    return {"total_bytes": total, "available_bytes": available, "container_limit": limited}


def graphics(env: Mapping[str, str]) -> dict[str, Any]:
    """Return whether the viewer can open a window: a Qt binding, OpenGL, and a display or Xvfb."""
    linux = sys.platform.startswith("linux")
    gl = _loads("libGL.so.1") if linux else None
    egl = _loads("libEGL.so.1") if linux else None
    display = env.get("WAYLAND_DISPLAY") or env.get("DISPLAY") or None
    xvfb = shutil.which("Xvfb") is not None
    binding = next((name for name in QT_BINDINGS if _found(name)), None)
    advice = []
    if binding is None:
        advice.append("install a Qt binding: pip install pyqt6")
    if linux and not (gl and egl):
        advice.append("install the OpenGL libraries (Debian: apt install libgl1 libegl1)")
    if linux and not display:
        advice.append("no display: run the viewer under xvfb-run")
        if not xvfb:
            advice[-1] += " (Debian: apt install xvfb)"
    if env.get("QT_QPA_PLATFORM") in ("offscreen", "vnc", "minimal", "minimalegl"):
        advice.append(f"unset QT_QPA_PLATFORM={env['QT_QPA_PLATFORM']}: napari cannot draw with it")
    ready = bool(binding and gl and egl and (display or xvfb)) if linux else None
    return {
        "ready": ready,
        "qt": binding,
        "libGL": gl,
        "libEGL": egl,
        "display": display,
        "xvfb": xvfb,
        "advice": advice,
    }


def _core_package(name: str) -> dict[str, Any]:
    found = _optional_package(name)
    if found["status"] == "ok" and not _found(name):
        return {"status": "broken", "version": found["version"], "detail": "installed, but not importable"}
    return found


def _optional_package(name: str) -> dict[str, Any]:
    version, broken = package_version(name)
    status = "broken" if broken else "ok" if version else "missing"
    return {"status": status, "version": version, "detail": broken}


def _core_problems(packages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    problems = []
    for name, found in packages.items():
        if found["status"] == "missing":
            problems.append(f"{name} is not installed. Install it with: pip install {DISTRIBUTION}")
        elif found["status"] == "broken":
            problems.append(f"{name} is installed but broken: {found['detail']}")
    return problems


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _read_bytes(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # A container without a limit says "max".
        return None
