"""The circle of a scan, read off its rays: axis, angles, and how often each line was measured.

    parallel    the line (theta, s) is (theta + pi, -s)
    diverging   the line (beta, g) from the source is (beta + pi + 2 g, -g)

beta is the angle of the source about the axis, g that of a ray from the one through the axis.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from operators.ct.coverage import CoverageWarning
from operators.ct.views import Float, Views
from operators.errors import value_error
from workbench.solvers.analytic.angular_coverage import AngularCoverage

__all__ = ["ScanCircle"]

#: How far sources may lie off one circle and axes off one direction, as a share of the radius, in rad.
OFF_CIRCLE = 0.01
#: Columns that one side must see beyond the other for the axis to count as off the middle.
OFF_MIDDLE = 2.0


@dataclass(frozen=True, eq=False)
class ScanCircle:
    """A scan on a circle about `axis` (a direction) through `centre`, in world coordinates.

    `angles` are those of the sources or, parallel, of the beams. `beside` (views, columns) is where a ray
    passes the axis: mm (parallel) or g.
    """

    axis: Float
    centre: Float
    angles: Float
    beside: Float
    parallel: bool

    @classmethod
    def of(cls, views: Views) -> ScanCircle:
        """Return the circle of `views`; an error where they do not run on one."""
        axis = views.rows.mean(axis=0)
        axis /= np.linalg.norm(axis)
        lean = np.abs(views.rows - axis).max()
        if lean > OFF_CIRCLE:
            remedy = "Tilted scans need an iterative solver, such as ConjugateGradient."
            expected = "have detector rows along the axis of rotation"
            raise value_error("operator", expected, f"{math.degrees(lean):.2g} degrees of tilt", remedy)
        # A right-handed pair in the plane of rotation.
        first = views.columns[0] - (views.columns[0] @ axis) * axis
        first /= np.linalg.norm(first)
        plane = np.stack([first, np.cross(axis, first)])
        return cls._parallel(views, axis, plane) if views.parallel else cls._diverging(views, axis, plane)

    @classmethod
    def _parallel(cls, views: Views, axis: Float, plane: Float) -> ScanCircle:
        beam = views.through / np.linalg.norm(views.through, axis=1, keepdims=True)
        tilt = np.abs(beam @ axis).max()
        if tilt > OFF_CIRCLE:
            remedy = "Laminography needs an iterative solver, such as ConjugateGradient."
            expected = "have a beam perpendicular to the axis of rotation"
            raise value_error("operator", expected, f"a tilt of {math.degrees(tilt):.3g} degrees", remedy)
        angles = np.arctan2(beam @ plane[1], beam @ plane[0])
        # <centre - centre_v, columns_v> = s, the same for all views.
        along = views.columns @ plane.T
        side = np.einsum("vi,vi->v", views.centre, views.columns)
        found = np.linalg.lstsq(np.c_[along, -np.ones(len(side))], side, rcond=1e-9)[0]
        beside = np.broadcast_to(views.across - found[2], (len(side), len(views.across)))
        return cls(axis, found[:2] @ plane, angles, beside, True)

    @classmethod
    def _diverging(cls, views: Views, axis: Float, plane: Float) -> ScanCircle:
        source = views.through
        flat = source @ plane.T
        mean = flat.mean(axis=0)
        # |s - c|^2 = r^2 is linear in c and r^2 - |c|^2.
        apart = flat - mean
        matrix = np.c_[2 * apart, np.ones(len(flat))]
        solution, _, rank, _ = np.linalg.lstsq(matrix, (apart**2).sum(axis=1), rcond=1e-12)
        if rank < 3:
            remedy = "Give three views or more."
            raise value_error("operator", "have sources that tell their circle", f"{len(flat)} views", remedy)
        middle = solution[:2]
        radius = math.sqrt(float(solution[2] + middle @ middle))
        off = np.abs(np.linalg.norm(apart - middle, axis=1) - radius).max() / radius
        if off > OFF_CIRCLE:
            remedy = "Other paths need an iterative solver, such as ConjugateGradient."
            expected = "have its sources on a circle about the axis of rotation"
            raise value_error("operator", expected, f"{off:.1%} of the radius beside it", remedy)
        rise = float(np.ptp(source @ axis)) / radius
        if rise > OFF_CIRCLE:
            remedy = "A helix needs an iterative solver, such as ConjugateGradient."
            expected = "have its sources in one plane"
            raise value_error("operator", expected, f"heights over {rise * radius:.4g} mm", remedy)
        centre = (mean + middle) @ plane + float((source @ axis).mean()) * axis
        from_axis = (apart - middle) / radius
        angles = np.arctan2(from_axis[:, 1], from_axis[:, 0])
        along = views.across[:, None] * views.columns[:, None] + views.sag[:, None] * views.outwards[:, None]
        ray = (views.centre[:, None] + along - source[:, None]) @ plane.T
        inwards = -from_axis[:, None]
        cross = inwards[..., 0] * ray[..., 1] - inwards[..., 1] * ray[..., 0]
        return cls(axis, centre, angles, np.arctan2(cross, (inwards * ray).sum(axis=-1)), False)

    @property
    def widest(self) -> float:
        """The largest |g| of the fan, 0 for parallel rays."""
        return 0.0 if self.parallel else float(np.abs(self.beside).max())

    def weights(self) -> Float:
        """Return what each ray counts, (views, columns), in rad: its view's gap times its share of its line.

        The shares of all that measure one line sum to 1. Warns where lines are missing.
        """
        if self.parallel:
            turn = AngularCoverage.of(self.angles, 2 * math.pi)
            if turn.is_closed and self._off_middle:
                return turn.weights[:, None] * self._by_side()
            half = AngularCoverage.of(self.angles, math.pi)
            self._warn(half, math.pi)
            return np.broadcast_to(half.weights[:, None], self.beside.shape)
        turn = AngularCoverage.of(self.angles, 2 * math.pi)
        if turn.is_closed:
            share = self._by_side() if self._off_middle else np.full(self.beside.shape, 0.5)
            return turn.weights[:, None] * share
        self._warn(turn, math.pi + 2 * self.widest)
        # Where a line is measured twice both count, each the less the nearer to an end of the arc (Noo et
        # al. 2002, after Parker 1982).
        taper = (turn.length - math.pi) / 2
        own = turn.inside(np.broadcast_to(self.angles[:, None], self.beside.shape), taper)
        other = turn.inside(self.angles[:, None] + math.pi + 2 * self.beside, taper)
        both = own + other
        share = np.where(both > 0, own / np.where(both > 0, both, 1.0), 0.5)
        return turn.weights[:, None] * share

    @property
    def one_sided(self) -> int:
        """Which end of the columns lies beyond what the other sees: -1 the first, 1 the last, 0 neither."""
        if not (AngularCoverage.of(self.angles, 2 * math.pi).is_closed and self._off_middle):
            return 0
        ends = np.abs(self.beside[:, [0, -1]]).mean(axis=0)
        return -1 if ends[0] > ends[1] else 1

    @property
    def _off_middle(self) -> bool:
        first, last = self.beside[:, 0].mean(), self.beside[:, -1].mean()
        step = abs(last - first) / max(self.beside.shape[1] - 1, 1)
        return bool(abs(first + last) > OFF_MIDDLE * step and first * last < 0)

    def _by_side(self) -> Float:
        """Return shares that rise from 0 to 1 over what both sides see (Wang 2002), 1 beyond."""
        first, last = self.beside[:, 0].mean(), self.beside[:, -1].mean()
        # Towards the side that sees more.
        side = np.sign(last) if abs(last) > abs(first) else np.sign(first)
        overlap = min(abs(first), abs(last))
        share: Float = np.sin(np.clip(0.5 + side * self.beside / (2 * overlap), 0, 1) * (math.pi / 2)) ** 2
        return share

    def _warn(self, coverage: AngularCoverage, needed: float) -> None:
        step = coverage.length / max(len(self.angles), 1)
        if coverage.length < needed - step:
            warnings.warn(
                f"the views cover {math.degrees(coverage.length):.1f} of the {math.degrees(needed):.1f} "
                "degrees that an exact inverse needs: where rays are missing, edges along them are not in "
                "the answer, and its values are too low.",
                CoverageWarning,
                stacklevel=2,
            )
