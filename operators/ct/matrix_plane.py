"""The projector of slices as a sparse matrix and its transpose, built once and kept.

Each row of the matrix holds the weights of a ray, each row of its transpose those of a pixel: both ways are
sums over rows, in one order, whatever the number of threads. An entry takes the size of a value and four
bytes, in both. Importing this module needs numba.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.compiled import njit
from operators.ct.lanes import add_product, load, store, zeros
from operators.ct.plane_kernels import DIGITS, MASK, UNIT, Walks
from operators.ct.plane_layout import Chosen, Group, Planes, groups, lanes_for, shares
from operators.ct.rays import PlaneRays, Slices
from operators.errors import value_error
from operators.threads import each

__all__ = ["adjoint", "check", "forward", "kept_bytes", "workspace_bytes"]

Array = NDArray[Any]
#: First entry of each row, with the end; columns; weights.
Rows = tuple[Array, Array, Array]

#: Rays, or pixels, that a thread sums before it takes the next ones.
SHARE = 2048

_KNOWN: WeakKeyDictionary[PlaneRays, dict[torch.dtype, tuple[Rows, Rows]]] = WeakKeyDictionary()


def kept_bytes(rays: PlaneRays, dtype: torch.dtype) -> int:
    """Return the bytes of both matrices, at most; known before they are built, and the same afterwards."""
    walks = Walks.of(rays)
    entries = 2 * int((walks.last - walks.first).sum())
    return 2 * entries * (4 + dtype.itemsize) + 8 * (rays.start.size + int(np.prod(rays.size)) + 2)


def check(rays: PlaneRays, dtype: torch.dtype, limit: int) -> None:
    """Raise if the matrices would be larger than `limit` bytes."""
    if dtype not in _KNOWN.get(rays, {}) and (size := kept_bytes(rays, dtype)) > limit:
        remedy = "Use engine='numba', which keeps none and is as fast, or raise matrix_bytes."
        raise value_error(
            "matrix_bytes", f"allow {size} bytes for the matrices in {dtype}", f"a limit of {limit}", remedy
        )


def forward(slices: Slices, stack: Tensor, out: Tensor) -> None:
    """Add line integrals (batch, rows, views, columns) of a stack (batch, slices, nu, nv) to `out`."""
    for group in _groups(slices, stack):
        matrix = _matrices(slices.rays, stack.dtype)[0]
        _multiply(matrix, Planes.of(stack), group.slices, Planes.of(out), group.rows)


def adjoint(slices: Slices, data: Tensor, out: Tensor) -> None:
    """Add the exact transpose, a stack (batch, slices, nu, nv) of (batch, rows, views, columns), to `out`."""
    for group in _groups(slices, data):
        matrix = _matrices(slices.rays, data.dtype)[1]
        _multiply(matrix, Planes.of(data), group.rows, Planes.of(out), group.slices)


def workspace_bytes(slices: Slices, batch: int, dtype: torch.dtype) -> int:
    """Return the most bytes that either way needs besides its input, its output and the matrices."""
    count, pixels = batch * int((slices.of_row >= 0).sum()), _pixels(slices.rays)
    return sum(pixels) * lanes_for(count, max(pixels), dtype.itemsize) * dtype.itemsize


def _pixels(rays: PlaneRays) -> tuple[int, int]:
    return rays.size[0] * rays.size[1], rays.shape[0] * rays.shape[1]


def _groups(slices: Slices, x: Tensor) -> Iterator[Group]:
    return groups(slices, len(x), max(_pixels(slices.rays)), x.dtype.itemsize)


def _matrices(rays: PlaneRays, dtype: torch.dtype) -> tuple[Rows, Rows]:
    kept = _KNOWN.setdefault(rays, {})
    if dtype not in kept:
        kept[dtype] = _built(Walks.of(rays), np.dtype(str(dtype).removeprefix("torch.")))
    return kept[dtype]


def _built(walks: Walks, kind: np.dtype[Any]) -> tuple[Rows, Rows]:
    views, columns = walks.at.shape
    counts = np.zeros(views * columns + 1, dtype=np.int64)
    parts = shares(views, 16)
    each(lambda part: _count(walks.size, walks.arrays, (part.start, part.stop), counts), parts)
    starts = np.cumsum(counts)
    pixels, weights = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=kind)

    def fill(part: range) -> None:
        _fill_rows(walks.size, walks.arrays, (part.start, part.stop), starts, pixels, weights)

    each(fill, parts)
    of_pixel = np.zeros(walks.size[0] * walks.size[1] + 1, dtype=np.int64)
    rays, turned = np.empty_like(pixels), np.empty_like(weights)
    _transpose(starts, pixels, weights, of_pixel, rays, turned)
    return (starts, pixels, weights), (of_pixel, rays, turned)


def _multiply(matrix: Rows, source: Planes, given: Chosen, target: Planes, wanted: Chosen) -> None:
    (lines, width), (rows, columns), lanes = source.size, target.size, given[2]
    values = np.zeros(lines * width * lanes, dtype=source.memory.dtype)
    sums = np.empty(rows * columns * lanes, dtype=source.memory.dtype)
    each(lambda part: source.fill(values, width, 0, given, part), shares(lines, 16))
    each(
        lambda part: _sum_rows(matrix, values, sums, (part.start, part.stop), (0,) * lanes),
        shares(rows * columns, SHARE),
    )
    each(lambda part: target.add(sums, columns, 0, wanted, part), shares(rows, 16))


@njit(nogil=True, cache=True)
def _count(size: tuple[int, int], rays: tuple[Array, ...], views: tuple[int, int], counts: Array) -> None:
    """Note after each ray's place how many pixels it sees."""
    along_u, at, per_step, _, first, last = rays
    columns = at.shape[1]
    for view in range(views[0], views[1]):
        for column in range(columns):
            width = size[1] if along_u[view, column] else size[0]
            found = 0
            for i in range(first[view, column], last[view, column]):
                low = (at[view, column] + per_step[view, column] * i) >> DIGITS
                found += (low > 0) + (low < width)
            counts[view * columns + column + 1] = found


@njit(nogil=True, cache=True)
def _fill_rows(
    size: tuple[int, int],
    rays: tuple[Array, ...],
    views: tuple[int, int],
    starts: Array,
    pixels: Array,
    weights: Array,
) -> None:
    along_u, at, per_step, length, first, last = rays
    columns, cast = at.shape[1], weights.dtype.type
    for view in range(views[0], views[1]):
        for column in range(columns):
            walk_u = along_u[view, column]
            width = size[1] if walk_u else size[0]
            walked, beside = (size[1], 1) if walk_u else (1, size[1])
            whole, unit = cast(length[view, column]), cast(length[view, column] / UNIT)
            place = starts[view * columns + column]
            for i in range(first[view, column], last[view, column]):
                position = at[view, column] + per_step[view, column] * i
                low = position >> DIGITS
                upper = cast(position & MASK) * unit
                if low > 0:
                    pixels[place], weights[place] = i * walked + (low - 1) * beside, whole - upper
                    place += 1
                if low < width:
                    pixels[place], weights[place] = i * walked + low * beside, upper
                    place += 1


@njit(nogil=True, cache=True)
def _transpose(
    starts: Array, pixels: Array, weights: Array, of_pixel: Array, rays: Array, turned: Array
) -> None:
    for entry in range(len(pixels)):
        of_pixel[pixels[entry] + 1] += 1
    for pixel in range(len(of_pixel) - 1):
        of_pixel[pixel + 1] += of_pixel[pixel]
    free = of_pixel[:-1].copy()
    for ray in range(len(starts) - 1):
        for entry in range(starts[ray], starts[ray + 1]):
            place = free[pixels[entry]]
            free[pixels[entry]] += 1
            rays[place], turned[place] = ray, weights[entry]


@njit(nogil=True, cache=True)
def _sum_rows(
    matrix: Rows, values: Array, sums: Array, rows: tuple[int, int], lanes: tuple[int, ...]
) -> None:
    starts, places, weights = matrix
    count = len(lanes)
    for row in range(rows[0], rows[1]):
        # Two sums: each product would wait for the one before.
        even, odd = zeros(sums, lanes), zeros(sums, lanes)
        begin, end = starts[row], starts[row + 1]
        for entry in range(begin, end - 1, 2):
            even = add_product(even, weights[entry], load(values, places[entry] * count, lanes))
            odd = add_product(odd, weights[entry + 1], load(values, places[entry + 1] * count, lanes))
        if (end - begin) % 2:
            even = add_product(even, weights[end - 1], load(values, places[end - 1] * count, lanes))
        store(sums, row * count, add_product(even, weights.dtype.type(1), odd))
