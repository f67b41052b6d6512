"""Where a scanner stands: rigid transforms from device coordinates to the world.

A geometry speaks the scanner's own coordinates in mm; a patient lies in it at some position, the
table is moved, a slab is oblique. All of that is one rigid 4x4 from device to RAS world, identity
for phantoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from operators.checks import check_point, check_points
from operators.errors import type_error, value_error
from operators.grid import FloatArray, Grid


def _identity() -> FloatArray:
    return np.eye(4)


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """Rigid 4x4 `to_world`: device mm to RAS world mm. A mirror image is refused."""

    to_world: FloatArray = field(default_factory=_identity)

    def __post_init__(self) -> None:
        try:
            matrix = np.array(self.to_world, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise type_error("to_world", "be a 4x4 matrix of numbers", repr(self.to_world)) from error
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise value_error("to_world", "be a finite 4x4 matrix", matrix.tolist())
        rotation = matrix[:3, :3]
        rigid = np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0
        if not rigid or not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise value_error(
                "to_world",
                "be a rotation (determinant +1) and a translation in mm",
                matrix.tolist(),
                "Spacing belongs to the Grid, mirroring to the order of detector or readout samples.",
            )
        matrix += 0.0
        matrix.setflags(write=False)
        object.__setattr__(self, "to_world", matrix)

    @classmethod
    def from_axes(
        cls, x: ArrayLike, y: ArrayLike, z: ArrayLike, *, origin: ArrayLike = (0, 0, 0)
    ) -> DeviceFrame:
        """Return the frame whose device axes point along the RAS unit vectors `x`, `y`, `z`."""
        matrix = np.eye(4)
        columns = [check_point(axis, name) for axis, name in ((x, "x"), (y, "y"), (z, "z"))]
        matrix[:3, :3] = np.stack(columns, axis=1)
        matrix[:3, 3] = check_point(origin, "origin")
        return cls(matrix)

    @property
    def from_world(self) -> FloatArray:
        """The inverse 4x4: RAS world mm to device mm."""
        inverse = np.eye(4)
        inverse[:3, :3] = self.to_world[:3, :3].T
        inverse[:3, 3] = -self.to_world[:3, :3].T @ self.to_world[:3, 3]
        return inverse

    def points_to_world(self, points: ArrayLike) -> FloatArray:
        """Map device points (..., 3) to world points (..., 3), both in mm."""
        return check_points(points, "points") @ self.to_world[:3, :3].T + self.to_world[:3, 3]

    def points_to_device(self, points: ArrayLike) -> FloatArray:
        """Map world points (..., 3) to device points (..., 3), both in mm."""
        return (check_points(points, "points") - self.to_world[:3, 3]) @ self.to_world[:3, :3]

    def grid_to_device(self, affine: ArrayLike) -> FloatArray:
        """Return the 4x4 from array index straight to device mm for a grid's affine."""
        return cast(FloatArray, self.from_world @ np.asarray(affine))

    def __reduce__(self) -> tuple[type[DeviceFrame], tuple[object, ...]]:
        return DeviceFrame, (self.to_world,)  # copies and pickles stay read-only

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeviceFrame) and np.array_equal(self.to_world, other.to_world)

    def __hash__(self) -> int:
        return hash(self.to_world.tobytes())


def require_orthogonal(grid: Grid) -> FloatArray:
    """Return the directions of a grid whose axes are perpendicular; refuse a sheared one."""
    axes = grid.directions
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6:
        raise value_error(
            "grid", "have perpendicular axes", repr(grid), "Resample it, or write the geometry out by hand."
        )
    return axes
