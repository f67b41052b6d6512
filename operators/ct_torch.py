"""Joseph's projector in plain torch: runs on any device, view by view; the reference of the engines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from operators.ct_rays import ParallelRays


def forward(rays: ParallelRays, image: Tensor) -> Tensor:
    """Return line integrals (views, columns, batch) of `image` (nu, nv, batch)."""
    pixels = image.reshape(-1, image.shape[-1])
    sinogram = image.new_empty((len(rays.base), rays.columns, image.shape[-1]))
    for view, (index, weight) in enumerate(_views(rays, image)):
        sinogram[view] = 0
        for i, w in zip(index, weight, strict=True):
            # (steps, columns) gathers of (batch) vectors, summed along the ray.
            sinogram[view] += (pixels[i] * w[..., None]).sum(dim=0)
    return sinogram


def adjoint(rays: ParallelRays, sinogram: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (nu, nv, batch) of (views, columns, batch)."""
    nu, nv = rays.size
    pixels = sinogram.new_zeros((nu * nv, sinogram.shape[-1]))
    for view, (index, weight) in enumerate(_views(rays, sinogram)):
        for i, w in zip(index, weight, strict=True):
            spread = w[..., None] * sinogram[view]
            pixels.index_add_(0, i.reshape(-1), spread.reshape(-1, sinogram.shape[-1]))
    return pixels.reshape(nu, nv, -1)


def _views(rays: ParallelRays, like: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Yield per view the pixel indices and weights (steps, columns) of both neighbours."""
    nu, nv = rays.size
    column = torch.arange(rays.columns, dtype=torch.float64, device=like.device)
    for view in range(len(rays.base)):
        along_u = bool(rays.along_u[view])
        base, per_column, per_step, length = (
            float(values[view]) for values in (rays.base, rays.per_column, rays.per_step, rays.step_length)
        )
        steps, width = (nu, nv) if along_u else (nv, nu)
        step = torch.arange(steps, dtype=torch.float64, device=like.device)[:, None]
        position = base + per_column * column + per_step * step
        low = position.floor()
        fraction = position - low
        indices, weights = [], []
        for neighbour, share in ((low, 1 - fraction), (low + 1, fraction)):
            inside = (neighbour >= 0) & (neighbour < width)
            k = neighbour.clamp(0, width - 1).long()
            i = step.long()
            indices.append(i * nv + k if along_u else k * nv + i)
            weights.append(torch.where(inside, share * length, 0.0).to(like.dtype))
        yield (indices[0], indices[1]), (weights[0], weights[1])
