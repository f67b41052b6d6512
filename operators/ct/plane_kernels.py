"""Joseph's walk through slices, compiled: rays in whole numbers, forward, and transpose.

    position = at + per_step i    in units of 2^-47 pixels, counted from the zero pixel before the first.

Whole numbers add without rounding: wherever a walk begins, its weights are the same to the last bit, so that
the adjoint matches and no sum depends on how the work is divided. The rounding of `per_step` shifts a ray by
n 2^-48 pixels after n steps, 4e-12 at n = 1024. Images have a margin of zero pixels, in which the neighbour
of an edge pixel lies: no step needs a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.compiled import njit
from operators.ct.lanes import add_product, load, store, zeros
from operators.ct.rays import PlaneRays
from operators.errors import value_error

__all__ = ["DIGITS", "LONGEST", "Walks", "back_project", "project"]

Array = NDArray[Any]

#: Digits of a position after the binary point, and the longest axis whose positions fit in 63 bits.
DIGITS = 47
LONGEST = 2**14
UNIT = float(2**DIGITS)
MASK = 2**DIGITS - 1
#: Steps that rays are walked before the next ones catch up: the pixels that they share stay in the cache.
BAND = 32


@dataclass(frozen=True, eq=False)
class Walks:
    """Rays as the kernels take them, (views, columns); their steps run from first to last - 1."""

    size: tuple[int, int]
    along_u: Array
    at: Array
    per_step: Array
    length: Array
    first: Array
    last: Array

    @classmethod
    def of(cls, rays: PlaneRays) -> Walks:
        """Return the steps of each ray that touch the image."""
        if max(rays.size) > LONGEST:
            expected = f"have at most {LONGEST} voxels along an axis of its slices for a compiled engine"
            raise value_error("grid", expected, rays.size, "Use engine='torch'.")
        # Rays that begin so far away pass the image by, since no slope exceeds one.
        far = np.abs(rays.start) > 2 * LONGEST
        at = np.round(np.where(far, -1.0, rays.start + 1.0) * UNIT).astype(np.int64)
        per_step = np.round(np.where(far, 0.0, rays.slope) * UNIT).astype(np.int64)
        first, last = (np.empty(rays.shape, dtype=np.int32) for _ in range(2))
        along_u = np.ascontiguousarray(rays.along_u)
        _touched(rays.size, along_u, at, per_step, first, last)
        return cls(rays.size, along_u, at, per_step, np.ascontiguousarray(rays.length), first, last)

    @property
    def pitch(self) -> int:
        """Pixels from a padded line to the next; odd, lest a column fall on few sets of the cache."""
        return (self.size[1] + 2) | 1

    @property
    def pixels(self) -> int:
        """Number of pixels of a padded image."""
        return (self.size[0] + 2) * self.pitch

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The rays as the kernels take them."""
        return self.along_u, self.at, self.per_step, self.length, self.first, self.last


@njit(nogil=True, cache=True)
def _touched(
    size: tuple[int, int], along_u: Array, at: Array, per_step: Array, first: Array, last: Array
) -> None:
    """Find the steps whose position lies in the image or less than a pixel beside it."""
    for view in range(at.shape[0]):
        for column in range(at.shape[1]):
            walk_u = along_u[view, column]
            steps, width = (size[0], size[1]) if walk_u else (size[1], size[0])
            end = np.int64(width + 1) << DIGITS
            begin, step = at[view, column], per_step[view, column]
            # 0 <= begin + step i < end; whole numbers, divided towards minus infinity.
            low, high = np.int64(0), np.int64(steps)
            if step > 0:
                low, high = -(begin // step), -((begin - end) // step)
            elif step < 0:
                low, high = (end - begin) // step + 1, begin // -step + 1
            elif not 0 <= begin < end:
                high = np.int64(0)
            low, high = max(low, np.int64(0)), min(high, np.int64(steps))
            if low > high:
                low, high = np.int64(0), np.int64(0)
            first[view, column], last[view, column] = low, high


@njit(nogil=True, cache=True)
def project(
    image: Array,
    pitch: int,
    rays: tuple[Array, ...],
    views: tuple[int, int],
    sums: Array,
    lanes: tuple[int, ...],
) -> None:
    """Write the line integrals of a range of views, (views, columns, lanes), of a padded image."""
    along_u, at, per_step, length, first, last = rays
    cast, count, columns = image.dtype.type, len(lanes), at.shape[1]
    sums[:] = 0
    for band in range(0, last[views[0] : views[1]].max(), BAND):
        for view in range(views[0], views[1]):
            for column in range(columns):
                begin = max(first[view, column], band)
                end = min(last[view, column], band + BAND)
                if begin >= end:
                    continue
                walked, beside = (pitch, 1) if along_u[view, column] else (1, pitch)
                step = per_step[view, column]
                position = at[view, column] + step * begin
                whole = cast(length[view, column])
                unit = cast(length[view, column] / UNIT)
                walked, beside = walked * count, beside * count
                base = (begin + 1) * walked
                place = ((view - views[0]) * columns + column) * count
                # Two sums: each product would wait for the one before.
                below, above = load(sums, place, lanes), zeros(sums, lanes)
                for _ in range(begin, end):
                    upper = cast(position & MASK) * unit
                    pixel = base + (position >> DIGITS) * beside
                    below = add_product(below, whole - upper, load(image, pixel, lanes))
                    above = add_product(above, upper, load(image, pixel + beside, lanes))
                    position += step
                    base += walked
                store(sums, place, add_product(below, cast(1), above))


@njit(nogil=True, cache=True)
def back_project(
    image: Array,
    pitch: int,
    rays: tuple[Array, ...],
    views: tuple[int, int],
    values: Array,
    walk_u: bool,
    steps: tuple[int, int],
    lanes: tuple[int, ...],
) -> None:
    """Add what the rays that walk along u, or those that do not, bring to a range of their steps."""
    along_u, at, per_step, length, first, last = rays
    cast, count, columns = image.dtype.type, len(lanes), at.shape[1]
    walked, beside = (pitch * count, count) if walk_u else (count, pitch * count)
    for view in range(views[0], views[1]):
        for column in range(columns):
            begin = max(first[view, column], steps[0])
            end = min(last[view, column], steps[1])
            if begin >= end or along_u[view, column] != walk_u:
                continue
            step = per_step[view, column]
            position = at[view, column] + step * begin
            whole = cast(length[view, column])
            unit = cast(length[view, column] / UNIT)
            base = (begin + 1) * walked
            ray = load(values, ((view - views[0]) * columns + column) * count, lanes)
            for _ in range(begin, end):
                upper = cast(position & MASK) * unit
                pixel = base + (position >> DIGITS) * beside
                store(image, pixel, add_product(load(image, pixel, lanes), whole - upper, ray))
                pixel += beside
                store(image, pixel, add_product(load(image, pixel, lanes), upper, ray))
                position += step
                base += walked
