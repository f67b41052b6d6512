"""Parallel-beam CT, as at a synchrotron; with a tilt, laminography."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.checks import check_number
from operators.ct.geometry import RotationGeometry, evenly_spaced, frame_about
from operators.ct.views import Views
from operators.errors import value_error
from operators.grid import Grid

__all__ = ["ParallelBeamGeometry"]


@dataclass(frozen=True)
class ParallelBeamGeometry(RotationGeometry):
    """A parallel-beam scan. `tilt` (rad) raises the beam, and the detector, out of the plane of rotation.

    The rays run along cos(tilt) (-sin theta, cos theta, 0) + sin(tilt) (0, 0, 1).
    """

    tilt: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tilt", check_number(self.tilt, "tilt"))
        if abs(self.tilt) >= math.pi / 2:
            remedy = "At a right angle the beam runs along the axis of rotation."
            raise value_error("tilt", "lie between -pi/2 and pi/2", self.tilt, remedy)

    @classmethod
    def around(
        cls, grid: Grid, views: int | Sequence[float], *, columns: int | None = None
    ) -> ParallelBeamGeometry:
        """Return a scan of `grid` about the axis of its slices, one detector row per slice.

        `views` is a number of views evenly spaced over half a turn, or their angles in rad. The pitch
        is the finer in-plane spacing; the detector covers the in-plane diagonal unless told otherwise.
        """
        angles, frame = evenly_spaced(views, math.pi), frame_about(grid)
        pitch = min(grid.spacing[1:])
        extent = math.hypot(*(n * s for n, s in zip(grid.shape[1:], grid.spacing[1:], strict=True)))
        return cls(
            angles=angles,
            columns=math.ceil(extent / pitch) + 1 if columns is None else columns,
            column_pitch=pitch,
            rows=grid.shape[0],
            row_pitch=grid.spacing[0],
            frame=frame,
        )

    def views(self) -> Views:
        """Return all rays, in world coordinates."""
        columns, axis, radial = self.directions()
        beam = math.cos(self.tilt) * radial + math.sin(self.tilt) * axis
        rows = math.cos(self.tilt) * axis - math.sin(self.tilt) * radial
        return Views(
            through=beam,
            centre=np.zeros_like(beam),
            columns=columns,
            rows=rows,
            outwards=beam,
            across=self.column_positions,
            sag=np.zeros(self.columns),
            up=self.row_positions,
            pitch=(self.column_pitch, self.row_pitch),
            parallel=True,
        ).mapped(self.frame.to_world)
