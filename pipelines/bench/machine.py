"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["described"]

PACKAGES = ("torch", "numpy", "numba", "astra-toolbox", "scikit-image", "sigpy", "finufft", "triton")


def described() -> list[str]:
    """Return lines that say what the figures were measured on, and how busy it was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    where = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}"
    found = [f"{name} {_version(name)}" for name in PACKAGES if _version(name)]
    lines = [where, f"{platform.system()}, Python {platform.python_version()}, {', '.join(found)}"]
    if torch.cuda.is_available():
        lines.append(torch.cuda.get_device_name())
    return lines


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
