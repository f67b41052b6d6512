"""Multilinear interpolation at displaced positions: neighbours and shares, values, slopes, transpose.

An array index is i = i_0 + M u, with M the inverse of the source's axes (index per mm). i_0 is split
into its integer and its fractional part in double precision, once: single precision has to hold no
more than the displacement itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.constant import moved
from operators.deformation.rows import add, add_rows, read
from operators.errors import value_error
from operators.grid import FloatArray, Grid

Boundary = Literal["zero", "edge"]

#: Of a voxel, in double and in single precision: what is met to rounding is met.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}


def check_boundary(value: object) -> Boundary:
    """Return `value` if it names what holds outside the source's voxels."""
    for known in get_args(Boundary):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise value_error("boundary", "be 'zero' or 'edge'", repr(value))


@dataclass(frozen=True)
class Stencil:
    """For each of m positions, in P rows: the lower neighbour and the share of the upper one per axis.

    `flat` (P, m) is the lower neighbour's place in the flattened source; `shares` and `strides` have an
    entry per source axis longer than one voxel. `inside` (P, 1, m) is None where all positions count,
    `slopes` holds per axis whether the interpolant varies there (not where an edge value is held).
    """

    flat: Tensor
    shares: tuple[Tensor, ...]
    strides: tuple[int, ...]
    axes: tuple[int, ...]
    inside: Tensor | None = None
    slopes: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Stencil:
        """Return a copy on `device`."""
        return moved(self, device)

    def like(self, values: Tensor) -> Stencil:
        """Return the stencil with its shares in the dtype of `values`."""
        if all(share.dtype == values.dtype for share in self.shares):
            return self
        return replace(self, shares=tuple(share.to(values.dtype) for share in self.shares))


@dataclass(frozen=True)
class Placement:
    """Where positions lie in a source before they are displaced: index = whole + part, per source axis.

    `whole` and `part`, in double precision, broadcast to (P, *out); `inverse` is M, row by row: plain
    numbers, so that a compiled graph sees no array.
    """

    shape: tuple[int, int, int]
    inverse: tuple[tuple[float, ...], ...]
    whole: tuple[Tensor, ...]
    part: tuple[Tensor, ...]
    boundary: Boundary

    @classmethod
    def of_grid(
        cls, source: Grid, target: Grid, boundary: Boundary, device: torch.device | None
    ) -> Placement:
        """Return the places of the voxels of `target`, (z, y, x)."""
        matrix = _cleaned(np.linalg.solve(source.affine[:3, :3], target.affine[:3, :3]))
        offset = source.world_to_index(target.affine[:3, 3])
        places = []
        for axis in range(3):
            place = torch.full((1, 1, 1), float(offset[axis]), dtype=torch.float64, device=device)
            for other, n in enumerate(target.shape):
                if matrix[axis, other] != 0:
                    steps = torch.arange(n, dtype=torch.float64, device=device) * float(matrix[axis, other])
                    place = place + steps.reshape([-1 if k == other else 1 for k in range(3)])
            places.append(place)
        return cls._of_index(source, places, boundary)

    @classmethod
    def of_points(cls, source: Grid, points: Tensor, boundary: Boundary) -> Placement:
        """Return the places of world points (P, m, 3) in mm."""
        origin = torch.tensor(source.affine[:3, 3], dtype=torch.float64, device=points.device)
        matrix = torch.tensor(source.affine[:3, :3], dtype=torch.float64, device=points.device)
        index = torch.linalg.solve(matrix, (points.to(torch.float64) - origin).mT).mT
        return cls._of_index(source, list(index.unbind(-1)), boundary)

    @classmethod
    def _of_index(cls, source: Grid, places: list[Tensor], boundary: Boundary) -> Placement:
        # A voxel centre met to rounding is that centre.
        nearest = [place.round() for place in places]
        met = [(a - b).abs() < ROUNDING[torch.float64] for a, b in zip(places, nearest, strict=True)]
        places = [torch.where(m, b, a) for m, a, b in zip(met, places, nearest, strict=True)]
        whole = tuple(place.floor() for place in places)
        part = tuple(a - b for a, b in zip(places, whole, strict=True))
        inverse = _cleaned(np.linalg.inv(source.affine[:3, :3]))
        rows = tuple(tuple(float(c) for c in row) for row in inverse)
        return cls(source.shape, rows, whole, part, check_boundary(boundary))

    def to(self, device: torch.device) -> Placement:
        """Return a copy on `device`."""
        return moved(self, device)

    def at(self, shift: Tensor, *, slopes: bool = False) -> Stencil:
        """Return the stencil of the positions moved by `shift` (P, 3, *out) in mm; differentiable in it."""
        rounding = ROUNDING[shift.dtype]
        whole_dtype = torch.int32 if math.prod(self.shape) < 2**31 else torch.int64
        flat = torch.zeros((), dtype=whole_dtype, device=shift.device)
        inside: Tensor | None = None
        axes, strides, shares, varies = [], [], [], []
        for axis, n in enumerate(self.shape):
            position = self.part[axis].to(shift.dtype) + _combined(self.inverse[axis], shift)
            step = position.detach().floor()
            low = step + self.whole[axis].to(shift.dtype)
            # A position that overflowed has no neighbour; any will do, the share is not a number.
            lower = low.nan_to_num(nan=0.0).clamp(0, max(n - 2, 0))
            offset = (position - step) + (low - lower)
            seen = offset.detach()
            if self.boundary == "zero":
                held = (seen >= -0.5 - rounding) & (seen <= min(n - 1, 1) + 0.5 + rounding)
                inside = held if inside is None else inside & held
            if n > 1:
                axes.append(axis)
                strides.append(math.prod(self.shape[axis + 1 :]))
                flat = flat + lower.to(whole_dtype) * strides[-1]
                shares.append(_row(offset.clamp(0, 1)))
                if slopes:
                    varies.append(_row((seen >= 0) & (seen <= 1)))
        rows, size = shift.shape[0], math.prod(shift.shape[2:])
        return Stencil(
            flat.expand(rows, *shift.shape[2:]).reshape(rows, size),
            tuple(shares),
            tuple(strides),
            tuple(axes),
            None if inside is None else _row(inside),
            tuple(varies),
        )


def interpolate(
    values: Tensor, stencil: Stencil, gather: Callable[[Tensor, Tensor], Tensor] = read
) -> Tensor:
    """Return the interpolant of `values` (B, C, n) at a stencil of 1 or B rows, as (B, C, m)."""

    def along(level: int, flat: Tensor) -> Tensor:
        if level == len(stencil.strides):
            return gather(values, flat)
        low = along(level + 1, flat)
        high = along(level + 1, flat + stencil.strides[level])
        return torch.lerp(low, high, stencil.shares[level])

    result = along(0, stencil.flat)
    return result if stencil.inside is None else torch.where(stencil.inside, result, 0.0)


def interpolate_with_slopes(
    values: Tensor, stencil: Stencil, gather: Callable[[Tensor, Tensor], Tensor] = read
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the interpolant and its derivative per voxel along each source axis that it varies on."""

    def along(level: int, flat: Tensor) -> list[Tensor]:
        if level == len(stencil.strides):
            return [gather(values, flat)]
        low = along(level + 1, flat)
        high = along(level + 1, flat + stencil.strides[level])
        share = stencil.shares[level]
        between = [torch.lerp(a, b, share) for a, b in zip(low, high, strict=True)]
        return [between[0], high[0] - low[0], *between[1:]]

    value, *slopes = along(0, stencil.flat)
    inside = stencil.inside
    known = {}
    for axis, slope, varies in zip(stencil.axes, slopes, stencil.slopes, strict=True):
        known[axis] = torch.where(varies if inside is None else varies & inside, slope, 0.0)
    return value if inside is None else torch.where(inside, value, 0.0), known


def spread(values: Tensor, stencil: Stencil, length: int) -> Tensor:
    """Return the transpose of `interpolate`: (B, C, m) -> (B, C, length), without a graph."""
    total = values.new_zeros(*values.shape[:2], length)

    def along(level: int, flat: Tensor, part: Tensor) -> None:
        if level == len(stencil.strides):
            add_rows(total, flat, part)
            return
        high = part * stencil.shares[level]
        along(level + 1, flat, part - high)
        along(level + 1, flat + stencil.strides[level], high)

    along(0, stencil.flat, values if stencil.inside is None else torch.where(stencil.inside, values, 0.0))
    return total


def spread_differentiably(values: Tensor, stencil: Stencil, length: int) -> Tensor:
    """Return the same, differentiable in `values` and in the shares; its sums are not in place."""

    def along(level: int, flat: Tensor, part: Tensor) -> Tensor:
        if level == len(stencil.strides):
            return add(part, flat, length)
        high = part * stencil.shares[level]
        return along(level + 1, flat, part - high) + along(level + 1, flat + stencil.strides[level], high)

    counted = values if stencil.inside is None else torch.where(stencil.inside, values, 0.0)
    return along(0, stencil.flat, counted)


def _cleaned(matrix: NDArray[np.floating[Any]]) -> FloatArray:
    """Return `matrix` without entries that are rounding: they would cost a pass over the volume each."""
    return np.where(np.abs(matrix) < 1e-14 * np.abs(matrix).max(axis=1, keepdims=True), 0.0, matrix)


def _combined(row: tuple[float, ...], shift: Tensor) -> Tensor:
    parts = [c * shift[:, j] for j, c in enumerate(row) if c != 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _row(values: Tensor) -> Tensor:
    return values.flatten(1).unsqueeze(1)
