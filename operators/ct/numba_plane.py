"""Joseph's projector compiled by numba: all slices of a batch in one call, both ways race-free.

The batch is the last, contiguous axis: one interpolation weight serves every slice. The forward
runs in parallel over views. The adjoint runs over rows (or columns) of the image: a ray that walks
along u touches exactly one row per step, so each thread adds to rows of its own.

Importing this module needs numba; `operators.ct.engines` asks for it by name.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from operators.ct.rays import PlaneRays

# Slices walked together: 64 single-precision values are four cache lines per pixel.
BLOCK = 64

Array = NDArray[Any]


def forward(rays: PlaneRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    source = image.detach().numpy()
    out = np.empty((*rays.shape, source.shape[-1]), dtype=source.dtype)
    with _torch_threads():
        _forward(rays, source, out)
    return torch.from_numpy(out)


def _forward(rays: PlaneRays, source: Array, out: Array) -> None:
    for start in range(0, source.shape[-1], BLOCK):
        part = slice(start, start + BLOCK)
        block = np.ascontiguousarray(source[..., part])
        result = np.zeros((*rays.shape, block.shape[-1]), dtype=block.dtype)
        _project(block, result, rays.along_u, *_walk(rays))
        out[..., part] = result


def adjoint(rays: PlaneRays, sinogram: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (nu, nv, batch) of (views, columns, batch)."""
    source = sinogram.detach().numpy()
    out = np.empty((*rays.size, source.shape[-1]), dtype=source.dtype)
    with _torch_threads():
        _adjoint(rays, source, out)
    return torch.from_numpy(out)


def _adjoint(rays: PlaneRays, source: Array, out: Array) -> None:
    for start in range(0, source.shape[-1], BLOCK):
        part = slice(start, start + BLOCK)
        block = np.ascontiguousarray(source[..., part])
        result = np.zeros((*rays.size, block.shape[-1]), dtype=block.dtype)
        for along_u in (True, False):
            _back_project(block, result, along_u, rays.along_u, *_walk(rays))
        out[..., part] = result


@contextlib.contextmanager
def _torch_threads() -> Iterator[None]:
    """Use as many threads as torch does: numba shares its OpenMP, whose number it would set for both."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _walk(rays: PlaneRays) -> tuple[Array, Array, Array]:
    return rays.start, rays.slope, rays.length


# In both kernels the vectors over the batch are contiguous rows and the weights scalars of the data's
# type: that is what lets the compiler use vector instructions in the innermost loops.


@njit(parallel=True, cache=True)
def _project(image: Array, out: Array, along_u: Array, start: Array, slope: Array, length: Array) -> None:
    cast = image.dtype.type
    for view in prange(out.shape[0]):
        for column in range(out.shape[1]):
            walk_u = along_u[view, column]
            steps = image.shape[0] if walk_u else image.shape[1]
            width = image.shape[1] if walk_u else image.shape[0]
            ray = out[view, column]
            for step in range(steps):
                position = start[view, column] + slope[view, column] * step
                if position <= -1 or position >= width:
                    continue
                low = math.floor(position)
                upper = cast((position - low) * length[view, column])
                lower = cast((1 - (position - low)) * length[view, column])
                # Outside the image the neighbour is zero: the one inside stands in with weight 0.
                if low < 0:
                    lower = cast(0)
                    below, above = 0, 0
                elif low + 1 == width:
                    upper = cast(0)
                    below, above = low, low
                else:
                    below, above = low, low + 1
                first = image[step, below] if walk_u else image[below, step]
                second = image[step, above] if walk_u else image[above, step]
                for b in range(ray.shape[0]):
                    ray[b] += lower * first[b] + upper * second[b]


@njit(parallel=True, cache=True)
def _back_project(
    sinogram: Array,
    out: Array,
    walk_u: bool,
    along_u: Array,
    start: Array,
    slope: Array,
    length: Array,
) -> None:
    cast = out.dtype.type
    steps = out.shape[0] if walk_u else out.shape[1]
    width = out.shape[1] if walk_u else out.shape[0]
    for step in prange(steps):
        for view in range(sinogram.shape[0]):
            for column in range(sinogram.shape[1]):
                position = start[view, column] + slope[view, column] * step
                if along_u[view, column] != walk_u or position <= -1 or position >= width:
                    continue
                low = math.floor(position)
                upper = cast((position - low) * length[view, column])
                lower = cast((1 - (position - low)) * length[view, column])
                ray = sinogram[view, column]
                if low >= 0:
                    row = out[step, low] if walk_u else out[low, step]
                    for b in range(ray.shape[0]):
                        row[b] += lower * ray[b]
                if low + 1 < width:
                    row = out[step, low + 1] if walk_u else out[low + 1, step]
                    for b in range(ray.shape[0]):
                        row[b] += upper * ray[b]
