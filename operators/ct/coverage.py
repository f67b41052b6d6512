"""What a scan sees of a grid: errors where it cannot be right, warnings where a part is missing."""

from __future__ import annotations

import itertools
import warnings

import numpy as np

from operators.ct.views import Float, Views
from operators.errors import value_error
from operators.grid import Grid

__all__ = ["CoverageWarning", "check_coverage"]

#: Points along each axis, and views, that the shares are estimated from.
POINTS, VIEWS = 16, 64
#: Shares below this are the roundness of a cylinder among cubes.
SHARE = 0.002


class CoverageWarning(UserWarning):
    """A scan that sees a part of the grid only, or something twice."""


def check_coverage(views: Views, grid: Grid) -> None:
    """Raise where no ray meets the grid or a source lies in it; warn of what is missing.

    Of the elliptic cylinder in the grid about each of its axes, the one about the axis of the detector's rows
    counts: the corners of a grid are seldom covered, and seldom missed.
    """
    _refuse_a_source_inside(views, grid)
    _refuse_what_is_never_seen(views, grid)
    places = np.concatenate([views.through, views.centre, views.columns], axis=1)
    scale = np.abs(places).max(axis=0) + 1e-300
    repeated = len(places) - len(np.unique(np.round(places / scale, 9), axis=0))
    if repeated:
        warnings.warn(
            f"{repeated} of {len(places)} views repeat another: their data count twice.",
            CoverageWarning,
            stacklevel=4,
        )
    chosen = views.part(np.unique(np.linspace(0, len(places) - 1, VIEWS).astype(np.intp)))
    column, row = chosen.seen_at(_cylinder(grid, views))
    # Half a pixel beyond the outermost ray is still its pixel.
    beside = ~((column >= -0.5) & (column <= views.shape[2] - 0.5))
    beyond = ~((row >= -0.5) & (row <= views.shape[1] - 0.5))
    cut = float((beside & ~beyond).sum() / max((~beyond).sum(), 1))
    if cut > SHARE:
        warnings.warn(
            f"the detector's columns miss {cut:.1%} of the grid, views and voxels taken together: where the "
            "object reaches there, the data are truncated.",
            CoverageWarning,
            stacklevel=4,
        )
    unseen = float((beside | beyond).all(axis=0).mean())
    if unseen > SHARE and views.shape[1] > 1:
        warnings.warn(
            f"{unseen:.1%} of the grid are seen in no view: nothing is known there but what the prior says.",
            CoverageWarning,
            stacklevel=4,
        )


def _refuse_a_source_inside(views: Views, grid: Grid) -> None:
    if views.parallel:
        return
    index = grid.world_to_index(views.through)
    if views.lifted:
        return _refuse_a_lifted_source_inside(views, grid)
    inside = ((index > -0.5) & (index < np.array(grid.shape) - 0.5)).all(axis=1)
    if inside.any():
        view = int(np.argmax(inside))
        raise value_error(
            "grid",
            "lie outside the path of the source",
            f"a source at index {np.round(index[view], 1).tolist()} of {grid.shape} in view {view}",
            "Check source_to_axis, the frame of the geometry and the place of the grid.",
        )


def _refuse_a_lifted_source_inside(views: Views, grid: Grid) -> None:
    heights = views.up[:, None] * views.rows[0]
    for row in range(len(views.up)):
        index = grid.world_to_index(views.through + heights[row])
        if ((index > -0.5) & (index < np.array(grid.shape) - 0.5)).all(axis=1).any():
            expected = "lie outside the path of the source"
            raise value_error("grid", expected, f"a source inside it at row {row}", "Check source_to_axis.")


def _refuse_what_is_never_seen(views: Views, grid: Grid) -> None:
    corners = np.array(list(itertools.product(*[(-1.0, float(n)) for n in grid.shape])))
    column, row = views.seen_at(grid.index_to_world(corners))
    _, rows, columns = views.shape
    for found, count, name in ((column, columns, "columns"), (row, rows, "rows")):
        # A corner that is not in front of the source leaves the question open.
        open_ended = np.isnan(found).any(axis=1)
        low, high = np.nan_to_num(found, nan=0.0).min(axis=1), np.nan_to_num(found, nan=0.0).max(axis=1)
        if not (open_ended | ((low <= count - 1) & (high >= 0))).any():
            raise value_error(
                "grid",
                f"be seen by the detector's {count} {name}",
                f"{grid!r}, seen at {name} {low.min():.1f} to {high.max():.1f}",
                "Check the frame of the geometry, its pitches, axis_column and middle_row.",
            )


def _cylinder(grid: Grid, views: Views) -> Float:
    """Return points in the grid's elliptic cylinder about the axis nearest to the detector's rows."""
    towards = np.abs(np.linalg.solve(grid.affine[:3, :3], views.rows.mean(axis=0)) * grid.spacing)
    axis = int(np.argmax(towards))
    places = [np.linspace(0, n - 1, min(n, POINTS)) for n in grid.shape]
    index = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)
    extent = np.maximum(np.array(grid.shape) / 2, 0.5)
    aside = np.delete((index - (np.array(grid.shape) - 1) / 2) / extent, axis, axis=1)
    return grid.index_to_world(index[(aside**2).sum(axis=1) <= 1])
