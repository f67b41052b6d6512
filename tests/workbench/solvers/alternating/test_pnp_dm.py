"""PnP-DM against the laws of its own chains and of its Gibbs sampler at rest; signs, counts, ends of rho."""

from __future__ import annotations

import math
from dataclasses import replace
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
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM


class TestPnPDM(SolverContract):
    covers = (PnPDM,)

    def make(self) -> PnPDM:
        return PnPDM(3, 2, 2.0, 0.2, tolerance=1e-10)

    def posterior(self, dtype: torch.dtype = torch.float64, **options: object) -> Posterior:
        return posterior_of("ct", 6, dtype=dtype, **options)  # type: ignore[arg-type]


def own_law(posterior: Posterior, solver: PnPDM) -> Dense:
    """Return mean and covariance of the last z, which a Gaussian prior makes affine in z and noise."""
    m = Matrices.of(posterior)
    wide = m.variance if solver.spread is None else solver.spread**2
    first = 10 * m.variance**0.5 if solver.first is None else solver.first
    last = min(0.1 * m.variance**0.5, 0.3 / m.norm) if solver.last is None else solver.last
    decay = (last / first) ** (1 / (3 * solver.rounds // 4)) if solver.decay is None else solver.decay
    mean, covariance = 0 * m.mean, first**2 * m.eye
    for k in range(solver.rounds):
        rho = max(last, decay**k * first)
        near, shift, spread = m.drawn(solver.inner, rho**2)
        mean, covariance = near @ mean + shift, near @ covariance @ near.T + spread
        for u, v in pairwise(poly(rho, 0.1 * last, solver.inner_steps)):
            shrink, keep = torch.linalg.solve(m.covariance + u**2 * m.eye, m.covariance), (v / u) ** 2
            move = keep * m.eye + (1 - keep) * shrink
            mean = move @ mean + (1 - keep) * (m.mean - shrink @ m.mean)
            left = (1 - keep) * u * u * wide / (u * u + wide)
            noise = v**2 * (1 - keep) + (1 - keep) * left if v > 0 else 0.0
            covariance = move @ covariance @ move.T + noise * m.eye
    return Dense(mean, (covariance + covariance.T) / 2)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", PnPDM(8, 4)),
        ("mask", PnPDM(6, 5, 3.0, 0.4, 0.5, spread=0.0)),
        ("mask", PnPDM(6, 3, 3.0, 0.4, spread=2.0, inner=Langevin(6, 0.5))),
        ("ct", PnPDM(4, 3, 4.0, 0.3)),
        ("coils", PnPDM(4, 3, 4.0, 0.3)),
        ("coils", PnPDM(3, 3, 4.0, 0.3, inner=Langevin(9))),
    ],
    ids=repr,
)
def test_draws_follow_the_law_of_the_chain(name: str, solver: PnPDM) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 500)))
    mean, ratio = errors(posterior, law)
    assert mean > 0.05 or abs(ratio - 1) > 0.05


def blurred(posterior: Posterior, rho: float) -> Dense:
    """Return prior x likelihood with noise of covariance I + rho^2 B B^T."""
    m = Matrices.of(posterior)
    eye = torch.eye(len(m.data), dtype=torch.float64)
    evidence = m.b @ m.covariance @ m.b.T + eye + rho**2 * m.b @ m.b.T
    gain = torch.linalg.solve(evidence, m.b @ m.covariance).T
    return Dense(m.mean + gain @ (m.data - m.b @ m.mean), m.covariance - gain @ m.b @ m.covariance)


@pytest.mark.parametrize("rho", [0.8, 0.4, 0.2])
def test_at_one_rho_it_comes_to_rest_at_a_blurred_likelihood(rho: float) -> None:
    posterior = problem("P1").posterior
    law = own_law(posterior, PnPDM(600, 40, rho, rho))
    rest = blurred(posterior, rho)
    sd = rest.covariance.diagonal().sqrt()
    assert float(((law.mean - rest.mean) / sd).abs().max()) < 0.02
    assert float((law.covariance - rest.covariance).norm() / rest.covariance.norm()) < 0.02
    if rho == 0.4:
        u = answer(posterior, PnPDM(80, 12, rho, rho), 1500)
        # 1 % of variance for the end of the reverse diffusion is far below what chance does.
        require_standard_normal(rest.whitened(u))


def test_what_a_likelihood_is_blurred_by_falls_as_rho_squared() -> None:
    posterior = problem("P1").posterior
    exact = blurred(posterior, 0.0)
    off = [
        float((blurred(posterior, rho).covariance - exact.covariance).norm()) for rho in (0.04, 0.02, 0.01)
    ]
    assert off[0] / off[1] == pytest.approx(4, rel=0.05)
    assert off[1] / off[2] == pytest.approx(4, rel=0.05)
    # So is that of the chain, which ends with rounds at one rho.
    found = [
        float(
            (own_law(posterior, PnPDM(400, 30, 10.0, rho)).covariance - exact.covariance).norm()
            / exact.covariance.norm()
        )
        for rho in (0.8, 0.4)
    ]
    bounds = [float((blurred(posterior, rho).covariance - exact.covariance).norm()) for rho in (0.8, 0.4)]
    assert found[0] / found[1] == pytest.approx(bounds[0] / bounds[1], rel=0.1)


@pytest.mark.parametrize("name", ["P1", "P2"])
def test_what_the_choices_are_off_by_is_what_is_documented(name: str) -> None:
    posterior = problem(name).posterior
    for solver, ratios in (
        (PnPDM(), (0.995, 1.02)),
        (PnPDM(spread=0.0), (0.86, 0.9)),
        (PnPDM(inner=Langevin()), (1.02, 1.05)),
    ):
        mean, ratio = errors(posterior, own_law(posterior, solver))
        assert mean < 0.03
        assert ratios[0] < ratio < ratios[1]


def test_a_reverse_diffusion_step_by_step_by_hand() -> None:
    posterior = problem("P2").posterior
    solver, keys = PnPDM(2, 3, 2.0, 0.5, 0.3), Keys(4, (0, 1, 2))
    spread = posterior.prior.data_sd
    z, step = 2.0 * keys.normals(posterior.space.shape, "pnp_dm: start", like=LIKE), 0
    for rho in (2.0, 0.6):
        z = posterior.measured.prox_draw(z, rho, keys.at(step + 1), "pnp_dm: draw")
        for s, after in pairwise(poly(rho, 0.05, 3)):
            step += 1
            clean, keep = posterior.prior.denoise(z, s), (after / s) ** 2
            z = clean + keep * (z - clean)
            variance = after**2 * (1 - keep) + (1 - keep) ** 2 / (1 / s**2 + 1 / spread**2)
            white = keys.at(step).normals(posterior.space.shape, "pnp_dm: noise", like=LIKE)
            z = z + variance**0.5 * white if after > 0 else z
    assert torch.allclose(answer(posterior, solver, 3), z, rtol=1e-9, atol=1e-9)


def test_two_signs_that_the_data_do_not_tell_both_get_their_share() -> None:
    held = problem("phase2")
    rows = reals(answer(held.posterior, PnPDM(60, 10, inner=Langevin(60, 0.4)), 1000))
    found = measure(rows, held.truth)
    assert found.mode_error is not None
    assert found.variance_ratio is not None
    assert found.mode_error < 0.1
    assert found.mean_error < 0.2
    assert 0.8 < found.variance_ratio < 1.3
    likelihood = held.posterior.measured
    misfit = ((likelihood.predicted(rows.reshape(-1, 1, 1, 2)) - likelihood.data) / 0.3).square().sum(1)
    assert float((misfit < 15).double().mean()) > 0.95


def test_counts_are_followed() -> None:
    space, draws = Space((4,)), 1500
    data = torch.tensor([60.0, 40.0, 90.0, 25.0], dtype=torch.float64)
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), data)
    posterior = Posterior(Gaussian(0.5, 0.3 * Identity(space)), likelihood)
    u = answer(posterior, PnPDM(100, 5, inner=Langevin(40, 0.4)), draws)
    axis = torch.linspace(-2, 4, 3001, dtype=torch.float64)[:, None]
    chances = torch.softmax(-100 * torch.exp(-axis) - data * axis - (axis - 0.5) ** 2 / (2 * 0.3**2), 0)
    mean = (chances * axis).sum(0)
    sd = (chances * (axis - mean) ** 2).sum(0).sqrt()
    assert float(((u.mean(0) - mean) / sd).abs().max()) < 0.15
    assert float((u.std(0) / sd - 1).abs().max()) < 0.15


def posed(spread: float, noise: float) -> Posterior:
    space = Space((4,))
    likelihood = Likelihood(Identity(space), GaussianNoise(noise), torch.zeros(4, dtype=torch.float64))
    return Posterior(Gaussian(0.0, spread * Identity(space)), likelihood)


def test_rho_goes_by_the_spread_of_the_prior_and_by_the_measurement() -> None:
    for spread, noise, last in ((2.0, 5.0, 0.2), (2.0, 0.1, 0.03), (2e-4, 1e-5, 3e-6)):
        rows = list(PnPDM(8, 3).plan(posed(spread, noise)))
        rhos = [row.number("radius") for row in rows]
        assert rhos[1::3] == rhos[2::3] == [0.0] * 8
        # Three quarters of 8 rounds to come down, the rest at the last.
        expected = [max(10 * spread * (last / spread / 10) ** (k / 6), last) for k in range(8)]
        assert rhos[::3] == pytest.approx(expected)
        assert [row.number("sigma") for row in rows[:3]] == pytest.approx(poly(10 * spread, last / 10, 3)[:3])
        assert rows[2].number("next_sigma") == rows[2].number("noise") == 0
    rhos = [row.number("radius") for row in PnPDM(5, 1, 4.0, 1.0, 0.5).plan(posed(1.0, 1.0))]
    assert rhos == pytest.approx([4, 2, 1, 1, 1])


class Bounded(PoisonedDenoiser):
    """A prior that knows some levels only."""

    data_sd = 1.0
    noise_range = (0.02, 5.0)


def test_no_level_lies_outside_of_those_that_the_prior_knows() -> None:
    plain = posed(1.0, 0.01)
    posterior = Posterior(Bounded(plain.prior, 10**9), plain.physical_likelihood)  # type: ignore[arg-type]
    rows = list(PnPDM(10, 5).plan(posterior))
    assert all(0.02 - 1e-9 <= row.number("sigma") <= 5 + 1e-9 for row in rows)
    # Ten times the lowest level, so that there is something to diffuse through.
    assert rows[0].number("radius") == 5
    assert rows[-5].number("radius") == pytest.approx(0.2)
    assert len(list(PnPDM(10, 5, last=0.02).plan(posterior))) < 50
    assert bool(torch.isfinite(answer(posterior, PnPDM(10, 5), 3)).all())
    for solver, words in (
        (PnPDM(first=6.0), "`first` must be a level that the prior knows, 0.02 to 5, got 6"),
        (PnPDM(last=0.01), "`last` must be a level that the prior knows, 0.02 to 5, got 0.01"),
        (PnPDM(first=0.1), "`last` must be at most first = 0.1, got 0.2"),
    ):
        with pytest.raises(ValueError, match=words):
            sample(posterior, solver, draws=1)


def test_a_prior_without_a_spread_is_told_what_to_do_without() -> None:
    posterior = posterior_of("mask", 6)
    unknown = Posterior(
        PoisonedDenoiser(posterior.prior, 10**9),  # type: ignore[arg-type]
        posterior.physical_likelihood,
        units=posterior.units,
    )
    for solver, name in ((PnPDM(), "first"), (PnPDM(first=1.0), "last")):
        with pytest.raises(
            ValueError, match=f"`{name}` must be given for a PoisonedDenoiser without a data_sd"
        ):
            sample(unknown, solver, draws=1)
    told = PnPDM(4, 3, 3.0, 0.3)
    # Without a spread to go by, steps are around D itself.
    assert torch.equal(answer(unknown, told, 2), answer(posterior, replace(told, spread=0.0), 2))
    with pytest.raises(TypeError, match="cannot work on this posterior"):
        sample(Posterior(Flat(posterior.space), posterior.physical_likelihood), told, draws=1)
    with pytest.raises(TypeError, match="`posterior` must have a likelihood"):
        sample(Posterior(posterior.prior), told, draws=1)


def test_a_row_is_one_evaluation_and_a_round_one_draw() -> None:
    posterior = posterior_of("mask", 6)
    for solver in (PnPDM(6, 4), PnPDM(6, 4, inner=Langevin(11))):
        cost = solver.cost(posterior, solver.plan(posterior))
        ledger = sample(posterior, solver, draws=3).record["ledger"]
        assert 3 * cost.network_evaluations == ledger["network_evaluations"] == 72
        assert ledger["backward_passes"] == 0
        assert 3 * cost.operator_calls == ledger["forwards"] + ledger["adjoints"]


def test_a_draw_does_not_know_its_neighbours() -> None:
    posterior = problem("phase2").posterior
    solver = PnPDM(5, 3, inner=Langevin(20))
    whole = sample(posterior, solver, draws=3, microbatch=3).tensor()
    assert torch.allclose(sample(posterior, solver, draws=3, microbatch=1).tensor(), whole, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "`rounds` must be an integer >= 1"),
        ({"inner_steps": 0}, "`inner_steps` must be an integer >= 1"),
        ({"first": -1.0}, "`first` must be a finite number > 0"),
        ({"last": 0.0}, "`last` must be a finite number > 0"),
        ({"decay": 1.0}, "`decay` must be below 1, got 1.0"),
        ({"spread": -1.0}, "`spread` must be a finite number >= 0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PnPDM(), **arguments)  # type: ignore[arg-type]


def test_sd_of_noise_is_the_ancestral_one_and_what_the_image_spreads_by() -> None:
    row = PnPDM(1, 2, 2.0, 2.0, spread=3.0).plan(posed(1.0, 1.0)).row(0)
    s, after = row.number("sigma"), row.number("next_sigma")
    keep = (after / s) ** 2
    left = (1 - keep) * s * 3 / math.hypot(s, 3)
    assert row.number("noise") == pytest.approx(math.hypot(after * (1 - keep) ** 0.5, left))
