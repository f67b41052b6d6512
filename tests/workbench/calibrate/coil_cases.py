"""A complex object seen by coils whose sensitivities are known in closed form, as functions of place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space

COILS = 5


def true_maps(grid: Grid, reach: tuple[float, float, float]) -> Tensor:
    """Return maps (coils, z, y, x), sum |S|^2 = 1, smooth over boxes of `reach` mm (z, y, x) about 0."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in grid.shape], indexing="ij"), -1)
    place = torch.from_numpy(grid.index_to_world(index.numpy()))  # R, A, S
    z, y, x = place[..., 2] / reach[0], place[..., 1] / reach[1], place[..., 0] / reach[2]
    maps = []
    for c in range(COILS):
        angle = 2 * math.pi * c / COILS
        distance = (x - 0.6 * math.cos(angle)) ** 2 + (y - 0.6 * math.sin(angle)) ** 2 + 0.5 * (z - 0.2) ** 2
        phase = 0.9 * x * math.sin(angle) + 0.7 * y + 0.4 * c * z
        maps.append(torch.polar(torch.exp(-0.7 * distance), phase))
    stacked = torch.stack(maps)
    return stacked / stacked.abs().square().sum(0).sqrt()


def blob(grid: Grid, reach: tuple[float, float, float]) -> Tensor:
    """Return a textured ellipsoid that fills 0.4 of `reach`, not symmetric under any flip."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in grid.shape], indexing="ij"), -1)
    place = torch.from_numpy(grid.index_to_world(index.numpy()))
    z, y, x = place[..., 2] / reach[0], place[..., 1] / reach[1], place[..., 0] / reach[2]
    inside = (x - 0.05) ** 2 + (y + 0.04) ** 2 + z**2 < 0.4**2
    texture = 1 + 0.3 * torch.cos(9 * x + 4 * y) + 0.2 * torch.sin(13 * y + 5 * z) + 0.2 * x
    return torch.polar(inside * texture, 1.3 * x + 0.5 * y)


def coil_data(grid: Grid, geometry: CartesianGeometry, reach: tuple[float, float, float]) -> Tensor:
    """Return noiseless k-space (coils, kz, ky, kx) of the blob."""
    maps = true_maps(grid, reach)
    images = Coils(Space.field(grid, is_complex=True), maps)(blob(grid, reach))
    return geometry.operator(grid, components=(COILS,))(images)


def alignment(found: Tensor, truth: Tensor) -> Tensor:
    """Return |<S, S_true>| per voxel: 1 where unit maps agree up to a phase."""
    return (found.conj() * truth).sum(dim=0).abs()
