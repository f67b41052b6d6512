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

from operators.ct_rays import ParallelRays
from operators.extras import require


def forward(rays: ParallelRays, image: Tensor) -> Tensor:
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


def adjoint(rays: ParallelRays, sinogram: Tensor) -> Tensor:
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


def _open(rays: ParallelRays) -> tuple[Any, int, np.ndarray[Any, Any]]:
    """Return ASTRA, a projector in units of one voxel, and mm per such unit for each view.

    In index units the slice has square voxels whatever its spacing; a view then differs from the
    true one by the length of its rays alone. ASTRA's y runs up, row 0 is at the top.
    """
    astra = require("astra", feature="The ASTRA projection engine", extra="ct")
    nu, nv = rays.size
    u, v = np.zeros(len(rays.base)), np.zeros(len(rays.base))
    # Direction of a ray in index units: one step along the walking axis, per_step along the other.
    u[rays.along_u], v[rays.along_u] = 1.0, rays.per_step[rays.along_u]
    u[~rays.along_u], v[~rays.along_u] = rays.per_step[~rays.along_u], 1.0
    length = np.hypot(u, v)
    middle = rays.base + rays.per_column * (rays.columns - 1) / 2
    centre_u = np.where(rays.along_u, 0.0, middle) - (nu - 1) / 2
    centre_v = np.where(rays.along_u, middle, 0.0) - (nv - 1) / 2
    pixel_u = np.where(rays.along_u, 0.0, rays.per_column)
    pixel_v = np.where(rays.along_u, rays.per_column, 0.0)
    vectors = np.stack([v, u, centre_v, centre_u, pixel_v, pixel_u], axis=1)
    volume = astra.create_vol_geom(nu, nv)
    views = astra.create_proj_geom("parallel_vec", rays.columns, np.ascontiguousarray(vectors))
    scale = (rays.step_length / length).astype(np.float32)
    return astra, astra.create_projector("linear", views, volume), scale
