"""ASTRA's CPU projector "linear", slice after slice: it has no batches, and runs on one core."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# The one module that imports ASTRA, which is under the GPL; this peer lives in our own environment.
from operators.ct.astra_plane import astra_module

PACKAGES = ("astra-toolbox", "numpy")
ASTRA = astra_module("The comparison with ASTRA")


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return projections of slices (k, n, n), back-projections of data (k, views, columns or more)."""
    n, views, columns = (settings[name] for name in ("n", "views", "columns"))
    volume = ASTRA.create_vol_geom(n, n)
    scan = ASTRA.create_proj_geom("parallel", 1.0, columns, np.arange(views) * math.pi / views)
    pair = ASTRA.OpTomo(ASTRA.create_projector("linear", scan, volume))
    images = [np.ascontiguousarray(image) for image in arrays["images"]]
    data = [np.ascontiguousarray(one[:, :columns]) for one in arrays["data"]]
    phantom = np.ascontiguousarray(arrays["phantom"])
    return {
        "forward": lambda: [pair.FP(image) for image in images],
        "adjoint": lambda: [pair.BP(one) for one in data],
        "phantom": lambda: pair.FP(phantom),
    }
