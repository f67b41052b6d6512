"""torchkbnufft's Toeplitz normal operator behind coil maps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

torchkbnufft = importlib.import_module("torchkbnufft")
PACKAGES = ("torchkbnufft", "torch", "numpy")


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return A^H A of an image (n, n) for maps (coils, n, n), frequencies (samples, 2) in 1 / voxel."""
    size = (settings["n"], settings["n"])
    maps, image = (torch.from_numpy(arrays[name]) for name in ("maps", "image"))
    angles = torch.from_numpy(np.ascontiguousarray(2 * math.pi * arrays["frequency"].T)).float()
    kernel = torchkbnufft.calc_toeplitz_kernel(angles, size)
    toeplitz = torchkbnufft.ToepNufft()

    def gram() -> Any:
        with torch.no_grad():
            return toeplitz(image[None, None], kernel, smaps=maps[None])

    return {"gram": gram}
