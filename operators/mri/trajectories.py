"""Trajectories through k-space in 1/mm: radial, spiral, stacks; what `NonCartesianGeometry` takes.

`voxel` (mm) sets the extent, k_max = 1 / (2 voxel). A readout of M samples along a diameter has
k_m = (m - M // 2) / (M voxel): its spacing 1 / (M voxel) is one over the field of view M * voxel, so that
M = 2 N means twofold readout oversampling. Orders are (kx, ky, kz). Times, gradients and slew rates are
the scanner's affair: these are paths.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error

__all__ = ["kooshball", "radial", "spiral", "stack"]

FloatArray = NDArray[np.float64]

#: pi / golden ratio: successive spokes fill the largest gap, for any number of them.
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2


def radial(
    spokes: int,
    samples: int,
    voxel: float,
    *,
    angles: Literal["uniform", "golden"] = "uniform",
    first: int = 0,
) -> FloatArray:
    """Return (spokes, samples, 2): diameters of a disc, angles evenly over half a turn or golden.

    `first` is the number of the first golden spoke: frames of a series go on where the last one ended.
    """
    count = check_count(spokes, "spokes")
    number = check_count(first, "first", minimum=0) + np.arange(count)
    if angles not in ("uniform", "golden"):
        raise value_error("angles", "be 'uniform' or 'golden'", repr(angles))
    angle = math.pi * number / count if angles == "uniform" else number * GOLDEN_ANGLE
    radius = _diameter(samples, voxel)
    x, y = np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius)
    return np.stack([x, y], axis=-1)


def kooshball(spokes: int, samples: int, voxel: float) -> FloatArray:
    """Return (spokes, samples, 3): diameters of a ball, their ends evenly over a half sphere.

    Ends on a golden-angle spiral of equal area steps: z = (j + 1/2) / spokes.
    """
    count = check_count(spokes, "spokes")
    number = np.arange(count)
    height = (number + 0.5) / count
    ring = np.sqrt(1 - height**2)
    angle = 2 * math.pi * number * (math.sqrt(5) - 1) / 2
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=-1)
    product: FloatArray = directions[:, None, :] * _diameter(samples, voxel)[:, None]
    return product


def spiral(
    interleaves: int, samples: int, voxel: float, field_of_view: float, *, density: float = 1.0
) -> FloatArray:
    """Return (interleaves, samples, 2): Archimedean spirals outward from k = 0.

    radius = k_max u, angle = 2 pi turns u + 2 pi interleave / interleaves, with as many turns as the
    spacing 1 / `field_of_view` between neighbouring interleaves needs, and the samples evenly along the
    path. `density` multiplies the turns: less than 1 undersamples.
    """
    count, points = check_count(interleaves, "interleaves"), check_count(samples, "samples", minimum=2)
    k_max = 0.5 / check_number(voxel, "voxel", positive=True)
    extent = check_number(field_of_view, "field_of_view", positive=True)
    turns = check_number(density, "density", positive=True) * k_max * extent / count
    fine = np.linspace(0, 1, 100 * points)
    winding = 2 * math.pi * turns * fine
    # The length of the path up to u, of d(radius) = k_max du and radius d(angle).
    length = fine * np.sqrt(1 + winding**2) + np.arcsinh(winding) / (2 * math.pi * turns)
    u = np.interp(np.arange(points) / points, length / length[-1], fine)
    angle = 2 * math.pi * (turns * u + np.arange(count)[:, None] / count)
    return np.stack([k_max * u * np.cos(angle), k_max * u * np.sin(angle)], axis=-1)


def stack(plane: ArrayLike, partitions: ArrayLike) -> FloatArray:
    """Return (partitions, ..., samples, 3): the path `plane` (..., samples, 2) at each kz in 1/mm.

    A stack of stars is stack(radial(...), kz); Cartesian partitions of a slab of n slices of thickness d
    have kz = (np.arange(n) - n // 2) / (n d).
    """
    path, kz = np.asarray(plane, dtype=np.float64), np.asarray(partitions, dtype=np.float64)
    if path.ndim < 2 or path.shape[-1] != 2:
        raise value_error("plane", "have shape (..., samples, 2)", path.shape)
    if kz.ndim != 1 or kz.size == 0 or not np.isfinite(kz).all():
        raise type_error("partitions", "be a list of finite kz in 1/mm", repr(partitions))
    out = np.empty((len(kz), *path.shape[:-1], 3))
    out[..., :2] = path
    out[..., 2] = kz.reshape(-1, *[1] * (path.ndim - 1))
    return out


def _diameter(samples: int, voxel: float) -> FloatArray:
    count = check_count(samples, "samples")
    pitch = 1 / (count * check_number(voxel, "voxel", positive=True))
    offsets: FloatArray = (np.arange(count, dtype=np.float64) - count // 2) * pitch
    return offsets
