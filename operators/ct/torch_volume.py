"""Joseph's projector of volumes in plain torch: any device, some rays at a time; the reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from operators.ct.rays import VolumeRays

#: Steps of rays that are in memory at once.
STEPS = 2**20


def forward(rays: VolumeRays, volume: Tensor) -> Tensor:
    """Return line integrals (batch, views, rows, columns) of `volume` (batch, z, y, x)."""
    voxels = volume.reshape(volume.shape[0], -1)
    views, rows, columns = rays.views.shape
    data = volume.new_zeros((volume.shape[0], views, rows * columns))
    for view, chosen, index, weight in _walks(rays, volume):
        for b in range(volume.shape[0]):
            data[b, view, chosen] += (voxels[b, index] * weight).sum(dim=0)
    return data.reshape(-1, *rays.views.shape)


def adjoint(rays: VolumeRays, data: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (batch, z, y, x) of (batch, views, rows, columns)."""
    flat = data.reshape(data.shape[0], len(rays.views.through), -1)
    voxels = data.new_zeros((data.shape[0], rays.size[0] * rays.size[1] * rays.size[2]))
    for view, chosen, index, weight in _walks(rays, data):
        for b in range(data.shape[0]):
            voxels[b].index_add_(0, index.reshape(-1), (weight * flat[b, view, chosen]).reshape(-1))
    return voxels.reshape(-1, *rays.size)


def _walks(rays: VolumeRays, like: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield view, pixels, and voxel indices and weights (steps, pixels), neighbour by neighbour."""
    metric = torch.as_tensor(rays.metric, device=like.device)
    for view in range(len(rays.views.through)):
        point, direction = (
            torch.tensor(values.reshape(-1, 3), device=like.device) for values in rays.views.rays(view)
        )
        size = torch.einsum("ri,ij,rj->r", direction, metric, direction).sqrt()
        walked = direction.abs().argmax(dim=1)
        for axis in range(3):
            group = torch.nonzero(walked == axis).flatten()
            for chosen in torch.split(group, max(1, STEPS // rays.size[axis])) if len(group) else ():
                ray = direction[chosen] / direction[chosen, axis, None]
                length = size[chosen] / direction[chosen, axis].abs()
                start = point[chosen] - ray * point[chosen, axis, None]
                for index, weight in _neighbours(rays.size, axis, start, ray):
                    yield view, chosen, index, (weight * length).to(like.dtype)


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
