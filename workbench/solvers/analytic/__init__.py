"""CT inverted by formula: filtered back-projection and Feldkamp's algorithm."""

from workbench.solvers.analytic.feldkamp import Feldkamp
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection

__all__ = ["Feldkamp", "FilteredBackProjection"]
