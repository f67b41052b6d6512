"""Cartesian k-space: which spatial frequencies were measured, and which world point has zero phase.

    y(k) = N^-1/2 sum_n x(r_n) exp(-2 pi i k . (r_n - r_0)),   k_j = (m_j - N_j // 2) / FOV_j

in device coordinates: the frequency axes of the data, in array order (kz, ky, kx), are the device
axes z, y, x, and r_0 is the device point whose signal has zero phase, the isocentre unless the
scanner says otherwise. A grid shifted or flipped by whole voxels changes nothing but the phase this
equation gives; the grid's own centre plays no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from operators.checks import check_point, check_spacing, check_triple, replaced
from operators.errors import type_error, value_error
from operators.fourier import Fourier
from operators.frame import DeviceFrame, require_orthogonal
from operators.grid import FRAMES_ARE_A_BATCH, Grid
from operators.space import Space

__all__ = ["CartesianGeometry"]


@dataclass(frozen=True)
class CartesianGeometry:
    """Matrix size and field of view in mm of an encoded box, both in array order (z, y, x).

    An axis of one sample is not encoded. `zero_phase` is r_0, a device point (x, y, z) in mm.
    """

    matrix: tuple[int, int, int]
    field_of_view: tuple[float, float, float]
    zero_phase: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frame: DeviceFrame = field(default_factory=DeviceFrame)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_triple(self.matrix, "matrix"))
        object.__setattr__(self, "field_of_view", check_spacing(self.field_of_view, "field_of_view"))
        x, y, z = check_point(self.zero_phase, "zero_phase").tolist()
        object.__setattr__(self, "zero_phase", (x, y, z))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)

    @classmethod
    def around(cls, grid: Grid) -> CartesianGeometry:
        """Return the encoding of exactly `grid`, zero phase at its FFT centre, index N // 2."""
        slices, down, across = require_orthogonal(Grid.require(grid)).T
        if np.linalg.det(np.stack([across, down, slices])) < 0:
            # A left-handed grid is read by a right-handed scanner with one axis reversed.
            slices = -slices
        origin = grid.index_to_world([n // 2 for n in grid.shape])
        extent = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
        frame = DeviceFrame.from_axes(across, down, slices, origin=origin)
        return cls(grid.shape, (extent[0], extent[1], extent[2]), frame=frame)

    def with_(self, **changes: object) -> CartesianGeometry:
        """Return the same encoding with some values changed."""
        return replaced(self, changes)

    def operator(self, grid: Grid, *, components: Sequence[int] = ()) -> Fourier:
        """Return the transform from complex images on `grid` to k-space (kz, ky, kx).

        `components` are axes in front of the grid's own, each entry transformed alike: (coils,).
        """
        if Grid.require(grid).time is not None:
            raise value_error("grid", "have no time axis", grid, FRAMES_ARE_A_BATCH)
        if grid.shape != self.matrix:
            raise value_error("grid", f"have the encoded matrix {self.matrix}", grid.shape)
        to_device = self.frame.grid_to_device(grid.affine)
        # Rows in array order: device z, y, x beside array axes z, y, x.
        steps, origin = to_device[2::-1, :3], to_device[2::-1, 3]
        lengths = np.diagonal(steps)
        encoded = [axis for axis in range(3) if self.matrix[axis] > 1]
        wanted = np.array(self.field_of_view) / np.array(self.matrix)
        off_axis = np.abs(steps - np.diag(lengths)).max() / wanted.min()
        if off_axis > 1e-6:
            raise value_error(
                "grid",
                "have its axes (z, y, x) along the device axes",
                repr(grid),
                "Permute it or resample it on the scanner's axes: CartesianGeometry.frame.",
            )
        if np.abs(np.abs(lengths) / wanted - 1)[encoded].max(initial=0.0) > 1e-6:
            raise value_error(
                "grid",
                f"have voxels of field of view / matrix, {tuple(wanted.tolist())} mm",
                f"{grid.spacing} mm",
            )
        target = np.array(self.zero_phase[::-1])
        index = (target - origin) / lengths
        axes = encoded or [2]
        return Fourier(
            Space.field(grid, is_complex=True, components=components),
            [axis - 3 for axis in axes],
            zero_phase=[float(index[axis]) for axis in axes],
            signs=[int(np.sign(lengths[axis])) for axis in axes],
        )
