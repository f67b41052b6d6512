"""What every scan has: views, a detector of columns and rows, an axis of rotation, a place in the world.

Device coordinates, in mm: z is the axis of rotation. At angle theta (rad) the detector's columns run along
(cos theta, sin theta, 0), its rows along z, and the central ray along (-sin theta, cos theta, 0). The axis is
seen at column `axis_column`, and device z = 0 (of a source that moves: its height) at row `middle_row`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from operators.checks import check_count, check_number, replaced
from operators.ct.engines import MATRIX_BYTES
from operators.ct.projector import Projector
from operators.ct.views import Float, Views
from operators.errors import type_error, value_error
from operators.frame import DeviceFrame, require_orthogonal
from operators.grid import Grid

__all__ = ["Geometry", "RotationGeometry"]


class Geometry(ABC):
    """A scan, as a value: where its rays ran."""

    #: Line integrals have no unit.
    image_unit: ClassVar[str] = "1/mm"

    @abstractmethod
    def views(self) -> Views:
        """Return all rays, in world coordinates (RAS mm)."""

    def operator(self, grid: Grid, *, engine: str = "auto", matrix_bytes: int = MATRIX_BYTES) -> Projector:
        """Return the projector from images on `grid` (1/mm) to line integrals (views, rows, columns).

        `engine` is one of those of `Projector`; `matrix_bytes` bounds what the engine "matrix" keeps.
        """
        return Projector(grid, self.views(), engine=engine, matrix_bytes=matrix_bytes)


@dataclass(frozen=True)
class RotationGeometry(Geometry):
    """A scan about an axis; see the module's head.

    `angles` are in rad, one per view, in any order; pitches in mm, at the detector, along the arc of a
    cylindrical one. `axis_column` and `middle_row` count pixels from 0, fractions included, and are the
    middle unless given: a centre of rotation found at column 295.5 is axis_column=295.5, and a detector moved
    by s mm along its columns sees the axis s / column_pitch below the middle.
    """

    angles: tuple[float, ...]
    columns: int
    column_pitch: float
    rows: int = 1
    row_pitch: float = 1.0
    axis_column: float | None = None
    middle_row: float | None = None
    frame: DeviceFrame = field(default_factory=DeviceFrame)

    def __post_init__(self) -> None:
        try:
            angles = np.asarray(self.angles, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise type_error("angles", "be a list of angles in rad", repr(self.angles)) from error
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise value_error("angles", "be a list of finite angles in rad", repr(self.angles))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)
        for name in ("axis_column", "middle_row"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_number(getattr(self, name), name))
        object.__setattr__(self, "angles", tuple(angles.tolist()))
        object.__setattr__(self, "columns", check_count(self.columns, "columns"))
        object.__setattr__(self, "rows", check_count(self.rows, "rows"))
        for name in ("column_pitch", "row_pitch"):
            object.__setattr__(self, name, check_number(getattr(self, name), name, positive=True))

    def with_(self, **changes: object) -> Self:
        """Return the same geometry with some values changed, such as axis_column half a pixel off."""
        return replaced(self, changes)

    @property
    def axis_at(self) -> float:
        """Detector column, possibly fractional, at which the rotation axis is seen."""
        return (self.columns - 1) / 2 if self.axis_column is None else self.axis_column

    @property
    def middle_at(self) -> float:
        """Detector row, possibly fractional, at device z = 0, or at the height of the source."""
        return (self.rows - 1) / 2 if self.middle_row is None else self.middle_row

    @property
    def column_positions(self) -> Float:
        """Detector columns in mm from where the axis is seen, along the arc of a cylindrical detector."""
        return (np.arange(self.columns, dtype=np.float64) - self.axis_at) * self.column_pitch

    @property
    def row_positions(self) -> Float:
        """Detector rows in mm from the middle row."""
        return (np.arange(self.rows, dtype=np.float64) - self.middle_at) * self.row_pitch

    def directions(self) -> tuple[Float, Float, Float]:
        """Return the unit vectors of columns, rows and central rays per view, in device coordinates."""
        theta = np.array(self.angles)
        zero, one = np.zeros_like(theta), np.ones_like(theta)
        columns = np.stack([np.cos(theta), np.sin(theta), zero], axis=1)
        outwards = np.stack([-np.sin(theta), np.cos(theta), zero], axis=1)
        return columns, np.stack([zero, zero, one], axis=1), outwards


def evenly_spaced(views: object, span: float) -> tuple[float, ...]:
    """Return angles over `span` (rad), the end left out, from their number; or the angles as given."""
    if isinstance(views, (int, np.integer)):
        return tuple((span * np.arange(check_count(views, "views")) / int(views)).tolist())
    try:
        angles = np.asarray(views, dtype=np.float64)
    except (TypeError, ValueError):
        angles = np.empty(())
    if angles.ndim != 1:
        raise type_error("views", "be a number of views or a list of angles in rad", repr(views))
    return tuple(angles.tolist())


def frame_about(grid: Grid) -> DeviceFrame:
    """Return the frame whose axis is perpendicular to the slices of `grid`, through its centre."""
    slices, _, across = require_orthogonal(Grid.require(grid)).T
    return DeviceFrame.from_axes(across, np.cross(slices, across), slices, origin=grid.centre)
