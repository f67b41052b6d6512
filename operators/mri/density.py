"""Density compensation: what share of k-space each sample of a trajectory stands for.

    x ~ A^H (w * y),      w_j = N * (area of k-space of sample j) * (voxel area),  in 3D: volume

A value beside the data, never hidden in an operator: gridding is A^H after a multiplication by w, and w is
a preconditioner. Fully sampled k-space has weights that sum to N times the part of the Nyquist box that the
samples cover: pi / 4 for a disc.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.mri.engines import FloatArray, make_sums
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.voronoi import cell_areas

__all__ = ["density_weights"]

#: Deviation from a straight line, relative to the largest |k|.
STRAIGHT = 1e-3


def density_weights(
    geometry: NonCartesianGeometry,
    grid: Grid,
    method: Literal["pipe", "voronoi", "radial"] = "pipe",
    *,
    iterations: int = 30,
    engine: str = "auto",
) -> Tensor:
    """Return w, float64, of the shape of one coil's data.

    "pipe": Pipe and Menon's iteration (MRM 41 (1999) 179), w <- w / (C w) with a positive kernel C of the
    width of 1 / FOV: any trajectory, 2D and 3D. "voronoi": the areas of the Voronoi cells, 2D (scipy).
    "radial": in closed form for straight spokes through or from k = 0, stacks of such included; in 2D
    with the true gaps between the angles, in 3D with one solid angle for all.
    """
    if not isinstance(geometry, NonCartesianGeometry):
        raise type_error("geometry", "be a NonCartesianGeometry", type(geometry).__name__)
    frequency, _ = geometry.on(grid)
    count = check_count(iterations, "iterations")
    if method not in ("pipe", "voronoi", "radial"):
        raise value_error("method", "be 'pipe', 'voronoi' or 'radial'", repr(method))
    encoded = [axis for axis in range(3) if grid.shape[axis] > 1]
    sizes = tuple(grid.shape[axis] for axis in encoded)
    voxel = np.array(grid.spacing)[encoded]
    frames = [slice(None)] if grid.time is None else [slice(t, t + 1) for t in range(len(frequency))]
    parts = []
    for frame in frames:
        part = frequency[frame]
        flat = part.reshape(-1, 3)[:, encoded]
        if method == "pipe":
            weights = _pipe(flat, sizes, count, engine)
        elif method == "voronoi":
            if len(encoded) != 2:
                remedy = "In 3D use method='pipe', or weights of the plane times those of the stack."
                raise value_error("grid", "encode two axes, for Voronoi cells", repr(grid), remedy)
            weights = cell_areas(flat / voxel) * voxel.prod() * math.prod(sizes)
        else:
            path = geometry.trajectory[frame]
            weights = _radial(path.reshape(-1, *path.shape[-2:])) * voxel.prod() * math.prod(sizes)
        parts.append(weights.reshape(part.shape[:-1]))
    return torch.from_numpy(np.concatenate(parts) if grid.time is not None else parts[0])


def _pipe(frequency: FloatArray, sizes: tuple[int, ...], iterations: int, engine: str) -> FloatArray:
    double = tuple(2 * n for n in sizes)
    device = torch.device("cpu")
    sums = make_sums(engine, frequency, double, accuracy=1e-5, dtype=torch.float64, device=device)
    # The transform of a triangle is a squared sinc: positive, of unit integral, as wide as 1 / FOV.
    taper = torch.ones((), dtype=torch.float64)
    for axis, n in enumerate(sizes):
        triangle = 1 - (torch.arange(2 * n, dtype=torch.float64) - n).abs() / n
        taper = taper * triangle.reshape(-1, *[1] * (len(sizes) - axis - 1))
    weights = torch.ones((1, len(frequency)), dtype=torch.complex128)
    for _ in range(iterations):
        around = sums.forward(taper * sums.adjoint(weights)).real
        weights = weights * (math.prod(sizes) / around.clamp(min=1e-9 * float(around.max())))
    found: FloatArray = weights[0].real.numpy()
    return found


def _radial(path: FloatArray) -> FloatArray:
    """Return the areas (spokes, samples) in 1/mm^2, or volumes, of spokes (spokes, samples, 2 or 3)."""
    kz = path[..., 2] if path.shape[-1] == 3 else np.zeros(path.shape[:-1])
    extent = np.abs(path).max()
    in_planes = np.abs(kz - kz[:, :1]).max() <= STRAIGHT * extent
    if not in_planes:
        return _spokes(path, np.full(len(path), 2 * math.pi / len(path)))
    plane, position = path[..., :2], np.round(kz[:, 0] / extent, 6)
    levels, member = np.unique(position, return_inverse=True)
    # A single plane has no thickness in kz: its areas are those of a 2D scan.
    gaps = np.ones(1) if len(levels) == 1 else _gaps(levels * extent)
    areas = np.empty(path.shape[:-1])
    for level in range(len(levels)):
        chosen = member == level
        spokes = plane[chosen]
        ends = spokes[np.arange(len(spokes)), np.argmax(np.linalg.norm(spokes, axis=-1), axis=1)]
        turn = 2 * math.pi if _from_centre(spokes) else math.pi
        areas[chosen] = _spokes(spokes, _shares(np.arctan2(ends[:, 1], ends[:, 0]), turn)) * gaps[level]
    return areas


def _spokes(path: FloatArray, angle: FloatArray) -> FloatArray:
    """Return the part of the annuli around k = 0 for each sample, `angle` rad or sr per spoke."""
    axes = path.shape[-1]
    far = np.argmax(np.linalg.norm(path, axis=-1), axis=1)
    ends = path[np.arange(len(path)), far]
    length = np.linalg.norm(ends, axis=-1, keepdims=True)
    if (length == 0).any():
        raise value_error("geometry", "have spokes of some length, for method='radial'", "a spoke at k = 0")
    directions = ends / length
    distance = np.einsum("jsd,jd->js", path, directions)
    straight = np.abs(path - distance[..., None] * directions[:, None]).max()
    if straight > STRAIGHT * length.max() or path.shape[1] < 2:
        found = f"a path {straight / length.max():.2g} of its length away from a line"
        remedy = "Use method='pipe', or 'voronoi' in 2D."
        raise value_error("geometry", "have straight spokes through k = 0", found, remedy)
    order = np.argsort(distance, axis=1)
    ranked = np.take_along_axis(distance, order, 1)
    middle = (ranked[:, 1:] + ranked[:, :-1]) / 2
    first, last = 1.5 * ranked[:, :1] - 0.5 * ranked[:, 1:2], 1.5 * ranked[:, -1:] - 0.5 * ranked[:, -2:-1]
    edges = np.concatenate([first, middle, last], axis=1)
    if _from_centre(path):
        edges = np.clip(edges, 0, None)
        angle = 2 * angle if axes == 3 else angle
    # The integral of |r|^(axes - 1).
    primitive = np.sign(edges) * np.abs(edges) ** axes / axes
    areas: FloatArray = np.empty_like(distance)
    np.put_along_axis(areas, order, np.diff(primitive, axis=1) * angle[:, None], 1)
    return areas


def _from_centre(path: FloatArray) -> bool:
    """Tell whether spokes start at k = 0 instead of passing through it."""
    far = np.argmax(np.linalg.norm(path, axis=-1), axis=1)
    along = np.einsum("jsd,jd->js", path, path[np.arange(len(path)), far])
    return bool(along.min() > -0.25 * along.max())


def _shares(angle: FloatArray, turn: float) -> FloatArray:
    """Return for each angle the part of `turn` that is nearest to it; equal angles share theirs."""
    wrapped = np.mod(np.round(angle / turn, 9), 1.0)
    distinct, member, counts = np.unique(wrapped, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.full(len(angle), turn / len(angle))
    gaps = np.diff(np.concatenate([distinct, distinct[:1] + 1]))
    shares: NDArray[np.float64] = ((gaps + np.roll(gaps, 1)) / 2 * turn / counts)[member]
    return shares


def _gaps(positions: FloatArray) -> FloatArray:
    edges = (positions[1:] + positions[:-1]) / 2
    ends = [1.5 * positions[0] - 0.5 * positions[1], 1.5 * positions[-1] - 0.5 * positions[-2]]
    widths: FloatArray = np.diff(np.concatenate([ends[:1], edges, ends[1:]]))
    return widths
