"""Joseph's projector compiled by numba: all slices of a batch in one call, both ways race-free.

The batch is the last, contiguous axis: one interpolation weight serves every slice. The forward
runs in parallel over views. The adjoint runs over rows (or columns) of the image: a ray that walks
along u touches exactly one row per step, so each thread adds to rows of its own.

Importing this module needs numba; `operators.ct` asks for it by name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from operators.ct_rays import ParallelRays

# Slices walked together: 64 single-precision values are four cache lines per pixel.
BLOCK = 64

Array = NDArray[Any]


def forward(rays: ParallelRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    source = image.detach().numpy()
    out = np.zeros((len(rays.base), rays.columns, source.shape[-1]), dtype=source.dtype)
    for start in range(0, source.shape[-1], BLOCK):
        part = slice(start, start + BLOCK)
        _project(np.ascontiguousarray(source[..., part]), out[..., part], rays.along_u, *_walk(rays))
    return torch.from_numpy(out)


def adjoint(rays: ParallelRays, sinogram: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (nu, nv, batch) of (views, columns, batch)."""
    source = sinogram.detach().numpy()
    out = np.zeros((*rays.size, source.shape[-1]), dtype=source.dtype)
    views = [np.flatnonzero(rays.along_u), np.flatnonzero(~rays.along_u)]
    for start in range(0, source.shape[-1], BLOCK):
        part = slice(start, start + BLOCK)
        block = np.ascontiguousarray(source[..., part])
        # Rows are owned by threads for rays along u, columns for rays along v: the transposed view.
        _back_project(block, out[..., part], views[0], *_walk(rays))
        _back_project(block, out[..., part].swapaxes(0, 1), views[1], *_walk(rays))
    return torch.from_numpy(out)


def _walk(rays: ParallelRays) -> tuple[Array, Array, Array, Array]:
    return rays.base, rays.per_column, rays.per_step, rays.step_length


@njit(parallel=True, cache=True)
def _project(
    image: Array, out: Array, along_u: Array, base: Array, per_column: Array, per_step: Array, length: Array
) -> None:
    turned = image.transpose(1, 0, 2)
    for view in prange(out.shape[0]):
        # Stored in the data's dtype, so that single precision stays single in the inner loop.
        weights = np.empty(2, image.dtype)
        walked = image if along_u[view] else turned
        width = walked.shape[1]
        for column in range(out.shape[1]):
            ray = out[view, column]
            start = base[view] + per_column[view] * column
            for step in range(walked.shape[0]):
                position = start + per_step[view] * step
                if position <= -1 or position >= width:
                    continue
                low = math.floor(position)
                weights[0] = (1 - (position - low)) * length[view]
                weights[1] = (position - low) * length[view]
                if low >= 0:
                    for b in range(ray.shape[0]):
                        ray[b] += weights[0] * walked[step, low, b]
                if low + 1 < width:
                    for b in range(ray.shape[0]):
                        ray[b] += weights[1] * walked[step, low + 1, b]


@njit(parallel=True, cache=True)
def _back_project(
    sinogram: Array, out: Array, views: Array, base: Array, per_column: Array, per_step: Array, length: Array
) -> None:
    width = out.shape[1]
    for step in prange(out.shape[0]):
        weights = np.empty(2, out.dtype)
        for index in range(views.shape[0]):
            view = views[index]
            for column in range(sinogram.shape[1]):
                position = base[view] + per_column[view] * column + per_step[view] * step
                if position <= -1 or position >= width:
                    continue
                low = math.floor(position)
                weights[0] = (1 - (position - low)) * length[view]
                weights[1] = (position - low) * length[view]
                ray = sinogram[view, column]
                if low >= 0:
                    for b in range(ray.shape[0]):
                        out[step, low, b] += weights[0] * ray[b]
                if low + 1 < width:
                    for b in range(ray.shape[0]):
                        out[step, low + 1, b] += weights[1] * ray[b]
