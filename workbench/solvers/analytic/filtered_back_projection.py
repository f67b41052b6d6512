"""Filtered back-projection: the inverse of parallel and fan beams, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.ct.views import Views
from operators.errors import value_error
from workbench.solvers.analytic.scan_inverse import AnalyticInverse

__all__ = ["FilteredBackProjection"]

#: How far pixels may lie above the plane of the fan, as a share of their distance from the source.
FLAT = 1e-3


@dataclass(frozen=True)
class FilteredBackProjection(AnalyticInverse):
    """The image that parallel or fan data have by the inverse Radon transform, for any coverage of angles.

    Views count by the gaps between them. Lines that are measured more than once are averaged: half turns and
    full ones, arcs from 180 degrees plus the fan (weights as Parker's), and a detector off the middle over a
    full turn (Wang's). Too few angles are warned about. Exact for many views without noise: there is
    no weight of the data and no bound on the image.
    """

    def check_views(self, views: Views) -> None:
        """Raise unless the rays are parallel or fans in planes."""
        if views.parallel or views.lifted:
            return
        offset = views.through - views.centre
        height = views.up - np.einsum("vi,vi->v", offset, views.rows)[:, None]
        steep = np.abs(height).max() / np.linalg.norm(offset, axis=1).min()
        if steep > FLAT:
            expected = "be parallel beams or fans in planes"
            raise value_error("operator", expected, "a cone beam", "Use Feldkamp.")
