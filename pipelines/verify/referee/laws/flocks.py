"""Which particles a solver should be."""

from __future__ import annotations

from typing import Any

from pipelines.verify.referee.laws.flock import Flock
from pipelines.verify.referee.laws.flock_afdps import afdps
from pipelines.verify.referee.laws.flock_others import mcgdiff, tds
from workbench.posterior import Posterior
from workbench.solvers.base import Solver
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS

__all__ = ["flock_of"]


def flock_of(solver: Solver[Any], posterior: Posterior) -> Flock | None:
    """Return the particles that a solver should be, None where none are known."""
    if isinstance(solver, AFDPS):
        return afdps(solver, posterior)
    if isinstance(solver, TDS):
        return tds(solver, posterior)
    return mcgdiff(solver) if isinstance(solver, MCGdiff) else None
