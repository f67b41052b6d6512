"""Cartesian k-space: which spatial frequencies were measured, and which world point has zero phase.

    y(k) = N^-1/2 sum_n x(r_n) exp(-2 pi i k . (r_n - r_0)),   k_j = (m_j - N_j // 2) / FOV_j

in device coordinates: the frequency axes of the data, in array order (kz, ky, kx), are the device
axes z, y, x, and r_0 is the device point whose signal has zero phase, the isocentre unless the
scanner says otherwise. A grid shifted or flipped by whole voxels changes nothing but the phase this
equation gives; the grid's own centre plays no part in it.

Axis by axis, with voxels d and L = FOV / d, which must be a whole number:

    grid n = L, matrix N = L     the grid is the encoded box
    grid n < L                   the field of view reaches beyond the grid, where the image is zero:
                                 readout oversampling (N = L = 2 n), a cropped reconstruction
    matrix N < L                 low resolution: frequencies |k| < N / (2 FOV) of a finer grid
    grid n > L                   refused: what lies outside the field of view would fold into it
    matrix N > L                 refused: frequencies beyond Nyquist, 1 / (2 d)

N in the factor N^-1/2 is the product of L over the encoded axes. With a time axis on the grid the data
are (t, kz, ky, kx), each frame encoded alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count, check_point, check_spacing, check_triple, replaced
from operators.errors import type_error, value_error
from operators.frame import DeviceFrame, require_orthogonal
from operators.grid import Grid
from operators.mri.encoding import AxisEncoding, CartesianEncoding
from operators.space import Space

__all__ = ["CartesianGeometry", "SampledCartesianGeometry"]

RESAMPLE = "Permute it or resample it on the scanner's axes: CartesianGeometry.frame."


@dataclass(frozen=True)
class CartesianGeometry:
    """Matrix size and field of view in mm of an encoded box, both in array order (z, y, x).

    An axis of one sample is not encoded. `zero_phase` is r_0, a device point (x, y, z) in mm. With
    `multislice` the first axis is not encoded either: `matrix[0]` slices, slice j at the device z of
    r_0 plus (j - matrix[0] // 2) times their spacing, each with a k-space of its own.
    """

    matrix: tuple[int, int, int]
    field_of_view: tuple[float, float, float]
    zero_phase: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frame: DeviceFrame = field(default_factory=DeviceFrame)
    multislice: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_triple(self.matrix, "matrix"))
        object.__setattr__(self, "field_of_view", check_spacing(self.field_of_view, "field_of_view"))
        x, y, z = check_point(self.zero_phase, "zero_phase").tolist()
        object.__setattr__(self, "zero_phase", (x, y, z))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)
        if not isinstance(self.multislice, bool):
            raise type_error("multislice", "be True or False", repr(self.multislice))

    @classmethod
    def around(
        cls, grid: Grid, *, readout_oversampling: int = 1, multislice: bool = False
    ) -> CartesianGeometry:
        """Return the encoding of exactly `grid`, zero phase at its FFT centre, index N // 2.

        That centre is the origin of its `frame`, which a trajectory through the same place needs as well.
        `readout_oversampling` widens the field of view along x, with as many samples more.
        """
        factor = check_count(readout_oversampling, "readout_oversampling")
        slices, down, across = require_orthogonal(Grid.require(grid)).T
        if np.linalg.det(np.stack([across, down, slices])) < 0:
            # A left-handed grid is read by a right-handed scanner with one axis reversed.
            slices = -slices
        origin = grid.index_to_world([n // 2 for n in grid.shape])
        extent = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
        frame = DeviceFrame.from_axes(across, down, slices, origin=origin)
        matrix = (grid.shape[0], grid.shape[1], factor * grid.shape[2])
        sizes = (extent[0], extent[1], factor * extent[2])
        return cls(matrix, sizes, frame=frame, multislice=multislice)

    def with_(self, **changes: object) -> CartesianGeometry:
        """Return the same encoding with some values changed."""
        return replaced(self, changes)

    def operator(self, grid: Grid, *, components: Sequence[int] = ()) -> CartesianEncoding:
        """Return the transform from complex images on `grid` to k-space (kz, ky, kx).

        `components` are axes in front of the grid's own, each entry transformed alike: (coils,).
        """
        axes, flipped = self.layout(grid)
        domain = Space.field(grid, is_complex=True, components=components)
        return CartesianEncoding(domain, axes, flipped=flipped)

    def layout(self, grid: Grid) -> tuple[tuple[AxisEncoding, ...], tuple[int, ...]]:
        """Return how each encoded axis of `grid` is sampled, and the slice axis where it runs backwards."""
        to_device = self.frame.grid_to_device(Grid.require(grid).affine)
        # Rows in array order: device z, y, x beside array axes z, y, x.
        steps, origin = to_device[2::-1, :3], to_device[2::-1, 3]
        lengths = np.diagonal(steps)
        off_axis = np.abs(steps - np.diag(lengths)).max() / min(grid.spacing)
        if off_axis > 1e-6:
            expected = "have its axes (z, y, x) along the device axes"
            raise value_error("grid", expected, repr(grid), RESAMPLE)
        encoded = [axis for axis in range(3) if self.matrix[axis] > 1 and not (axis == 0 and self.multislice)]
        for axis in set(range(3)) - set(encoded):
            if grid.shape[axis] != self.matrix[axis]:
                raise value_error("grid", f"have the encoded matrix {self.matrix}", grid.shape)
        flipped = self._check_slices(grid, float(lengths[0]), float(origin[0])) if self.multislice else ()
        index = (np.array(self.zero_phase[::-1]) - origin) / lengths
        # Where nothing is encoded the FFT of one sample stands in.
        return tuple(
            AxisEncoding(
                axis - 3,
                grid.shape[axis],
                self._length(grid, axis) if axis in encoded else 1,
                self.matrix[axis],
                float(index[axis]),
                int(np.sign(lengths[axis])),
            )
            for axis in encoded or [2]
        ), flipped

    def _length(self, grid: Grid, axis: int) -> int:
        """Return L, the voxels of `grid` that fill the field of view along `axis`."""
        ratio = self.field_of_view[axis] / grid.spacing[axis]
        length = round(ratio)
        name = "zyx"[axis]
        if abs(ratio - length) > 1e-6 * ratio:
            wanted = tuple((np.array(self.field_of_view) / np.array(self.matrix)).tolist())
            raise value_error(
                "grid",
                f"have voxels of field of view / matrix, {wanted} mm, or a whole number of voxels in the "
                f"field of view along {name}",
                f"{grid.spacing} mm",
            )
        if grid.shape[axis] > length:
            raise value_error(
                "grid",
                f"have the encoded matrix {self.matrix} or reach no further along {name} than the field of "
                f"view, {length} voxels",
                grid.shape,
                "What lies outside folds into the image: crop the grid, or state the true field_of_view.",
            )
        if self.matrix[axis] > length:
            raise value_error(
                "grid",
                f"have the encoded matrix {self.matrix} or voxels small enough for it: {self.matrix[axis]} "
                f"samples along {name} reach beyond the Nyquist frequency of",
                f"voxels of {grid.spacing[axis]:g} mm",
                "Take a finer grid, or crop k-space and the matrix with it.",
            )
        return length

    def _check_slices(self, grid: Grid, step: float, origin: float) -> tuple[int, ...]:
        count = self.matrix[0]
        wanted = self.zero_phase[2] + (np.arange(count) - count // 2) * self.field_of_view[0] / count
        slices = origin + step * np.arange(count)
        flipped = step < 0
        if np.abs((slices[::-1] if flipped else slices) - wanted).max() > 1e-4 * grid.spacing[0]:
            raise value_error(
                "grid",
                f"have its slices at the device z of the scan's, {wanted[:3].round(4).tolist()}... mm",
                f"{np.sort(slices)[:3].round(4).tolist()}... mm",
                "Slices are not encoded, so they cannot be interpolated: use the scan's own.",
            )
        return (-3,) if flipped else ()


class HasMask(Protocol):
    """A sampling pattern: what `operators.mri.patterns` makes."""

    @property
    def mask(self) -> Tensor:
        """True where a sample is taken."""


@dataclass(frozen=True, eq=False)
class SampledCartesianGeometry:
    """The samples of an `encoding` that were taken: `mask`, boolean, against (kz, ky, kx).

    A mask has 1 to 3 axes, of length 1 where it does not vary, in the order of the data; a fourth in
    front is time, one mask per frame of the grid's time axis. With `zero_filled` the data are the
    encoded box with zeros where nothing was taken; else a list of samples, in which trailing axes of
    the mask of length 1 stay whole: (lines, kx) for a mask (kz, ky, 1).
    """

    encoding: CartesianGeometry
    mask: Tensor
    zero_filled: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.encoding, CartesianGeometry):
            raise type_error("encoding", "be a CartesianGeometry", type(self.encoding).__name__)
        mask = as_mask(self.mask)
        if mask.ndim == 1 and not isinstance(self.mask, (Tensor, np.ndarray)):
            # On a square matrix it would pass for a choice of samples along the readout.
            remedy = "SampledCartesianGeometry.lines(encoding, pattern)."
            expected = "not be a pattern of lines, which says nothing of the readout"
            raise value_error("mask", expected, tuple(mask.shape), remedy)
        if mask.ndim > 4:
            raise value_error("mask", "have at most the axes (t, kz, ky, kx)", tuple(mask.shape))
        mask = mask.reshape(*[1] * (3 - mask.ndim), *mask.shape)
        if any(m not in (1, n) for m, n in zip(mask.shape[-3:], self.encoding.matrix, strict=True)):
            raise value_error("mask", f"broadcast to the matrix {self.encoding.matrix}", tuple(mask.shape))
        if not bool(mask.flatten(1).any(dim=1).all() if mask.ndim == 4 else mask.any()):
            raise value_error("mask", "take at least one sample, of every frame", "a mask that takes none")
        if not isinstance(self.zero_filled, bool):
            raise type_error("zero_filled", "be True or False", repr(self.zero_filled))
        counts = mask.flatten(1).sum(dim=1) if mask.ndim == 4 else torch.zeros(1)
        if not self.zero_filled and int(counts.min()) != int(counts.max()):
            raise value_error(
                "mask",
                "take as many samples of every frame, to list them",
                f"{int(counts.min())} to {int(counts.max())}",
                "Use zero_filled=True, or one geometry per frame and operators.stack.",
            )
        object.__setattr__(self, "mask", mask)

    @classmethod
    def lines(
        cls, encoding: CartesianGeometry, mask: Tensor | HasMask, *, zero_filled: bool = True
    ) -> SampledCartesianGeometry:
        """Return the sampling of whole readouts; a mask of phase encodes is (ky), (kz, ky) or (t, kz, ky)."""
        return cls(encoding, as_mask(mask).unsqueeze(-1), zero_filled)

    def with_(self, **changes: object) -> SampledCartesianGeometry:
        """Return the same sampling with some values changed."""
        return replaced(self, changes)

    @property
    def acceleration(self) -> float:
        """Samples of the box over samples taken."""
        return float(self.mask.numel() / self.mask.sum())

    def operator(self, grid: Grid, *, components: Sequence[int] = ()) -> CartesianEncoding:
        """Return the transform from complex images on `grid` to the samples taken."""
        axes, flipped = self.encoding.layout(grid)
        mask = self.mask
        if mask.ndim == 4:
            frames = None if grid.time is None else grid.time.count
            if mask.shape[0] != frames:
                found = "no time axis" if frames is None else f"{frames} frames"
                remedy = "grid.with_time(TimeAxis(...)): one frame of the image for each of the mask."
                raise value_error("grid", f"have the {mask.shape[0]} frames of the mask", found, remedy)
        domain = Space.field(grid, is_complex=True, components=components)
        return CartesianEncoding(domain, axes, mask, zero_filled=self.zero_filled, flipped=flipped)


def as_mask(mask: object, argument: str = "mask") -> Tensor:
    """Return a boolean tensor of its own from a mask, an array of such, or a pattern that has one."""
    found = getattr(mask, "mask", mask)
    found = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    if not isinstance(found, Tensor):
        raise type_error(argument, "be a boolean tensor or a sampling pattern", type(mask).__name__)
    if found.dtype != torch.bool:
        raise type_error(argument, "be boolean", found.dtype, f"Convert it: {argument} != 0.")
    if found.numel() == 0 or found.ndim == 0:
        raise value_error(argument, "not be empty", tuple(found.shape))
    return found.clone()
