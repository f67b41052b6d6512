"""Fan and cone beams: a source and a detector that turn about an axis, flat or cylindrical.

    source    = source_to_axis (sin theta, -cos theta, 0)
    detector  = (source_to_detector - source_to_axis) (-sin theta, cos theta, 0) at (axis_column, middle_row)

in device coordinates. A cylindrical detector lies on a cylinder about the source, with columns at equal
angles column_pitch / source_to_detector, as in a clinical scanner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from operators.checks import check_number
from operators.ct.geometry import RotationGeometry, evenly_spaced, frame_about
from operators.ct.views import Float, Views
from operators.errors import type_error, value_error
from operators.grid import Grid

__all__ = ["ConeBeamGeometry", "Detector", "DivergingGeometry", "FanBeamGeometry"]

Detector = Literal["flat", "cylindrical"]
Shifts = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class DivergingGeometry(RotationGeometry):
    """What a fan and a cone have in common; lengths in mm."""

    source_to_axis: float
    source_to_detector: float
    detector: Detector = "flat"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("source_to_axis", "source_to_detector"):
            object.__setattr__(self, name, check_number(getattr(self, name), name, positive=True))
        if self.source_to_detector < self.source_to_axis:
            expected = f"be at least source_to_axis = {self.source_to_axis:g} mm"
            remedy = "The detector stands beyond the axis, seen from the source; are the two swapped?"
            raise value_error("source_to_detector", expected, self.source_to_detector, remedy)
        if self.detector not in get_args(Detector):
            raise value_error("detector", f"be one of {', '.join(get_args(Detector))}", repr(self.detector))
        widest = np.abs(self.column_positions).max() / self.source_to_detector
        if self.detector == "cylindrical" and widest >= math.pi / 2:
            got = f"columns at {math.degrees(widest):.0f} degrees from the central ray"
            raise value_error("column_pitch", "keep all columns within 90 degrees", got)

    @property
    def fan_angles(self) -> Float:
        """Angle of each column from the central ray, in rad."""
        along = self.column_positions / self.source_to_detector
        return along if self.detector == "cylindrical" else np.arctan(along)

    @property
    def magnification(self) -> float:
        """How much larger the axis is seen at the detector."""
        return self.source_to_detector / self.source_to_axis

    def _columns_placed(self) -> tuple[Float, Float]:
        """Return `across` and `sag` of the columns."""
        if self.detector == "flat":
            return self.column_positions, np.zeros(self.columns)
        angles, radius = self.fan_angles, self.source_to_detector
        return radius * np.sin(angles), radius * (np.cos(angles) - 1)


@dataclass(frozen=True, kw_only=True)
class FanBeamGeometry(DivergingGeometry):
    """A fan in a plane perpendicular to the axis; every detector row is a fan of its own, at its height."""

    @classmethod
    def around(
        cls,
        grid: Grid,
        views: int | Sequence[float],
        *,
        source_to_axis: float,
        source_to_detector: float,
        detector: Detector = "flat",
        columns: int | None = None,
    ) -> FanBeamGeometry:
        """Return a scan of `grid` about the axis of its slices, one detector row per slice.

        `views` is a number of views over a whole turn, or angles in rad. The pitch is the finer in-plane
        spacing, magnified; the detector covers the in-plane diagonal unless told otherwise.
        """
        pitch, number = _covering(grid, source_to_axis, source_to_detector, detector)
        return cls(
            angles=evenly_spaced(views, 2 * math.pi),
            columns=number if columns is None else columns,
            column_pitch=pitch,
            rows=grid.shape[0],
            row_pitch=grid.spacing[0],
            frame=frame_about(grid),
            source_to_axis=source_to_axis,
            source_to_detector=source_to_detector,
            detector=detector,
        )

    def views(self) -> Views:
        """Return all rays, in world coordinates."""
        columns, rows, outwards = self.directions()
        across, sag = self._columns_placed()
        return Views(
            through=-self.source_to_axis * outwards,
            centre=(self.source_to_detector - self.source_to_axis) * outwards,
            columns=columns,
            rows=rows,
            outwards=outwards,
            across=across,
            sag=sag,
            up=self.row_positions,
            pitch=(self.column_pitch, self.row_pitch),
            parallel=False,
            lifted=True,
        ).mapped(self.frame.to_world)


@dataclass(frozen=True, kw_only=True)
class ConeBeamGeometry(DivergingGeometry):
    """A cone, on a circle or, with `heights`, on a helix or any other path along the axis.

    `heights` is the device z of the source per view. `source_shifts` and `detector_shifts` are offsets per
    view in mm along its (columns, central ray, axis): a flying focal spot, a detector that sags.
    """

    heights: tuple[float, ...] = ()
    source_shifts: Shifts = field(default=(), repr=False)
    detector_shifts: Shifts = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, width in (("heights", 1), ("source_shifts", 3), ("detector_shifts", 3)):
            object.__setattr__(self, name, self._per_view(name, width))

    @classmethod
    def around(
        cls,
        grid: Grid,
        views: int | Sequence[float],
        *,
        source_to_axis: float,
        source_to_detector: float,
        detector: Detector = "flat",
        columns: int | None = None,
        rows: int | None = None,
    ) -> ConeBeamGeometry:
        """Return a circular scan of `grid` about the axis of its slices that sees all of it.

        `views` is a number of views over a whole turn, or angles in rad. Pitches are the finer in-plane
        spacing and that of the slices, magnified.
        """
        pitch, number = _covering(grid, source_to_axis, source_to_detector, detector)
        magnification = source_to_detector / source_to_axis
        # The slices nearest to the source are magnified most.
        half = grid.shape[0] * grid.spacing[0] / 2 * source_to_detector / (source_to_axis - _radius(grid))
        row_pitch = grid.spacing[0] * magnification
        return cls(
            angles=evenly_spaced(views, 2 * math.pi),
            columns=number if columns is None else columns,
            column_pitch=pitch,
            rows=2 * math.ceil(half / row_pitch) if rows is None else rows,
            row_pitch=row_pitch,
            frame=frame_about(grid),
            source_to_axis=source_to_axis,
            source_to_detector=source_to_detector,
            detector=detector,
        )

    def helical(self, advance: float, *, middle: float | None = None) -> ConeBeamGeometry:
        """Return the same scan with the source rising by `advance` mm per turn; a negative one descends.

        It is at z = 0 at the angle `middle`, half way between the first and the last unless given.
        """
        theta = np.array(self.angles)
        begin = (theta[0] + theta[-1]) / 2 if middle is None else check_number(middle, "middle")
        rise = check_number(advance, "advance") / (2 * math.pi) * (theta - begin)
        return self.with_(heights=tuple(rise.tolist()))

    def views(self) -> Views:
        """Return all rays, in world coordinates."""
        columns, rows, outwards = self.directions()
        across, sag = self._columns_placed()
        base = np.array(self.heights)[:, None] * rows if self.heights else np.zeros_like(rows)

        def shifted(shifts: Shifts) -> Float:
            if not shifts:
                return base
            a, b, c = np.array(shifts).T
            moved: Float = base + a[:, None] * columns + b[:, None] * outwards + c[:, None] * rows
            return moved

        reach = self.source_to_detector - self.source_to_axis
        return Views(
            through=shifted(self.source_shifts) - self.source_to_axis * outwards,
            centre=shifted(self.detector_shifts) + reach * outwards,
            columns=columns,
            rows=rows,
            outwards=outwards,
            across=across,
            sag=sag,
            up=self.row_positions,
            pitch=(self.column_pitch, self.row_pitch),
            parallel=False,
        ).mapped(self.frame.to_world)

    def _per_view(self, name: str, width: int) -> tuple[object, ...]:
        given = getattr(self, name)
        expected = (len(self.angles), width) if width > 1 else (len(self.angles),)
        try:
            values = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise type_error(name, f"be numbers of shape {expected}", repr(given)) from error
        if values.size == 0:
            return ()
        if values.shape != expected or not np.isfinite(values).all():
            raise value_error(name, f"be finite, of shape {expected}, one per view", f"shape {values.shape}")
        return tuple(tuple(row) for row in values.tolist()) if width > 1 else tuple(values.tolist())


def _radius(grid: Grid) -> float:
    sizes = (n * s for n, s in zip(grid.shape[1:], grid.spacing[1:], strict=True))
    return math.hypot(*sizes) / 2


def _covering(
    grid: Grid, source_to_axis: float, source_to_detector: float, detector: Detector
) -> tuple[float, int]:
    """Return pitch and number of the columns that see the in-plane circle about `grid`."""
    radius = _radius(Grid.require(grid))
    if not check_number(source_to_axis, "source_to_axis", positive=True) > radius:
        remedy = "Nearer to the axis the source would be inside the volume."
        raise value_error("source_to_axis", f"be larger than {radius:g} mm", source_to_axis, remedy)
    far = check_number(source_to_detector, "source_to_detector", positive=True)
    pitch = min(grid.spacing[1:]) * far / source_to_axis
    edge = math.asin(radius / source_to_axis)
    half = far * (edge if detector == "cylindrical" else math.tan(edge))
    return pitch, 2 * math.ceil(half / pitch) + 1
