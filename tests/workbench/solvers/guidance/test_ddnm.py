"""DDNM against the laws of its own chains, and what it counts, refuses and leaves alone."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from operators.stack import BlockDiagonal
from tests.problems import (
    UNITS,
    Dense,
    dense_answer,
    grid_of,
    posterior_of,
    prior_on,
    reals,
    require_standard_normal,
)
from tests.solver_contract import SolverContract
from tests.workbench.solvers.guidance.singular_cases import (
    LEVELS,
    Affine,
    Reals,
    against,
    case,
    drawn,
    in_single_precision,
    poisoned_prior,
    tomography,
)
from workbench.callbacks import Callback, StepEvent
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.solvers.descent import default_levels
from workbench.solvers.guidance.ddnm import DDNM, Weights
from workbench.units import Units


class TestDDNM(SolverContract):
    covers = (DDNM,)
    draws = 3

    def make(self) -> DDNM:
        return DDNM(4, LEVELS, travel=1)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return posterior_of("mask", dtype=dtype, units=units)

    def posterior_complex(self) -> Posterior:
        return case("single coil")

    def poisoned(self, after: int) -> Posterior:
        return poisoned_prior(self.posterior(), after)


class Watch(Callback):
    """Keeps the estimate of every step."""

    def __init__(self, seen: list[Tensor]) -> None:
        self.seen = seen

    def step(self, event: StepEvent) -> None:
        assert event.estimate is not None
        self.seen.append(event.estimate)


def travelled(sigmas: list[float], travel: int) -> list[tuple[float, float, float]]:
    """Return (sigma, next_sigma, sd of the noise before) as one who walks up and down would note them."""
    here, rows = sigmas[0], []
    for index in range(len(sigmas) - 1):
        start = index - travel if index >= travel else 0
        lift = (sigmas[start] ** 2 - here**2) ** 0.5
        for k in range(start, index + 1):
            rows.append((sigmas[k], sigmas[k + 1], lift))
            here, lift = sigmas[k + 1], 0.0
    return rows


def own_law(posterior: Posterior, solver: DDNM) -> Dense:
    """Return mean and covariance of the chain, which a Gaussian prior makes affine."""
    parts = Reals.of(posterior, 0.7)
    u, s, v = parts.u, parts.s, parts.v
    eye, inverse = torch.eye(len(s), dtype=torch.float64), torch.where(s > 0, 1 / s, 0.0)
    levels = levels_given(posterior, solver)
    law = Dense(torch.zeros_like(s), levels[0] ** 2 * eye)
    for sigma, after, lift in travelled(levels, solver.travel):
        law = Dense(law.mean, law.covariance + lift**2 * eye)
        shrink, rest = parts.denoised(sigma)
        keep = math.sqrt(1 - solver.eta**2) * after / sigma
        # x = D + V diag(taken) U^T (z_data - B D) and fresh noise of sd eta diag(room)
        room = torch.full_like(s, after)
        if solver.weights == "none":
            taken = inverse
        elif solver.weights == "scalar":
            taken = min(1, after * float(s.max())) * inverse
            # The noise is white: what is not measured gets no more of it than what is.
            room = (room**2 - taken[s.argmax()] ** 2).clamp(min=0).sqrt()
        else:
            taken = torch.minimum(inverse, room) * (s > 0)
            room = (room**2 - taken**2).clamp(min=0).sqrt()
        gain = v @ torch.diag(taken) @ u.T
        filled = (eye - gain @ parts.b) @ shrink
        start = rest + gain @ (parts.z - parts.b @ rest)
        root = solver.eta * v @ torch.diag(room)
        law = Affine((1 - keep) * filled + keep * eye, (1 - keep) * start, root).of(law)
    return law


def levels_given(posterior: Posterior, solver: DDNM) -> list[float]:
    levels = default_levels(posterior) if solver.levels is None else solver.levels
    return [t / (1 - t) for t in levels.times(solver.steps)]


def require_law(law: Dense, u: Tensor) -> None:
    """Fail unless `u` look like draws of a law whose covariance may have no inverse."""
    values, vectors = torch.linalg.eigh(law.covariance)
    wide = values > 1e-12 * values[-1]
    rows = reals(u) - law.mean
    require_standard_normal(rows @ vectors[:, wide] / values[wide].sqrt())
    assert float((rows @ vectors[:, ~wide]).abs().sum()) <= 1e-5 * float(values[-1] ** 0.5) * rows.numel()


@pytest.mark.parametrize(
    ("name", "solver", "share"),
    [
        ("mask", DDNM(8, LEVELS), 0.05),
        ("blur", DDNM(8, LEVELS, eta=0.6), 0.02),
        ("matrix", DDNM(8, LEVELS), 0.02),
        ("single coil", DDNM(8, LEVELS), 0.01),
        ("mixed", DDNM(8, LEVELS, eta=0.0), 0.02),
        ("mask", DDNM(6, LEVELS, travel=2), 0.05),
        ("matrix", DDNM(8, LEVELS, "scalar"), 0.02),
        ("mask", DDNM(6, LEVELS, "scalar", travel=1), 0.05),
        ("matrix", DDNM(8, LEVELS, "none", eta=0.5), 0.02),
    ],
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: DDNM, share: float) -> None:
    posterior = case(name, share=share)
    law = own_law(posterior, solver)
    require_law(law, drawn(posterior, solver, 500))
    # A law like the posterior would not show that the chain is the one of its equations.
    assert against(law, dense_answer(posterior))[1] < 0.8


@pytest.mark.parametrize("name", ["mask", "matrix", "mixed", "single coil", "turned"])
def test_without_noise_the_range_is_exact(name: str) -> None:
    posterior = case(name, share=1e-3)
    operator, data = posterior.measured.whitened
    u = drawn(posterior, DDNM(10, LEVELS, "none"), 3)
    # Data lie in the range of A but where A is onto: there B u = z to rounding.
    dense = Reals.of(posterior)
    left = dense.u[:, dense.s > 0]
    gap = (reals(operator(u)) - reals(data[None])) @ left
    assert float(gap.norm(dim=1).max()) < 1e-9 * float((reals(data[None]) @ left).norm())
    single = in_single_precision(posterior)
    u = drawn(single, DDNM(10, LEVELS, "none"), 3)
    gap = (reals(operator(u)) - reals(data[None])) @ left
    assert float(gap.norm(dim=1).max()) < 1e-5 * float((reals(data[None]) @ left).norm())


@pytest.mark.parametrize("weights", ["spectral", "scalar", "none"])
def test_float32_follows_float64(weights: str) -> None:
    posterior, solver = case("mixed", share=0.01), DDNM(10, LEVELS, weights)  # type: ignore[arg-type]
    wide, narrow = drawn(posterior, solver, 3), drawn(in_single_precision(posterior), solver, 3)
    assert narrow.dtype == torch.float32
    assert float((narrow - wide).abs().max()) < 1e-4 * float(wide.abs().max())


@pytest.mark.parametrize("weights", ["spectral", "scalar"])
def test_with_noise_the_answer_is_the_last_estimate(weights: str) -> None:
    seen: list[Tensor] = []
    posterior, solver = case("mask"), DDNM(5, LEVELS, weights)  # type: ignore[arg-type]
    answer = sample(posterior, solver, draws=2, callbacks=[Watch(seen)]).tensor()
    assert len(seen) == 5
    assert torch.allclose(seen[-1], answer, rtol=1e-12)


def test_travel_is_rows_of_the_plan() -> None:
    posterior = case("mask")
    for steps, travel, evaluations in ((6, 0, 6), (6, 1, 11), (6, 2, 15), (3, 7, 6)):
        solver = DDNM(steps, LEVELS, travel=travel)
        plan = solver.plan(posterior)
        rows = [(row.number("sigma"), row.number("next_sigma"), row.number("lift")) for row in plan]
        assert torch.allclose(
            torch.tensor(rows), torch.tensor(travelled(levels_given(posterior, solver), travel)), rtol=1e-6
        )
        assert len(rows) == solver.cost(posterior, plan).network_evaluations == evaluations
        assert [after == 0 for _, after, _ in rows] == [False] * (len(rows) - 1) + [True]
    assert plan.hash != DDNM(3, LEVELS).plan(posterior).hash


@pytest.mark.parametrize(
    ("solver", "forwards", "adjoints"),
    [
        (DDNM(7, LEVELS), 7, 0),
        (DDNM(4, LEVELS, travel=1), 7, 0),
        (DDNM(7, LEVELS, "scalar"), 7, 6),
        (DDNM(7, LEVELS, "none"), 7, 7),
    ],
)
def test_a_row_is_one_evaluation_and_one_a(solver: DDNM, forwards: int, adjoints: int) -> None:
    for name in ("mask", "single coil"):
        posterior = case(name)
        ledger = sample(posterior, solver, draws=3).record["ledger"]
        assert ledger["network_evaluations"] == 21
        assert ledger["backward_passes"] == 0
        assert (ledger["forwards"], ledger["adjoints"]) == (3 * forwards, 3 * adjoints)
        cost = solver.cost(posterior, solver.plan(posterior))
        assert cost.operator_calls == forwards + adjoints


def test_wide_blurs_are_solved_at_the_defaults() -> None:
    """All three alike; with all that is not rounding for measured the noise is amplified."""
    posterior = case("blur", 8)
    truth = dense_answer(posterior)
    assert 8 <= Reals.of(posterior, 0.7).known <= 16 < Reals.of(posterior).known
    for weights, least in (("spectral", 0.5), ("scalar", 0.2), ("none", 0.5)):
        mean, ratio = against(own_law(posterior, DDNM(weights=weights)), truth)  # type: ignore[arg-type]
        assert mean < 0.5
        assert least < ratio < 0.9
        short = DDNM(10, weights=weights)  # type: ignore[arg-type]
        require_law(own_law(posterior, short), drawn(posterior, short, 100))
    for weights in ("scalar", "none"):
        with pytest.raises(DivergedError, match=r"Raise `cutoff`, use weights='spectral'"):
            drawn(posterior, DDNM(20, weights=weights, cutoff=1e-8), 2)  # type: ignore[arg-type]


def test_data_that_tell_nothing_leave_the_prior() -> None:
    posterior = case("mask", share=1.0)
    assert Reals.of(posterior, 0.7).known == 0
    one, *others = (drawn(posterior, DDNM(10, weights=weights), 100) for weights in get_args(Weights))
    assert all(torch.allclose(one, other, rtol=1e-9) for other in others)
    require_law(own_law(posterior, DDNM(10)), one)


def test_the_declared_bias_is_the_bias() -> None:
    """At the defaults on a mask: some of the variance for each singular value, little for one weight."""
    posterior = case("mask", 8)
    truth = dense_answer(posterior)
    spectral, scalar = (
        against(own_law(posterior, DDNM(weights=weights)), truth)  # type: ignore[arg-type]
        for weights in ("spectral", "scalar")
    )
    assert 0.45 < spectral[1] < 0.8
    assert 0.1 < scalar[1] < 0.4
    assert max(spectral[0], scalar[0]) < 0.5


def test_more_evaluations_on_the_way_bring_the_law_no_further_off() -> None:
    posterior = case("mask", 8)
    truth = dense_answer(posterior)
    plain, longer = (against(own_law(posterior, DDNM(10, LEVELS, travel=travel)), truth) for travel in (0, 2))
    assert longer[1] > plain[1]


def test_an_operator_without_singular_values_is_refused_unless_it_has_a_pseudo_inverse() -> None:
    posterior = case("mask", scales=True)
    match = "`noise` must let W A know its singular values, W its whitener, got Gaussian.* on Diagonal"
    with pytest.raises(CapabilityError, match=match):
        sample(posterior, DDNM(5), draws=1)
    assert drawn(posterior, DDNM(5, weights="none"), 2).shape[0] == 2
    with pytest.raises(CapabilityError, match="`operator` must know its singular values, got Projector"):
        sample(tomography(), DDNM(5), draws=1)
    for weights in ("scalar", "none"):
        with pytest.raises(
            CapabilityError, match="`operator` must have a pseudo-inverse in closed form, got"
        ):
            sample(tomography(), DDNM(5, weights=weights), draws=1)  # type: ignore[arg-type]


def test_blocks_serve_their_pseudo_inverse() -> None:
    """Multiples of a block diagonal know no solve: the whitener's factor is taken out before."""
    block = Matrix(Space((3,)), Space((2,)), torch.tensor([[2.0, 0, 1], [0, 1, 0]], dtype=torch.float64))
    operator = BlockDiagonal([block, block])
    data = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    prior = Gaussian(0.0, Identity(operator.domain))
    posterior = Posterior(prior, Likelihood(operator, GaussianNoise(0.1), data))
    u = drawn(posterior, DDNM(5, weights="none"), 2)
    assert torch.allclose(operator(u), data.expand(2, 4), rtol=1e-9)
    assert float((u[0] - u[1]).abs().max()) > 0.1


def test_nonlinear_operators_are_refused() -> None:
    space = Space.field(grid_of(4))
    operator = PhaseRetrieval(Matrix(space, Space((16,)), torch.eye(16).double()))
    likelihood = Likelihood(operator, GaussianNoise(0.1), torch.ones(16, dtype=torch.float64))
    for weights in ("spectral", "scalar", "none"):
        with pytest.raises(CapabilityError, match="`likelihood` must be linear with Gaussian noise"):
            sample(Posterior(prior_on(space), likelihood), DDNM(weights=weights), draws=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "matrix"}, "`weights` must be one of 'spectral', 'scalar', 'none', got 'matrix'"),
        ({"eta": -0.5}, "`eta` must be a finite number >= 0"),
        ({"eta": 1.5, "weights": "none"}, "`eta` must be at most 1"),
        ({"travel": -1}, "`travel` must be an integer >= 0"),
        ({"cutoff": -0.1}, "`cutoff` must be a finite number >= 0"),
        ({"steps": 0}, "`steps` must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DDNM(**arguments)  # type: ignore[arg-type]
