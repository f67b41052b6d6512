"""Joseph's projector of volumes compiled by numba, both ways race-free.

Where the detector's rows run along an axis of the grid, a column at a time (see numba_columns). Else, and
back from several volumes at once, rays are made as they are walked, one by one. The forward runs in parallel
over views, on a copy of the volume with a zero voxel around it, in which no step needs a test. The adjoint
runs in parallel over slabs of the volume: each adds the steps that touch it to a padded slab of its own, in
the order of the rays, so that the sums do not depend on the slabs nor on the number of threads. Both use the
same whole-number positions (see numba_rays). Several volumes are walked together, side by side in memory:
their weights are computed once.

Importing this module needs numba; `operators.ct.engines` asks for it by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from operators.compiled import njit
from operators.ct import numba_columns
from operators.ct.numba_rays import BINARY_DIGITS, LONGEST, Array, Scan, ray, scan_of
from operators.ct.numba_walks import spread_along, spread_wide, sum_along, sum_wide, turned
from operators.ct.rays import VolumeRays
from operators.ct.volume_columns import Columns
from operators.errors import value_error
from operators.threads import each

#: Detector columns whose rays are walked in turn: what they touch is still in the cache for the next row.
COLUMNS = 32
#: Planes of a slab; its two outermost, shared with its neighbours, are walked for them as well.
THICKEST = 16


#: Volumes from which on the adjoint is faster ray by ray, side by side: 0.4 of the time for 8.
MANY = 3
#: The columns of scans that are in use, or None where there are none.
_KNOWN: WeakKeyDictionary[VolumeRays, Columns | None] = WeakKeyDictionary()


def forward(rays: VolumeRays, volume: Tensor) -> Tensor:
    """Return line integrals (batch, views, rows, columns) of `volume` (batch, z, y, x)."""
    source, columns = volume.detach().numpy(), _columns(rays)
    out = np.empty((len(source), *rays.views.shape), dtype=source.dtype)
    if columns is not None:
        numba_columns.forward(columns, source, out)
        return torch.from_numpy(out)
    scan = _checked(rays)
    for some in _blocks(len(source)):
        _forward(source[some], out[some], scan, len(source))
    return torch.from_numpy(out)


def _forward(source: Array, out: Array, scan: Scan, batch: int) -> None:
    padded = np.zeros((*(n + 2 for n in source.shape[1:]), _width(batch)), dtype=source.dtype)
    padded[1:-1, 1:-1, 1:-1, : len(source)] = np.moveaxis(source, 0, -1)
    _, views, rows, _ = out.shape
    wanted = 8 * torch.get_num_threads()
    # Some parts per thread, so that one that is slow holds up nobody.
    shares = min(views, wanted)
    heights = min(rows, -(-wanted // shares))

    def project(part: int) -> None:
        of_views, of_rows = _share(views, shares, part // heights), _share(rows, heights, part % heights)
        _project(padded.reshape(-1), _strides(padded), _lanes(batch), out, scan, of_views, of_rows)

    each(project, range(shares * heights))


def adjoint(rays: VolumeRays, data: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (batch, z, y, x) of (batch, views, rows, columns)."""
    source, columns = np.ascontiguousarray(data.detach().numpy()), _columns(rays)
    out = np.empty((len(source), *rays.size), dtype=source.dtype)
    if columns is not None and len(source) < MANY:
        numba_columns.adjoint(columns, source, out)
        return torch.from_numpy(out)
    scan = _checked(rays)
    axis, thickness = _slabs(rays, torch.get_num_threads())
    reach = np.empty((*rays.views.shape[:2], 2), dtype=np.int32)
    shares = min(len(reach), 8 * torch.get_num_threads())
    each(lambda k: _reached(reach, scan, axis, _share(len(reach), shares, k)), range(shares))
    for some in _blocks(len(source)):
        _adjoint(source[some], out[some], scan, len(source), (axis, thickness), reach)
    return torch.from_numpy(out)


def _adjoint(source: Array, out: Array, scan: Scan, batch: int, slabs: tuple[int, int], reach: Array) -> None:
    axis, thickness = slabs
    size = out.shape[axis + 1]

    def back_project(begin: int) -> None:
        end = min(begin + thickness, size)
        shape = [n + 2 for n in out.shape[1:]]
        shape[axis] = end - begin + 2
        padded = np.zeros((*shape, _width(batch)), dtype=source.dtype)
        planes = (axis, begin, end + 1)
        _back_project(padded.reshape(-1), _strides(padded), _lanes(batch), source, scan, planes, reach)
        inner = np.moveaxis(padded[1:-1, 1:-1, 1:-1, : len(source)], -1, 0)
        np.moveaxis(out, axis + 1, 0)[begin:end] = np.moveaxis(inner, axis + 1, 0)

    each(back_project, range(0, size, thickness))


def workspace_bytes(rays: VolumeRays, batch: int, dtype: torch.dtype) -> int:
    """Return the most bytes that either way needs besides its input and its output."""
    padded, views, columns = np.array(rays.size) + 2, rays.views.shape, _columns(rays)
    axis, thickness = _slabs(rays, torch.get_num_threads())
    slabs = int(np.delete(padded, axis).prod()) * (thickness + 2) * torch.get_num_threads()
    voxel, told = _width(batch) * dtype.itemsize, views[0] * (15 + views[1]) * 8
    ways = int(padded.prod()) * voxel + told, slabs * voxel + told
    if columns is not None:
        by_column = numba_columns.workspace_bytes(columns, dtype)
        ways = by_column[0], by_column[1] if batch < MANY else ways[1]
    return max(ways)


def _columns(rays: VolumeRays) -> Columns | None:
    if rays not in _KNOWN:
        _KNOWN[rays] = Columns.of(rays)
    return _KNOWN[rays]


def _checked(rays: VolumeRays) -> Scan:
    if max(rays.size) > LONGEST:
        expected = f"have at most {LONGEST} voxels along an axis for the numba engine"
        raise value_error("grid", expected, rays.size, "Use engine='torch'.")
    return scan_of(rays)


def _blocks(batch: int) -> Iterator[slice]:
    """Yield the volumes that are walked together."""
    lanes = len(_lanes(batch))
    for first in range(0, batch, lanes):
        yield slice(first, min(first + lanes, batch))


def _lanes(batch: int) -> tuple[int, ...]:
    """Return a tuple whose length is the number of volumes that are walked together, some of them zero."""
    return (0,) * (4 if batch <= 4 else 8)


def _width(batch: int) -> int:
    """Return how many volumes lie side by side in memory; one alone is walked in another way."""
    return 1 if batch == 1 else len(_lanes(batch))


def _slabs(rays: VolumeRays, threads: int) -> tuple[int, int]:
    """Return the axis across which slabs lie, along the rows where it is long enough, and their thickness."""
    towards = np.abs(rays.views.rows).sum(axis=0)
    axis = int(np.argmax(towards))
    if rays.size[axis] < 4 * threads:
        axis = int(np.argmax(rays.size))
    return axis, min(THICKEST, max(2, -(-rays.size[axis] // (4 * threads))))


def _share(count: int, shares: int, k: int) -> tuple[int, int]:
    return count * k // shares, count * (k + 1) // shares


def _strides(padded: Array) -> tuple[int, int, int]:
    z, y, x = (stride // padded.itemsize for stride in padded.strides[:3])
    return z, y, x


@njit(nogil=True, cache=True)
def _reached(reach: Array, scan: Scan, across: int, views: tuple[int, int]) -> None:
    """Note the first and the last plane across an axis that the rays of each view and row touch."""
    whole = (across, 0, scan[6][across] + 1)
    for view in range(views[0], views[1]):
        for row in range(reach.shape[1]):
            lowest, highest = scan[6][across] + 1, 0
            for column in range(len(scan[1])):
                axis, _, at, per_step, at_high, per_step_high, first, last = ray(
                    scan, view, row, column, whole
                )
                if first > last:
                    continue
                if axis == across:
                    begin, end = first, last
                else:
                    # The other axes in order: the upper one is 2 unless that is walked along.
                    if across == 2 or (across == 1 and axis == 2):
                        at, per_step = at_high, per_step_high
                    begin = (at + first * per_step) >> BINARY_DIGITS
                    end = (at + last * per_step) >> BINARY_DIGITS
                    begin, end = min(begin, end), max(begin, end) + 1
                lowest, highest = min(lowest, begin), max(highest, end)
            reach[view, row, 0], reach[view, row, 1] = lowest, highest


@njit(nogil=True, cache=True)
def _project(
    volume: Array,
    strides: tuple[int, int, int],
    lanes: tuple[int, ...],
    out: Array,
    scan: Scan,
    views: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    whole = (0, 0, scan[6][0] + 1)
    cast = volume.dtype.type
    sums = np.zeros(len(lanes), dtype=volume.dtype)
    for view in range(views[0], views[1]):
        for begin in range(0, out.shape[3], COLUMNS):
            for row in range(rows[0], rows[1]):
                for column in range(begin, min(begin + COLUMNS, out.shape[3])):
                    axis, length, a, da, b, db, first, last = ray(scan, view, row, column, whole)
                    walked, low, high = turned(strides, axis)
                    size = cast(length)
                    a, b, base = a + first * da, b + first * db, first * walked
                    steps = last + 1 - first
                    if strides[2] == 1:
                        total = sum_along(volume, steps, base, walked, a, da, low, b, db, high)
                        out[0, view, row, column] = size * total
                        continue
                    sum_wide(volume, steps, base, walked, a, da, low, b, db, high, sums, lanes)
                    for k in range(out.shape[0]):
                        out[k, view, row, column] = size * sums[k]


@njit(nogil=True, cache=True)
def _back_project(
    slab: Array,
    strides: tuple[int, int, int],
    lanes: tuple[int, ...],
    data: Array,
    scan: Scan,
    part: tuple[int, int, int],
    reach: Array,
) -> None:
    """Add what the rays bring to the planes of `part` to a slab whose first plane is the one before."""
    across, lowest, highest = part
    cast = data.dtype.type
    values = np.zeros(len(lanes), dtype=data.dtype)
    offset = lowest * strides[across]
    for view in range(data.shape[1]):
        for begin in range(0, data.shape[3], COLUMNS):
            for row in range(data.shape[2]):
                if reach[view, row, 0] >= highest or reach[view, row, 1] <= lowest:
                    continue
                for column in range(begin, min(begin + COLUMNS, data.shape[3])):
                    axis, length, a, da, b, db, first, last = ray(scan, view, row, column, part)
                    walked, low, high = turned(strides, axis)
                    size = cast(length)
                    a, b, base = a + first * da, b + first * db, first * walked - offset
                    steps = last + 1 - first
                    if strides[2] == 1:
                        value = size * data[0, view, row, column]
                        spread_along(slab, steps, base, walked, a, da, low, b, db, high, value)
                        continue
                    for k in range(data.shape[0]):
                        values[k] = size * data[k, view, row, column]
                    spread_wide(slab, steps, base, walked, a, da, low, b, db, high, values, lanes)
