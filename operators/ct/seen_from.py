"""Where each view sees the voxels of a grid: affine forms of their index, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.ct.views import ROUNDING, Float, Views
from operators.errors import value_error
from operators.grid import Grid

__all__ = ["CYLINDRICAL", "FLAT", "PARALLEL", "SeenFrom"]

PARALLEL, FLAT, CYLINDRICAL = 0, 1, 2
#: How far from the axis of a cylindrical detector its source may stand, as a share of the radius.
OFF_AXIS = 1e-6


@dataclass(frozen=True, eq=False)
class SeenFrom:
    """How every view sees the voxels of a grid of `shape`.

    `forms` (views, 3, 4) are affine in the index (z, y, x, 1): parallel, column, row and zero; diverging,
    aside and ahead of the source in mm, and height in mm above it or, lifted, the row. Then

        column = c0 + c1 aside / ahead                  row = r0 + r1 height / ahead            flat
        column = c0 + c1 atan(aside / ahead)            row = r0 + r1 height / |aside, ahead|   cylindrical

    with `scales` (views, 4) = c0, c1, r0, r1.
    """

    shape: tuple[int, int, int]
    kind: int
    lifted: bool
    forms: Float
    scales: Float

    @classmethod
    def of(cls, grid: Grid, views: Views) -> SeenFrom:
        """Return how `views` see `grid`."""
        affine = grid.affine
        first, up = views.across[0], views.up[0]
        pitch, rise = views.pitch
        if views.parallel:
            normal = np.cross(views.columns, views.rows)
            beam = views.through / np.einsum("vi,vi->v", views.through, normal)[:, None]
            # A point slides along the beam into the plane of the detector.
            slid = [
                axis - np.einsum("vi,vi->v", beam, axis)[:, None] * normal
                for axis in (views.columns, views.rows)
            ]
            column, row = (_affine(vectors, views.centre, affine) for vectors in slid)
            column[:, 3] -= first
            row[:, 3] -= up
            forms = np.stack([column / pitch, row / rise, np.zeros_like(row)], axis=1)
            return cls(grid.shape, PARALLEL, False, forms, np.zeros((len(forms), 4)))
        source = views.through
        aside, ahead = (_affine(axis, source, affine) for axis in (views.columns, views.outwards))
        from_centre = source - views.centre
        beside, above = (np.einsum("vi,vi->v", from_centre, axis) for axis in (views.columns, views.rows))
        depth = -np.einsum("vi,vi->v", from_centre, views.outwards)
        radius = views.radius
        scales = np.zeros((len(source), 4))
        if np.isfinite(radius):
            off = np.abs(np.stack([depth - radius, beside])).max() / radius
            if off > OFF_AXIS:
                remedy = "Measured shifts of a cylindrical detector need an iterative solver."
                expected = "have the source on the axis of its cylindrical detector"
                raise value_error("views", expected, f"it {off:.1e} of the radius beside it", remedy)
            scales[:, 0], scales[:, 1] = -np.arcsin(first / radius) * radius / pitch, radius / pitch
        else:
            scales[:, 0], scales[:, 1] = (beside - first) / pitch, depth / pitch
        if views.lifted:
            height = _affine(views.rows, views.centre, affine)
            height[:, 3] -= up
            height /= rise
        else:
            height = _affine(views.rows, source, affine)
            scales[:, 2], scales[:, 3] = (above - up) / rise, depth / rise
        forms = np.stack([aside, ahead, height], axis=1)
        kind = CYLINDRICAL if np.isfinite(radius) else FLAT
        return cls(grid.shape, kind, views.lifted, forms, scales)

    @property
    def row_by_line(self) -> bool:
        """Whether all voxels of a line along x are seen at one row, in every view."""
        bent = self.kind != PARALLEL and not self.lifted
        rows = self.forms[:, 1 if self.kind == PARALLEL else 2]
        return not bent and float(np.abs(rows[:, 2]).max()) * self.shape[2] < ROUNDING


def _affine(vectors: Float, origin: Float, affine: Float) -> Float:
    """Return <vector, x - origin> as an affine form (views, 4) of the index of x."""
    form: Float = vectors @ affine[:3]
    form[:, 3] -= np.einsum("vi,vi->v", vectors, origin)
    return form
