"""The one loop: `sample(posterior, solver, draws=K, seed=S)` -> Samples.

It owns keys of randomness, microbatches, counting, budgets, the guard against NaN, checkpoints and
callbacks; a solver owns none of them. Draw k depends on the seed and on k: its random numbers are
bit by bit the same in any company. Its value is bit by bit the same at one microbatch (a short
batch is filled up with draws that are dropped), before and after a resume, on one machine with one
number of threads; elsewhere it agrees to rounding, because sums are taken in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from operators.checks import COMPLEX_DTYPES, REAL_DTYPES, check_count, check_number
from operators.errors import NonFiniteError, type_error, value_error
from workbench.callbacks import Callback
from workbench.engine.costs import particles_at_once, refuse_beyond_budget, refuse_beyond_memory
from workbench.engine.counting import counted
from workbench.engine.guards import diverged
from workbench.engine.run import Run
from workbench.engine.run_settings import RunSettings
from workbench.fingerprint import fingerprint
from workbench.ledger import Budget, Ledger, reset_peak_memory
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.samples import Samples
from workbench.solvers.base import Solver
from workbench.store import Header, Store, TensorStore

__all__ = ["sample"]

#: A microbatch that nobody chose holds at most this many bytes per copy of its draws.
MICROBATCH_BYTES = 2**27


def sample(
    posterior: Posterior,
    solver: Solver[Any],
    *,
    draws: int | None = None,
    seed: int = 0,
    microbatch: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    budget: Budget | None = None,
    store: Store | None = None,
    checkpoint_seconds: float = 30.0,
    callbacks: Sequence[Callback] = (),
) -> Samples:
    """Run `solver` on `posterior` and return its samples, in physical units.

    Parameters
    ----------
    posterior
        `Posterior(prior, likelihood)`, or `Posterior(prior)` for draws from the prior.
    solver
        A frozen value out of `workbench.solvers`, or one's own.
    draws
        How many. A deterministic solver has one answer; one with interacting particles returns them
        all with their weights unless told to draw K from them.
    seed
        Draw k is a function of the seed and k.
    microbatch
        How many draws, or interacting particles, are computed at once; by default as many as fit
        `MICROBATCH_BYTES`, and of particles the `budget` of memory.
    dtype, device
        Of u where there is no measurement to say so.
    budget
        Limits that are enforced; what is certain to exceed them is refused before the run.
    store
        Where draws and progress are kept. With one, a run that was stopped, by whatever, is continued by
        the same call, and more draws are added by a call with a larger number, though not to draws from
        interacting particles, which another number needs another store for; without one, draws are kept
        in memory.
    checkpoint_seconds
        How often the progress is saved; 0 after every step.
    callbacks
        What looks on.
    """
    if not isinstance(posterior, Posterior):
        raise type_error(
            "posterior", "be a Posterior", type(posterior).__name__, "Posterior(prior, likelihood)"
        )
    if not isinstance(solver, Solver):
        got = solver.__name__ if isinstance(solver, type) else type(solver).__name__
        raise type_error("solver", "be a Solver's instance", got, "Such as ConjugateGradient().")
    if not isinstance(callbacks, Sequence):
        remedy = (
            "Put it into a list." if isinstance(callbacks, Callback) else "Such as [ProgressLine(print)]."
        )
        raise type_error("callbacks", "be a sequence of Callbacks", repr(callbacks), remedy)
    if not all(isinstance(callback, Callback) for callback in callbacks):
        raise type_error("callbacks", "be a sequence of Callbacks", [type(c).__name__ for c in callbacks])
    if store is not None and not isinstance(store, Store):
        remedy = "On disk: ZarrStore(path). One's own: a subclass of Store."
        raise type_error("store", "be a Store or None", type(store).__name__, remedy)
    solver.capabilities.check(posterior, type(solver).__name__)
    like = _like(posterior, dtype, device)
    count = _count(solver, draws)
    keys = Keys(seed, (0,))  # checks the seed
    every = check_number(checkpoint_seconds, "checkpoint_seconds", non_negative=True)
    limits = Budget() if budget is None else Budget.require(budget)
    ledger = Ledger()
    ledger.enforce(limits)
    reset_peak_memory(like.device)
    ledger.start_clock()
    inside = counted(posterior, ledger)
    plan = _planned(solver, inside)
    ours, runner = TensorStore() if store is None else store, solver
    size = _microbatch(microbatch, solver.particles or count, posterior.space.size * solver.width, like)
    size = 1 if solver.deterministic else size
    if solver.particles is not None:
        part = particles_at_once(posterior, solver, size, microbatch is not None, limits, like)
        runner, size = solver.in_parts(part), solver.particles
    if not ours.holds_run():
        refuse_beyond_budget(posterior, solver, plan, count, size, ledger)
    refuse_beyond_memory(posterior, solver, count, size, limits, ours, like)

    header = Header(
        space=posterior.space,
        count=count,
        dtype=like.dtype,
        kind=solver.kind,
        unit=posterior.units.unit,
        frame=posterior.frame,
        fingerprint=_fingerprint(posterior, solver, plan, keys.seed, microbatch, count, like),
    )
    settings = RunSettings(
        plan=plan,
        seed=keys.seed,
        count=count,
        microbatch=size,
        wanted=None if draws is None else int(draws),
        every=every,
        keep=store is not None,
    )
    run = Run(inside, runner, settings, ledger, ours, like, tuple(callbacks))
    with torch.no_grad():
        record, log_weights = run.go(header)
    solver.caution(record)
    return Samples(
        ours.draws(),
        posterior.space,
        solver.kind,
        log_weights=log_weights,
        unit=posterior.units.unit,
        frame=posterior.frame,
        record=record,
    )


def _fingerprint(
    posterior: Posterior,
    solver: Solver[Any],
    plan: SolverPlan,
    seed: int,
    microbatch: int | None,
    count: int,
    like: Tensor,
) -> str:
    """Return what the values depend on, a short hash for each part, so that an error can name the part."""
    parts = {
        "prior": posterior.prior,
        "likelihood": posterior.physical_likelihood,
        "units": posterior.units,
        "solver": solver,
        "plan": plan.hash,
        "seed": seed,
        "microbatch": None if solver.particles else microbatch,
        "draws": count if solver.particles else None,
        "dtype": str(like.dtype),
        "device": like.device.type,
    }
    return " ".join(f"{name}={fingerprint(value, name=name)[:16]}" for name, value in parts.items())


def _planned(solver: Solver[Any], posterior: Posterior) -> SolverPlan:
    try:
        with torch.no_grad():
            return solver.plan(posterior)
    except (NonFiniteError, FloatingPointError) as error:
        raise diverged(solver, "before its first step", "", str(error)) from error


def _like(posterior: Posterior, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    if dtype is not None and dtype not in REAL_DTYPES + COMPLEX_DTYPES:
        raise type_error("dtype", "be torch.float32 or torch.float64", repr(dtype))
    try:
        like = posterior.like(dtype=dtype, device=device)
    except (AssertionError, RuntimeError) as error:  # torch's way to say that there is no such device
        raise value_error("device", "be one that this torch can use", repr(device), str(error)) from error
    if posterior.likelihood is not None:
        fixed = posterior.like()
        if like.dtype != fixed.dtype or like.device != fixed.device:
            raise value_error(
                "dtype, device",
                f"be those of the data, {fixed.dtype} on {fixed.device}, or be left out",
                f"{like.dtype} on {like.device}",
                "Convert the measurement instead.",
            )
    return like


def _count(solver: Solver[Any], draws: int | None) -> int:
    if draws is not None:
        draws = check_count(draws, "draws")
    if solver.deterministic:
        if draws not in (None, 1):
            remedy = (
                f"Every draw of {type(solver).__name__} would be the same: a {solver.kind} has no spread."
            )
            raise value_error("draws", "be 1 for this solver", draws, remedy)
        return 1
    if solver.particles is not None:
        return solver.particles if draws is None else draws
    if draws is None:
        raise value_error("draws", f"be given for {type(solver).__name__}", None, "Such as draws=64.")
    return draws


def _microbatch(given: int | None, count: int, entries: int, like: Tensor) -> int:
    if given is not None:
        return check_count(given, "microbatch")
    most = max(1, MICROBATCH_BYTES // (entries * like.element_size()))
    return math.ceil(count / math.ceil(count / most))
