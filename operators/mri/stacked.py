"""Product trajectories, such as a stack of stars: a sum along one axis, then a NUFFT in each plane.

    y_pj = N^-1/2 exp(-2 pi i p_pj) sum_m exp(-2 pi i g_p m) sum_n x_mn exp(-2 pi i f_j . n)

The sum along the axis is a matrix of partitions times voxels, of any positions g_p, evenly spaced or
not: for the partitions of a scan a matrix product costs no more than the FFTs, and nothing is gridded.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from operators.constant import Constant
from operators.errors import value_error
from operators.mri.coils import KSpaceOperator
from operators.mri.engines import FloatArray
from operators.mri.filters import FilterTerm, ModulatedFilters
from operators.mri.nufft import NUFFT
from operators.space import Space

__all__ = ["StackedNUFFT", "stack_axis"]

#: How far frequencies may differ and still count as equal, in cycles per voxel over a field of view.
EQUAL = 1e-9


def stack_axis(frequency: FloatArray, shape: tuple[int, int, int]) -> int | None:
    """Return the array axis along which `frequency` (partitions, ..., 3) is a stack, None if it is none."""
    if frequency.ndim < 4 or len(frequency) < 2 or min(shape) == 1:
        return None
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        along, across = frequency[..., axis], frequency[..., others]
        per_partition = along.reshape(len(frequency), -1)
        if np.abs(per_partition - per_partition[:, :1]).max() > EQUAL:
            continue
        if np.abs(across - across[:1]).max() <= EQUAL:
            return axis
    return None


class StackedNUFFT(KSpaceOperator):
    """The NUFFT of frequencies (partitions, ..., 3) that are a stack along array axis `axis`.

    The same operator as `NUFFT` of these frequencies, in less time; for the options see there.
    """

    def __init__(
        self,
        domain: Space,
        frequency: FloatArray,
        turns: FloatArray,
        axis: int,
        *,
        engine: str = "auto",
        accuracy: float | None = None,
        gram: str = "auto",
    ) -> None:
        grid = Space.require(domain, "domain").grid
        if grid is None or not domain.is_complex:
            raise value_error("domain", "be complex images on a Grid", domain)
        if stack_axis(frequency, grid.shape) != axis:
            raise value_error("frequency", f"be a stack along axis {axis}", frequency.shape, "Use NUFFT.")
        self.axis = axis - 3
        count, samples = grid.shape[axis], frequency.shape[1:-1]
        # Every slice and every partition is one more image of the plane.
        self.plane = NUFFT(
            Space.field(grid.slice_at(axis, 0), is_complex=True),
            frequency[0],
            np.zeros(samples),
            engine=engine,
            accuracy=accuracy,
            gram=gram,
        )
        position = frequency.reshape(len(frequency), -1, 3)[:, 0, axis]
        matrix = _unit(np.outer(position, np.arange(count) - count // 2)) / math.sqrt(count)
        normal = matrix.conj().T @ matrix
        self._level = float(normal[0, 0].real)
        self._even = bool((normal - self._level * torch.eye(count)).abs().max() < 1e-12 * self._level)
        self.matrix = Constant(matrix, "matrix")
        self.normal = Constant(normal, "normal")
        self.phase = Constant(_unit(turns), "phase")
        components = domain.shape[:-3]
        super().__init__(domain, Space((*components, len(frequency), *samples), is_complex=True))

    def _apply(self, x: Tensor) -> Tensor:
        samples = self.plane._apply(self._planes(self.matrix.like(x), x))
        return samples.reshape(x.shape[0], *self.codomain.shape) * self.phase.like(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        samples = (y * self.phase.like(y).conj()).reshape(-1, *self.plane.codomain.shape)
        return self._volume(self.matrix.like(y).conj().T, self.plane._apply_adjoint(samples), y.shape[0])

    def _apply_gram(self, x: Tensor) -> Tensor:
        planes = self._planes(None if self._even else self.normal.like(x), x)
        volume = self._volume(None, self.plane._apply_gram(planes), x.shape[0])
        return volume * self._level if self._even else volume

    def _gram_filters(self, x: Tensor) -> ModulatedFilters | None:
        found = self.plane._gram_filters(x) if self._even else None
        if found is None or abs(self._level - 1) < 1e-12:
            return found
        name = f"_memo_filters_{x.dtype}_{x.device}"
        if name not in self.__dict__:
            terms = tuple(FilterTerm(term.values * self._level, term.odd) for term in found.terms)
            self.__dict__[name] = ModulatedFilters(found.axes, found.sizes, terms)
        return self.__dict__[name]  # type: ignore[no-any-return]

    def _planes(self, matrix: Tensor | None, x: Tensor) -> Tensor:
        """Return the planes (all, *plane) of images x after `matrix` along the stack."""
        moved = x.movedim(self.axis, -3).flatten(-2)
        mixed = moved if matrix is None else torch.matmul(matrix, moved)
        return mixed.reshape(-1, *self.plane.domain.shape)

    def _volume(self, matrix: Tensor | None, planes: Tensor, batch: int) -> Tensor:
        """Return the images of planes (all, *plane) after `matrix` along the stack."""
        shape = list(self.domain.shape)
        del shape[self.axis]
        lead, inside = shape[:-2], shape[-2:]
        stacked = planes.reshape(batch, *lead, -1, math.prod(inside))
        mixed = stacked if matrix is None else torch.matmul(matrix, stacked)
        return mixed.reshape(batch, *lead, -1, *inside).movedim(-3, self.axis)


def _unit(turns: FloatArray) -> Tensor:
    angle = torch.from_numpy(np.asarray(turns, dtype=np.float64))
    return torch.polar(torch.ones_like(angle), -2 * math.pi * (angle - angle.round()))
