"""What a run ran on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

__all__ = ["environment"]


def environment(device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of a result: versions, device, number of threads."""
    try:
        ours = version("inverse-workbench")
    except PackageNotFoundError:  # a checkout that was never installed
        ours = None
    return {
        "inverse-workbench": ours,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
