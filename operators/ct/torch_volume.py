"""Joseph's projector of volumes in plain torch: any device, some rays at a time; the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from operators.ct.rays import VolumeRays

#: Steps of rays that are in memory at once.
STEPS = 2**20
#: Bytes per step: its place and weight and what they are made of, in double precision and whole numbers.
PER_STEP = 168
#: Bytes per ray: its point and its direction, twice, and what follows from them.
PER_RAY = 200


# The volumes of a batch go one by one: beside the weights, which they share, they cost little.


def forward(rays: VolumeRays, volume: Tensor) -> Tensor:
    """Return line integrals (batch, views, rows, columns) of `volume` (batch, z, y, x)."""
    voxels = volume.reshape(len(volume), -1)
    data = volume.new_zeros((len(volume), math.prod(rays.views.shape)))
    for chosen, index, weight in _walks(rays, volume):
        for b in range(len(volume)):
            data[b, chosen] += (voxels[b, index] * weight).sum(dim=0)
    return data.reshape(-1, *rays.views.shape)


def adjoint(rays: VolumeRays, data: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (batch, z, y, x) of (batch, views, rows, columns)."""
    flat = data.reshape(len(data), -1)
    voxels = data.new_zeros((len(data), math.prod(rays.size)))
    for chosen, index, weight in _walks(rays, data):
        for b in range(len(data)):
            spread = (weight * flat[b, chosen]).reshape(-1)
            if data.is_cuda:
                # It sorts first: index_add_ would add in any order, with another rounding each time.
                voxels[b].index_put_((index.reshape(-1),), spread, accumulate=True)
            else:
                voxels[b].index_add_(0, index.reshape(-1), spread)
    return voxels.reshape(-1, *rays.size)


def workspace_bytes(rays: VolumeRays, batch: int, dtype: torch.dtype) -> int:
    """Return about the most bytes that either way needs besides its input and its output."""
    del batch  # its volumes go one by one
    views, rows, columns = rays.views.shape
    longest = max(rays.size)
    at_once = rows * columns * min(views, _views_at_once(rays))
    steps = min(at_once, max(1, STEPS // longest)) * longest
    return steps * (PER_STEP + 2 * dtype.itemsize) + at_once * PER_RAY


def _views_at_once(rays: VolumeRays) -> int:
    _, rows, columns = rays.views.shape
    return max(1, STEPS // (rows * columns * max(rays.size)))


def _walks(rays: VolumeRays, like: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rays, and voxel indices and weights (steps, rays), neighbour by neighbour."""
    views, pixels = rays.views, math.prod(rays.views.shape[1:])
    metric = torch.tensor(rays.metric, device=like.device)
    at_once = _views_at_once(rays)
    for begin in range(0, len(views.through), at_once):
        some = [views.rays(view) for view in range(begin, min(begin + at_once, len(views.through)))]
        point, direction = (
            torch.tensor(np.stack(values), device=like.device).reshape(-1, 3)
            for values in zip(*some, strict=True)
        )
        size = torch.einsum("ri,ij,rj->r", direction, metric, direction).sqrt()
        walked = _longest(direction.abs())
        for axis in range(3):
            group = torch.nonzero(walked == axis).flatten()
            for chosen in torch.split(group, max(1, STEPS // rays.size[axis])) if len(group) else ():
                ray = direction[chosen] / direction[chosen, axis, None]
                length = size[chosen] / direction[chosen, axis].abs()
                start = point[chosen] - ray * point[chosen, axis, None]
                for index, weight in _neighbours(rays.size, axis, start, ray):
                    yield begin * pixels + chosen, index, (weight * length).to(like.dtype)


def _longest(size: Tensor) -> Tensor:
    """Return the axis on which each ray moves most, of equals the lowest: argmax promises none."""
    first = (size[:, 0] >= size[:, 1]) & (size[:, 0] >= size[:, 2])
    return torch.where(first, 0, torch.where(size[:, 1] >= size[:, 2], 1, 2))


def _neighbours(
    size: tuple[int, int, int], axis: int, start: Tensor, slope: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the voxel indices (steps, rays) of the four neighbours on each plane, and their shares."""
    step = torch.arange(size[axis], device=start.device)[:, None]
    strides = (size[1] * size[2], size[2], 1)
    position = {other: start[:, other] + slope[:, other] * step for other in range(3) if other != axis}
    low = {other: values.floor() for other, values in position.items()}
    for corner in itertools.product((0, 1), repeat=2):
        index, weight = step * strides[axis], torch.ones_like(next(iter(low.values())))
        for (other, values), above in zip(position.items(), corner, strict=True):
            share = values - low[other]
            neighbour = low[other] + above
            inside = (neighbour >= 0) & (neighbour < size[other])
            weight = torch.where(inside, weight * (share if above else 1 - share), 0.0)
            index = index + strides[other] * neighbour.clamp(0, size[other] - 1).long()
        yield index, weight
