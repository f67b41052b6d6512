"""Areas of the Voronoi cells of points in a plane, cut off half a spacing outside the points."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from operators.errors import value_error
from operators.extras import require

__all__ = ["cell_areas"]

Array = NDArray[np.float64]

#: Directions in which the region of the points is bounded.
DIRECTIONS = 64


def cell_areas(points: Array) -> Array:
    """Return the area of the cell of each of `points` (n, 2); points in one place share theirs.

    Cells are cut at the convex region {k : k . u <= max_j k_j . u + s / 2} for directions u all around, s
    the median distance between neighbours at the rim.
    """
    spatial = require("scipy.spatial", feature="Voronoi density compensation", extra="mri")
    extent = float(np.abs(points - points.mean(axis=0)).max())
    _, first, member, counts = np.unique(
        np.round(points / max(extent, np.finfo(float).tiny), 9),
        axis=0,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    distinct = points[first]
    if len(distinct) < 4 or np.linalg.matrix_rank(distinct - distinct[0], tol=1e-9 * extent) < 2:
        raise value_error("trajectory", "have at least four samples that span a plane", len(distinct))
    angle = 2 * math.pi * np.arange(DIRECTIONS) / DIRECTIONS
    outward = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    reach = distinct @ outward.T
    rim = np.unique(np.argmax(reach, axis=0))
    spacing = float(np.median(spatial.cKDTree(distinct).query(distinct[rim], k=2)[0][:, 1]))
    limit = reach.max(axis=0) + spacing / 2
    # Guards far outside close the cells of the rim; the cut is nearer.
    guards = distinct.mean(axis=0) + 4 * (extent + spacing) * outward
    diagram = spatial.Voronoi(np.concatenate([distinct, guards]))
    regions = [diagram.regions[place] for place in diagram.point_region[: len(distinct)]]
    beyond = diagram.vertices @ outward.T > limit
    corners = np.concatenate([np.asarray(region) for region in regions])
    starts = np.cumsum([0, *(len(region) for region in regions)])
    areas = _areas(diagram.vertices[corners], starts, distinct)
    for index in np.flatnonzero(np.add.reduceat(beyond.any(axis=1)[corners], starts[:-1])):
        region = corners[starts[index] : starts[index + 1]]
        polygon = _around(diagram.vertices[region], distinct[index])
        for side in np.flatnonzero(beyond[region].any(axis=0)):
            polygon = _cut(polygon, outward[side], limit[side])
        areas[index] = _area(polygon)
    shared: Array = (areas / counts)[member.reshape(-1)]
    return shared


def _areas(corners: Array, starts: NDArray[np.int64], points: Array) -> Array:
    """Return the areas of convex cells, cell i with the corners from starts[i] to starts[i + 1]."""
    cell = np.repeat(np.arange(len(points)), np.diff(starts))
    away = corners - points[cell]
    x, y = away[np.lexsort((np.arctan2(away[:, 1], away[:, 0]), cell))].T
    following = np.arange(1, len(cell) + 1)
    following[starts[1:] - 1] = starts[:-1]
    areas: Array = 0.5 * np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts[:-1]))
    return areas


def _around(corners: Array, point: Array) -> Array:
    """Return the corners of a convex cell in their order around the point."""
    away = corners - point
    ordered: Array = corners[np.argsort(np.arctan2(away[:, 1], away[:, 0]))]
    return ordered


def _cut(polygon: Array, normal: Array, limit: float) -> Array:
    """Return the part of a convex polygon with k . normal <= limit (Sutherland and Hodgman)."""
    if len(polygon) == 0:
        return polygon
    height = polygon @ normal - limit
    following, after = np.roll(polygon, -1, axis=0), np.roll(height, -1)
    kept = []
    for here, there, low, high in zip(polygon, following, height, after, strict=True):
        if low <= 0:
            kept.append(here)
        if (low <= 0) != (high <= 0):
            kept.append(here + (there - here) * (low / (low - high)))
    return np.array(kept).reshape(-1, 2)


def _area(polygon: Array) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
