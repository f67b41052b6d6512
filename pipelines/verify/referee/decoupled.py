"""DAPS, PnP-DM and RED-Diff as the table runs them: prior and data in turn, and no backward pass.

1000 evaluations of the prior for each answer, of the best of four runs 250 in each, so that they can be
compared where the measurement is not linear. DAPS with one evaluation per level has 200 levels, on fields
where each draw is solved for as many as a run of minutes has room for.
"""

from __future__ import annotations

from typing import Any

from pipelines.verify.referee.posed import Problem
from workbench.integration import Karras
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.base import Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.variational.red_diff import REDDiff

__all__ = ["decoupled"]

#: Levels of DAPS on fields, 200 where draws have a closed form: elsewhere those of the highest levels take
#: hundreds of products each.
FIELD_LEVELS = {"ct64": 30, "mri64": 0}
#: Of several runs, where one may end in the wrong place.
SEVERAL = ("images16", "phase2")

Named = list[tuple[str, Solver[Any]]]


def decoupled(
    problem: Problem, levels: Karras | None, tolerance: float, *, small: int, dense: int, fast: bool = False
) -> Named:
    """Return the solvers under their names; `levels` are those of the vectors, None elsewhere.

    Up to `small` components there are all of them, above `dense` is a field. The fast table leaves out what
    repeats others, and has fewer levels where the draws are those of an inner chain.
    """
    size, vectors = problem.truth.size, levels is not None
    if size > dense:
        return _on_field(FIELD_LEVELS.get(problem.name, 200), tolerance, fast=fast)
    linear = problem.posterior.measured.is_linear
    found: Named = [("DAPS", DAPS(200 if linear or not fast else 50, levels, tolerance=tolerance))]
    if linear and (vectors or not fast):
        found.append(("DAPS, Tweedie", DAPS(200, levels, 1, tolerance=tolerance)))
    if linear and size <= small and not fast:
        found.append(("DAPS, matched", DAPS(200, levels, 1, "matched", tolerance=tolerance)))
    if vectors and not fast:
        # Beside "matched", which has nearly the same law at 50 levels: what differs is the inner chain.
        found.append(("DAPS, Langevin", DAPS(50, levels, 1, "matched", Langevin())))
    if problem.name in SEVERAL and not fast:
        found.append(("DAPS, best of 4", BestOf(DAPS(50, levels, tolerance=tolerance), 4)))
    return [
        *found,
        ("PnP-DM", PnPDM(50, tolerance=tolerance)),
        ("RED-Diff", REDDiff(1000, levels, "paper")),
        ("RED-Diff, normalised", REDDiff(1000, levels)),
    ]


def _on_field(count: int, tolerance: float, *, fast: bool) -> Named:
    means: Named = [("DAPS, Tweedie", DAPS(count, None, 1, tolerance=tolerance))] if count else []
    found = [*means, ("PnP-DM", PnPDM(50, tolerance=tolerance))]
    return found if fast else [*found, ("RED-Diff, normalised", REDDiff(1000))]
