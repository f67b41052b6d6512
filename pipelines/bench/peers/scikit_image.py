"""scikit-image's Radon transform, slice after slice, and its unfiltered back-projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from skimage import transform

PACKAGES = ("scikit-image", "scipy", "numpy")
radon: Callable[..., Any] = transform.radon
iradon: Callable[..., Any] = transform.iradon


def prepare(settings: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return projections of slices (k, n, n), back-projections of data (k, views, columns or more)."""
    n, views = settings["n"], settings["views"]
    angles, columns = np.arange(views) * 180.0 / views, math.ceil(math.sqrt(2) * n)
    images, phantom = list(arrays["images"]), arrays["phantom"]
    data = [np.ascontiguousarray(one[:, :columns].T) for one in arrays["data"]]
    # iradon scales by the step of the angle over two, which an adjoint has not.
    scale = np.float32(2 * views / math.pi)

    def back(one: Any) -> Any:
        return iradon(one, angles, circle=False, filter_name=None, output_size=n) * scale

    return {
        "forward": lambda: [radon(image, angles, circle=False).T for image in images],
        "adjoint": lambda: [back(one) for one in data],
        "phantom": lambda: radon(phantom, angles, circle=False).T,
    }
