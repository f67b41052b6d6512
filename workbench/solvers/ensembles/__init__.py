"""Weighted particles: right for any prior as their number grows."""

from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS

__all__ = ["AFDPS", "TDS", "DegeneracyWarning", "MCGdiff"]
