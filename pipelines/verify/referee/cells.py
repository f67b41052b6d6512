"""One cell of the table: a solver on a problem, its figures, and where they have to lie.

posterior           draws that claim to be exact: the law is the posterior
matrix recursion    an affine chain with a Gaussian prior: mean and covariance, step by step
same numbers        another chain: its equations once more, with the solver's random numbers: the same draws
own chain           a chaotic one, one with a prox of several minima, another posterior: with random numbers
                    of its own
same answer         a point estimate: by plain algebra
none                nobody has told us its equations: figures, and no verdict

Of interacting particles states and weights have to be the same, or their figures those of other ensembles.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from operators.errors import NoClosedFormError
from pipelines.verify.referee.bands import SIGMAS, Band, bands_around, bands_of, near, normality
from pipelines.verify.referee.entries import DENSE, Entry
from pipelines.verify.referee.laws.flock import Flock
from pipelines.verify.referee.laws.law import Law, followed, law_of, simulated
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.metrics import Metrics, measure, measure_point
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.truth import GaussianTruth, Truth
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.solvers.ensembles.ensemble import DegeneracyWarning

__all__ = ["Cell", "Judged", "Refused", "cell"]

SEED = 3
#: What rounding and the accuracy of solves may change in draws that should be the same, in posterior sd.
SAME = 1e-3
#: A change of the start, relative, that tells chaos from a fault.
NUDGE = 1e-12
#: Sets of draws that say what chance does to a law, and those of a chain that has to be simulated.
SETS, SIMULATED = 16, 6
#: Seed of the first set, far from that of any run.
LAW_SEED = 10**9


@dataclass(frozen=True)
class Refused:
    """A solver that says that it cannot work on a problem, and why; or one that `failed` on the way."""

    solver: str
    problem: str
    reason: str
    failed: bool = False

    @property
    def passed(self) -> bool:
        """Whether it was told before the run."""
        return not self.failed

    def facts(self) -> dict[str, Any]:
        """Return a record, JSON-able: no figures, but a reason."""
        return {
            "solver": self.solver,
            "problem": self.problem,
            "kind": "failed" if self.failed else "refused",
            "passed": self.passed,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Judged:
    """The name of a law, where it puts the figures, and how far from it the draws are."""

    law: str = "none"
    bands: dict[str, Band] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """The figures of a solver on a problem; counts are per draw.

    `law` names what the bands come from. `off` tells how far the draws are from that law: three statistics in
    sigmas, or the largest difference in posterior standard deviations where they should be the same ones; of
    a point estimate its distance from the answer by other means, SIGMAS where it may be no more.
    """

    solver: str
    problem: str
    kind: Kind
    draws: int
    metrics: Metrics
    law: str
    bands: dict[str, Band] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)
    network_evaluations: float = 0.0
    backward_passes: float = 0.0
    operator_calls: float = 0.0
    seconds: float = 0.0
    effective: float | None = None

    @property
    def fallen(self) -> tuple[str, ...]:
        """Names of the figures that are not where they have to be."""
        figures = [name for name, band in self.bands.items() if not band.holds(getattr(self.metrics, name))]
        limit = SAME if self.law == "same numbers" else SIGMAS
        return (*figures, *(f"own {name}" for name, value in self.off.items() if not abs(value) <= limit))

    @property
    def passed(self) -> bool:
        """Whether all figures are where they have to be."""
        return not self.fallen

    def facts(self) -> dict[str, Any]:
        """Return a record, JSON-able."""
        return {
            "solver": self.solver,
            "problem": self.problem,
            "kind": str(self.kind),
            "draws": self.draws,
            **vars(self.metrics),
            "network_evaluations": self.network_evaluations,
            "backward_passes": self.backward_passes,
            "operator_calls": self.operator_calls,
            "seconds": round(self.seconds, 3),
            "effective_number": self.effective,
            "law": self.law,
            "bands": {name: [band.low, band.high] for name, band in self.bands.items()},
            "own_law": self.off,
            "passed": self.passed,
            "fallen": list(self.fallen),
        }


def cell(entry: Entry, problem: Problem, draws: int, seed: int = SEED) -> Cell | Refused:
    """Run one solver on one problem and judge it."""
    posterior = problem.posterior if entry.posterior is None else entry.posterior
    solver = entry.solver
    alone = not solver.deterministic and solver.particles is None
    options: dict[str, Any] = {"draws": draws} if alone else {}
    if posterior.likelihood is None:
        options["dtype"] = torch.float64
    began = time.perf_counter()
    planned = False
    try:
        solver.capabilities.check(posterior, type(solver).__name__)
        solver.plan(posterior)
        planned = True
        with warnings.catch_warnings():
            # Where particles collapse, the figures say so.
            warnings.simplefilter("ignore", DegeneracyWarning)
            samples = sample(posterior, solver, seed=seed, **options)
    except (CapabilityError, NoClosedFormError) as error:
        return Refused(entry.name, problem.name, str(error))
    except Exception as error:
        # A plan may refuse; after it, it is a run that diverged, or a mistake in the solver, whatever kind.
        if not planned and isinstance(error, (TypeError, ValueError)):
            return Refused(entry.name, problem.name, str(error))
        return Refused(entry.name, problem.name, f"{type(error).__name__}: {error}", failed=True)
    seconds = time.perf_counter() - began
    rows = problem.rows(samples.tensor())
    count = len(rows)
    ledger = samples.record["ledger"]
    weights = None if samples.log_weights is None else samples.weights
    if entry.flock is not None and entry.model is not None:
        metrics = measure(rows, problem.truth, samples.weights)
        found = judged_flock(entry.flock, entry.model, problem, rows, samples.weights, seed)
    elif solver.kind.has_spread or count > 1:
        # Of several point estimates the spread is shown, too: it is not the posterior's, and that is seen.
        metrics = measure(rows, problem.truth, weights)
        found = judged(entry, problem, samples.kind, rows, seed)
    else:
        metrics = measure_point(rows[0], problem.truth)
        found = judged_point(entry, problem, rows[0])
    return Cell(
        solver=entry.name,
        problem=problem.name,
        kind=samples.kind,
        draws=count,
        metrics=metrics,
        law=found.law,
        bands=found.bands,
        off=found.off,
        network_evaluations=ledger["network_evaluations"] / count,
        backward_passes=ledger["backward_passes"] / count,
        effective=None if weights is None else samples.effective_size,
        operator_calls=ledger["operator_calls"] / count,
        seconds=seconds,
    )


def judged(entry: Entry, problem: Problem, kind: Kind, rows: Tensor, seed: int) -> Judged:
    """Return the law that rows should follow, the bands from it, and how far they are from it."""
    truth, count = problem.truth, len(rows)
    if kind is Kind.EXACT_SAMPLE:
        bands = bands_of(_sets(partial(_exact, problem), count), truth)
        if not isinstance(truth, GaussianTruth):
            return Judged("posterior", bands)
        return Judged("posterior", bands, normality(Law(truth.mean, truth.covariance).whitened(rows)))
    chain, model = entry.chain, entry.model
    if chain is None or model is None:
        return Judged()
    linear = problem.posterior.measured.is_linear
    if chain.affine and linear and problem.prior_is_gaussian and truth.size <= DENSE:
        law = law_of(chain, model)
        return Judged(
            "matrix recursion", bands_of(_sets(law.draw, count), truth), normality(law.whitened(rows))
        )
    posterior = problem.posterior
    if entry.posterior is None and (model.convex or not chain.proximal):
        again = followed(chain, model, posterior, count, seed)
        off = _apart(rows, again, truth)
        if off <= SAME or _apart(followed(chain, model, posterior, count, seed, NUDGE), again, truth) <= SAME:
            return Judged("same numbers", near(measure(again, truth), SAME), {"draws": off})
        # A chain that makes this much of rounding has no draws to compare, only a law.
    # All sets side by side: what a step of a small chain costs is not in its draws.
    rows = simulated(chain, model, SIMULATED * count, LAW_SEED)
    return Judged("own chain", bands_of(rows.reshape(SIMULATED, count, -1), truth))


def judged_flock(
    flock: Flock, model: Model, problem: Problem, rows: Tensor, weights: Tensor, seed: int
) -> Judged:
    """Return what particles should be by the same random numbers, or the bands of others like them."""
    posterior, truth = problem.posterior, problem.truth
    again, shares = flock.followed(model, posterior, seed)
    off = max(_apart(rows, again, truth), _uneven(weights, shares))
    if off > SAME:
        other, theirs = flock.followed(model, posterior, seed, NUDGE)
        chaos = max(_apart(other, again, truth), _uneven(theirs, shares)) > SAME
    if off <= SAME or not chaos:
        return Judged("same numbers", near(measure(again, truth, shares), SAME), {"draws": off})
    width = len(model.data.flatten())
    sets = (flock.simulated(model, width, LAW_SEED + i) for i in range(SIMULATED))
    return Judged("own chain", bands_around([measure(z, truth, w) for z, w in sets]))


def _uneven(shares: Tensor, others: Tensor) -> float:
    """Return the largest difference of two sets of weights, as multiples of an equal share."""
    return float((shares - others).abs().max()) * len(shares)


def _apart(rows: Tensor, others: Tensor, truth: Truth) -> float:
    """Return the largest difference of two sets of draws in posterior standard deviations."""
    return float(((rows - others).abs() / truth.sd).max())


def judged_point(entry: Entry, problem: Problem, row: Tensor) -> Judged:
    """Return the band of a point estimate's error, and how far it is from its answer by other means."""
    if entry.answer is None:
        return Judged()
    again, truth = entry.answer(), problem.truth
    error = measure_point(again, truth).mean_error
    off = float((row - again).norm() / truth.sd.norm())
    band = Band(error - entry.allowed, error + entry.allowed)
    return Judged("same answer", {"mean_error": band}, {"answer": off / entry.allowed * SIGMAS})


def _sets(draw: Callable[[int, int], Tensor], count: int) -> Iterator[Tensor]:
    return (draw(count, LAW_SEED + i) for i in range(SETS))


def _exact(problem: Problem, count: int, seed: int) -> Tensor:
    rows = problem.truth.draw(count, seed)
    return torch.full((count, problem.truth.size), math.nan) if rows is None else rows
