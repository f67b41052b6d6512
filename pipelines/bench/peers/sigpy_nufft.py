"""sigpy's normal operator behind coil maps: A, then A^H, as it is by default, and its Toeplitz one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

linop = importlib.import_module("sigpy.linop")
PACKAGES = ("sigpy", "numba", "numpy")


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return A^H A of an image (n, n) for maps (coils, n, n), frequencies (samples, 2) in 1 / voxel."""
    n, maps, image = settings["n"], arrays["maps"], arrays["image"]
    places = (arrays["frequency"] * n).astype(np.float32)
    sense = linop.Multiply((n, n), maps)
    pair = linop.NUFFT((len(maps), n, n), places) * sense
    # Its kernel takes much longer than the pair: made where it is asked for.
    made: list[Any] = []

    def toeplitz() -> object:
        if not made:
            made.append(sense.H * linop.NUFFT((len(maps), n, n), places, toeplitz=True).N * sense)
        return made[0](image)

    return {"gram": lambda: pair.H(pair(image)), "toeplitz": toeplitz}
