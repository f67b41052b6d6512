"""Multilinear interpolation at displaced positions: neighbours and shares, values, slopes, transpose.

An array index is i = base + M u, with M the inverse of the source's axes (index per mm). `base` is
split into its integer and its fractional part in double precision once, so that single precision has
to hold no more than the displacement itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from operators.constant import moved
from operators.deformation.rows import add_rows, read
from operators.errors import value_error
from operators.grid import FloatArray, Grid

Boundary = Literal["zero", "edge"]
Positions = tuple[Tensor, Tensor, Tensor]

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


def base_positions(source: Grid, target: Grid, device: torch.device) -> Positions:
    """Return the index in `source` of every voxel of `target`, per source axis, as (z, y, x) that broadcast."""
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
    return places[0], places[1], places[2]


def locate(
    source: Grid, base: Positions, shift: Tensor, boundary: Boundary, *, slopes: bool = False
) -> Stencil:
    """Return the stencil at `base` + M `shift`, for a `shift` (P, 3, *out) in mm; differentiable in it."""
    inverse = _cleaned(np.linalg.inv(source.affine[:3, :3]))
    rounding = ROUNDING[shift.dtype]
    count = int(np.prod(source.shape))
    whole_dtype = torch.int32 if count < 2**31 else torch.int64
    flat = torch.zeros((), dtype=whole_dtype, device=shift.device)
    inside: Tensor | None = None
    axes, strides, shares, varies = [], [], [], []
    for axis, n in enumerate(source.shape):
        nearest = base[axis].round()
        place = torch.where((base[axis] - nearest).abs() < ROUNDING[torch.float64], nearest, base[axis])
        whole = place.floor()
        position = (place - whole).to(shift.dtype) + _combined(inverse[axis], shift)
        step = position.detach().floor()
        low = step + whole.to(shift.dtype)
        # A position that overflowed has no neighbour; any will do, the share is not a number.
        lower = low.nan_to_num(nan=0.0).clamp(0, max(n - 2, 0))
        offset = (position - step) + (low - lower)
        seen = offset.detach()
        top = min(n - 1, 1)
        if boundary == "zero":
            held = (seen >= -0.5 - rounding) & (seen <= top + 0.5 + rounding)
            inside = held if inside is None else inside & held
        if n > 1:
            stride = int(np.prod(source.shape[axis + 1 :]))
            flat = flat + lower.to(whole_dtype) * stride
            axes.append(axis)
            strides.append(stride)
            shares.append(_row(offset.clamp(0, 1)))
            if slopes:
                varies.append(_row((seen >= 0) & (seen <= 1)))
    rows, size = shift.shape[0], shift[0, 0].numel()
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


def interpolate_with_slopes(values: Tensor, stencil: Stencil) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the interpolant and its derivative per voxel along each source axis that it varies on."""

    def along(level: int, flat: Tensor) -> list[Tensor]:
        if level == len(stencil.strides):
            return [read(values, flat)]
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


def _cleaned(matrix: FloatArray) -> FloatArray:
    """Return `matrix` without entries that are rounding: they would cost a pass over the volume each."""
    return np.where(np.abs(matrix) < 1e-14 * np.abs(matrix).max(axis=1, keepdims=True), 0.0, matrix)


def _combined(row: FloatArray, shift: Tensor) -> Tensor:
    parts: Sequence[Tensor] = [float(c) * shift[:, j] for j, c in enumerate(row) if c != 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _row(values: Tensor) -> Tensor:
    return values.flatten(1).unsqueeze(1)
