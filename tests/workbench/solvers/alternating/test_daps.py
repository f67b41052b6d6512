"""DAPS against the laws of its own chains, its levels, and what it makes of signs, counts and mistakes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from operators.identity import Identity
from operators.space import Space
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from tests.problems import Dense, posterior_of, reals, require_standard_normal
from tests.solver_contract import PoisonedDenoiser, SolverContract
from tests.workbench.solvers.affine_chain import errors
from tests.workbench.solvers.alternating.alternating_cases import LIKE, Matrices, answer, poly
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin

LEVELS = Karras(20.0, 0.01)


class TestDAPS(SolverContract):
    covers = (DAPS,)

    def make(self) -> DAPS:
        return DAPS(3, Karras(2.0, 0.2), ode_steps=2, tolerance=1e-10)

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


def own_law(posterior: Posterior, solver: DAPS) -> Dense:
    """Return mean and covariance of the last x, which a Gaussian prior makes affine in z and noise."""
    m = Matrices.of(posterior)
    assert isinstance(solver.levels, Karras)
    sigmas = poly(solver.levels.sigma_max, solver.levels.sigma_min, solver.steps)
    mean, covariance = 0 * m.mean, sigmas[0] ** 2 * m.eye
    for sigma, after in pairwise(sigmas):
        flow, rest = m.eye, 0 * mean
        for u, v in pairwise(poly(sigma, 0.1 * sigmas[-2], solver.ode_steps)):
            shrink = torch.linalg.solve(m.covariance + u**2 * m.eye, m.covariance)
            euler = v / u * m.eye + (1 - v / u) * shrink
            flow, rest = euler @ flow, euler @ rest + (1 - v / u) * (m.mean - shrink @ m.mean)
        square = 1 / (1 / sigma**2 + 1 / m.variance) if solver.radius == "matched" else sigma**2
        near, shift, spread = m.drawn(solver.inner, square)
        mean = near @ (flow @ mean + rest) + shift
        covariance = near @ flow @ covariance @ flow.T @ near.T + spread + after**2 * m.eye
    return Dense(mean, (covariance + covariance.T) / 2)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", DAPS(8, LEVELS)),
        ("mask", DAPS(8, LEVELS, ode_steps=1, radius="matched")),
        ("mask", DAPS(5, LEVELS, ode_steps=2, inner=Langevin(6, 0.5))),
        ("ct", DAPS(4, LEVELS, ode_steps=3, radius="matched", inner=Langevin(9))),
        ("ct", DAPS(3, LEVELS, ode_steps=3)),
        ("coils", DAPS(4, LEVELS, ode_steps=2)),
    ],
    ids=repr,
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: DAPS) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 500)))
    mean, ratio = errors(posterior, law)
    assert mean > 0.03 or abs(ratio - 1) > 0.03


def test_an_isotropic_prior_gets_its_posterior_from_means_and_matched_radii() -> None:
    held = problem("P1")
    solver = DAPS(60, LEVELS, ode_steps=1, radius="matched")
    mean, ratio = errors(held.posterior, own_law(held.posterior, solver))
    assert mean < 2e-3
    assert abs(ratio - 1) < 2e-3
    found = measure(reals(answer(held.posterior, solver, 4000)), held.truth)
    assert found.mean_error < 0.04
    assert found.variance_ratio == pytest.approx(1, abs=0.05)
    assert found.coverage == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("name", ["P1", "P2"])
def test_what_the_choices_are_off_by_is_what_is_documented(name: str) -> None:
    posterior = problem(name).posterior
    for solver, means, ratios in (
        (DAPS(200, LEVELS), 0.05, (1.35, 1.43)),
        (DAPS(200, LEVELS, ode_steps=1), 0.02, (1.01, 1.04)),
        (DAPS(200, LEVELS, ode_steps=1, radius="matched"), 0.03, (0.995, 1.01)),
        (DAPS(200, LEVELS, ode_steps=1, radius="matched", inner=Langevin()), 0.03, (1.02, 1.05)),
    ):
        mean, ratio = errors(posterior, own_law(posterior, solver))
        assert mean < means
        assert ratios[0] < ratio < ratios[1]


def test_few_steps_of_an_inner_chain_leave_what_is_measured_badly_behind() -> None:
    """At prior spread times |B| of 100, means are off by most of a posterior sd; the exact draw's are not."""
    posterior = posterior_of("blur", 6, sigma=6e-5)
    exact, chained = (
        errors(posterior, own_law(posterior, DAPS(60, Karras(100.0, 0.003), 1, "matched", inner)))[0]
        for inner in (None, Langevin())
    )
    assert exact < 0.03
    assert chained > 0.3


def test_the_plan_holds_every_evaluation_of_every_level() -> None:
    posterior = problem("P1").posterior
    rows = list(DAPS(4, LEVELS, ode_steps=3).plan(posterior))
    assert len(rows) == 12
    levels = poly(20.0, 0.01, 4)
    for i, row in enumerate(rows):
        level, inside = levels[i // 3], poly(levels[i // 3], 0.001, 3)
        assert row.number("sigma") == pytest.approx(inside[i % 3])
        assert row.number("next_sigma") == pytest.approx(inside[i % 3 + 1])
        assert row.number("radius") == (pytest.approx(level) if i % 3 == 2 else 0)
        assert row.number("noise") == (pytest.approx(levels[i // 3 + 1]) if i % 3 == 2 else 0)
    for row in DAPS(4, LEVELS, ode_steps=1, radius="matched").plan(posterior):
        sigma = row.number("sigma")
        assert row.number("radius") == pytest.approx(sigma / math.hypot(sigma, 1))
    assert len(DAPS().plan(posterior)) == 1000


class Bounded(PoisonedDenoiser):
    """A prior that knows some levels only."""

    data_sd = 1.0
    noise_range = (0.1, 10.0)


def test_no_level_lies_outside_of_those_that_the_prior_knows() -> None:
    plain = problem("P1").posterior
    posterior = Posterior(Bounded(plain.prior, 10**9), plain.physical_likelihood)  # type: ignore[arg-type]
    for solver, count in ((DAPS(7), 31), (DAPS(7, Karras(5.0, 0.3)), 35), (DAPS(7, ode_steps=1), 7)):
        rows = list(solver.plan(posterior))
        assert all(0.1 - 1e-9 <= row.number("sigma") <= 10 + 1e-9 for row in rows)
        # The level at the lower end has one evaluation: no equation is left to solve.
        assert len(rows) == count
        assert bool(torch.isfinite(answer(posterior, solver, 3)).all())
    with pytest.raises(ValueError, match="`levels` must stay inside the levels that the prior knows"):
        DAPS(7, Karras(5.0, 0.05)).plan(posterior)


def test_the_flow_of_the_prior_is_followed_by_euler_steps() -> None:
    """z' = D + (s' / s) (z - D), level by level, and the draw between them."""
    posterior = problem("P2").posterior
    solver, keys = DAPS(3, Karras(4.0, 0.5), ode_steps=4), Keys(4, (0, 1, 2))
    sigmas = poly(4.0, 0.5, 3)
    z, step = 4.0 * keys.normals(posterior.space.shape, "descent: start", like=LIKE), 0
    for sigma, after in pairwise(sigmas):
        for u, v in pairwise(poly(sigma, 0.05, 4)):
            step += 1
            clean = posterior.prior.denoise(z, u)
            z = clean + v / u * (z - clean)
        x = posterior.measured.prox_draw(z, sigma, keys.at(step), "daps: draw")
        z = x + after * keys.at(step).normals(posterior.space.shape, "daps: noise", like=LIKE)
    assert torch.allclose(answer(posterior, solver, 3), z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radius", ["level", "matched"])
def test_two_signs_that_the_data_do_not_tell_both_get_their_share(radius: str) -> None:
    held = problem("phase2")
    ode_steps = 5 if radius == "level" else 1
    solver = DAPS(60, LEVELS, ode_steps, radius, Langevin(60, 0.4))  # type: ignore[arg-type]
    rows = reals(answer(held.posterior, solver, 1000))
    found = measure(rows, held.truth)
    assert found.mode_error is not None
    assert found.variance_ratio is not None
    assert found.mode_error < 0.08
    assert found.mean_error < 0.15
    assert 0.8 < found.variance_ratio < 1.3
    # Within a mode, too: 3 intensities whose noise is known.
    likelihood = held.posterior.measured
    u = rows.reshape(-1, 1, 1, 2)
    misfit = ((likelihood.predicted(u) - likelihood.data) / 0.3).square().sum(1)
    assert float((misfit < 15).double().mean()) > 0.97


def test_counts_are_followed() -> None:
    space, draws = Space((4,)), 2000
    data = torch.tensor([60.0, 40.0, 90.0, 5.0], dtype=torch.float64)
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), data)
    posterior = Posterior(Gaussian(0.5, 0.3 * Identity(space)), likelihood)
    u = answer(posterior, DAPS(50, None, 1, "matched", Langevin(50, 0.4)), draws)
    axis = torch.linspace(-2, 4, 3001, dtype=torch.float64)[:, None]
    chances = torch.softmax(-100 * torch.exp(-axis) - data * axis - (axis - 0.5) ** 2 / (2 * 0.3**2), 0)
    mean = (chances * axis).sum(0)
    sd = (chances * (axis - mean) ** 2).sum(0).sqrt()
    assert float(((u.mean(0) - mean) / sd).abs().max()) < 0.15
    assert float((u.std(0) / sd - 1).abs().max()) < 0.15


def test_noise_far_above_the_prior_is_no_divergence() -> None:
    posterior = problem("P1").posterior
    u = answer(posterior, DAPS(20, Karras(1e6, 0.01)), 50)
    assert float(u.abs().max()) < 100


def test_a_row_is_one_evaluation_and_a_level_one_draw() -> None:
    ledger = sample(posterior_of("mask", 6), DAPS(7, LEVELS, ode_steps=3), draws=3).record["ledger"]
    assert (ledger["network_evaluations"], ledger["backward_passes"]) == (63, 0)
    assert ledger["forwards"] == ledger["adjoints"] == ledger["solves"] == 21
    posterior = posterior_of("mask", 6)
    for solver in (DAPS(7, LEVELS, 3), DAPS(7, LEVELS, 3, inner=Langevin(11))):
        cost = solver.cost(posterior, solver.plan(posterior))
        ledger = sample(posterior, solver, draws=3).record["ledger"]
        assert 3 * cost.network_evaluations == ledger["network_evaluations"]
        assert 3 * cost.operator_calls == ledger["forwards"] + ledger["adjoints"]


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior, keys = problem("phase2").posterior, Keys(3, (0, 1, 2))
    z = keys.normals(posterior.space.shape, "test: z", like=LIKE)
    z = z * torch.tensor([1.0, 30.0, 1e-3])[:, None, None, None]
    solver = DAPS(9, LEVELS, 1, inner=Langevin(20))
    row = solver.plan(posterior).row(4)
    together, _ = solver.moved(posterior, z, row, keys)
    for i in range(3):
        alone, _ = solver.moved(posterior, z[i : i + 1], row, Keys(3, (i,)))
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be"),
        ({"ode_steps": 0}, "`ode_steps` must be an integer >= 1"),
        ({"radius": "half"}, "`radius` must be one of 'level', 'matched', got 'half'"),
        ({"levels": 20.0}, "`levels` must be Levels or None"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DAPS(**arguments)  # type: ignore[arg-type]


def test_what_it_cannot_work_on_is_refused() -> None:
    posterior = posterior_of("mask", 6)
    with pytest.raises(TypeError, match="cannot work on this posterior"):
        sample(Posterior(Flat(posterior.space), posterior.physical_likelihood), DAPS(5), draws=1)
    with pytest.raises(TypeError, match="`posterior` must have a likelihood"):
        sample(Posterior(posterior.prior), DAPS(5), draws=1)
    unknown = Posterior(
        PoisonedDenoiser(posterior.prior, 10**9),  # type: ignore[arg-type]
        posterior.physical_likelihood,
        units=posterior.units,
    )
    with pytest.raises(ValueError, match="`radius` must be 'level' for a PoisonedDenoiser without a data_sd"):
        sample(unknown, DAPS(5, LEVELS, radius="matched"), draws=1)
    assert bool(torch.isfinite(answer(unknown, DAPS(5, LEVELS), 2)).all())


def test_a_signal_to_noise_that_is_high_is_met() -> None:
    space = Space((3,))
    data = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    posterior = Posterior(
        Gaussian(0.0, Identity(space)), Likelihood(Identity(space), GaussianNoise(1e-5), data)
    )
    u = answer(posterior, DAPS(30), 20)
    assert float((u - data).abs().max()) < 1e-4
