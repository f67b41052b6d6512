"""Finite differences per mm along the axes of a grid: the gradient of a penalty or of TV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.linear import LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["FiniteDifferences"]


class FiniteDifferences(LinearOperator):
    """Forward differences (x[i+1] - x[i]) / spacing along each of `axes`, in units of x per mm.

    `axes` are array axes 0, 1, 2 (z, y, x), by default those longer than one voxel; the values have
    one component per axis in front of the field. `boundary` is "replicate" (the last difference is
    0: no flow through the face) or "periodic" (the last voxel neighbours the first).
    """

    def __init__(
        self,
        domain: Space,
        axes: Sequence[int] | None = None,
        *,
        boundary: Literal["replicate", "periodic"] = "replicate",
    ) -> None:
        grid = Space.require(domain, "domain").grid
        if grid is None:
            raise value_error("domain", "lie on a Grid, for spacings in mm", domain)
        shape = grid.shape
        whole = isinstance(axes, Sequence) and all(isinstance(axis, int) for axis in axes)
        if axes is not None and not whole:
            raise type_error("axes", "be a sequence of array axes", repr(axes))
        chosen = tuple(axes) if axes is not None else tuple(a for a in range(3) if shape[a] > 1)
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= {0, 1, 2}:
            raise value_error("axes", f"name array axes 0, 1 or 2 of {shape}, each once", chosen)
        if boundary not in ("replicate", "periodic"):
            raise value_error("boundary", "be 'replicate' or 'periodic'", repr(boundary))
        super().__init__(domain, Space((len(chosen), *domain.shape), domain.is_complex, domain.grid))
        self.axes = tuple(a - 3 for a in chosen)
        self.spacing = tuple(grid.spacing[a] for a in chosen)
        self.boundary = boundary

    def _apply(self, x: Tensor) -> Tensor:
        parts = []
        for axis, step in zip(self.axes, self.spacing, strict=True):
            part = x.roll(-1, axis) - x
            if self.boundary == "replicate":
                part.narrow(axis, -1, 1).zero_()
            parts.append(part / step)
        return torch.stack(parts, dim=1)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        total = torch.zeros_like(y[:, 0])
        for component, (axis, step) in enumerate(zip(self.axes, self.spacing, strict=True)):
            part = y[:, component] / step
            if self.boundary == "replicate":
                part.narrow(axis, -1, 1).zero_()
            total += part.roll(1, axis) - part
        return total

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        if self.boundary != "periodic" or not inner.is_scalar:
            return None
        values = torch.zeros((), dtype=torch.float64, device=inner.values.device)
        for axis, step in zip(self.axes, self.spacing, strict=True):
            n = self.domain.shape[axis]
            omega = 2 * math.pi * torch.arange(n, dtype=torch.float64, device=values.device) / n
            # |exp(i omega) - 1|^2 = 4 sin^2(omega / 2)
            energy = 4 * torch.sin(omega / 2) ** 2 / step**2
            values = values + energy.reshape(-1, *[1] * (-axis - 1))
        return Spectrum(values * inner.values, tuple(sorted(self.axes)))
