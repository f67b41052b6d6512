"""The normals of `philox` in three loops over a few numbers at a time: the same bits, seven times faster.

What `philox` does to whole tensors, one operation after another, is done here to one number after another,
each operation in the same order and rounded by itself: numba fuses none unless told to. Names and equations
are those of `philox`. Importing this module needs numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.compiled import njit
from workbench.random import philox

__all__ = ["fill_normals"]

#: Blocks at a time: their words and normals stay in the nearest cache.
TILE = 512

# Unsigned throughout: numba would make a float of a signed and an unsigned number.
M0, M1, W0, W1, LOW = (np.uint64(value) for value in (philox.M0, philox.M1, philox.W0, philox.W1, philox.LOW))
ONE, TWELVE, HALF, SIGN = np.uint64(1), np.uint64(12), np.uint64(32), np.uint64(1 << 63)
MANTISSA, EXPONENT_OF_ONE = np.uint64(philox.MANTISSA), np.uint64(philox.ONE)
ROOT_HALF, LINEAR_ROOT = np.int64(philox.ROOT_HALF), np.int64(philox.LINEAR_ROOT)
ONE_BIT, FRACTION = np.int64(1), np.int64(52)
LN2, HALF_PI, SHIFT = philox.LN2, philox.PI / 2, 1.0 - 2.0**-53
LOG, SIN, COS = philox.LOG, philox.SIN, philox.COS


# The loops have no branch, not even for a division by zero, and become vector instructions; together in one
# loop they would not.
@njit(cache=True, nogil=True, error_model="numpy")
def fill_normals(
    first: NDArray[np.int64], draw: NDArray[np.int64], step: int, k0: int, k1: int, pairs: NDArray[Any]
) -> None:
    """Write the normals of the blocks from `first` on into the rows of `pairs` (rows, blocks, 2)."""
    one, two = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    for row in range(pairs.shape[0]):
        for start in range(0, pairs.shape[1], TILE):
            stop = min(start + TILE, pairs.shape[1])
            a, b = one[: stop - start], two[: stop - start]
            number = np.uint64(first[row, 0]) + np.uint64(start)
            _words(number, np.uint64(draw[row, 0]), np.uint64(step), np.uint64(k0), np.uint64(k1), a, b)
            _normal_pairs(a, b)
            _interleave(a.view(np.float64), b.view(np.float64), pairs[row, start:stop])


@njit(error_model="numpy")
def _words(
    start: np.uint64,
    draw: np.uint64,
    step: np.uint64,
    k0: np.uint64,
    k1: np.uint64,
    first: NDArray[np.uint64],
    second: NDArray[np.uint64],
) -> None:
    for i in range(len(first)):
        block = start + np.uint64(i)
        c0, c1, c2, c3 = block & LOW, block >> HALF, step, draw
        a, b = k0, k1
        for _ in range(10):
            p0, p1 = c0 * M0, c2 * M1
            c0, c1 = (p1 >> HALF) ^ c1 ^ a, p1 & LOW
            c2, c3 = (p0 >> HALF) ^ c3 ^ b, p0 & LOW
            a, b = (a + W0) & LOW, (b + W1) & LOW
        first[i] = c0 << HALF | c1
        second[i] = c2 << HALF | c3


@njit(error_model="numpy")
def _normal_pairs(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> None:
    """Put the bits of two normals in place of two words."""
    for i in range(len(first)):
        u = np.uint64((first[i] >> TWELVE) | EXPONENT_OF_ONE).view(np.float64) - SHIFT
        radius = _square_root(_minus_log(u))
        word = second[i]
        t = (np.uint64((word & MANTISSA) | EXPONENT_OF_ONE | ONE).view(np.float64) - 1.5) * HALF_PI
        square = t * t
        sine = _polynomial(square, SIN) * t + t
        cosine = _polynomial(square, COS) + 1.0
        first[i] = np.float64((cosine - sine) * radius).view(np.uint64) ^ (word & SIGN)
        second[i] = np.float64((cosine + sine) * radius).view(np.uint64) ^ ((word << ONE) & SIGN)


@njit(error_model="numpy")
def _interleave(x: NDArray[np.float64], y: NDArray[np.float64], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i, 0] = x[i]
        out[i, 1] = y[i]


@njit(error_model="numpy")
def _minus_log(x: Any) -> Any:
    bits = np.float64(x).view(np.int64)
    exponent = (bits - ROOT_HALF) >> FRACTION
    z = np.int64(bits - (exponent << FRACTION)).view(np.float64)
    s = (1.0 - z) / (z + 1.0)
    return (_polynomial(s * s, LOG) + 2.0) * s - np.float64(exponent) * LN2


@njit(error_model="numpy")
def _square_root(x: Any) -> Any:
    root = np.int64((np.float64(x).view(np.int64) >> ONE_BIT) + LINEAR_ROOT).view(np.float64)
    for _ in range(4):
        root = (root + x / root) * 0.5
    return root


@njit(error_model="numpy")
def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    value = x * coefficients[-1]
    for i in range(len(coefficients) - 2, -1, -1):
        value = (value + coefficients[i]) * x
    return value
