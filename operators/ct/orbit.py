"""A scan along any path: source, detector and their directions given view by view."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from operators.checks import check_count, check_points, replaced
from operators.ct.geometry import Geometry
from operators.ct.views import Float, Views
from operators.errors import type_error, value_error
from operators.frame import DeviceFrame

__all__ = ["OrbitGeometry"]


@dataclass(frozen=True, eq=False)
class OrbitGeometry(Geometry):
    """A flat detector at `centres`, whose pixels step by `column_steps` and `row_steps`.

    All are (views, 3), in mm, in the device coordinates of `frame`; `sources` are points or, with `parallel`,
    the directions of the rays.
    """

    sources: Float
    centres: Float
    column_steps: Float
    row_steps: Float
    columns: int
    rows: int = 1
    parallel: bool = False
    frame: DeviceFrame = field(default_factory=DeviceFrame)

    def __post_init__(self) -> None:
        for name in ("sources", "centres", "column_steps", "row_steps"):
            object.__setattr__(self, name, self._checked(getattr(self, name), name))
        object.__setattr__(self, "columns", check_count(self.columns, "columns"))
        object.__setattr__(self, "rows", check_count(self.rows, "rows"))
        if not isinstance(self.parallel, bool):
            raise type_error("parallel", "be True or False", repr(self.parallel))
        if not isinstance(self.frame, DeviceFrame):
            raise type_error("frame", "be a DeviceFrame", type(self.frame).__name__)
        for name in ("column_steps", "row_steps"):
            lengths = np.linalg.norm(getattr(self, name), axis=1)
            if not lengths.min() > 0 or np.ptp(lengths) > 1e-6 * lengths.max():
                got = f"{lengths.min():g} to {lengths.max():g} mm"
                raise value_error(name, "have one length > 0, the pitch of the detector", got)
        skew = np.abs(np.einsum("vi,vi->v", self.column_steps, self.row_steps)).max()
        if skew > 1e-6 * np.linalg.norm(self.column_steps[0]) * np.linalg.norm(self.row_steps[0]):
            raise value_error("row_steps", "be perpendicular to column_steps", f"a product of {skew:g} mm^2")
        reach = np.einsum("vi,vi->v", self._towards(), np.cross(self.column_steps, self.row_steps))
        if not np.abs(reach).min() > 0:
            view = int(np.argmin(np.abs(reach)))
            remedy = "Its rays would run along the detector."
            raise value_error("sources", "lie off the plane of the detector", f"view {view}", remedy)

    def with_(self, **changes: object) -> Self:
        """Return the same scan with some values changed."""
        return replaced(self, changes)

    def views(self) -> Views:
        """Return all rays, in world coordinates."""
        pitch = tuple(float(np.linalg.norm(steps[0])) for steps in (self.column_steps, self.row_steps))
        normal = np.cross(self.column_steps, self.row_steps)
        side = np.sign(np.einsum("vi,vi->v", self._towards(), normal))
        return Views(
            through=self.sources,
            centre=self.centres,
            columns=self.column_steps / pitch[0],
            rows=self.row_steps / pitch[1],
            outwards=(side / np.linalg.norm(normal, axis=1))[:, None] * normal,
            across=centred(self.columns, pitch[0]),
            sag=np.zeros(self.columns),
            up=centred(self.rows, pitch[1]),
            pitch=(pitch[0], pitch[1]),
            parallel=self.parallel,
        ).mapped(self.frame.to_world)

    def _towards(self) -> Float:
        return self.sources if self.parallel else self.centres - self.sources

    def _checked(self, given: ArrayLike, name: str) -> Float:
        values = np.array(check_points(given, name))
        # The sources, which come first, say how many views there are.
        views = len(values) if name == "sources" else len(self.sources)
        if values.ndim != 2 or len(values) != views or views == 0:
            count = "views" if name == "sources" else f"views = {views}"
            raise value_error(name, f"have shape ({count}, 3)", values.shape)
        values.setflags(write=False)
        return values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OrbitGeometry):
            return NotImplemented
        same = (self.columns, self.rows, self.parallel, self.frame)
        names = ("sources", "centres", "column_steps", "row_steps")
        return same == (other.columns, other.rows, other.parallel, other.frame) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in names
        )

    def __hash__(self) -> int:
        return hash((self.columns, self.rows, self.parallel, self.sources.tobytes(), self.centres.tobytes()))


def centred(count: int, pitch: float) -> Float:
    """Return `count` places, `pitch` apart, about zero."""
    places: Float = (np.arange(count, dtype=np.float64) - (count - 1) / 2) * pitch
    return places
