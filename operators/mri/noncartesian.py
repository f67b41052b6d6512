"""Non-Cartesian k-space: samples anywhere, along any trajectory.

    y(k) = N^-1/2 sum_n x(r_n) exp(-2 pi i k . (r_n - r_0))

k = (kx, ky, kz) in 1/mm along the device axes x, y, z, r_0 the device point of zero phase, N the number
of voxels: on the frequencies of a Cartesian box the values are those of `CartesianGeometry`. The grid
may lie in any way: k is projected onto its axes, so that oblique slices and anisotropic voxels need
nothing further. The sum repeats beyond the Nyquist box |k . a| <= 1/2, a the steps of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from operators.checks import check_point, replaced
from operators.errors import type_error, value_error
from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.mri.coils import KSpaceOperator
from operators.mri.engines import FloatArray
from operators.mri.framewise import Framewise
from operators.mri.nufft import NUFFT
from operators.mri.stacked import StackedNUFFT, stack_axis
from operators.space import Space

__all__ = ["NonCartesianGeometry"]

#: Rounding of trajectories kept in single precision, relative to the Nyquist frequency.
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class NonCartesianGeometry:
    """Trajectory (..., samples, 3) or, within a plane, (..., samples, 2): kx, ky(, kz) in 1/mm.

    The data have the shape of the trajectory without its last axis: (shots, samples). On a grid with a
    time axis the first axis of the trajectory is time. `zero_phase` is r_0, a device point (x, y, z) in
    mm. Samples outside the Nyquist box of a grid are refused unless `allow_folding` says that their
    aliases are meant.
    """

    trajectory: FloatArray
    zero_phase: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frame: DeviceFrame = field(default_factory=DeviceFrame)
    allow_folding: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "trajectory", _checked_trajectory(self.trajectory))
        x, y, z = check_point(self.zero_phase, "zero_phase").tolist()
        object.__setattr__(self, "zero_phase", (x, y, z))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)
        if not isinstance(self.allow_folding, bool):
            raise type_error("allow_folding", "be True or False", repr(self.allow_folding))

    def with_(self, **changes: object) -> NonCartesianGeometry:
        """Return the same geometry with some values changed."""
        return replaced(self, changes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data of one coil."""
        return self.trajectory.shape[:-1]

    def operator(
        self,
        grid: Grid,
        *,
        components: Sequence[int] = (),
        engine: str = "auto",
        accuracy: float | None = None,
        gram: str = "auto",
    ) -> KSpaceOperator:
        """Return the transform from complex images on `grid` to the samples.

        `components` are axes in front of the grid's own, each entry transformed alike: (coils,). For
        `engine`, `accuracy` and `gram` see `NUFFT`. A trajectory (partitions, ...) that repeats one
        path in a plane at each position along an axis of the grid, a stack of stars, is taken apart.
        """
        frequency, turns = self.on(grid)
        space = Space.field(grid.with_time(None), is_complex=True, components=components)

        def single(f: FloatArray, p: FloatArray) -> NUFFT | StackedNUFFT:
            axis = stack_axis(f, grid.shape)
            if axis is not None:
                return StackedNUFFT(space, f, p, axis, engine=engine, accuracy=accuracy, gram=gram)
            return NUFFT(space, f, p, engine=engine, accuracy=accuracy, gram=gram)

        if grid.time is None:
            return single(frequency, turns)
        if len(frequency) != grid.time.count or frequency.ndim < 3:
            raise value_error(
                "grid",
                f"have the frames of the trajectory, its first axis, {len(frequency)}",
                f"{grid.time.count} frames",
                "For one path in every frame repeat the trajectory: numpy.broadcast_to.",
            )
        return Framewise(grid, [single(f, p) for f, p in zip(frequency, turns, strict=True)])

    def on(self, grid: Grid) -> tuple[FloatArray, FloatArray]:
        """Return the frequencies (..., 3) in cycles per voxel (z, y, x) of `grid`, and the phases in turns.

        The phase is that of voxel N // 2, where a centred sum has none.
        """
        to_device = self.frame.grid_to_device(Grid.require(grid).affine)
        planar = self.trajectory.shape[-1] == 2
        k = np.zeros((*self.shape, 3))
        k[..., : self.trajectory.shape[-1]] = self.trajectory
        frequency: FloatArray = k @ to_device[:3, :3]
        counts = np.array(grid.shape)
        centre = to_device[:3, :3] @ (counts // 2) + to_device[:3, 3]
        turns: FloatArray = k @ (centre - np.array(self.zero_phase))
        encoded = counts > 1
        extent = np.abs(frequency).max(axis=tuple(range(frequency.ndim - 1)))
        # A path in a plane tells nothing along its normal.
        within = np.linalg.norm(to_device[:2, :3], axis=0) > 1e-6 * np.array(grid.spacing)
        if planar and (encoded.all() or not within[encoded].all()):
            raise value_error(
                "grid",
                "lie in the plane of a trajectory (kx, ky)",
                repr(grid),
                "Give each slice its own operator, SliceWise, or the trajectory its kz.",
            )
        outside = (np.abs(frequency[..., encoded]) > 0.5 * (1 + ROUNDING)).any(axis=-1)
        if outside.any() and not self.allow_folding:
            raise value_error(
                "trajectory",
                "lie inside the Nyquist box of the grid, |k . a| <= 1/2 for its steps a",
                f"{outside.mean():.1%} of the samples outside, up to {extent[encoded].max():.3g} cycles "
                "per voxel",
                "Take finer voxels, check the unit (1/mm), or say allow_folding=True: they alias.",
            )
        return frequency, turns


def _checked_trajectory(values: ArrayLike) -> FloatArray:
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError
        trajectory = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type_error("trajectory", "be numbers of shape (..., samples, 3 or 2)", repr(values)) from error
    if trajectory.ndim < 2 or trajectory.shape[-1] not in (2, 3) or trajectory.size == 0:
        raise value_error("trajectory", "have shape (..., samples, 3) or (..., samples, 2)", trajectory.shape)
    if not np.isfinite(trajectory).all():
        raise value_error("trajectory", "hold finite values only, in 1/mm", "NaN or infinity")
    trajectory.setflags(write=False)
    return trajectory
