"""An array that knows where it lies: every change moves voxels and frame together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.grid import Grid

__all__ = ["Volume"]


@dataclass(frozen=True, eq=False)
class Volume:
    """`data` of shape (z, y, x), or (t, z, y, x) with a time axis, on `grid`, in `unit`.

    `unit` is free text such as "1/mm" or "HU"; the empty string means none.
    """

    data: Tensor
    grid: Grid
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.data, Tensor):
            raise type_error("data", "be a torch.Tensor", type(self.data).__name__, "Use torch.as_tensor.")
        if tuple(self.data.shape) != self.grid.array_shape:
            raise value_error(
                "data", f"have the grid's array shape {self.grid.array_shape}", tuple(self.data.shape)
            )

    def with_data(self, data: Tensor, *, unit: str | None = None) -> Volume:
        """Return other values in the same place."""
        return Volume(data, self.grid, self.unit if unit is None else unit)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """Return the voxels `start` <= index < `stop`, in array order."""
        grid = self.grid.crop(start, stop)
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return Volume(self.data[..., z, y, x], grid, self.unit)

    def pad(
        self, before: Sequence[int] | int, after: Sequence[int] | int | None = None, *, value: float = 0.0
    ) -> Volume:
        """Return the volume with voxels of `value` added at the start and at the end of each axis."""
        grid = self.grid.pad(before, after)
        low = [before] * 3 if isinstance(before, int) else list(before)
        padded = self.data.new_full(grid.array_shape, value)
        z, y, x = (slice(a, a + n) for a, n in zip(low, self.grid.shape, strict=True))
        padded[..., z, y, x] = self.data
        return Volume(padded, grid, self.unit)

    def flip(self, *axes: int) -> Volume:
        """Return the same voxels with the array axes `axes` (z, y, x = 0, 1, 2) stored the other way."""
        grid = self.grid.flip(*axes)
        return Volume(self.data.flip([axis - 3 for axis in axes]), grid, self.unit)

    def permute(self, order: Sequence[int]) -> Volume:
        """Return the same voxels with array axis `order[i]` stored as axis i."""
        grid = self.grid.permute(order)
        lead = self.data.ndim - 3
        return Volume(self.data.permute(*range(lead), *[axis + lead for axis in order]), grid, self.unit)

    def downsample(self, factor: Sequence[int] | int) -> Volume:
        """Return means over blocks of `factor` voxels."""
        grid = self.grid.downsample(factor)
        self._require_numbers("downsample")
        split: list[int] = []
        for new, old in zip(grid.shape, self.grid.shape, strict=True):
            split += [new, old // new]
        blocks = self.data.reshape(*self.data.shape[:-3], *split)
        return Volume(blocks.mean(dim=(-5, -3, -1)), grid, self.unit)

    def resample(self, grid: Grid, *, outside: float = 0.0) -> Volume:
        """Return the volume interpolated linearly at the voxels of `grid`, `outside` where it has none.

        Fine detail aliases on a coarser grid: `downsample` first.
        """
        self._require_numbers("resample")
        target = grid.with_time(self.grid.time)
        result = self.data.new_empty(target.array_shape)
        rows, columns = np.meshgrid(*[np.arange(n) for n in grid.shape[1:]], indexing="ij")
        for k in range(grid.shape[0]):
            index = np.stack([np.full(rows.shape, k), rows, columns], axis=-1)
            result[..., k, :, :] = self._at(self.grid.world_to_index(grid.index_to_world(index)), outside)
        return Volume(result, target, self.unit)

    def _at(self, index: np.ndarray[tuple[int, ...], np.dtype[np.float64]], outside: float) -> Tensor:
        shape = np.array(self.grid.shape)
        # A voxel centre met to rounding is that centre, also at the faces.
        nearest = np.round(index)
        index = np.where(np.abs(index - nearest) < 1e-9, nearest, index)
        low = np.clip(np.floor(index), 0, np.maximum(shape - 2, 0)).astype(np.int64)
        share = index - low
        inside = ((index >= 0) & (index <= shape - 1)).all(axis=-1)
        total = torch.zeros((*self.data.shape[:-3], *index.shape[:-1]), dtype=self.data.dtype)
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.where(corner, share, 1 - share).prod(axis=-1)
            z, y, x = (torch.from_numpy(np.minimum(low + corner, shape - 1)[..., a]) for a in range(3))
            total += self.data.cpu()[..., z, y, x] * torch.from_numpy(weight).to(self.data.real.dtype)
        return torch.where(torch.from_numpy(inside), total, outside).to(self.data.device)

    def _require_numbers(self, method: str) -> None:
        if not (self.data.is_floating_point() or self.data.is_complex()):
            raise type_error(
                "data", f"be floating point or complex to {method}", self.data.dtype, "Convert it: .float()."
            )
