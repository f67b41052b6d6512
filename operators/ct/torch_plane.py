"""Joseph's projector of slices in plain torch: any device, view by view; the reference of the engines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from operators.ct.rays import PlaneRays


def forward(rays: PlaneRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    pixels = image.reshape(-1, image.shape[-1])
    sinogram = image.new_zeros((*rays.shape, image.shape[-1]))
    for view, columns, index, weight in _walks(rays, image):
        # (steps, columns) gathers of (batch) vectors, summed along the ray.
        sinogram[view, columns] += (pixels[index] * weight[..., None]).sum(dim=0)
    return sinogram


def adjoint(rays: PlaneRays, sinogram: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (nu, nv, batch) of (views, columns, batch)."""
    nu, nv = rays.size
    pixels = sinogram.new_zeros((nu * nv, sinogram.shape[-1]))
    for view, columns, index, weight in _walks(rays, sinogram):
        spread = weight[..., None] * sinogram[view, columns]
        pixels.index_add_(0, index.reshape(-1), spread.reshape(-1, sinogram.shape[-1]))
    return pixels.reshape(nu, nv, -1)


def _walks(rays: PlaneRays, like: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield view, columns, and pixel indices and weights (steps, columns), neighbour by neighbour."""
    nu, nv = rays.size
    along_u, start, slope, length = (
        torch.as_tensor(values, device=like.device)
        for values in (rays.along_u, rays.start, rays.slope, rays.length)
    )
    for view in range(rays.shape[0]):
        for walk_u in (True, False):
            columns = torch.nonzero(along_u[view] == walk_u).flatten()
            if len(columns) == 0:
                continue
            steps, width = (nu, nv) if walk_u else (nv, nu)
            step = torch.arange(steps, device=like.device)[:, None]
            position = start[view, columns] + slope[view, columns] * step
            low = position.floor()
            for neighbour, share in ((low, 1 - (position - low)), (low + 1, position - low)):
                inside = (neighbour >= 0) & (neighbour < width)
                k = neighbour.clamp(0, width - 1).long()
                weight = torch.where(inside, share * length[view, columns], 0.0).to(like.dtype)
                yield view, columns, step * nv + k if walk_u else k * nv + step, weight
