"""Rays through a padded volume in whole numbers, compiled by numba.

    position = at + per_step i    in units of 2^-47 voxels, on the two axes that a ray does not walk along,

counted from the zero voxel before the first. Whole numbers add without rounding: wherever a walk begins,
its weights are the same to the last bit, so that parts of a volume add up to the whole and the adjoint
matches. The rounding of `per_step` shifts a ray by n 2^-48 voxels after n steps, 2e-12 at n = 512.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.compiled import njit
from operators.ct.rays import VolumeRays

__all__ = ["BINARY_DIGITS", "LONGEST", "Array", "ray", "scan_of"]

Array = NDArray[Any]

#: Digits of a position after the binary point, and the longest axis whose positions fit in 63 bits.
BINARY_DIGITS = 47
LONGEST = 2**15 - 4
UNIT = float(2**BINARY_DIGITS)
#: How far beyond the exact bounds, in voxels, the first estimate of a range of steps looks.
MARGIN = 1e-6

Scan = tuple[Array, Array, Array, Array, int, Array, Array]


def scan_of(rays: VolumeRays) -> Scan:
    """Return what the kernels are told of a scan: a few numbers per view, column and row."""
    views = rays.views
    places = np.stack([views.through, views.centre, views.columns, views.rows, views.outwards], axis=1)
    kind = 0 if views.parallel else 2 if views.lifted else 1
    return places, views.across, views.sag, views.up, kind, np.array(rays.metric), np.array(rays.size)


@njit(inline="always")
def _line(scan: Scan, view: int, row: int, column: int) -> tuple[Any, ...]:
    """Return a point (3) of a ray and its direction (3)."""
    places, across, sag, up, kind, _, _ = scan
    place = places[view]
    x, s, h = across[column], sag[column], up[row]
    # In the order of Views.rays: of a diagonal ray the rounding decides which axis it walks along.
    p0 = place[1, 0] + (x * place[2, 0] + s * place[4, 0]) + h * place[3, 0]
    p1 = place[1, 1] + (x * place[2, 1] + s * place[4, 1]) + h * place[3, 1]
    p2 = place[1, 2] + (x * place[2, 2] + s * place[4, 2]) + h * place[3, 2]
    if kind == 0:
        return p0, p1, p2, place[0, 0], place[0, 1], place[0, 2]
    s0, s1, s2 = place[0, 0], place[0, 1], place[0, 2]
    if kind == 2:
        s0, s1, s2 = s0 + h * place[3, 0], s1 + h * place[3, 1], s2 + h * place[3, 2]
    return s0, s1, s2, p0 - s0, p1 - s1, p2 - s2


@njit(inline="always")
def ray(scan: Scan, view: int, row: int, column: int, part: tuple[int, int, int]) -> tuple[Any, ...]:
    """Return axis, length, at and per_step on the lower and on the upper other axis, first and last step.

    `axis` is walked along, `length` in mm per step. `part` is an axis, the plane before those that are to be
    touched, and the plane after them.
    """
    metric, size = scan[5], scan[6]
    p0, p1, p2, d0, d1, d2 = _line(scan, view, row, column)
    square = d0 * (metric[0, 0] * d0 + 2 * (metric[0, 1] * d1 + metric[0, 2] * d2))
    square += d1 * (metric[1, 1] * d1 + 2 * metric[1, 2] * d2) + metric[2, 2] * d2 * d2
    # Of equals the lowest axis, in every engine.
    if abs(d0) >= abs(d1) and abs(d0) >= abs(d2):
        axis, low, high = 0, 1, 2
        inverse = 1 / d0
        slope_low, slope_high = d1 * inverse, d2 * inverse
        base_low, base_high = p1 - slope_low * p0, p2 - slope_high * p0
    elif abs(d1) >= abs(d2):
        axis, low, high = 1, 0, 2
        inverse = 1 / d1
        slope_low, slope_high = d0 * inverse, d2 * inverse
        base_low, base_high = p0 - slope_low * p1, p2 - slope_high * p1
    else:
        axis, low, high = 2, 0, 1
        inverse = 1 / d2
        slope_low, slope_high = d0 * inverse, d1 * inverse
        base_low, base_high = p0 - slope_low * p2, p1 - slope_high * p2
    # The first voxel is number 1 now, and so is the first step.
    base_low, base_high = base_low + 1 - slope_low, base_high + 1 - slope_high
    # A plane is touched from positions less than one voxel away.
    cut, begin, end = part
    a, b = (begin, end) if cut == low else (0, size[low] + 1)
    c, d = (begin, end) if cut == high else (0, size[high] + 1)
    first, last = (begin + 1.0, end - 1.0) if cut == axis else (1.0, float(size[axis]))
    first, last = _clipped(base_low, slope_low, a, b, first, last)
    first, last = _clipped(base_high, slope_high, c, d, first, last)
    if not first <= last:
        return axis, 0.0, 0, 0, 0, 0, 1, 0
    at_low, step_low = _fixed(base_low), _fixed(slope_low)
    at_high, step_high = _fixed(base_high), _fixed(slope_high)
    i, j = math.ceil(first), math.floor(last)
    while i <= j and not (_within(at_low + i * step_low, a, b) and _within(at_high + i * step_high, c, d)):
        i += 1
    while i <= j and not (_within(at_low + j * step_low, a, b) and _within(at_high + j * step_high, c, d)):
        j -= 1
    return axis, math.sqrt(square) * abs(inverse), at_low, step_low, at_high, step_high, i, j


@njit(cache=True)
def _clipped(
    base: float, slope: float, low: int, high: int, first: float, last: float
) -> tuple[float, float]:
    """Return where base + slope i can lie between low and high."""
    a, b = low - MARGIN - base, high + MARGIN - base
    if slope == 0.0:
        return (first, last) if a <= 0.0 <= b else (1.0, 0.0)
    inverse = 1 / slope
    a, b = a * inverse, b * inverse
    return max(first, min(a, b)), min(last, max(a, b))


@njit(cache=True)
def _fixed(value: float) -> int:
    return math.floor(value * UNIT + 0.5)


@njit(cache=True)
def _within(position: int, low: int, high: int) -> bool:
    whole = position >> BINARY_DIGITS
    return low <= whole and whole < high
