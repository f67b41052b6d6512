"""The best of several draws: which one it is by hand, what is told of it, what it costs and will not take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from tests.problems import posterior_of
from tests.solver_contract import SolverContract
from workbench.callbacks import Callback, LiveEstimate, StepEvent, Trajectory
from workbench.capabilities import Capabilities, CapabilityError
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.integration import Karras, ancestral
from workbench.kinds import Kind
from workbench.ledger import Budget, BudgetError
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.base import Info, Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.integrator import Integrator
from workbench.store import TensorStore

LEVELS = Karras(2.0, 0.2)
LIKE = torch.empty(0, dtype=torch.float64)
INNER = DAPS(3, LEVELS, 2)


class TestBestOf(SolverContract):
    covers = (BestOf,)

    def make(self) -> BestOf:
        return BestOf(DAPS(2, LEVELS, 2, tolerance=1e-10), 3)

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Two:
    """A state of more than one tensor, not all of them fields, and a number."""

    u: Tensor
    more: dict[str, Tensor]
    count: int


@dataclass(frozen=True)
class Starts(Solver[Two]):
    """A point estimate that is where it began: a solver of many starts."""

    steps: int = 2

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[Two]] = Two
    remedy: ClassVar[str] = "Begin elsewhere."
    plan_is_limit: ClassVar[bool] = True

    def plan(self, posterior: Posterior) -> SolverPlan:
        return SolverPlan.steps(self.steps)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> Two:
        u = keys.normals(posterior.space.shape, "starts", like=like)
        more = {"number": torch.tensor(keys.draws)} | ({"all": torch.tensor(1.0)} if self.steps == 2 else {})
        return Two(u, more, 0)

    def step(self, posterior: Posterior, state: Two, row: PlanRow, keys: Keys) -> tuple[Two, Info]:
        assert state.more["number"].tolist() == list(keys.draws)
        u = state.u.clone()
        if row.index == 1 and self.steps == 3:
            u[torch.tensor(keys.draws) == 7] = torch.nan
        estimate = u.clone()
        if row.index == 1 and self.steps == 4:
            estimate[torch.tensor(keys.draws) == 7] = torch.inf
        told = {"number": state.more["number"].double()}
        return Two(u, state.more, state.count + 1), Info(estimate, told, finished=row.index == 8)

    def answer(self, posterior: Posterior, state: Two) -> Tensor:
        if self.steps == 5:
            return torch.where(state.more["number"].reshape(-1, 1, 1, 1) == 7, torch.nan, state.u)
        return state.u


def by_hand(posterior: Posterior, draws: Tensor, runs: int) -> Tensor:
    """Return of each `runs` draws the one with the least misfit."""
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    found = []
    for group in draws.split(runs):
        misfits = [float(-likelihood.log_likelihood(x[None])) for x in group]
        found.append(group[misfits.index(min(misfits))])
    return torch.stack(found)


@pytest.mark.parametrize("inner", [INNER, DPS(6, LEVELS), DiffPIR(3, LEVELS), Starts()], ids=repr)
@pytest.mark.parametrize("name", ["mask", "coils"])
def test_it_is_the_best_of_the_inner_solvers_own_draws(inner: Solver[Any], name: str) -> None:
    posterior = posterior_of(name, 6)
    own = sample(posterior, inner, draws=12, microbatch=6, seed=3).tensor()
    best = sample(posterior, BestOf(inner, 3), draws=4, microbatch=2, seed=3)
    assert torch.equal(best.tensor(), by_hand(posterior, own, 3))
    # A run of another length is the best of others.
    assert not torch.equal(sample(posterior, BestOf(inner, 2), draws=4, seed=3).tensor(), best.tensor())


def phase() -> Posterior:
    """Return intensities of random combinations of a 4 x 4 image whose sign and more nobody knows."""
    space = Space.field(Grid.plane((4, 4), 2.0))
    matrix = Keys(3, (0,)).normals((64, 16), "test: phase", like=LIKE)[0] / 4
    operator = PhaseRetrieval(Matrix(space, Space((64,)), matrix))
    prior = SpectralGaussian.smooth(space, sd=0.5, length=2.0)
    data = GaussianNoise(0.05).draw(operator(prior.draw(Keys(7, (0,)), like=LIKE)), Keys(2, (0,)))[0]
    return Posterior(prior, Likelihood(operator, GaussianNoise(0.05), data))


def test_what_ends_in_a_wrong_minimum_is_left_behind() -> None:
    posterior, inner = phase(), DAPS(20, None, 1, "matched", Langevin(30))

    def explained(solver: Solver[Any]) -> int:
        u = sample(posterior, solver, draws=12, seed=1).tensor()
        misfit = ((posterior.measured.predicted(u) - posterior.measured.data) / 0.05).square().mean(1)
        return int((misfit < 1.9).sum())

    alone, best = explained(inner), explained(BestOf(inner, 4))
    assert alone < 10
    assert best > alone


def test_it_is_no_draw_and_says_so() -> None:
    posterior = posterior_of("mask", 6)
    solver = BestOf(INNER, 2)
    samples = sample(posterior, solver, draws=3)
    assert samples.kind is Kind.BEST_OF
    assert samples.record["kind"] == "best-of"
    assert samples.record["solver"] == f"BestOf(inner={INNER!r}, runs=2)"
    assert samples.record["plan"]["sha256"] == INNER.plan(posterior).hash
    with pytest.raises(ValueError, match=r"`samples` must be draws for sd\(\), got a best-of"):
        samples.sd()
    assert sample(posterior, BestOf(Starts(), 2), draws=2).kind is Kind.BEST_OF


def test_it_costs_as_many_times_more_and_one_a_to_choose() -> None:
    posterior = posterior_of("mask", 6)
    one = sample(posterior, INNER, draws=3).record["ledger"]
    four = sample(posterior, BestOf(INNER, 4), draws=3).record["ledger"]
    assert four["network_evaluations"] == 4 * one["network_evaluations"]
    assert four["adjoints"] == 4 * one["adjoints"]
    assert four["forwards"] == 4 * (one["forwards"] + 3)
    plan = INNER.plan(posterior)
    each, cost = INNER.cost(posterior, plan), BestOf(INNER, 4).cost(posterior, plan)
    assert cost.network_evaluations == 4 * each.network_evaluations == 4 * 6
    assert cost.operator_calls == 4 * (each.operator_calls + 1) == 4 * (6 + 1)
    with pytest.raises(BudgetError, match="allow at least 72: 3 draws of 24"):
        sample(posterior, BestOf(INNER, 4), draws=3, budget=Budget(network_evaluations=71))


def test_a_store_goes_on_in_the_middle_with_more_draws() -> None:
    posterior, store = posterior_of("mask", 6), TensorStore()

    class Stop(Callback):
        def step(self, event: StepEvent) -> None:
            if event.first == 2 and event.step == 4:
                raise KeyboardInterrupt

    solver = BestOf(AnnealedLangevin(2.0, 0.1, levels=3, steps_per_level=2), 3)
    with pytest.raises(KeyboardInterrupt):
        sample(posterior, solver, draws=4, microbatch=2, store=store, callbacks=[Stop()])
    more = sample(posterior, solver, draws=7, microbatch=2, store=store).tensor()
    assert torch.equal(more, sample(posterior, solver, draws=7, microbatch=2).tensor())


def test_viewers_see_the_best_run_of_each_draw_as_it_stands() -> None:
    posterior, shown = posterior_of("mask", 6), {}
    own: dict[int, Tensor] = {}
    trajectory = Trajectory()
    callbacks = [LiveEstimate(lambda step, x: shown.update({step: x})), trajectory]
    last = sample(posterior, BestOf(INNER, 3), draws=2, callbacks=callbacks)
    sample(posterior, INNER, draws=6, callbacks=[LiveEstimate(lambda step, x: own.update({step: x}))])
    assert len(shown) == 6
    for step, estimate in shown.items():
        assert torch.equal(estimate, by_hand(posterior, own[step], 3))
    assert torch.equal(shown[6], last.tensor())
    assert trajectory.temporal_sd is not None
    # Of numbers the largest of the runs: three of each draw, the fifth and last being number 5.
    numbers = Trajectory()
    samples = sample(posterior, BestOf(Starts(), 3), draws=2, callbacks=[numbers])
    assert [row["number"] for row in numbers.rows] == [3.5, 3.5]
    assert samples.record["last_step"] == {"number": 5.0}


@pytest.mark.parametrize(("steps", "step"), [(3, 2), (4, 2)])
def test_a_run_that_diverges_is_the_draws_whose_it_is(steps: int, step: int) -> None:
    posterior = posterior_of("mask", 6)
    words = f"BestOf met a NaN or an infinity at step {step} of {steps} in draw 2. Begin elsewhere."
    with pytest.raises(DivergedError, match=words):
        sample(posterior, BestOf(Starts(steps), 3), draws=4)
    # Rows that fill a batch up are nobody's.
    assert len(sample(posterior, BestOf(Starts(steps), 3), draws=2, microbatch=5)) == 2


def test_an_answer_that_is_no_number_is_not_chosen_away() -> None:
    posterior = posterior_of("mask", 6)
    with pytest.raises(DivergedError, match="at step 5 of 5.*in the answer"):
        sample(posterior, BestOf(Starts(5), 3), draws=3)
    assert len(sample(posterior, BestOf(Starts(5), 3), draws=2)) == 2


def test_an_inner_chain_that_diverges_is_placed() -> None:
    solver = BestOf(DAPS(3, LEVELS, 2, inner=Langevin(fraction=5.0)), 2)
    with pytest.raises(
        DivergedError, match=r"BestOf met .*at step 2 of 6, sigma = .*, r = 2.*Lower the fraction"
    ):
        sample(posterior_of("mask", 6), solver, draws=2)


def test_what_the_inner_solver_says_of_itself_holds() -> None:
    solver = BestOf(INNER, 2)
    assert solver.state_type is INNER.state_type
    assert solver.remedy == INNER.remedy
    assert not solver.plan_is_limit
    assert BestOf(Starts()).plan_is_limit
    row = INNER.plan(posterior_of("mask", 6)).row(1)
    assert solver.whereabouts(row) == INNER.whereabouts(row)
    assert solver.capabilities == INNER.capabilities
    assert not AnnealedLangevin(2.0, 0.1).capabilities.likelihood
    assert BestOf(AnnealedLangevin(2.0, 0.1)).capabilities.likelihood
    assert replace(solver, runs=3).inner is INNER
    assert solver != BestOf(INNER, 3)


def test_a_measurement_is_needed_to_choose_by() -> None:
    posterior = posterior_of("mask", 6)
    alone = Posterior(posterior.prior)
    assert len(sample(alone, AnnealedLangevin(2.0, 0.1, 2, 1), draws=2)) == 2
    with pytest.raises(CapabilityError, match="BestOf cannot.*\n- `posterior` must have a likelihood"):
        sample(alone, BestOf(AnnealedLangevin(2.0, 0.1, 2, 1)), draws=2)
    with pytest.raises(CapabilityError, match="BestOf cannot.*\n- `likelihood` must be linear with Gaussian"):
        sample(phase(), BestOf(AnnealedLangevin(2.0, 0.1, 2, 1)), draws=2)


@pytest.mark.parametrize(
    ("inner", "runs", "message"),
    [
        (INNER, 1, "`runs` must be an integer >= 2, got 1. One run is DAPS itself."),
        (INNER, 0, "`runs` must be an integer >= 2"),
        ("DAPS", 2, "`inner` must be a Solver's instance, got 'DAPS'"),
        (DAPS, 2, "`inner` must be a Solver's instance"),
        (ConjugateGradient(), 2, "`inner` must be a solver whose draws differ, got ConjugateGradient"),
        (BestOf(INNER), 2, "`inner` must give one of exact sample, .* got BestOf, a best-of. Raise `runs`."),
        (Integrator(ancestral(LEVELS.times(3))), 2, "`inner` must look at a measurement, .* got Integrator"),
    ],
)
def test_what_it_cannot_choose_from_is_refused(inner: Any, runs: int, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        BestOf(inner, runs)


def test_particles_and_edits_are_refused() -> None:
    @dataclass(frozen=True)
    class Particles(Starts):
        kind: ClassVar[Kind] = Kind.WEIGHTED_ENSEMBLE  # type: ignore[misc]

        @property
        def particles(self) -> int:
            return 8

    @dataclass(frozen=True)
    class Edit(Starts):
        kind: ClassVar[Kind] = Kind.SYNTHETIC_EDIT  # type: ignore[misc]

    with pytest.raises(ValueError, match="`inner` must be a solver of independent draws, got Particles"):
        BestOf(Particles())
    with pytest.raises(ValueError, match="got Edit, a synthetic edit. Its answers are to be called that."):
        BestOf(Edit())
