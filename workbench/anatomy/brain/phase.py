"""The phase of an MR image: a smooth random function of the world point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import type_error
from operators.grid import Grid
from workbench.anatomy.dice import Dice
from workbench.anatomy.waves import EvenWaves
from workbench.volume import Volume

__all__ = ["complex_image", "phase_at", "smooth_phase"]

#: Where air under the brain disturbs the field: nasal sinuses, ear canals (x, y, z, width, weight).
AIR = ((0.0, 42.0, -30.0, 17.0, 1.0), (55.0, -18.0, -38.0, 14.0, 0.6), (-55.0, -18.0, -38.0, 14.0, 0.6))


def phase_at(points: Tensor, seed: int, *, strength: float = 1.0, susceptibility: float = 1.0) -> Tensor:
    """Return the phase in rad, float64 (...), at world points (..., 3) in RAS mm.

    A constant, a slope and a bowl of about `strength` rad over a head (receiver, shim, echo position), waves
    of 70 to 200 mm (coil, field) and, times `susceptibility`, bumps of a few rad over the air of the skull
    base. The constant is any angle.
    """
    if not isinstance(points, Tensor) or points.shape[-1:] != (3,):
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise type_error("points", "be a tensor of world points (..., 3) in mm", got)
    size = check_number(strength, "strength", non_negative=True)
    bump = check_number(susceptibility, "susceptibility", non_negative=True)
    dice = Dice(check_count(seed, "seed", minimum=0), "brain ")
    flat = points.reshape(-1, 3).double().T
    r = flat / 90.0
    slope, bowl = dice.normals("phase slope", 3).tolist(), dice.normals("phase bowl", 6).tolist()
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    phase = 0.45 * EvenWaves.draw(dice, "phase", count=14, lengths=(70, 200))(flat)
    for row, a in zip(r, slope, strict=True):
        phase += 0.8 * a * row
    for (i, j), a in zip(pairs, bowl, strict=True):
        phase += 0.4 * a * r[i] * r[j]
    phase *= size
    sign = 1.0 if dice.chance("phase sign", 0.5) else -1.0
    heights = dice.uniforms("phase bumps", len(AIR)).tolist()
    shifts = dice.normals("phase places", len(AIR), 3).tolist()
    for (*centre, width, weight), height, shift in zip(AIR, heights, shifts, strict=True):
        off = [row - c - 4 * s for row, c, s in zip(flat, centre, shift, strict=True)]
        # A Gaussian and its curvature along the field: the dipole of air, blurred.
        u = torch.stack(off).square().sum(dim=0) / (2 * width * width)
        lobe = (1 - 0.7 * (off[2] / width) ** 2) * torch.exp(-u)
        phase += bump * sign * weight * 2.5 * height * lobe
    phase += dice.uniform("phase constant", -math.pi, math.pi)
    return phase.reshape(points.shape[:-1])


def smooth_phase(grid: Grid, seed: int, *, strength: float = 1.0, susceptibility: float = 1.0) -> Tensor:
    """Return `phase_at` the voxels of `grid`, (z, y, x), float32, not wrapped."""
    Grid.require(grid)
    axes = [torch.arange(n, dtype=torch.float64) for n in grid.shape]
    affine = torch.from_numpy(grid.affine.copy())
    result = torch.empty(grid.shape)
    for k in axes[0]:
        index = torch.stack(torch.meshgrid(k[None], axes[1], axes[2], indexing="ij"), dim=-1)
        points = index @ affine[:3, :3].T + affine[:3, 3]
        result[int(k)] = phase_at(points[0], seed, strength=strength, susceptibility=susceptibility)
    return result


def complex_image(image: Volume, seed: int, *, strength: float = 1.0, susceptibility: float = 1.0) -> Volume:
    """Return magnitude times exp(i phase), complex64, with the phase `smooth_phase` of `seed`."""
    if not isinstance(image, Volume) or not image.data.is_floating_point():
        got = image.data.dtype if isinstance(image, Volume) else type(image).__name__
        raise type_error("image", "be a Volume of real magnitudes", got, "Pass rendered.image.")
    phase = smooth_phase(image.grid, seed, strength=strength, susceptibility=susceptibility)
    return image.with_data(torch.polar(image.data.float(), phase.to(image.data.device)))
