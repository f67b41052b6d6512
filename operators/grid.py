"""Where an array lies in the world.

Convention, stated here once
----------------------------
An array is indexed (z, y, x): slice, row, column. `Grid.affine` maps that array index, in that
order, to world coordinates in mm, in (R, A, S): +x to the patient's right, +y anterior, +z superior.
Index 0 is the CENTRE of the first voxel; the geometric centre of N voxels is index (N - 1) / 2,
the centre of a discrete Fourier transform is index N // 2.

Other conventions are derived from this one and never stored:

- NIfTI: array transposed to (x, y, z), affine `affine @ P`; P reverses the three axes.
- napari: array as it is, affine `P @ F @ affine` with F = diag(-1, -1, 1, 1), so that axial slices
  appear radiologically (patient's right on the left of the screen, anterior up).
- DICOM and ITK are LPS (world = F @ RAS) and are converted in `workbench/io` only.

A 2D image is a grid of one slice with a thickness. Time is an axis apart: it has no affine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operators.checks import (
    check_axes,
    check_count,
    check_lengths,
    check_number,
    check_point,
    check_points,
    check_spacing,
    check_triple,
)
from operators.errors import type_error, value_error

FloatArray = NDArray[np.float64]
Triple = tuple[int, int, int]

#: What to do with frames where an operator takes one volume.
FRAMES_ARE_A_BATCH = "Use grid.with_time(None) and pass the frames as a batch axis."

REVERSE_AXES = np.eye(4)[[2, 1, 0, 3]]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class TimeAxis:
    """`count` frames, the first at `start` s, then every `step` s."""

    count: int
    step: float = 1.0
    start: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count"))
        object.__setattr__(self, "step", check_number(self.step, "step", positive=True))
        object.__setattr__(self, "start", check_number(self.start, "start"))


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (z, y, x) and the 4x4 affine from array index to RAS world mm; immutable."""

    shape: Triple
    affine: FloatArray
    time: TimeAxis | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_triple(self.shape, "shape"))
        object.__setattr__(self, "affine", _checked_affine(self.affine))
        if self.time is not None and not isinstance(self.time, TimeAxis):
            raise type_error("time", "be a TimeAxis or None", repr(self.time))

    # -- making one ----------------------------------------------------------------------------

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float] | float,
        *,
        centre: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Grid:
        """Return an axis-aligned grid: z to superior, y to anterior, x to the right.

        `spacing` is in mm in array order (z, y, x); `centre` is the world point (R, A, S) in mm of
        the geometric centre.
        """
        counts = check_triple(shape, "shape")
        dz, dy, dx = check_spacing(spacing, "spacing")
        affine = np.array([[0, 0, dx, 0], [0, dy, 0, 0], [dz, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
        middle = (np.array(counts) - 1) / 2
        affine[:3, 3] = check_point(centre, "centre") - affine[:3, :3] @ middle
        return cls(counts, affine)

    @classmethod
    def plane(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float] | float,
        *,
        thickness: float = 1.0,
        centre: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Grid:
        """Return one axial slice of `shape` (y, x), `spacing` (y, x) in mm and a thickness in mm."""
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise value_error("shape", "have two entries (y, x)", repr(shape))
        dy, dx = check_lengths(spacing, 2, "spacing")
        depth = check_number(thickness, "thickness", positive=True)
        return cls.from_spacing((1, *shape), (depth, dy, dx), centre=centre)

    @classmethod
    def from_nifti(cls, shape: Sequence[int], affine: ArrayLike) -> Grid:
        """Return the grid of a NIfTI image of `shape` (x, y, z) and RAS mm `affine`."""
        x, y, z = check_triple(shape, "shape")
        return cls((z, y, x), _checked_affine(affine) @ REVERSE_AXES)

    @staticmethod
    def require(value: object, argument: str = "grid") -> Grid:
        """Return `value` if it is a Grid."""
        if not isinstance(value, Grid):
            raise type_error(argument, "be a Grid", type(value).__name__)
        return value

    def with_time(self, time: TimeAxis | None) -> Grid:
        """Return the same place with another time axis."""
        return Grid(self.shape, self.affine, time)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one array on this grid: (z, y, x), or (t, z, y, x) with a time axis."""
        return self.shape if self.time is None else (self.time.count, *self.shape)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes in mm, in array order (z, y, x)."""
        dz, dy, dx = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(dz), float(dy), float(dx)

    @property
    def directions(self) -> FloatArray:
        """3x3 matrix whose columns are the unit world directions of the array axes (z, y, x)."""
        unit: FloatArray = self.affine[:3, :3] / np.array(self.spacing)
        return unit

    @property
    def centre(self) -> FloatArray:
        """World point in mm of the geometric centre, index (N - 1) / 2."""
        return self.index_to_world((np.array(self.shape) - 1) / 2)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def is_plane(self) -> bool:
        """Whether the grid is a single slice."""
        return self.shape[0] == 1

    @property
    def orientation(self) -> str:
        """Letter of the world direction nearest to each array axis (z, y, x), such as 'SAR'."""
        names = (("L", "R"), ("P", "A"), ("I", "S"))
        letters = []
        for column in self.directions.T:
            axis = int(np.argmax(np.abs(column)))
            letters.append(names[axis][int(column[axis] > 0)])
        return "".join(letters)

    @property
    def nifti_affine(self) -> FloatArray:
        """Affine of the transposed array (x, y, z), RAS mm."""
        return self.affine @ REVERSE_AXES

    @property
    def napari_affine(self) -> FloatArray:
        """Affine of the array (z, y, x) in napari's world, so that axial slices show radiologically."""
        return REVERSE_AXES @ RAS_TO_LPS @ self.affine

    def index_to_world(self, index: ArrayLike) -> FloatArray:
        """Map array indices (..., 3) in order (z, y, x) to world points (..., 3) in mm (R, A, S)."""
        points = check_points(index, "index")
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_index(self, point: ArrayLike) -> FloatArray:
        """Map world points (..., 3) in mm (R, A, S) to fractional array indices (..., 3) in (z, y, x)."""
        # Offset first, then solve: subtracting after a multiplication by the inverse loses digits.
        offset = check_points(point, "point") - self.affine[:3, 3]
        return cast(FloatArray, np.linalg.solve(self.affine[:3, :3], offset[..., None])[..., 0])

    # -- other grids made from it --------------------------------------------------------------

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """Return the grid of the voxels `start` <= index < `stop`, in array order."""
        first = check_triple(start, "start", minimum=0)
        last = check_triple(stop, "stop")
        inside = all(a < b <= n for a, b, n in zip(first, last, self.shape, strict=True))
        if not inside:
            raise value_error(
                "stop",
                f"lie above start {first} and within {self.shape}",
                last,
                "Use pad() to enlarge a grid.",
            )
        size = tuple(b - a for a, b in zip(first, last, strict=True))
        return self._moved(size, np.array(first, dtype=float))

    def pad(self, before: Sequence[int] | int, after: Sequence[int] | int | None = None) -> Grid:
        """Return the grid with that many voxels more at the start and at the end of each axis."""
        low = check_triple(before, "before", minimum=0)
        high = low if after is None else check_triple(after, "after", minimum=0)
        size = tuple(n + a + b for n, a, b in zip(self.shape, low, high, strict=True))
        return self._moved(size, -np.array(low, dtype=float))

    def flip(self, *axes: int) -> Grid:
        """Return the same voxels with the array axes `axes` running the other way."""
        step = np.eye(4)
        for axis in check_axes(axes, "axes"):
            step[axis, axis] = -1
            step[axis, 3] = self.shape[axis] - 1
        return Grid(self.shape, self.affine @ step, self.time)

    def permute(self, order: Sequence[int]) -> Grid:
        """Return the same voxels with array axis `order[i]` as new axis i."""
        axes = check_axes(order, "order")
        if len(axes) != 3:
            raise value_error("order", "name each of the axes 0, 1, 2 once", tuple(order))
        shape = tuple(self.shape[axis] for axis in axes)
        return Grid(cast(Triple, shape), self.affine[:, [*axes, 3]], self.time)

    def downsample(self, factor: Sequence[int] | int) -> Grid:
        """Return the grid of blocks of `factor` voxels; each new centre is the centre of its block."""
        factors = check_triple(factor, "factor")
        if any(n % f for n, f in zip(self.shape, factors, strict=True)):
            raise value_error(
                "factor",
                f"divide the shape {self.shape}",
                factors,
                "Crop or pad the grid to a multiple first.",
            )
        scale = np.diag([*factors, 1.0])
        scale[:3, 3] = (np.array(factors) - 1) / 2
        shape = tuple(n // f for n, f in zip(self.shape, factors, strict=True))
        return Grid(cast(Triple, shape), self.affine @ scale, self.time)

    def resample(
        self, *, spacing: Sequence[float] | float | None = None, shape: Sequence[int] | None = None
    ) -> Grid:
        """Return a grid with the same axes and geometric centre and another sampling.

        With `spacing` (mm, array order) the spacing is met exactly and the extent to half a voxel;
        with `shape` the outer faces stay where they are and the spacing follows.
        """
        if (spacing is None) == (shape is None):
            raise value_error("spacing", "be given, or `shape`, and not both", f"{spacing} and {shape}")
        extent = np.array(self.shape) * np.array(self.spacing)
        if spacing is not None:
            new_spacing = np.array(check_spacing(spacing, "spacing"))
            counts = tuple(max(1, math.floor(n + 0.5)) for n in extent / new_spacing)
        else:
            counts = check_triple(cast(Sequence[int], shape), "shape")
            new_spacing = extent / np.array(counts)
        affine = np.eye(4)
        affine[:3, :3] = self.directions * new_spacing
        affine[:3, 3] = self.centre - affine[:3, :3] @ ((np.array(counts) - 1) / 2)
        return Grid(cast(Triple, counts), affine, self.time)

    def slice_at(self, axis: int, index: int) -> Grid:
        """Return the one-voxel-thick grid at `index` along array axis `axis`."""
        (axis,) = check_axes((axis,), "axis")
        if not isinstance(index, (int, np.integer)) or not 0 <= index < self.shape[axis]:
            raise value_error("index", f"lie in 0..{self.shape[axis] - 1} along axis {axis}", index)
        start, stop = [0, 0, 0], list(self.shape)
        start[axis], stop[axis] = index, index + 1
        return self.crop(start, stop)

    def _moved(self, shape: Sequence[int], offset: FloatArray) -> Grid:
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_world(offset)
        return Grid(cast(Triple, tuple(shape)), affine, self.time)

    # -- comparing -----------------------------------------------------------------------------

    def matches(self, other: Grid, *, tolerance: float | None = None) -> bool:
        """Tell whether both grids put every voxel at the same world point.

        Within `tolerance` mm, by default a ten-thousandth of the shortest voxel side.
        """
        Grid.require(other, "other")
        if self.shape != other.shape or self.time != other.time:
            return False
        tolerance = 1e-4 * min(*self.spacing, *other.spacing) if tolerance is None else tolerance
        check_number(tolerance, "tolerance", non_negative=True)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        apart = self.index_to_world(corners) - other.index_to_world(corners)
        return bool(np.abs(apart).max() <= tolerance)

    def __reduce__(self) -> tuple[type[Grid], tuple[object, ...]]:
        return Grid, (self.shape, self.affine, self.time)  # copies and pickles stay read-only

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        same_place = self.shape == other.shape and np.array_equal(self.affine, other.affine)
        return same_place and self.time == other.time

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes(), self.time))

    def __repr__(self) -> str:
        spacing = ", ".join(f"{length:.6g}" for length in self.spacing)
        centre = ", ".join(f"{c:.6g}" for c in self.centre)
        time = "" if self.time is None else f", {self.time.count} frames"
        return f"Grid({self.shape}, {self.orientation}, spacing ({spacing}) mm, centre ({centre}) mm{time})"


def _checked_affine(affine: ArrayLike) -> FloatArray:
    try:
        if np.iscomplexobj(affine):
            raise TypeError
        matrix = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise value_error("affine", "be a 4x4 matrix of numbers", repr(affine)) from error
    if matrix.shape != (4, 4):
        raise value_error("affine", "have shape (4, 4)", matrix.shape)
    if not np.isfinite(matrix).all():
        raise value_error("affine", "hold finite values only", matrix.tolist())
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise value_error("affine", "have the last row (0, 0, 0, 1)", matrix[3].tolist())
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    # Relative to the axis lengths, so that a grid in metres or micrometres is judged alike.
    if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise value_error(
            "affine",
            "be invertible: three axes that span space",
            matrix[:3, :3].tolist(),
            "A 2D image needs a slice direction and thickness too: see Grid.plane.",
        )
    matrix += 0.0  # -0.0 becomes 0.0, so that equal grids hash alike
    matrix.setflags(write=False)
    return matrix
