"""How much memory there is, and how a number of bytes reads."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory", "bytes_text"]


def available_memory() -> int | None:
    """Return the bytes of memory that are free to use, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def bytes_text(size: float) -> str:
    """Return a number of bytes as people read it."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size:.0f} bytes"
