"""The Matern family of stationary fields, as powers of the frequencies of a grid.

    S(w) ~ (1 + l^2 |w|^2 / (2 nu))^-(nu + d/2),    nu = inf:  exp(-l^2 |w|^2 / 2)

w in rad/mm, d the number of axes longer than one voxel. Sampling at the voxel centres folds S back
at the Nyquist frequencies. Here the next fold of each axis is added, and what then still lacks of
the variance is spread evenly: correlations agree with the continuous ones to about 0.003 where the length
is several voxels along every axis, to 0.05 where it is a quarter of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.frame import require_orthogonal
from operators.grid import Grid

__all__ = ["matern_power"]


def matern_power(grid: Grid, length: float, smoothness: float) -> Tensor:
    """Return powers of mean 1 in the order of torch.fft.fftn, for l = `length` in mm, nu = `smoothness`."""
    require_orthogonal(grid)
    axes = [axis for axis in range(3) if grid.shape[axis] > 1]
    total = torch.zeros(grid.shape, dtype=torch.float64)
    for folded, turns in [(-1, 0), *((axis, sign) for axis in axes for sign in (-1, 1))]:
        square = torch.zeros((), dtype=torch.float64)
        for axis in axes:
            cycles = torch.fft.fftfreq(grid.shape[axis], dtype=torch.float64)
            w = 2 * math.pi / grid.spacing[axis] * (cycles + turns if axis == folded else cycles)
            square = square + (length * w).square().reshape([-1 if a == axis else 1 for a in range(3)])
        total += _density(square, smoothness, len(axes))
    # The integral of S over w, in units of one voxel's share of frequency space.
    whole = _integral(smoothness, len(axes))
    for axis in axes:
        whole *= grid.spacing[axis] / (2 * math.pi * length)
    total += max(whole - float(total.mean()), 0.0)
    return total / total.mean()


def _density(square: Tensor, smoothness: float, dims: int) -> Tensor:
    if smoothness == math.inf:
        return torch.exp(-square / 2)
    return (1 + square / (2 * smoothness)) ** -(smoothness + dims / 2)


def _integral(smoothness: float, dims: int) -> float:
    """Return the integral of `_density` over l w in `dims` dimensions."""
    if smoothness == math.inf:
        return math.pow(2 * math.pi, dims / 2)
    ratio = math.exp(math.lgamma(smoothness) - math.lgamma(smoothness + dims / 2))
    return math.pow(2 * math.pi * smoothness, dims / 2) * ratio
