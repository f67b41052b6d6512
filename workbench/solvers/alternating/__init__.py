"""The prior's draw, then the data's, in turns."""

from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM

__all__ = ["DAPS", "Langevin", "PnPDM"]
