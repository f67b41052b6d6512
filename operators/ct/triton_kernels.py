"""Kernels of the CUDA engine: a table of some views' rays, the walks along them, the gather over them.

A ray in the table: slope and position on the lower and on the upper axis that it does not walk along, at
the middle plane (n - 1) // 2 of the walked axis; mm per step; the walked axis. On each plane it takes

    max(1 - |position - voxel|, 0)

of a voxel on either axis. Forward and adjoint read the same table and share this arithmetic; they are
compiled without fused multiply-adds other than those written here, so that their weights agree to the bit.
"""

# Triton reads these functions itself: their arguments are pointers, numbers, and compile-time constants.
# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]

from operators.ct.triton_seen import SEEN

__all__ = ["ENTRIES", "back_project", "project", "trace"]

#: Numbers per ray in the table.
ENTRIES = 6
#: Numbers per view, as the compiler wants to be told.
PER_VIEW = tl.constexpr(SEEN)


@triton.jit
def _of_axis(axis, a, b, c):
    return tl.where(axis == 0, a, tl.where(axis == 1, b, c))


@triton.jit
def _share(position, voxel):
    return tl.maximum(1.0 - tl.abs(position - voxel), 0.0)


@triton.jit
def trace(
    table, places, metric, across, sag, up, rows, columns, total, n0, n1, n2,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the table (ENTRIES, total) of all rays of some views, computed in double precision.

    KIND: 0 parallel, 1 diverging, 2 lifted fans, as in operators.ct.views.
    """
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = ray < total
    view, pixel = ray // (rows * columns), ray % (rows * columns)
    place = places + view * 15
    x = tl.load(across + pixel % columns, mask=live, other=0.0)
    s = tl.load(sag + pixel % columns, mask=live, other=0.0)
    h = tl.load(up + pixel // columns, mask=live, other=0.0)
    p0, d0 = _coordinate(place, x, s, h, live, KIND)
    p1, d1 = _coordinate(place + 1, x, s, h, live, KIND)
    p2, d2 = _coordinate(place + 2, x, s, h, live, KIND)
    m00, m01, m02 = tl.load(metric), tl.load(metric + 1), tl.load(metric + 2)
    m11, m12, m22 = tl.load(metric + 4), tl.load(metric + 5), tl.load(metric + 8)
    square = d0 * (m00 * d0 + 2 * (m01 * d1 + m02 * d2)) + d1 * (m11 * d1 + 2 * m12 * d2) + m22 * d2 * d2
    # Of equals the lowest axis, in every engine.
    on_0 = (tl.abs(d0) >= tl.abs(d1)) & (tl.abs(d0) >= tl.abs(d2))
    axis = tl.where(on_0, 0, tl.where(tl.abs(d1) >= tl.abs(d2), 1, 2))
    walked, at = _of_axis(axis, d0, d1, d2), _of_axis(axis, p0, p1, p2)
    walked = tl.where(live, walked, 1.0)
    apart = _of_axis(axis, (n0 - 1) // 2, (n1 - 1) // 2, (n2 - 1) // 2) - at
    low, high = tl.where(axis == 0, d1, d0) / walked, tl.where(axis == 2, d1, d2) / walked
    tl.store(table + ray, low, mask=live)
    tl.store(table + total + ray, tl.where(axis == 0, p1, p0) + low * apart, mask=live)
    tl.store(table + 2 * total + ray, high, mask=live)
    tl.store(table + 3 * total + ray, tl.where(axis == 2, p1, p2) + high * apart, mask=live)
    tl.store(table + 4 * total + ray, tl.sqrt(square) / tl.abs(walked), mask=live)
    tl.store(table + 5 * total + ray, axis, mask=live)


@triton.jit
def _coordinate(place, x, s, h, live, KIND: tl.constexpr):
    """Return one coordinate of a point of each ray and of its direction, in the order of Views.rays."""
    through = tl.load(place, mask=live, other=0.0)
    along = x * tl.load(place + 6, mask=live, other=0.0) + s * tl.load(place + 12, mask=live, other=0.0)
    lift = h * tl.load(place + 9, mask=live, other=0.0)
    pixel = tl.load(place + 3, mask=live, other=0.0) + along + lift
    if KIND == 0:
        return pixel, through
    if KIND == 2:
        through = through + lift
    return through, pixel - through


@triton.jit
def _steps(begin, end, position, slope, size):
    """Return which steps from begin to end can touch voxels on an axis of some size, with one to spare."""
    steep = tl.abs(slope) > 1e-6
    inverse = 1.0 / tl.where(steep, slope, 1.0)
    # Of a ray almost along the edge, rounding decides where it leaves: by far less than this.
    a, b = (-1.001 - position) * inverse, (size + 0.001 - position) * inverse
    first, last = tl.minimum(a, b) - 1.0, tl.maximum(a, b) + 1.0
    return tl.where(steep, tl.maximum(begin, first), begin), tl.where(steep, tl.minimum(end, last), end)


@triton.jit
def project(
    volume, table, out, rows, columns, total, n0, n1, n2, count, volume_stride, out_stride, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BATCH: tl.constexpr, LARGE: tl.constexpr,
):  # fmt: skip
    """Write the line integrals of `count` volumes along a tile of ROWS x COLUMNS rays of one view."""
    lane = tl.arange(0, ROWS * COLUMNS)
    row = tl.program_id(0) // tiles * ROWS + lane // COLUMNS
    column = tl.program_id(0) % tiles * COLUMNS + lane % COLUMNS
    live = (row < rows) & (column < columns)
    ray = (tl.program_id(1) * rows + row) * columns + column
    low = tl.load(table + ray, mask=live, other=0.0)
    at_low = tl.load(table + total + ray, mask=live, other=0.0)
    high = tl.load(table + 2 * total + ray, mask=live, other=0.0)
    at_high = tl.load(table + 3 * total + ray, mask=live, other=0.0)
    length = tl.load(table + 4 * total + ray, mask=live, other=0.0)
    axis = tl.load(table + 5 * total + ray, mask=live, other=0.0)
    size, n_low, n_high = _of_axis(axis, n0, n1, n2), tl.where(axis == 0, n1, n0), tl.where(axis == 2, n1, n2)
    one = tl.full([1], 1, tl.int64 if LARGE else tl.int32)
    walk = _of_axis(axis, n1 * n2 * one, n2 * one, one)
    stride_low, stride_high = tl.where(axis == 0, n2 * one, n1 * n2 * one), tl.where(axis == 2, n2 * one, one)
    middle = (size - 1) // 2
    begin, end = 0.0 * low - middle, 0.0 * low + (size - 1 - middle)
    begin, end = _steps(begin, end, at_low, low, n_low)
    begin, end = _steps(begin, end, at_high, high, n_high)
    live = live & (begin <= end)
    first = tl.min(tl.floor(tl.where(live, begin, 1e6)), axis=0).to(tl.int32)
    last = tl.max(tl.where(live, end, -1e6), axis=0).to(tl.int32)
    batch = tl.arange(0, BATCH)
    wanted = batch < count
    start = volume + batch.to(tl.int64) * volume_stride
    sums = tl.zeros([ROWS * COLUMNS, BATCH], dtype=volume.dtype.element_ty)
    for step in range(first, last + 1):
        plane = step + middle
        a = tl.fma(low, tl.cast(step, low.dtype), at_low)
        b = tl.fma(high, tl.cast(step, low.dtype), at_high)
        a0, b0 = tl.floor(a), tl.floor(b)
        i, j = a0.to(tl.int32), b0.to(tl.int32)
        at = plane * walk + i * stride_low + j * stride_high
        below, above = live & _in(plane, size) & _in(i, n_low), live & _in(plane, size) & _in(i + 1, n_low)
        left, right = _in(j, n_high), _in(j + 1, n_high)
        # _share, of a voxel known to be less than one away.
        near_left, near_right = (1.0 - (b - b0))[:, None], (1.0 - ((b0 + 1.0) - b))[:, None]
        near_below, near_above = (1.0 - (a - a0))[:, None], (1.0 - ((a0 + 1.0) - a))[:, None]
        lower = near_left * _voxels(start, at, below & left, wanted)
        lower += near_right * _voxels(start, at + stride_high, below & right, wanted)
        at += stride_low
        upper = near_left * _voxels(start, at, above & left, wanted)
        upper += near_right * _voxels(start, at + stride_high, above & right, wanted)
        sums += near_below * lower + near_above * upper
    live = (row < rows) & (column < columns)
    place = out + batch.to(tl.int64)[None, :] * out_stride + ray[:, None]
    tl.store(place, sums * length[:, None], mask=live[:, None] & wanted[None, :])


@triton.jit
def _in(index, size):
    """Tell whether 0 <= index < size, a negative index being a large unsigned one."""
    return index.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit
def _voxels(start, at, inside, wanted):
    return tl.load(start[None, :] + at[:, None], mask=inside[:, None] & wanted[None, :], other=0.0)


@triton.jit
def _arcsine(x):
    """Return asin(x) to 2e-8 (Abramowitz and Stegun, 4.4.46)."""
    y = tl.minimum(tl.abs(x), 1.0)
    p = 0.0066700901 - 0.0012624911 * y
    p = 0.0308918810 + y * (-0.0170881256 + y * p)
    p = 1.5707963050 + y * (-0.2145988016 + y * (0.0889789874 + y * (-0.0501743046 + y * p)))
    angle = 1.5707963268 - tl.sqrt(1.0 - y) * p
    return tl.where(x < 0, -angle, angle)


@triton.jit
def _seen(seen, z, y, x, KIND: tl.constexpr, CURVED: tl.constexpr):
    """Return the detector column and row that see a voxel, and how far beside them its rays can end.

    The numbers of a view and their equations are those of operators.ct.triton_seen.
    """
    g0 = tl.load(seen) * z + tl.load(seen + 1) * y + tl.load(seen + 2) * x + tl.load(seen + 3)
    g1 = tl.load(seen + 4) * z + tl.load(seen + 5) * y + tl.load(seen + 6) * x + tl.load(seen + 7)
    g2 = tl.load(seen + 8) * z + tl.load(seen + 9) * y + tl.load(seen + 10) * x + tl.load(seen + 11)
    e0, e1, e2 = tl.load(seen + 12), tl.load(seen + 13), tl.load(seen + 14)
    column, row, beside, beyond = g1, g2, e1 + 0.0 * g1, e2 + 0.0 * g2
    if CURVED:
        c0, c1, arc, widest = tl.load(seen + 17), tl.load(seen + 18), tl.load(seen + 19), tl.load(seen + 20)
        reach, turn, slant = tl.load(seen + 21), tl.load(seen + 22), tl.load(seen + 23)
        square, along = g0 * g0 + g1 * g1, g0 * c0 + g1 * c1
        root = tl.sqrt(tl.maximum(along * along - square * (c0 * c0 + c1 * c1 - 1.0), 0.0))
        share, away = (along + root) / square, tl.sqrt(square)
        near = tl.maximum(away - e1, 1e-3 * e1)
        column, beside = arc * _arcsine(share * g1 - c1), widest * e1 / near
        shift = reach * turn * e1 / (near * away)
        if KIND == 1:
            row, beyond = share * g2, reach * e2 / near + tl.abs(g2) * shift
        else:
            row, beyond = g2 - share * slant, e2 + tl.abs(slant) * shift
    elif KIND > 0:
        near = tl.maximum(tl.abs(g0) - e0, 1e-3 * e0)
        column = g1 / g0
        beside = (e1 + tl.abs(column) * e0) / near
        if KIND == 1:
            row = g2 / g0
            beyond = (e2 + tl.abs(row) * e0) / near
    return column + tl.load(seen + 15), row + tl.load(seen + 16), beside, beyond


@triton.jit
def back_project(
    out, data, table, seen, views, rows, columns, total, n0, n1, n2, count, out_stride, data_stride,
    KIND: tl.constexpr, CURVED: tl.constexpr, DEPTH: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Add to a block of voxels what all rays of some views bring, of data times the lengths of steps."""
    lane = tl.arange(0, DEPTH * HEIGHT * WIDTH)
    x = tl.program_id(0) * WIDTH + lane % WIDTH
    y = tl.program_id(1) * HEIGHT + lane // WIDTH % HEIGHT
    z = tl.program_id(2) * DEPTH + lane // (WIDTH * HEIGHT)
    live = (z < n0) & (y < n1) & (x < n2)
    batch = tl.arange(0, BATCH)
    wanted = batch < count
    start = data + batch.to(tl.int64) * data_stride
    sums = tl.zeros([DEPTH * HEIGHT * WIDTH, BATCH], dtype=out.dtype.element_ty)
    kind = out.dtype.element_ty
    z_at, y_at, x_at = z.to(kind), y.to(kind), x.to(kind)
    z_step, y_step, x_step = z_at - (n0 - 1) // 2, y_at - (n1 - 1) // 2, x_at - (n2 - 1) // 2
    for view in range(views):
        column, row, beside, beyond = _seen(seen + view * PER_VIEW, z_at, y_at, x_at, KIND, CURVED)
        # Clamped first: far outside, a column would not fit an integer.
        first = tl.ceil(tl.minimum(tl.maximum(column - beside, 0.0), columns + 0.0)).to(tl.int32)
        last = tl.floor(tl.minimum(tl.maximum(column + beside, -1.0), columns - 1.0)).to(tl.int32)
        lowest = tl.ceil(tl.minimum(tl.maximum(row - beyond, 0.0), rows + 0.0)).to(tl.int32)
        highest = tl.floor(tl.minimum(tl.maximum(row + beyond, -1.0), rows - 1.0)).to(tl.int32)
        some = live & (first <= last) & (lowest <= highest)
        across = tl.max(tl.where(some, last - first + 1, 0), axis=0)
        upward = tl.max(tl.where(some, highest - lowest + 1, 0), axis=0)
        for j in range(upward):
            for i in range(across):
                on = some & (lowest + j <= highest) & (first + i <= last)
                ray = (view * rows + lowest + j) * columns + first + i
                low = tl.load(table + ray, mask=on, other=0.0)
                at_low = tl.load(table + total + ray, mask=on, other=0.0)
                high = tl.load(table + 2 * total + ray, mask=on, other=0.0)
                at_high = tl.load(table + 3 * total + ray, mask=on, other=0.0)
                axis = tl.load(table + 5 * total + ray, mask=on, other=0.0)
                step = _of_axis(axis, z_step, y_step, x_step)
                weight = _share(tl.fma(low, step, at_low), tl.where(axis == 0, y_at, z_at))
                weight *= _share(tl.fma(high, step, at_high), tl.where(axis == 2, y_at, x_at))
                value = tl.load(start[None, :] + ray[:, None], mask=on[:, None] & wanted[None, :], other=0.0)
                sums += weight[:, None] * value
    place = out + batch.to(tl.int64)[None, :] * out_stride
    place += (z.to(tl.int64) * n1 * n2 + y * n2 + x)[:, None]
    inside = live[:, None] & wanted[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + sums, mask=inside)
