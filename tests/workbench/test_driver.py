"""The driver: kinds of state it carries, budgets, interruptions, what is said before a run."""

from __future__ import annotations

import pytest
import torch

from operators.space import Space
from tests.problems import UNITS, dense_answer, grid_of, posterior_of, prior_on, reals
from tests.solver_contract import StopAfter
from tests.workbench.toys import (
    ImportanceSampling,
    IndependentTokens,
    ParticleState,
    Walk,
    prior_only,
    walk,
)
from workbench import ledger
from workbench.callbacks import LiveEstimate, ProgressLine
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.engine import costs
from workbench.engine.guards import DivergedError
from workbench.kinds import Kind
from workbench.ledger import Budget, BudgetError, BudgetExhausted
from workbench.posterior import Posterior
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.solvers.unmasking import Unmasking
from workbench.store import StoreFull, TensorStore
from workbench.units import Units

# -- states other than fields -------------------------------------------------------------------------


def test_tokens_go_through_the_same_driver() -> None:
    space = Space.tokens(grid_of(8), 3)
    chances = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    posterior = Posterior(IndependentTokens(space, chances))
    samples = sample(posterior, Unmasking(16), draws=200, seed=1)
    tokens = samples.tensor()
    assert tokens.dtype == torch.int64
    counts = torch.bincount(tokens.flatten(), minlength=3) / tokens.numel()
    assert torch.allclose(counts.double(), chances, atol=0.02)
    few = sample(posterior, Unmasking(16), draws=3, seed=1).tensor()
    assert torch.equal(few, tokens[:3])
    with pytest.raises(CapabilityError, match="`prior.space` must be a complex field or"):
        sample(posterior, ExactGaussian(), draws=1)


def test_a_weighted_ensemble_is_the_posterior() -> None:
    posterior = posterior_of("mask", 4, sigma=0.01)
    samples = sample(posterior, ImportanceSampling(20000), seed=1)
    assert samples.kind is Kind.WEIGHTED_ENSEMBLE
    assert len(samples) == 20000
    assert 5 < samples.effective_size < 20000
    truth = dense_answer(posterior)
    mean = reals(posterior.from_physical(samples.mean().data)[None])[0]
    sd = truth.covariance.diagonal().sqrt()
    assert float(((mean - truth.mean) / sd).abs().max()) < 5 / samples.effective_size**0.5


def test_draws_out_of_an_ensemble_follow_from_their_number() -> None:
    posterior = posterior_of("mask", 4, sigma=0.01)
    many = sample(posterior, ImportanceSampling(500), draws=40, seed=1)
    few = sample(posterior, ImportanceSampling(500), draws=7, seed=1)
    assert torch.equal(many.tensor()[:7], few.tensor())
    ensemble = sample(posterior, ImportanceSampling(500), seed=1)
    rows = {tuple(row.tolist()) for row in ensemble.tensor().flatten(1)}
    assert all(tuple(row.tolist()) in rows for row in many.tensor().flatten(1))
    assert many.kind is Kind.WEIGHTED_ENSEMBLE
    likely = ensemble.weights.argmax()
    share = (many.tensor() == ensemble.tensor()[likely]).flatten(1).all(1).double().mean()
    assert float(share) == pytest.approx(float(ensemble.weights.max()), abs=0.25)


# -- said before the run -------------------------------------------------------------------------------


def test_budgets_that_cannot_be_met_are_refused_before_the_run() -> None:
    seen: list[int] = []
    live = LiveEstimate(lambda step, _: seen.append(step))
    with pytest.raises(
        BudgetError,
        match="allow at least 60: 6 draws of 10 or more each, got 50. Raise it, or draw at most 4",
    ):
        walk(budget=Budget(network_evaluations=50), callbacks=[live])
    with pytest.raises(BudgetError, match="backward_passes"):
        walk(solver=Walk(backward=True), budget=Budget(backward_passes=50))
    with pytest.raises(BudgetError, match="`budget.memory_bytes` must allow at least"):
        walk(budget=Budget(memory_bytes=1000))
    assert seen == []


def test_draws_that_do_not_fit_are_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "available_memory", lambda: 1000)
    with pytest.raises(
        BudgetError,
        match=r"fit into the 1000 bytes free in memory, got 100 of \d+ bytes each. "
        r"Keep them on disk: store=ZarrStore\(path\). Or draw at most 6.",
    ):
        walk(draws=100)


def test_what_the_plan_has_cost_counts() -> None:
    posterior = posterior_of("ct")
    solver = AnnealedLangevin(3.0, 0.5, levels=2, steps_per_level=1)
    ledger = sample(posterior, solver, draws=1).record["ledger"]
    spent = ledger["operator_calls"] - 4
    assert spent > 0
    limit = ledger["operator_calls"] - 1
    fresh = posterior_of("ct")
    wanted = rf"allow at least {limit + 1}: 1 draws of 4 or more each, and {spent} for the plan, got {limit}"
    with pytest.raises(BudgetError, match=wanted):
        sample(fresh, solver, draws=1, budget=Budget(operator_calls=limit))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "`draws` must be an integer >= 1, got 0"),
        ({"draws": None}, "`draws` must be given for Walk"),
        ({"draws": 2.5}, "`draws` must be an integer"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 1.5}, "`seed`"),
        ({"microbatch": 0}, "`microbatch` must be an integer >= 1"),
        ({"budget": 7}, "`budget` must be a Budget"),
        ({"checkpoint_seconds": -1.0}, "`checkpoint_seconds`"),
        ({"callbacks": [print]}, "`callbacks` must be a sequence of Callbacks"),
        ({"callbacks": ProgressLine(print)}, "Put it into a list"),
        ({"callbacks": print}, r"sequence of Callbacks, got <built-in .*Such as \[ProgressLine\(print\)\]"),
        ({"store": "run.zarr"}, "`store` must be a Store or None, got str. On disk: ZarrStore"),
        ({"dtype": torch.float16}, "`dtype` must be torch.float32 or torch.float64"),
        ({"dtype": "float32"}, "`dtype` must be torch.float32 or torch.float64"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        sample(prior_only(), Walk(), **({"draws": 2} | options))  # type: ignore[arg-type]


def test_what_is_no_posterior_or_solver_is_refused() -> None:
    with pytest.raises(TypeError, match="`posterior` must be a Posterior, got SpectralGaussian"):
        sample(prior_only().prior, Walk(), draws=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`solver` must be a Solver's instance, got Walk"):
        sample(prior_only(), Walk, draws=1)  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="`posterior` must have a likelihood"):
        sample(prior_only(), ConjugateGradient())
    with pytest.raises(ValueError, match="`dtype, device` must be those of the data"):
        sample(posterior_of("mask"), ExactGaussian(), draws=1, dtype=torch.float32)


# -- during the run ------------------------------------------------------------------------------------


def test_calls_are_counted_per_sample() -> None:
    counts = walk(solver=Walk(backward=True)).record["ledger"]
    # Three microbatches of two, ten steps each: the row that fills the last one up is computed too.
    assert counts["network_evaluations"] == 60
    assert counts["backward_passes"] == 60
    assert walk().record["ledger"]["backward_passes"] == 0
    assert counts["peak_memory_bytes"] > 2**20


def test_a_budget_ends_the_run_and_a_larger_one_goes_on() -> None:
    greedy = Walk(hidden=1)
    whole = walk(solver=greedy).tensor()
    store = TensorStore()
    with pytest.raises(BudgetExhausted, match="budget of 70 network_evaluations is exhausted: .* needed now"):
        walk(store, solver=greedy, budget=Budget(network_evaluations=70))
    resumed = walk(store, solver=greedy, budget=Budget(network_evaluations=1000))
    assert torch.equal(resumed.tensor(), whole)
    # Counted over both sessions, the half step that was done again included.
    assert 120 <= resumed.record["ledger"]["network_evaluations"] <= 122


def test_a_budget_that_what_is_left_exceeds_is_refused_before_it_is_spent() -> None:
    """The batches that are left need more than one evaluation: that is said at once."""
    greedy, store = Walk(hidden=1), TensorStore()
    with pytest.raises(BudgetExhausted):
        walk(store, solver=greedy, budget=Budget(network_evaluations=70))
    spent = []
    live = LiveEstimate(lambda step, _: spent.append(step))
    with pytest.raises(BudgetError, match=r"allow at least \d+: \d+ are spent, and \d+ or more are to come"):
        walk(store, solver=greedy, budget=Budget(network_evaluations=71), callbacks=[live])
    assert spent == []


def test_the_rest_of_a_batch_counts_when_a_run_goes_on() -> None:
    store = TensorStore()
    # Batches of two draws, ten steps of one evaluation, and one that is not declared. The second batch is
    # stopped at its sixth step, which is done again.
    greedy = Walk(hidden=1)
    with pytest.raises(KeyboardInterrupt):
        walk(store, draws=4, solver=greedy, checkpoint_seconds=0.0, callbacks=[StopAfter(16)])
    with pytest.raises(BudgetError, match="allow at least 74: 64 are spent, and 10 or more are to come"):
        walk(store, draws=4, solver=greedy, budget=Budget(network_evaluations=73))


def test_seconds_that_are_spent_allow_no_further_step() -> None:
    store, seen = TensorStore(), []
    slow = Walk(steps=10000)
    with pytest.raises(BudgetExhausted):
        walk(store, solver=slow, budget=Budget(seconds=0.05))
    live = LiveEstimate(lambda step, _: seen.append(step))
    with pytest.raises(BudgetExhausted):
        walk(store, solver=slow, budget=Budget(seconds=0.01), callbacks=[live])
    assert seen == []


def test_seconds_are_enforced() -> None:
    with pytest.raises(BudgetExhausted, match="seconds is exhausted"):
        walk(solver=Walk(steps=10000), budget=Budget(seconds=0.05))


def test_a_nan_stops_at_its_step_and_names_the_draw() -> None:
    with pytest.raises(
        DivergedError, match="Walk met a NaN or an infinity at step 4 of 10 in draw 1. Walk less."
    ):
        walk(solver=Walk(fails=3))


def test_what_a_nan_stopped_can_be_looked_at_again() -> None:
    store = TensorStore()
    for _ in range(2):  # it stops at the same place: the last good state was kept
        with pytest.raises(DivergedError, match="at step 4 of 10") as caught:
            walk(store, solver=Walk(fails=3))
    assert any("0 draws are kept, and step 3 of the next" in note for note in caught.value.__notes__)


def test_another_run_is_not_continued() -> None:
    store = TensorStore()
    walk(store, draws=2)
    with pytest.raises(ValueError, match="seed"):
        walk(store, draws=2, seed=1)
    with pytest.raises(ValueError, match="solver and plan"):
        walk(store, draws=2, solver=Walk(steps=11))
    space = Space.field(grid_of(6))
    for other, part in (
        (Posterior(prior_on(space), units=Units(2.0, 0.02, "1/mm")), "units"),
        (Posterior(SpectralGaussian.smooth(space, sd=1.0, length=3.0, units=UNITS)), "prior"),
    ):
        with pytest.raises(ValueError, match=part):
            sample(other, Walk(), draws=2, microbatch=2, store=store)


def test_a_finished_run_is_read_not_repeated() -> None:
    store = TensorStore()
    first = walk(store)
    again = walk(store)
    assert torch.equal(again.tensor(), first.tensor())
    assert again.record["ledger"]["network_evaluations"] == first.record["ledger"]["network_evaluations"]


def test_a_full_store_stops_clearly_and_goes_on_later() -> None:
    class Small(TensorStore):
        room_left = 1

        def write(self, first: int, draws: torch.Tensor) -> None:
            if self.room_left == 0:
                raise StoreFull("the disk is full at x: draws 0 to 1 are complete. Make room and call again.")
            self.room_left -= 1
            super().write(first, draws)

    store = Small()
    with pytest.raises(StoreFull, match="Make room"):
        walk(store)
    store.room_left = 99
    assert torch.equal(walk(store).tensor(), walk().tensor())


def test_a_run_begun_elsewhere_says_so() -> None:
    store = TensorStore()
    with pytest.raises(KeyboardInterrupt):
        walk(store, callbacks=[StopAfter(3)])
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match="begun elsewhere.*threads.*agrees to rounding"):
            walk(store)
    finally:
        torch.set_num_threads(threads)


def test_a_finished_ensemble_is_read_not_repeated() -> None:
    posterior, store = posterior_of("mask", 4, sigma=0.01), TensorStore()
    first = sample(posterior, ImportanceSampling(50), store=store)
    again = sample(posterior, ImportanceSampling(50), store=store)
    assert again.record["ledger"]["operator_calls"] == first.record["ledger"]["operator_calls"]
    assert torch.equal(again.weights, first.weights)
    assert torch.equal(again.tensor(), first.tensor())


def test_an_ensemble_without_weight_stops() -> None:
    posterior = posterior_of("mask", 4, sigma=0.01)
    with pytest.raises(DivergedError, match="every particle has weight zero"):
        sample(posterior, Weightless(50), draws=3)


class Weightless(ImportanceSampling):
    def log_weights(self, state: ParticleState) -> torch.Tensor:
        return torch.full_like(state.log_weights, -torch.inf)


def test_rows_that_fill_a_batch_up_do_not_stop_a_run() -> None:
    # Walk spoils the second row of each batch; of a batch of one draw that row is nobody's.
    assert len(walk(draws=1, solver=Walk(fails=3))) == 1


def test_the_microbatch_of_a_run_is_kept() -> None:
    posterior, store = prior_only(), TensorStore()
    with pytest.raises(KeyboardInterrupt):
        sample(posterior, Walk(), draws=4, store=store, callbacks=[StopAfter(3)])
    more = sample(posterior, Walk(), draws=9, store=store)
    assert more.record["microbatch"] == 4
    assert torch.equal(more.tensor(), sample(posterior, Walk(), draws=9, microbatch=4).tensor())


def test_memory_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "peak_memory", lambda device: 10**12)
    with pytest.raises(BudgetExhausted, match="memory_bytes is exhausted"):
        walk(budget=Budget(memory_bytes=10**11))


def test_an_infinite_estimate_stops_the_run() -> None:
    with pytest.raises(DivergedError, match="at step 4 of 10 in draw 1"):
        walk(solver=Walk(fails=3, with_infinity=True))


def test_the_keys_of_steps_are_these() -> None:
    # Numbers that other versions must give too: step s of the plan has the keys of step s + 1.
    posterior, keys = prior_only(), Keys(0, (0,))
    like = torch.empty(0)
    z = keys.normals(posterior.space.shape, "start", like=like)
    for index in range(2):
        sigma = 1.0 / (index + 1)
        noise = keys.at(index + 1).normals(posterior.space.shape, "step", like=like)
        z = posterior.prior.denoise(z, sigma) + 0.1 * sigma * noise  # type: ignore[attr-defined]
    samples = sample(posterior, Walk(steps=2), draws=1)
    assert torch.equal(samples.tensor(), UNITS.physical(z))


def test_without_a_store_an_interruption_says_what_would_have_helped() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        walk(callbacks=[StopAfter(3)])
    assert any("store=ZarrStore" in note for note in caught.value.__notes__)
