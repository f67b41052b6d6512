"""Feldkamp, Davis and Kress (1984): the approximate inverse of a cone beam on a circle."""

from __future__ import annotations

from dataclasses import dataclass

from operators.ct.views import Views
from operators.errors import value_error
from workbench.solvers.analytic.scan_inverse import AnalyticInverse

__all__ = ["Feldkamp"]


@dataclass(frozen=True)
class Feldkamp(AnalyticInverse):
    """The image of a circular cone beam by filtered back-projection along its rays.

    Exact in the plane of the source, where it is that of a fan, and for objects that are the same at all
    heights; elsewhere values fall with the angle of the cone, as one circle does not measure enough. Flat and
    cylindrical detectors, full turns, arcs from 180 degrees plus the fan, and detectors off the middle.
    """

    def check_views(self, views: Views) -> None:
        """Raise unless the rays diverge from points."""
        if views.parallel or views.lifted:
            got = "parallel beams" if views.parallel else "fans in planes"
            raise value_error("operator", "be a cone beam", got, "Use FilteredBackProjection.")
