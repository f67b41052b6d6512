"""The levels that a solver should go through, from the formulas in its documentation.

sigma_i = (a^(1/7) + i / (N - 1) (b^(1/7) - a^(1/7)))^7, i = 0 .. N - 1, and 0 (Karras et al. 2022)
a = 100 s0,    b = min(0.01 s0, 0.3 / |B|)                 where nobody chose them; 0.01 s0 if not linear
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from pipelines.verify.referee.laws.model import Model
from workbench.integration import Karras
from workbench.integration.levels import sigma_of
from workbench.solvers.descent import Descent
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["karras", "levels_of"]

Row = tuple[float, ...]


def karras(levels: Karras, steps: int) -> list[Row]:
    """Return (sigma, next sigma) of every step."""
    a, b = levels.sigma_max ** (1 / levels.rho), levels.sigma_min ** (1 / levels.rho)
    sigmas = [(a + i / max(steps - 1, 1) * (b - a)) ** levels.rho for i in range(steps)]
    return list(pairwise([*sigmas, 0.0]))


def levels_of(solver: Descent | REDDiff) -> Callable[[Model], list[Row]]:
    """Return what gives the rows of levels that descend for a model."""

    def rows(model: Model) -> list[Row]:
        levels = solver.levels
        if levels is None:
            least = 0.01 * model.spread
            # A curvature that depends on the place does not say where to end.
            levels = Karras(100 * model.spread, min(least, 0.3 / model.norm) if model.convex else least)
        if isinstance(levels, Karras):
            return karras(levels, solver.steps)
        # Of grids that somebody chose, this module does not know the formula.
        return list(pairwise(sigma_of(time) for time in levels.times(solver.steps)))

    return rows
