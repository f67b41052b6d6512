"""How a slice lies in the body, and how networks of slices are told of it.

A network of slices sees all of them the same way up, as an array (rows, columns) whose indices grow towards

    axial (A, R),    coronal (S, R),    sagittal (S, A)

and is told the length of a voxel and the axis that the slice is normal to, four numbers:

    log2(spacing / 2 mm),  1 if axial,  1 if coronal,  1 if sagittal
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_member, check_number
from operators.errors import value_error
from operators.grid import Grid

__all__ = ["LABELS", "SliceAxis", "SliceFrame", "slice_labels"]

#: How many numbers a network is told.
LABELS = 4
#: The spacing whose label is zero, in mm.
MIDDLE = 2.0
#: By how much the sides of a voxel may differ, and the furthest a slice may be turned out of its plane.
SQUARE, TURNED = 0.02, 35.0


class SliceAxis(StrEnum):
    """What a slice is normal to: the axis S, A or R."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def world(self) -> int:
        """The number of its normal among (R, A, S)."""
        return {"axial": 2, "coronal": 1, "sagittal": 0}[self.value]

    @property
    def in_plane(self) -> tuple[int, int]:
        """The world axes of rows and columns."""
        rows, columns = (axis for axis in (2, 1, 0) if axis != self.world)
        return rows, columns

    @classmethod
    def require(cls, value: object, argument: str = "axis") -> SliceAxis:
        """Return the axis that `value` is, or is the text of."""
        return check_member(cls, value, argument)


def slice_labels(spacing: float, axis: SliceAxis) -> Tensor:
    """Return the four numbers for voxels of `spacing` mm."""
    length = check_number(spacing, "spacing", positive=True)
    return torch.tensor([math.log2(length / MIDDLE), *(float(axis is one) for one in SliceAxis)])


@dataclass(frozen=True)
class SliceFrame:
    """How a slice of a grid becomes one as networks see it: transposed, then flipped along some axes."""

    axis: SliceAxis
    spacing: float
    transposed: bool
    flipped: tuple[int, ...]

    @classmethod
    def of(cls, grid: Grid) -> SliceFrame:
        """Return that of a grid of one slice, with square voxels and axes near the world's."""
        frames = Grid.require(grid).time
        if frames is not None:
            remedy = "Frame by frame: grid.with_time(None)."
            raise value_error("grid", "be a slice at one time", f"{frames.count} frames", remedy)
        if not grid.is_plane:
            remedy = "Slice by slice: grid.slice_at(0, index)."
            raise value_error("grid", "be a single slice", f"{grid.shape[0]} slices", remedy)
        _, dy, dx = grid.spacing
        if abs(dy / dx - 1) > SQUARE:
            remedy = "Resample it, or choose another grid for the reconstruction."
            raise value_error("grid", "have square voxels", f"{dy:g} x {dx:g} mm", remedy)
        nearest = np.abs(grid.directions).argmax(axis=0)
        turned = np.degrees(np.arccos(np.clip(np.abs(grid.directions).max(axis=0), 0, 1))).max()
        if sorted(nearest) != [0, 1, 2] or turned > TURNED:
            expected = f"lie within {TURNED:g} degrees of an axial, coronal or sagittal plane"
            raise value_error("grid", expected, f"{turned:.0f} degrees away")
        axis = next(one for one in SliceAxis if one.world == nearest[0])
        transposed = tuple(nearest[1:]) != axis.in_plane
        order = (2, 1) if transposed else (1, 2)
        signs = [grid.directions[nearest[a], a] for a in order]
        flipped = tuple(i for i, sign in enumerate(signs) if sign < 0)
        return cls(axis, math.sqrt(dy * dx), transposed, flipped)

    @property
    def is_plain(self) -> bool:
        """Whether the slice is stored as networks see it."""
        return not self.transposed and not self.flipped

    @property
    def labels(self) -> Tensor:
        """What the network is told."""
        return slice_labels(self.spacing, self.axis)

    def seen(self, x: Tensor) -> Tensor:
        """Return images (..., y, x) as networks see them."""
        turned = x.transpose(-1, -2) if self.transposed else x
        return turned.flip([axis - 2 for axis in self.flipped]) if self.flipped else turned

    def stored(self, x: Tensor) -> Tensor:
        """Return what `seen` gave as the grid stores it."""
        turned = x.flip([axis - 2 for axis in self.flipped]) if self.flipped else x
        return turned.transpose(-1, -2) if self.transposed else turned
