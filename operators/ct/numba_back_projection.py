"""Back-projection compiled by numba: lines of voxels along x, all views of a line before the next.

Lines are shared out among threads of our own: as many as torch has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.compiled import njit
from operators.ct.seen_from import FLAT, PARALLEL, SeenFrom
from operators.threads import each

#: Lines that a thread takes at once.
LINES = 16

Array = NDArray[Any]


def back_project(seen: SeenFrom, data: Tensor) -> Tensor:
    """Return the back-projection (z, y, x) of `data` (views, rows, columns)."""
    source = np.ascontiguousarray(data.detach().numpy())
    out = np.zeros(seen.shape, dtype=source.dtype)
    lines = seen.shape[0] * seen.shape[1]
    by_line = seen.row_by_line

    def part(begin: int) -> None:
        end = min(begin + LINES, lines)
        if by_line:
            _by_line(source, seen.forms, seen.scales, seen.kind, out, begin, end)
        else:
            _by_voxel(source, seen.forms, seen.scales, seen.kind, seen.lifted, out, begin, end)

    each(part, range(0, lines, LINES))
    return torch.from_numpy(out)


@njit(nogil=True, cache=True)
def _row(position: float, rows: int) -> tuple[int, int, float]:
    """Return the rows to either side and the share of the upper, (-1, -1, 0) off the detector."""
    if not -0.5 <= position <= rows - 0.5:
        return -1, -1, 0.0
    inside = min(max(position, 0.0), rows - 1.0)
    low = min(int(inside), max(rows - 2, 0))
    return low, min(low + 1, rows - 1), inside - low


@njit(nogil=True, cache=True)
def _by_line(data: Array, forms: Array, scales: Array, kind: int, out: Array, begin: int, end: int) -> None:
    """Add to the lines `begin` to `end`, each of which a view sees at one row."""
    views, rows, columns = data.shape
    cast = data.dtype.type
    blended = np.empty(columns, dtype=data.dtype)
    half, last, most = cast(0.5), cast(columns - 1), cast(columns - 0.5)
    for line in range(begin, end):
        z, y = line // out.shape[1], line % out.shape[1]
        target = out[z, y]
        for view in range(views):
            form = forms[view]
            row_form = form[1] if kind == PARALLEL else form[2]
            low, up, share = _row(row_form[0] * z + row_form[1] * y + row_form[3], rows)
            if low < 0:
                continue
            values = data[view, low]
            if share > 0:
                lower, upper = cast(1 - share), cast(share)
                for c in range(columns):
                    blended[c] = lower * data[view, low, c] + upper * data[view, up, c]
                values = blended
            first = cast(form[0, 0] * z + form[0, 1] * y + form[0, 3])
            first_step = cast(form[0, 2])
            second = cast(form[1, 0] * z + form[1, 1] * y + form[1, 3])
            second_step = cast(form[1, 2])
            c0, c1 = cast(scales[view, 0]), cast(scales[view, 1])
            for x in range(target.shape[0]):
                aside, weight = first + first_step * cast(x), cast(1)
                column = aside
                if kind != PARALLEL:
                    ahead = second + second_step * cast(x)
                    if ahead <= 0:
                        continue
                    if kind == FLAT:
                        weight = cast(1) / ahead
                        column = c0 + c1 * aside * weight
                        weight *= weight
                    else:
                        column = c0 + c1 * cast(math.atan(aside / ahead))
                        weight = cast(1) / (aside * aside + ahead * ahead)
                if column < -half or column > most:
                    continue
                column = min(max(column, cast(0)), last)
                left = int(column)
                right = min(left + 1, columns - 1)
                part = column - cast(left)
                target[x] += weight * (values[left] + part * (values[right] - values[left]))


@njit(nogil=True, cache=True)
def _by_voxel(
    data: Array, forms: Array, scales: Array, kind: int, lifted: bool, out: Array, begin: int, end: int
) -> None:
    """Add to the lines `begin` to `end` of voxels, each seen at a row of its own."""
    views, rows, columns = data.shape
    cast = data.dtype.type
    half, top, most = cast(0.5), cast(rows - 0.5), cast(columns - 0.5)
    last_column, last_row = cast(columns - 1), cast(rows - 1)
    for line in range(begin, end):
        z, y = line // out.shape[1], line % out.shape[1]
        target = out[z, y]
        for view in range(views):
            form, values = forms[view], data[view]
            start = form[:, 0] * z + form[:, 1] * y + form[:, 3]
            first, second, third = cast(start[0]), cast(start[1]), cast(start[2])
            one, two, three = cast(form[0, 2]), cast(form[1, 2]), cast(form[2, 2])
            c0, c1 = cast(scales[view, 0]), cast(scales[view, 1])
            r0, r1 = cast(scales[view, 2]), cast(scales[view, 3])
            for x in range(target.shape[0]):
                aside, ahead, height = first + one * cast(x), second + two * cast(x), third + three * cast(x)
                weight = cast(1)
                if kind == PARALLEL:
                    column, row = aside, ahead
                elif ahead <= 0:
                    continue
                elif kind == FLAT:
                    weight = cast(1) / ahead
                    column = c0 + c1 * aside * weight
                    row = height if lifted else r0 + r1 * height * weight
                    weight *= weight
                else:
                    weight = cast(1) / (aside * aside + ahead * ahead)
                    column = c0 + c1 * cast(math.atan(aside / ahead))
                    row = height if lifted else r0 + r1 * height * cast(math.sqrt(weight))
                if column < -half or column > most or row < -half or row > top:
                    continue
                column = min(max(column, cast(0)), last_column)
                row = min(max(row, cast(0)), last_row)
                left, low = int(column), int(row)
                right, up = min(left + 1, columns - 1), min(low + 1, rows - 1)
                part, share = column - cast(left), row - cast(low)
                lower = values[low, left] + part * (values[low, right] - values[low, left])
                upper = values[up, left] + part * (values[up, right] - values[up, left])
                target[x] += weight * (lower + share * (upper - lower))
