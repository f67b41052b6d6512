"""ASTRA's CPU projector as a foreign engine: the reference other engines are compared with.

ASTRA is GPLv3; this is the only module that imports it, and only when this engine is asked for.
It works in single precision on one slice at a time. Its 3D and CUDA projectors are not used here:
without a driver they end the interpreter instead of raising.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.ct.rays import PlaneRays
from operators.errors import value_error
from operators.extras import require


def forward(rays: PlaneRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    astra, projector, lengths = _open(rays)
    try:
        sinograms = []
        for b in range(image.shape[-1]):
            slice_ = np.ascontiguousarray(image[..., b].numpy()[::-1], dtype=np.float32)
            number, values = astra.create_sino(slice_, projector)
            astra.data2d.delete(number)
            sinograms.append(values * lengths[:, None])
    finally:
        astra.projector.delete(projector)
    return torch.from_numpy(np.stack(sinograms, axis=-1))


def adjoint(rays: PlaneRays, sinogram: Tensor) -> Tensor:
    """Return ASTRA's back-projection (nu, nv, batch) of (views, columns, batch)."""
    astra, projector, lengths = _open(rays)
    try:
        images = []
        for b in range(sinogram.shape[-1]):
            scaled = np.ascontiguousarray(sinogram[..., b].numpy() * lengths[:, None], dtype=np.float32)
            number, values = astra.create_backprojection(scaled, projector)
            astra.data2d.delete(number)
            images.append(values[::-1])
    finally:
        astra.projector.delete(projector)
    return torch.from_numpy(np.stack(images, axis=-1))


def _open(rays: PlaneRays) -> tuple[Any, int, np.ndarray[Any, Any]]:
    """Return ASTRA, a projector in units of one voxel, and mm per such unit for each view.

    In index units the slice has square voxels whatever its spacing; a view then differs from the
    true one by the length of its rays alone. ASTRA's y runs up, row 0 is at the top.
    """
    astra = require("astra", feature="The ASTRA projection engine", extra="ct")
    if np.ptp(rays.slope, axis=1).max() > 1e-9 or (rays.along_u != rays.along_u[:, :1]).any():
        remedy = "Use engine='auto'."
        raise value_error(
            "engine", "suit fans: ASTRA interpolates along parallel rays only", "'astra'", remedy
        )
    nu, nv = rays.size
    along_u, slope = rays.along_u[:, 0], rays.slope[:, 0]
    # Direction of a ray in index units: one step along the walking axis, slope along the other.
    u, v = np.where(along_u, 1.0, slope), np.where(along_u, slope, 1.0)
    length = np.hypot(u, v)
    columns = rays.shape[1]
    pitch = (rays.start[:, -1] - rays.start[:, 0]) / max(columns - 1, 1)
    middle = (rays.start[:, -1] + rays.start[:, 0]) / 2
    centre_u = np.where(along_u, 0.0, middle) - (nu - 1) / 2
    centre_v = np.where(along_u, middle, 0.0) - (nv - 1) / 2
    pixel_u, pixel_v = np.where(along_u, 0.0, pitch), np.where(along_u, pitch, 0.0)
    vectors = np.stack([v, u, centre_v, centre_u, pixel_v, pixel_u], axis=1)
    volume = astra.create_vol_geom(nu, nv)
    views = astra.create_proj_geom("parallel_vec", columns, np.ascontiguousarray(vectors))
    scale = (rays.length[:, 0] / length).astype(np.float32)
    return astra, astra.create_projector("linear", views, volume), scale
