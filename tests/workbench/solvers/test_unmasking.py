"""Unmasking against enumeration: exact one at a time, and its own law, also enumerated, several at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from tests.problems import posterior_of, prior_on
from tests.solver_contract import SolverContract, StopAfter
from tests.workbench.toys import IndependentTokens
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.posterior import Posterior
from workbench.priors.chances import inverted
from workbench.priors.enumerated import EnumeratedTokens
from workbench.priors.tokens import TokenPrior
from workbench.random import Keys
from workbench.solvers.unmasking import Unmasking
from workbench.store import TensorStore
from workbench.units import Units

GRID = Grid.plane((3, 3), 1.0)


class PoisonedTokens(TokenPrior):
    """Conditionals that are NaN once `left` evaluations are used up."""

    exact = calibrated_score = True

    def __init__(self, prior: TokenPrior, left: int) -> None:
        super().__init__(prior.space)
        self.prior, self.left = prior, [left]

    def _conditional(self, tokens: Tensor, mask: Tensor) -> Tensor:
        self.left[0] -= 1
        return self.prior._conditional(tokens, mask) * (torch.nan if self.left[0] < 0 else 1.0)


class TestUnmasking(SolverContract):
    covers = (Unmasking,)
    single_dtypes = (torch.int64,)
    has_units = False

    def make(self) -> Unmasking:
        return Unmasking()

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units | None = None) -> Posterior:
        return Posterior(EnumeratedTokens.ising(GRID, 0.4), units=units)

    def poisoned(self, after: int) -> Posterior:
        return Posterior(PoisonedTokens(EnumeratedTokens.ising(GRID, 0.4), after))


class TestSeveralAtATime(TestUnmasking):
    def make(self) -> Unmasking:
        return Unmasking(per_step=4)


def variation(prior: EnumeratedTokens, tokens: Tensor, law: Tensor) -> float:
    """Return the total variation between the empirical law of `tokens` and `law`."""
    shares = torch.bincount(prior.index_of(tokens), minlength=len(law)) / len(tokens)
    return float((shares - law).abs().sum()) / 2


def floor_and_spread(law: Tensor, draws: int) -> tuple[float, float]:
    """Return the total variation that exact draws have on average, and a bound of its standard deviation.

    Of a share with the standard deviation s the mean distance is s sqrt(2 / pi), for many draws; one draw
    more or less moves the total by 1 / draws at most (McDiarmid), which bounds the variance by 1 / (4 draws).
    """
    s = (law * (1 - law) / draws).sqrt()
    return float(s.sum()) / math.sqrt(2 * math.pi), 0.5 / draws**0.5


@pytest.mark.parametrize("field", [0.0, 0.3])
def test_one_at_a_time_is_exact(field: float) -> None:
    prior = EnumeratedTokens.ising(GRID, 0.4, field)
    samples = sample(Posterior(prior), Unmasking(), draws=20000, microbatch=4096, seed=2)
    assert samples.kind is Kind.EXACT_SAMPLE
    law = prior.log_probabilities.exp()
    floor, spread = floor_and_spread(law, 20000)
    assert variation(prior, samples.tensor(), law) < floor + 3 * spread
    direct = prior.draw(Keys(5, tuple(range(20000))), like=torch.empty(0))
    assert variation(prior, direct, law) < floor + 3 * spread


def law_of_groups(prior: EnumeratedTokens, sizes: tuple[int, ...]) -> Tensor:
    """Return the law of tokens drawn in random groups of `sizes`, independent given those before."""
    states, size = prior.states, prior.space.size
    flat = states.reshape(len(states), size)

    def continued(left: frozenset[int], rest: tuple[int, ...]) -> Tensor:
        if not rest:
            return torch.ones(len(states), dtype=torch.float64)
        mask = torch.zeros(size, dtype=torch.bool)
        mask[list(left)] = True
        chances = prior.conditional(states, mask.reshape(prior.space.shape).expand_as(states))
        own = chances.reshape(len(states), size, -1).gather(2, flat[..., None])[..., 0]
        groups = [frozenset(group) for group in itertools.combinations(sorted(left), rest[0])]
        terms = [own[:, sorted(group)].prod(1) * continued(left - group, rest[1:]) for group in groups]
        return torch.stack(terms).mean(0)

    return continued(frozenset(range(size)), sizes)


@pytest.mark.parametrize(("per_step", "sizes"), [(2, (2, 2, 2)), (4, (4, 2)), (6, (6,)), (1, (1,) * 6)])
def test_draws_follow_the_law_of_their_groups(per_step: int, sizes: tuple[int, ...]) -> None:
    grid = Grid.plane((2, 3), 1.0) if per_step > 1 else Grid.plane((2, 2), 1.0)
    sizes = sizes if per_step > 1 else (1,) * 4
    prior = EnumeratedTokens.ising(grid, 0.5, 0.2)
    solver = Unmasking(per_step)
    assert tuple(int(row.number("unmask")) for row in solver.plan(Posterior(prior))) == sizes
    law = law_of_groups(prior, sizes)
    assert float(law.sum()) == pytest.approx(1.0)
    truth = prior.log_probabilities.exp()
    off = float((law - truth).abs().sum()) / 2
    floor, spread = floor_and_spread(law, 20000)
    tokens = sample(Posterior(prior), solver, draws=20000, seed=3).tensor()
    assert variation(prior, tokens, law) < floor + 3 * spread
    if per_step == 1:
        assert off < 1e-12
        assert solver.kind is Kind.EXACT_SAMPLE
    else:
        assert off > 0.1  # and the draws tell: their own law and the truth are told apart
        assert variation(prior, tokens, truth) > floor + 3 * spread
        assert solver.kind is Kind.APPROXIMATE_SAMPLE


def test_each_draw_has_an_order_of_its_own() -> None:
    posterior = Posterior(EnumeratedTokens.ising(GRID, 0.4))
    solver = Unmasking()
    keys = Keys(1, tuple(range(900)))
    state = solver.init(posterior, keys, posterior.like())
    assert bool(state.masked.all())
    places = []
    for row in solver.plan(posterior):
        after, info = solver.step(posterior, state, row, keys.at(row.index + 1))
        changed = (state.masked & ~after.masked).flatten(1)
        assert bool((changed.sum(1) == 1).all())
        assert torch.equal(
            torch.where(state.masked, 0, after.tokens), torch.where(state.masked, 0, state.tokens)
        )
        assert info.values["masked"].tolist() == pytest.approx([1 - (row.index + 1) / 9] * 900)
        places.append(changed.double().argmax(1))
        state = after
    assert not bool(state.masked.any())
    # Each place is as often the first, the second ...: 100 times, give or take five standard deviations.
    for column in places:
        counts = torch.bincount(column, minlength=9).double()
        assert (counts - 100).abs().max() < 5 * (900 / 9 * 8 / 9) ** 0.5
    assert len({tuple(order) for order in torch.stack(places, 1).tolist()}) > 890


def test_rare_classes_keep_their_rate() -> None:
    # 1 in 1e9 as often as 1 in 1e9: a threshold in single precision would be off by 6e-8.
    chances = torch.tensor([1e-9, 0.0, 1 - 2e-9, 1e-9, 0.0], dtype=torch.float64)
    shares = torch.tensor(
        [2.0**-53, 0.9e-9, 1.1e-9, 1 - 1.1e-9, 1 - 0.9e-9, 1 - 2.0**-53], dtype=torch.float64
    )
    assert inverted(chances.expand(6, 5), shares).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_resumed_run_goes_on_where_it_stopped() -> None:
    posterior = Posterior(EnumeratedTokens.ising(GRID, 0.4))
    whole = sample(posterior, Unmasking(2), draws=7, microbatch=3, seed=4).tensor()
    store = TensorStore()
    with pytest.raises(KeyboardInterrupt):
        sample(posterior, Unmasking(2), draws=7, microbatch=3, seed=4, store=store, callbacks=[StopAfter(8)])
    assert torch.equal(
        sample(posterior, Unmasking(2), draws=7, microbatch=3, seed=4, store=store).tensor(), whole
    )


def test_the_cost_is_one_evaluation_per_step() -> None:
    samples = sample(Posterior(EnumeratedTokens.ising(GRID, 0.4)), Unmasking(2), draws=4, seed=4)
    assert samples.record["ledger"]["network_evaluations"] == 5 * 4


def test_what_it_cannot_do_is_refused_before_the_run() -> None:
    with pytest.raises(CapabilityError, match="`prior` must be a TokenPrior, got SpectralGaussian"):
        sample(Posterior(prior_on(posterior_of("mask").space)), Unmasking(), draws=1)
    prior = IndependentTokens(Space.tokens(GRID, 2), torch.tensor([0.5, 0.5], dtype=torch.float64))
    prior.calibrated_score = False
    with pytest.raises(CapabilityError, match="`prior` must give posterior means"):
        sample(Posterior(prior), Unmasking(), draws=1)
    with pytest.raises(ValueError, match="`per_step` must be an integer >= 1, got 0"):
        Unmasking(0)
