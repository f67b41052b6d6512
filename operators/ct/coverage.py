"""What a scan sees of a grid: errors where it cannot be right, warnings where a part is missing."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
from numpy.typing import NDArray

from operators.ct.views import Float, Views
from operators.errors import value_error
from operators.grid import Grid

__all__ = ["CoverageWarning", "check_coverage"]

#: Points along each axis, and views, that the shares are estimated from.
POINTS, VIEWS = 16, 64
#: Points across the slices of a volume that one row of pixels sees.
SLICES = 256
#: Shares below this are the roundness of a cylinder among cubes.
SHARE = 0.002


class CoverageWarning(UserWarning):
    """A scan that sees a part of the grid only, or something twice."""


def check_coverage(views: Views, grid: Grid) -> None:
    """Raise where no ray meets the grid, or a source stands in it or before it; warn of what is missing.

    Of the elliptic cylinder in the grid about each of its axes, the one about the axis of the detector's rows
    counts: the corners of a grid are seldom covered, and seldom missed.
    """
    _refuse_a_source_inside(views, grid)
    _refuse_what_is_never_seen(views, grid)
    _refuse_what_lies_behind(views, grid)
    places = np.concatenate([views.through, views.centre, views.columns], axis=1)
    scale = np.abs(places).max(axis=0) + 1e-300
    # A whole turn kept in single precision is 2e-7 rad off.
    repeated = len(places) - len(np.unique(np.round(places / scale, 5) + 0.0, axis=0))
    if repeated:
        warnings.warn(
            f"{repeated} of {len(places)} views repeat another: their data count twice.",
            CoverageWarning,
            stacklevel=4,
        )
    chosen = views.part(np.unique(np.linspace(0, len(places) - 1, VIEWS).astype(np.intp)))
    column, row = chosen.seen_at(_cylinder(grid, views))
    beside, beyond = ~_within(column, views.shape[2]), ~_within(row, views.shape[1])
    # NaN, what is not in front of a source, is no smaller.
    if views.shape[2] > 1 and max(grid.shape) > 1 and (np.ptp(column, axis=1) < 1).all():
        warnings.warn(
            "every view sees the grid within one column of the detector: are pitches and spacings in mm?",
            CoverageWarning,
            stacklevel=4,
        )
    cut = float((beside & ~beyond).sum() / max((~beyond).sum(), 1))
    if cut > SHARE:
        warnings.warn(
            f"the detector's columns miss {cut:.1%} of the grid, views and voxels taken together: where the "
            "object reaches there, the data are truncated.",
            CoverageWarning,
            stacklevel=4,
        )
    seen = ~(beside | beyond).all(axis=0)
    unseen = float(1 - seen.mean())
    # A source that moves along the rows sees every height for a while: a helix is meant so.
    height = np.zeros(1) if views.parallel else np.einsum("vi,vi->v", views.through, views.rows)
    if np.ptp(height) < min(grid.spacing):
        short = float((beyond & ~beside & seen).sum() / max((~beside & seen).sum(), 1))
        if short > SHARE:
            warnings.warn(
                f"the detector's rows miss {short:.1%} of what is seen of the grid in other views: where the "
                "object reaches there, the data are truncated.",
                CoverageWarning,
                stacklevel=4,
            )
    # One row of pixels sees the slice that it is the scan of, however thick that is, and no other.
    if unseen > SHARE and (views.shape[1] > 1 or _slices(grid, views) > 1):
        warnings.warn(
            f"{unseen:.1%} of the grid are seen in no view: nothing is known there but what the prior says.",
            CoverageWarning,
            stacklevel=4,
        )


def _refuse_a_source_inside(views: Views, grid: Grid) -> None:
    if views.parallel:
        return
    for up in views.up if views.lifted else (0.0,):
        index = grid.world_to_index(views.through + up * views.rows)
        inside = ((index > -0.5) & (index < np.array(grid.shape) - 0.5)).all(axis=1)
        if inside.any():
            view = int(np.argmax(inside))
            raise value_error(
                "grid",
                "lie outside the path of the source",
                f"a source at index {np.round(index[view], 1).tolist()} of {grid.shape} in view {view}",
                "Check source_to_axis, the frame of the geometry and the place of the grid.",
            )


def _refuse_what_lies_behind(views: Views, grid: Grid) -> None:
    """Raise where a ray, drawn back through its source, meets the grid: to projectors it is a line."""
    if views.parallel:
        return
    faces = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in grid.shape])))
    edge = grid.index_to_world(faces) - views.through[:, None]
    behind = np.flatnonzero((np.einsum("vni,vi->vn", edge, views.outwards) < 0).any(axis=1))
    places = grid.index_to_world(_lattice(grid))
    for view in behind[np.unique(np.linspace(0, len(behind) - 1, min(len(behind), VIEWS)).astype(np.intp))]:
        one = views.part(slice(view, view + 1))
        mirrored = 2 * one.through - places
        if one.lifted:
            mirrored += 2 * ((places - one.through) @ one.rows.T) * one.rows
        column, row = one.seen_at(mirrored)
        if (_within(column, views.shape[2]) & _within(row, views.shape[1])).any():
            raise value_error(
                "grid",
                "lie in front of the source",
                f"voxels behind it that its rays would meet, drawn backwards, in view {view}",
                "Check source_to_axis, the frame of the geometry and the place of the grid.",
            )


def _refuse_what_is_never_seen(views: Views, grid: Grid) -> None:
    corners = np.array(list(itertools.product(*[(-1.0, float(n)) for n in grid.shape])))
    column, row = views.seen_at(grid.index_to_world(corners))
    _, rows, columns = views.shape
    for found, count, name in ((column, columns, "columns"), (row, rows, "rows")):
        hidden = np.isnan(found)
        # A grid partly in front of the source may be seen anywhere; one behind it, nowhere.
        open_ended = hidden.any(axis=1) & ~hidden.all(axis=1)
        low, high = np.where(hidden, np.inf, found).min(axis=1), np.where(hidden, -np.inf, found).max(axis=1)
        if not (open_ended | ((low <= count - 1) & (high >= 0))).any():
            seen = f"seen at {name} {low.min():.1f} to {high.max():.1f}"
            where = "which lies behind the source" if hidden.all() else seen
            raise value_error(
                "grid",
                f"be seen by the detector's {count} {name}",
                f"{grid!r}, {where}",
                "Check the frame of the geometry, its pitches, axis_column and middle_row.",
            )


def _within(place: Float, count: int) -> NDArray[np.bool_]:
    """Tell what is seen: half a pixel beyond the outermost ray is still its pixel."""
    found: NDArray[np.bool_] = (place >= -0.5) & (place <= count - 0.5)
    return found


def _lattice(grid: Grid, finest: int | None = None) -> Float:
    """Return some indices (n, 3) all over the grid, more of them along the axis `finest`."""
    most = [SLICES if axis == finest else POINTS for axis in range(3)]
    places = [np.linspace(0, n - 1, min(n, m)) for n, m in zip(grid.shape, most, strict=True)]
    return np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)


def _axis(grid: Grid, views: Views) -> int:
    """Return the grid's axis nearest to the detector's rows."""
    towards = np.abs(np.linalg.solve(grid.affine[:3, :3], views.rows.mean(axis=0)) * grid.spacing)
    return int(np.argmax(towards))


def _slices(grid: Grid, views: Views) -> int:
    return grid.shape[_axis(grid, views)]


def _cylinder(grid: Grid, views: Views) -> Float:
    """Return points in the grid's elliptic cylinder about the axis nearest to the detector's rows."""
    axis = _axis(grid, views)
    # Of one row a volume has one slice, which points far apart would miss.
    index = _lattice(grid, finest=axis if views.shape[1] == 1 else None)
    extent = np.maximum(np.array(grid.shape) / 2, 0.5)
    aside = np.delete((index - (np.array(grid.shape) - 1) / 2) / extent, axis, axis=1)
    return grid.index_to_world(index[(aside**2).sum(axis=1) <= 1])
