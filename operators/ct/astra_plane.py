"""ASTRA's CPU projectors as a foreign engine: the reference other engines are compared with.

Parallel rays are interpolated as here ("linear"). Fans onto a flat detector sum the length of a ray in each
pixel ("line_fanflat"): another discretisation, a reference for accuracy only.

ASTRA is GPLv3; this is the only module that imports it, and only when this engine is asked for.
It works in single precision on one slice at a time. Its 3D and CUDA projectors are not used here:
without a driver they end the interpreter instead of raising.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.ct.rays import PlaneRays
from operators.errors import value_error
from operators.extras import require

__all__ = ["adjoint", "forward"]

Float = NDArray[np.float64]

#: How far rays may miss a common source and evenly spaced columns, as the sine of an angle.
STRAY = 1e-7


def forward(rays: PlaneRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    with _opened(rays) as (astra, projector, scale):
        sinograms = []
        for b in range(image.shape[-1]):
            slice_ = np.ascontiguousarray(image[..., b].numpy()[::-1], dtype=np.float32)
            number, values = astra.create_sino(slice_, projector)
            astra.data2d.delete(number)
            sinograms.append(values * scale)
    return torch.from_numpy(np.stack(sinograms, axis=-1))


def adjoint(rays: PlaneRays, sinogram: Tensor) -> Tensor:
    """Return ASTRA's back-projection (nu, nv, batch) of (views, columns, batch)."""
    with _opened(rays) as (astra, projector, scale):
        images = []
        for b in range(sinogram.shape[-1]):
            scaled = np.ascontiguousarray(sinogram[..., b].numpy() * scale, dtype=np.float32)
            number, values = astra.create_backprojection(scaled, projector)
            astra.data2d.delete(number)
            images.append(values[::-1])
    return torch.from_numpy(np.stack(images, axis=-1))


@contextmanager
def _opened(rays: PlaneRays) -> Iterator[tuple[Any, int, NDArray[np.float32]]]:
    """Provide ASTRA, a projector in units of one voxel, and mm per such unit for each ray.

    In index units the slice has square voxels whatever its spacing; a ray then differs from the
    true one by its length alone. ASTRA's y runs up, row 0 is at the top.
    """
    astra = astra_module("The ASTRA projection engine")
    volume = astra.create_vol_geom(*rays.size)
    columns = rays.shape[1]
    parallel = np.ptp(rays.slope, axis=1).max() <= 1e-9 and (rays.along_u == rays.along_u[:, :1]).all()
    kind, name, vectors = (
        ("parallel_vec", "linear", _parallel(rays))
        if parallel
        else ("fanflat_vec", "line_fanflat", _fan(rays))
    )
    views = astra.create_proj_geom(kind, columns, np.ascontiguousarray(vectors))
    scale = (rays.length / np.hypot(1.0, rays.slope)).astype(np.float32)
    projector = astra.create_projector(name, views, volume)
    try:
        yield astra, projector, scale
    finally:
        astra.projector.delete(projector)


def _parallel(rays: PlaneRays) -> Float:
    """Return (ray, detector centre, column step) of each view, as (x, y) about the middle of the image."""
    along_u, slope = rays.along_u[:, 0], rays.slope[:, 0]
    start, columns = rays.start, rays.shape[1]
    pitch = (start[:, -1] - start[:, 0]) / max(columns - 1, 1)
    # Direction of a ray in index units: one step along the walking axis, slope along the other.
    ray = _turned(along_u, np.ones_like(slope), slope)
    middle = _turned(along_u, np.zeros_like(slope), (start[:, -1] + start[:, 0]) / 2) - _centre(rays)
    return np.concatenate([ray, middle, _turned(along_u, np.zeros_like(slope), pitch)], axis=1)


def _fan(rays: PlaneRays) -> Float:
    """Return (source, detector centre, column step) of each view, recovered from its rays.

    Rays d_c through points p_c meet in the source s: d_c x (s - p_c) = 0. On a flat detector the columns are
    evenly spaced: d_c x (a + c b) = 0 for some a and b, found to a scale, which a detector may have.
    """
    views, columns = rays.shape
    along_u = rays.along_u
    ray = _turned(along_u, np.ones(rays.shape), rays.slope)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    point = _turned(along_u, np.zeros(rays.shape), rays.start) - _centre(rays)
    across = np.stack([-ray[..., 1], ray[..., 0]], axis=-1)
    c = np.linspace(-1, 1, columns) if columns > 1 else np.zeros(1)
    found = np.empty((views, 6))
    for view in range(views):
        normal = across[view]
        source, *_ = np.linalg.lstsq(normal, (normal * point[view]).sum(axis=1), rcond=None)
        spread = np.concatenate([normal, c[:, None] * normal], axis=1)
        *_, basis = np.linalg.svd(spread, full_matrices=False)
        middle, step = basis[-1, :2], basis[-1, 2:]
        away = (normal * (point[view] - source)).sum(axis=1) / max(1.0, np.linalg.norm(source))
        if columns < 3 or max(np.abs(away).max(), np.abs(spread @ basis[-1]).max()) > STRAY:
            remedy = "Use engine='auto'."
            expected = (
                "suit the scan: ASTRA projects parallel rays, and fans of three columns or more on a flat"
            )
            raise value_error("engine", f"{expected} detector", "'astra'", remedy)
        # The detector lies beyond the image, seen from the source.
        reach = 2 * np.linalg.norm(source) / np.linalg.norm(middle) * -np.sign(middle @ source)
        found[view] = *source, *(source + reach * middle), *(reach * 2 / (columns - 1) * step)
    return found


def _turned(along_u: NDArray[np.bool_], walked: Float, other: Float) -> Float:
    """Return (x, y) = (v, u) of what lies along the walking axis and along the other."""
    return np.stack([np.where(along_u, other, walked), np.where(along_u, walked, other)], axis=-1)


def _centre(rays: PlaneRays) -> Float:
    nu, nv = rays.size
    return np.array([(nv - 1) / 2, (nu - 1) / 2])


def astra_module(feature: str) -> Any:
    """Return ASTRA, or say what to install: this is the one module that imports it."""
    return require("astra", feature=feature, extra="ct")
