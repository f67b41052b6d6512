"""Back-projection voxel by voxel: every voxel takes, from each view, what its own ray there measured.

    b(x) = sum over views of q_v(column_v(x), row_v(x)) / f_v(x)^2
    f = 1 (parallel), distance from the source along `outwards` (flat) or within the fan (cylindrical), mm

q is interpolated between pixels, is constant over the outer half of the outermost ones and zero beyond.
This is the step of filtered back-projection, not the adjoint of the projector.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_tensor
from operators.ct.views import ROUNDING, Float, Views
from operators.errors import value_error
from operators.extras import MissingExtraError, require
from operators.grid import Grid

__all__ = ["SeenFrom", "back_project"]

PARALLEL, FLAT, CYLINDRICAL = 0, 1, 2
#: How far from the axis of a cylindrical detector its source may stand, as a share of the radius.
OFF_AXIS = 1e-6


def back_project(grid: Grid, views: Views, data: Tensor, *, engine: str = "auto") -> Tensor:
    """Return b (z, y, x) of `data` (views, rows, columns) on `grid`; `views` in world coordinates.

    `engine`: "numba" (CPU), "torch" (any device), or "auto".
    """
    check_tensor(data, "data")
    if data.is_complex() or tuple(data.shape) != views.shape:
        raise value_error("data", f"be real, of shape {views.shape}", f"{data.dtype}, {tuple(data.shape)}")
    if engine not in ("auto", "numba", "torch"):
        raise value_error("engine", "be 'auto', 'numba' or 'torch'", repr(engine))
    seen = SeenFrom.of(Grid.require(grid), views)
    if engine == "auto":
        engine = "numba" if data.device.type == "cpu" and _has_numba() else "torch"
    if engine == "torch":
        return _by_torch(seen, data)
    if data.device.type != "cpu":
        raise value_error("data", "be on the CPU for the numba engine", data.device, "Use engine='auto'.")
    require("numba", feature="The numba back-projection", extra="ct")
    module = importlib.import_module("operators.ct.numba_back_projection")
    return module.back_project(seen, data)  # type: ignore[no-any-return]


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


def _by_torch(seen: SeenFrom, data: Tensor) -> Tensor:
    """Return the back-projection, one view after the other, on the device of the data."""
    kind = {"dtype": data.dtype, "device": data.device}
    places = [torch.arange(n, **kind) for n in seen.shape]  # type: ignore[call-overload]
    axes = [place.reshape([-1 if i == axis else 1 for i in range(3)]) for axis, place in enumerate(places)]
    out = data.new_zeros(seen.shape)
    for view in range(data.shape[0]):
        first, second, third = (
            sum(float(f) * axis for f, axis in zip(form, axes, strict=False)) + float(form[3])
            for form in seen.forms[view]
        )
        c0, c1, r0, r1 = seen.scales[view].tolist()
        if seen.kind == PARALLEL:
            out += _interpolated(data[view], first, second)
            continue
        ahead = torch.where(second > 0, second, torch.nan)
        if seen.kind == FLAT:
            far, column = ahead, c0 + c1 * first / ahead
        else:
            far, column = torch.hypot(first, ahead), c0 + c1 * torch.atan(first / ahead)
        row = third if seen.lifted else r0 + r1 * third / far
        out += _interpolated(data[view], column, row) / far.square().nan_to_num(nan=1.0)
    return out


def _interpolated(image: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Return bilinear values at places (z, y, x), zero where they are off the detector or NaN."""
    rows, columns = image.shape
    column, row = column + 0 * row, row + 0 * column
    inside = (column >= -0.5) & (column <= columns - 0.5) & (row >= -0.5) & (row <= rows - 0.5)
    # From -1 at the first pixel to 1 at the last, as grid_sample counts.
    places = torch.stack([column * (2 / max(columns - 1, 1)) - 1, row * (2 / max(rows - 1, 1)) - 1], dim=-1)
    found = torch.nn.functional.grid_sample(
        image[None, None],
        torch.where(inside[..., None], places, 0.0).reshape(1, 1, -1, 2),
        padding_mode="border",
        align_corners=True,
    )
    return torch.where(inside, found.reshape(inside.shape), 0.0)


def _has_numba() -> bool:
    try:
        require("numba", feature="The numba back-projection", extra="ct")
    except MissingExtraError:
        return False
    return True
