"""Walks along a ray through a flat, padded volume, bilinear on each plane; their transposes.

`base` is the index of the first plane, `walked` its step; `a` and `b` are whole-number positions on the two
other axes (see numba_rays), which step by `da` and `db` and whose neighbours are `low` and `high` apart.
Indices are unsigned: numba would look for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.compiled import njit
from operators.ct.lanes import add_product, load, store, zeros
from operators.ct.numba_rays import BINARY_DIGITS, Array

__all__ = ["spread_along", "spread_wide", "sum_along", "sum_wide", "turned"]

#: A sum may be taken in parts, which vector instructions need; the parts depend on the processor alone.
FAST = {"reassoc", "contract"}


@njit(cache=True)
def turned(strides: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    """Return the strides of the walked axis and of the two others."""
    if axis == 0:
        return strides[0], strides[1], strides[2]
    if axis == 1:
        return strides[1], strides[0], strides[2]
    return strides[2], strides[0], strides[1]


@njit(cache=True)
def _fraction(position: int, cast: Any) -> Any:
    """Return what stands after the binary point, as parts of 31 and 16 digits: each fits a 32-bit number."""
    share = cast(np.int32((position >> (BINARY_DIGITS - 31)) & 0x7FFFFFFF)) * cast(2.0**-31)
    # Known when compiled: single precision has no place for more than the first part.
    if cast(2**24 + 1) != cast(2**24):
        share += cast(np.int32(position & (2 ** (BINARY_DIGITS - 31) - 1))) * cast(2.0**-BINARY_DIGITS)
    return share


@njit(cache=True, fastmath=FAST)
def sum_along(
    volume: Array,
    steps: int,
    base: int,
    walked: int,
    a: int,
    da: int,
    low: int,
    b: int,
    db: int,
    high: int,
) -> Any:
    """Return the sum of the values at `steps` positions."""
    cast = volume.dtype.type
    up, right = np.uint64(low), np.uint64(high)
    total = cast(0)
    for _ in range(steps):
        f, g = _fraction(a, cast), _fraction(b, cast)
        at = np.uint64(base + (a >> BINARY_DIGITS) * low + (b >> BINARY_DIGITS) * high)
        first = volume[at] + g * (volume[at + right] - volume[at])
        second = volume[at + up] + g * (volume[at + up + right] - volume[at + up])
        total += first + f * (second - first)
        a, b, base = a + da, b + db, base + walked
    return total


@njit(cache=True)
def spread_along(
    volume: Array,
    steps: int,
    base: int,
    walked: int,
    a: int,
    da: int,
    low: int,
    b: int,
    db: int,
    high: int,
    value: Any,
) -> None:
    """Add `value` to `steps` positions."""
    cast = volume.dtype.type
    up, right = np.uint64(low), np.uint64(high)
    for _ in range(steps):
        f, g = _fraction(a, cast), _fraction(b, cast)
        at = np.uint64(base + (a >> BINARY_DIGITS) * low + (b >> BINARY_DIGITS) * high)
        second = f * value
        first = value - second
        above, below = g * second, g * first
        volume[at] += first - below
        volume[at + right] += below
        volume[at + up] += second - above
        volume[at + up + right] += above
        a, b, base = a + da, b + db, base + walked


@njit(cache=True)
def sum_wide(
    volume: Array,
    steps: int,
    base: int,
    walked: int,
    a: int,
    da: int,
    low: int,
    b: int,
    db: int,
    high: int,
    totals: Array,
    lanes: tuple[int, ...],
) -> None:
    """Write the sums of the values at `steps` positions, of all lanes at once, to `totals`."""
    cast = volume.dtype.type
    up, right = np.uint64(low), np.uint64(high)
    # Four sums: one would have to wait for itself.
    first = second = third = fourth = zeros(volume, lanes)
    for _ in range(steps):
        f, g = _fraction(a, cast), _fraction(b, cast)
        at = np.uint64(base + (a >> BINARY_DIGITS) * low + (b >> BINARY_DIGITS) * high)
        both, one = f * g, cast(1)
        weights = (one - f - g + both, g - both, f - both, both)
        first = add_product(first, weights[0], load(volume, at, lanes))
        second = add_product(second, weights[1], load(volume, at + right, lanes))
        third = add_product(third, weights[2], load(volume, at + up, lanes))
        fourth = add_product(fourth, weights[3], load(volume, at + up + right, lanes))
        a, b, base = a + da, b + db, base + walked
    one = volume.dtype.type(1)
    store(totals, 0, add_product(add_product(first, one, second), one, add_product(third, one, fourth)))


@njit(inline="always")
def _add(volume: Array, at: Any, weight: Any, added: Any, lanes: tuple[int, ...]) -> None:
    store(volume, at, add_product(load(volume, at, lanes), weight, added))


@njit(cache=True)
def spread_wide(
    volume: Array,
    steps: int,
    base: int,
    walked: int,
    a: int,
    da: int,
    low: int,
    b: int,
    db: int,
    high: int,
    values: Array,
    lanes: tuple[int, ...],
) -> None:
    """Add `values` to `steps` positions, each to a volume of its own."""
    cast = volume.dtype.type
    up, right = np.uint64(low), np.uint64(high)
    added = load(values, 0, lanes)
    for _ in range(steps):
        f, g = _fraction(a, cast), _fraction(b, cast)
        at = np.uint64(base + (a >> BINARY_DIGITS) * low + (b >> BINARY_DIGITS) * high)
        both, one = f * g, cast(1)
        weights = (one - f - g + both, g - both, f - both, both)
        _add(volume, at, weights[0], added, lanes)
        _add(volume, at + right, weights[1], added, lanes)
        _add(volume, at + up, weights[2], added, lanes)
        _add(volume, at + up + right, weights[3], added, lanes)
        a, b, base = a + da, b + db, base + walked
