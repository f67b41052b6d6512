"""Poisson-disc sampling of two phase-encode axes: random, with no two samples close together.

Dart throwing on the lattice: the samples are visited in random order; one that is still free is taken and
closes a disc around itself, of radius

    r = scale (1 + slope rho),        rho the distance from k = 0, 1 at the middle of the edges.

When all are visited none can be added. The scale is found by bisection so that the number of samples is
the one asked for; the order stays the same, which makes the number a smooth function of the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from operators.checks import check_number
from operators.errors import value_error
from operators.mri.patterns import SamplingPattern, _sizes, _wanted, central, radius, stream

__all__ = ["poisson_disc"]

Array = NDArray[np.float64]

#: Relative miss of the number of samples at which the bisection ends.
CLOSE = 0.01
STEPS = 20


def poisson_disc(
    shape: Sequence[int],
    acceleration: float,
    *,
    seed: int,
    acs: Sequence[int] | int = 0,
    slope: float = 1.0,
    elliptical: bool = False,
) -> SamplingPattern:
    """Return a Poisson-disc pattern (kz, ky) of `acceleration`, to a few per cent.

    `slope` 0 is an even density, larger ones thin out the edges. `elliptical` leaves the corners out,
    which counts into the acceleration.
    """
    sizes, block = _sizes(shape, acs)
    if len(sizes) != 2:
        raise value_error("shape", "have two axes (kz, ky)", tuple(sizes))
    wanted = _wanted(sizes, block, acceleration)
    rho = radius(sizes)
    steepness = check_number(slope, "slope", non_negative=True)
    inside = rho <= 1 if elliptical else np.ones(sizes, dtype=bool)
    numbers = stream(seed)
    order = numbers.permutation(math.prod(sizes))
    dither = numbers.random(sizes)
    order = order[inside.ravel()[order]]
    spread = 1 + steepness * rho
    low, high = 0.0, float(max(sizes))
    best = thrown(order, sizes, 0.0 * spread, dither, block)
    if best.sum() < wanted * (1 - CLOSE):
        raise value_error(
            "acceleration", "be at least that of the ellipse", f"{acceleration:g}", "Use elliptical=False."
        )
    # Discs of radius r cover the plane at about 0.7 samples per r^2.
    scale = math.sqrt(0.7 * float((1 / spread[inside] ** 2).sum()) / wanted)
    for _ in range(STEPS):
        taken = thrown(order, sizes, scale * spread, dither, block)
        if abs(int(taken.sum()) - wanted) < abs(int(best.sum()) - wanted):
            best = taken
        if abs(int(best.sum()) - wanted) <= CLOSE * wanted:
            break
        low, high = (scale, high) if taken.sum() > wanted else (low, scale)
        scale = (low + high) / 2 if high < max(sizes) else 1.2 * scale
    return SamplingPattern(torch.from_numpy(best))


def thrown(
    order: NDArray[np.int64], sizes: tuple[int, ...], radii: Array, dither: Array, block: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return the samples taken when the lattice is visited in `order` with disc radii per sample."""
    rows, columns = sizes
    # Distances on a lattice are roots of integers, and so discs come in steps. Rounding r^2 up or down at
    # random makes the number of samples a smooth function of the scale all the same.
    level = np.floor(radii**2 + dither).astype(np.int64)
    reach = math.isqrt(int(level.max())) + 1
    offsets = np.arange(-reach, reach + 1) ** 2
    square = offsets[:, None] + offsets[None, :]
    discs: dict[int, tuple[int, NDArray[np.bool_]]] = {}
    # A margin as wide as the widest disc: no disc has to be cut at the edges.
    closed = np.zeros((rows + 2 * reach, columns + 2 * reach), dtype=bool)
    taken = central(sizes, block)
    closed[reach : reach + rows, reach : reach + columns] = taken
    levels = level.ravel().tolist()
    flags = taken.ravel()
    width = columns + 2 * reach
    flat = closed.reshape(-1)
    for place in order.tolist():
        row, column = divmod(place, columns)
        if flat[(row + reach) * width + column + reach]:
            continue
        flags[place] = True
        size = levels[place]
        if size not in discs:
            half = math.isqrt(max(size - 1, 0))
            cut = slice(reach - half, reach + half + 1)
            discs[size] = half, square[cut, cut] < max(size, 1)
        half, disc = discs[size]
        closed[
            row + reach - half : row + reach + half + 1, column + reach - half : column + reach + half + 1
        ] |= disc
    return taken
