"""An array that knows where it lies: every change moves voxels and frame together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_triple
from operators.errors import type_error, value_error
from operators.grid import Grid
from workbench.kinds import Kind

__all__ = ["SPACES", "Volume"]

ROUNDING = 1e-9  # of a voxel

#: What world the affine leads to. "aligned" is the world of another image; "unknown": nobody said.
SPACES = ("scanner", "aligned", "talairach", "mni", "unknown")


@dataclass(frozen=True, eq=False)
class Volume:
    """`data` of shape (z, y, x), or (t, z, y, x) with a time axis, on `grid`, in `unit`.

    `unit` is free text such as "1/mm" or "HU"; the empty string means none. `space` names the world
    that the grid's affine leads to, one of `SPACES`. `components` names the entries of one axis in
    front of all others: ("R", "A", "S") for displacements in mm along the world's axes, which are the
    same however the array is stored, or the classes of a label map's probabilities. Of an answer,
    `kind` says what kind it is, and `statistic` what of several draws: "mean"; empty for a draw itself.
    """

    data: Tensor
    grid: Grid
    unit: str = ""
    space: str = "scanner"
    components: tuple[str, ...] = ()
    kind: Kind | None = None
    statistic: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.data, Tensor):
            raise type_error("data", "be a torch.Tensor", type(self.data).__name__, "Use torch.as_tensor.")
        _check_grid(self.grid)
        if not isinstance(self.unit, str):
            raise type_error("unit", "be text, empty for none", repr(self.unit))
        if self.space not in SPACES:
            raise value_error("space", f"be one of {', '.join(SPACES)}", repr(self.space))
        object.__setattr__(self, "components", _checked_names(self.components))
        if self.kind is not None:
            object.__setattr__(self, "kind", Kind.require(self.kind))
        if not isinstance(self.statistic, str):
            raise type_error("statistic", "be text, empty for none", repr(self.statistic))
        expected = self._lead + self.grid.array_shape
        if tuple(self.data.shape) != expected:
            what = "the grid's array shape" if not self.components else "components and the grid's axes,"
            remedy = ""
            if not self.components and tuple(self.data.shape[1:]) == expected:
                remedy = "An axis of components is named: components=('R', 'A', 'S')."
            raise value_error("data", f"have {what} {expected}", tuple(self.data.shape), remedy)

    def with_data(
        self, data: Tensor, *, unit: str | None = None, components: tuple[str, ...] | None = None
    ) -> Volume:
        """Return other values in the same place; all else stays unless it is given."""
        return dataclasses.replace(
            self,
            data=data,
            unit=self.unit if unit is None else unit,
            components=self.components if components is None else components,
        )

    def slice_at(self, axis: int, index: int) -> Volume:
        """Return the slice `index` across the array axis `axis` (z, y, x = 0, 1, 2), one voxel thick."""
        plane = self.grid.slice_at(axis, index)
        return self._moved(self.data.narrow(axis - 3, index, 1), plane)

    def crop(self, start: Sequence[int] | int, stop: Sequence[int] | int) -> Volume:
        """Return the voxels `start` <= index < `stop`, in array order."""
        first, last = check_triple(start, "start", minimum=0), check_triple(stop, "stop")
        grid = self.grid.crop(first, last)
        z, y, x = (slice(a, b) for a, b in zip(first, last, strict=True))
        return self._moved(self.data[..., z, y, x], grid)

    def pad(
        self, before: Sequence[int] | int, after: Sequence[int] | int | None = None, *, value: complex = 0.0
    ) -> Volume:
        """Return the volume with voxels of `value` added at the start and at the end of each axis."""
        grid = self.grid.pad(before, after)
        padded = self.data.new_full(self._lead + grid.array_shape, _fitting(value, self.data.dtype, "value"))
        low = check_triple(before, "before", minimum=0)
        z, y, x = (slice(a, a + n) for a, n in zip(low, self.grid.shape, strict=True))
        padded[..., z, y, x] = self.data
        return self._moved(padded, grid)

    def flip(self, *axes: int) -> Volume:
        """Return the same voxels with the array axes `axes` (z, y, x = 0, 1, 2) stored the other way."""
        grid = self.grid.flip(*axes)
        return self._moved(self.data.flip([axis - 3 for axis in axes]), grid)

    def permute(self, order: Sequence[int]) -> Volume:
        """Return the same voxels with array axis `order[i]` stored as axis i."""
        grid = self.grid.permute(order)
        lead = self.data.ndim - 3
        return self._moved(self.data.permute(*range(lead), *[axis + lead for axis in order]), grid)

    def canonical(self) -> Volume:
        """Return the same voxels stored along (S, A, R), each array axis by the world axis nearest to it."""
        nearest = np.abs(self.grid.directions).argmax(axis=0)
        if sorted(nearest) != [0, 1, 2]:
            raise value_error("volume", "have axes near the world's", repr(self.grid), "Resample it first.")
        turned = self.permute([int(np.flatnonzero(nearest == world)[0]) for world in (2, 1, 0)])
        away = [a for a, world in enumerate((2, 1, 0)) if turned.grid.directions[world, a] < 0]
        return turned.flip(*away)

    def downsample(self, factor: Sequence[int] | int) -> Volume:
        """Return means over blocks of `factor` voxels."""
        grid = self.grid.downsample(factor)
        self._require_numbers("downsample")
        split: list[int] = []
        for new, old in zip(grid.shape, self.grid.shape, strict=True):
            split += [new, old // new]
        blocks = self.data.reshape(*self.data.shape[:-3], *split)
        return self._moved(blocks.mean(dim=(-5, -3, -1)), grid)

    def resample(self, grid: Grid, *, outside: complex) -> Volume:
        """Return the volume interpolated linearly at the voxels of `grid`.

        Between the outermost voxel centres and the outer faces the edge value holds; beyond the faces
        there is `outside`. Fine detail aliases on a coarser grid: `downsample` first.
        """
        _check_grid(grid)
        if grid.time not in (None, self.grid.time):
            raise value_error(
                "grid",
                f"have no time axis or the volume's, {self.grid.time}",
                grid.time,
                "Space is resampled here, time is not: use grid.with_time(None).",
            )
        self._require_numbers("resample")
        beyond = _fitting(outside, self.data.dtype, "outside")
        target = grid.with_time(self.grid.time)
        result = self.data.new_empty(self._lead + target.array_shape)
        rows, columns = np.meshgrid(*[np.arange(n) for n in grid.shape[1:]], indexing="ij")
        for k in range(grid.shape[0]):
            index = np.stack([np.full(rows.shape, k), rows, columns], axis=-1)
            result[..., k, :, :] = self._at(self.grid.world_to_index(grid.index_to_world(index)), beyond)
        return self._moved(result, target)

    @property
    def _lead(self) -> tuple[int, ...]:
        return (len(self.components),) if self.components else ()

    def _at(self, index: NDArray[np.float64], outside: complex) -> Tensor:
        shape = np.array(self.grid.shape)
        # A voxel centre met to rounding is that centre, and so is a face.
        nearest = np.round(index)
        index = np.where(np.abs(index - nearest) < ROUNDING, nearest, index)
        held = (index >= -0.5 - ROUNDING) & (index <= shape - 0.5 + ROUNDING)
        index = np.clip(index, 0, shape - 1)
        low = np.minimum(np.floor(index), np.maximum(shape - 2, 0)).astype(np.int64)
        share = index - low
        total = self.data.new_zeros((*self.data.shape[:-3], *index.shape[:-1]))
        for corner in itertools.product((0, 1), repeat=3):
            weight = self._beside(np.where(corner, share, 1 - share).prod(axis=-1))
            z, y, x = (self._beside(np.minimum(low + corner, shape - 1)[..., axis]) for axis in range(3))
            # A neighbour without weight has no say, not even where it is NaN.
            total += torch.where(weight > 0, self.data[..., z, y, x] * weight, 0)
        return torch.where(self._beside(held).all(-1), total, outside)

    def _beside(self, values: NDArray[np.generic]) -> Tensor:
        """Return `values` on the data's device, fractions in the data's precision."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self.data.device, self.data.real.dtype if tensor.is_floating_point() else None)

    def _moved(self, data: Tensor, grid: Grid) -> Volume:
        return dataclasses.replace(self, data=data, grid=grid)

    def _require_numbers(self, method: str) -> None:
        if not (self.data.is_floating_point() or self.data.is_complex()):
            raise type_error(
                "data", f"be floating point or complex to {method}", self.data.dtype, "Convert it: .float()."
            )


def _check_grid(grid: object) -> None:
    if not isinstance(grid, Grid):
        remedy = "Pass its .grid." if isinstance(grid, Volume) else ""
        raise type_error("grid", "be a Grid", type(grid).__name__, remedy)


def _checked_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise type_error("components", "be a sequence of names", repr(names), "Such as ('R', 'A', 'S').")
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise value_error("components", "be names, each another", repr(tuple(names)))
    return tuple(names)


def _fitting(value: object, dtype: torch.dtype, argument: str) -> complex:
    """Return `value` if `dtype` can hold it as it is, up to rounding."""
    if isinstance(value, bool) or not isinstance(value, (int, float, complex, np.number)):
        raise type_error(argument, "be a number", f"{value!r} ({type(value).__name__})")
    number: complex = value.item() if isinstance(value, np.number) else value
    if dtype.is_complex:
        return number
    if isinstance(number, complex):
        raise type_error(argument, f"be real for data of {dtype}", repr(number), "Convert the data first.")
    if dtype.is_floating_point:
        fits = not np.isfinite(number) or abs(number) <= torch.finfo(dtype).max
    elif dtype == torch.bool:
        fits = number in (0, 1)
    else:
        limits = torch.iinfo(dtype)
        fits = float(number).is_integer() and limits.min <= number <= limits.max
    if not fits:
        raise value_error(argument, f"fit data of {dtype}", repr(number), "Convert the data first.")
    return number
