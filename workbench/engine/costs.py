"""What a run is going to need, asked before it begins and when it goes on: budgets, memory, disk."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from torch import Tensor

from operators.errors import value_error
from workbench.ledger import Budget, BudgetError, Ledger, peak_memory
from workbench.memory import available_memory, bytes_text
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.solvers.base import Solver
from workbench.store import Store, TensorStore

__all__ = ["particles_at_once", "refuse_beyond_budget", "refuse_beyond_memory", "still_to_come"]

#: Copies of a microbatch that any solver needs: the state, its successor, an estimate.
COPIES = 3
#: Copies of a part of the particles in work: estimate, mean, noise, a prox in double precision and its
#: vectors. Networks come on top.
WORKING = 16


def refuse_beyond_budget(
    posterior: Posterior, solver: Solver[Any], plan: SolverPlan, count: int, microbatch: int, ledger: Ledger
) -> None:
    """Raise BudgetError for a new run that would exceed the counts of the ledger's budget for certain."""
    cost = solver.cost(posterior, plan)
    # Particles are all computed, whatever is drawn from them; so are the rows that fill a batch up.
    computed = solver.particles or math.ceil(count / microbatch) * microbatch
    for name in ("network_evaluations", "backward_passes", "operator_calls"):
        limit, each, spent = getattr(ledger.budget, name), getattr(cost, name), getattr(ledger, name)
        if limit is None or spent + computed * each <= limit:
            continue
        fit = (limit - spent) // each
        fit = fit if count <= microbatch else fit // microbatch * microbatch
        remedy = (
            f"Raise it, or draw at most {fit}." if 0 < fit < count and not solver.particles else "Raise it."
        )
        if microbatch > count:
            remedy = f"Raise it, or lower `microbatch`: {microbatch} are computed at once, whatever is kept."
        wanted = f"allow at least {spent + computed * each}: {computed} draws of {each} or more each"
        wanted += f", and {spent} for the plan" if spent else ""
        raise BudgetError(str(value_error(f"budget.{name}", wanted, limit, remedy)))


def refuse_beyond_memory(
    posterior: Posterior,
    solver: Solver[Any],
    count: int,
    microbatch: int,
    budget: Budget,
    store: Store,
    like: Tensor,
) -> None:
    """Raise BudgetError where the draws, or a microbatch of them of so many states each, cannot fit."""
    element = posterior.space.size * like.element_size()
    each = element * solver.width
    in_memory = isinstance(store, TensorStore)
    room = available_memory() if in_memory else store.room()
    if room is not None and count * element > room:
        where = "memory" if in_memory else "the store"
        other = "Keep them on disk: store=ZarrStore(path)." if in_memory else "Make room."
        remedy = f"{other} Or draw at most {room // element}." if room >= element else other
        wanted = f"fit into the {bytes_text(room)} free in {where}"
        raise BudgetError(str(value_error("draws", wanted, f"{count} of {bytes_text(element)} each", remedy)))
    free = available_memory() if like.device.type == "cpu" else None
    if free is not None and solver.particles is not None and solver.held * solver.particles * element > free:
        wanted = f"let {solver.held} copies of its particles fit into the {bytes_text(free)} free in memory"
        remedy = f"At most {max(1, free // element // solver.held)}: all of them are held, whatever is drawn."
        got = f"{solver.particles} of {bytes_text(element)}"
        raise BudgetError(str(value_error("count", wanted, got, remedy)))
    if free is not None and COPIES * microbatch * each > free:
        wanted = f"let {COPIES} copies of its draws fit into the {bytes_text(free)} free in memory"
        remedy = f"At most {max(1, free // each // COPIES)}."
        raise BudgetError(
            str(value_error("microbatch", wanted, f"{microbatch} of {bytes_text(each)}", remedy))
        )
    if budget.memory_bytes is not None:
        least = COPIES * microbatch * each + (count * element if in_memory else 0)
        least += peak_memory(like.device) if like.device.type == "cpu" else 0
        if least > budget.memory_bytes:
            remedy = "Raise it, or lower `microbatch`, or keep the draws on disk: store=ZarrStore(path)."
            wanted = f"allow at least {least}"
            raise BudgetError(str(value_error("budget.memory_bytes", wanted, budget.memory_bytes, remedy)))


def particles_at_once(
    posterior: Posterior, solver: Solver[Any], size: int, chosen: bool, budget: Budget, like: Tensor
) -> int:
    """Return how many interacting particles are computed at once: `size`, or fewer for a budget of memory.

    All of them are held, with what they carry from step to step; what is computed besides is a part's. A
    `chosen` size that is beyond the budget is refused, as is a budget below one particle.
    """
    limit, particles = budget.memory_bytes, solver.particles or 1
    if limit is None:
        return min(size, particles)
    element = posterior.space.size * like.element_size()
    process = peak_memory(like.device) if like.device.type == "cpu" else 0
    held, each = process + solver.held * particles * element, WORKING * element
    fit = (limit - held) // each
    if fit < 1 or (chosen and fit < min(size, particles)):
        least = held + each * (min(size, particles) if chosen and fit >= 1 else 1)
        remedy = "Raise it." if process >= limit else f"Raise it, or take fewer than {particles} particles."
        remedy = f"Raise it, or lower `microbatch` to {fit}." if fit >= 1 else remedy
        taken = f"{bytes_text(process)} that the process takes already, " if process else ""
        wanted = f"allow at least {least}: {taken}{solver.held} copies of {particles} particles of "
        wanted += f"{bytes_text(element)} held, and a part of {'one' if fit < 1 else size} computed"
        raise BudgetError(str(value_error("budget.memory_bytes", wanted, limit, remedy)))
    return min(size, particles, fit)


def still_to_come(
    posterior: Posterior, solver: Solver[Any], plan: SolverPlan, *, size: int, batches: int, step: int
) -> dict[str, int]:
    """Return what the rest of a run costs at least, by the names of a Budget.

    `batches` of `size` rows are left, the first of which has done `step` steps.
    """
    whole = asdict(solver.cost(posterior, plan))
    rest = dict.fromkeys(whole, 0)
    if 0 < step < len(plan) and not solver.plan_is_limit:
        # Neither what comes before the first step nor what a last step saves is counted twice.
        begun = asdict(solver.cost(posterior, plan.part(0, step)))
        later = asdict(solver.cost(posterior, plan.part(step, len(plan))))
        rest = {name: min(later[name], whole[name] - begun[name]) for name in whole}
    untouched = batches - (step > 0)
    return {name: size * (whole[name] * untouched + rest[name]) for name in whole}
