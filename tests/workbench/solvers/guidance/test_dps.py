"""DPS against the laws of its own chains, and what it counts, refuses and leaves alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from tests.problems import Dense, dense_answer, posterior_of, real_matrix, reals, require_standard_normal
from tests.solver_contract import PoisonedDenoiser, SolverContract
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.integration import Karras, LogUniform
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.random import Keys
from workbench.solvers.base import Solver
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.pull import curvature_norm

LEVELS = Karras(20.0, 0.05)
LIKE = torch.empty(0, dtype=torch.float64)


class TestDPS(SolverContract):
    covers = (DPS,)

    def make(self) -> DPS:
        return DPS(12, LEVELS)


def answer(posterior: Posterior, solver: Solver[object], draws: int, seed: int = 4) -> Tensor:
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def own_law(posterior: Posterior, solver: DPS) -> Dense:
    """Return mean and covariance of the chain of the form "bayes", which a Gaussian prior makes affine."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    root = real_matrix(posterior.prior.root)
    s = root @ root.T
    eye = torch.eye(len(s), dtype=torch.float64)
    middle = reals(posterior.prior.mean[None])[0]
    variance, norm = float(s.diagonal().mean()), float(torch.linalg.matrix_norm(matrix, 2))
    assert solver.levels is not None
    sigmas = [t / (1 - t) for t in solver.levels.times(solver.steps)]
    mean, covariance = torch.zeros(len(s), dtype=torch.float64), sigmas[0] ** 2 * eye
    for sigma, after in pairwise(sigmas):
        shrink = s @ torch.linalg.inv(s + sigma**2 * eye)
        jacobian = shrink if solver.jacobian == "exact" else variance / (variance + sigma**2) * eye
        keep = (after / sigma) ** 2
        length = min(solver.factor * (sigma**2 - after**2), 1 / norm**2)
        pull = length * jacobian.T @ matrix.T
        step = (1 - keep) * shrink + keep * eye - pull @ matrix @ shrink
        rest = (eye - shrink) @ middle
        mean = step @ mean + (1 - keep) * rest + pull @ (data - matrix @ rest)
        covariance = step @ covariance @ step.T + after**2 * (1 - keep) * eye
    return Dense(mean, (covariance + covariance.T) / 2)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("mask", DPS(60, LEVELS, "bayes", scale=0.2)),
        ("mask", DPS(60, LEVELS, "bayes", scale=0.2, jacobian="detached")),
        ("coils", DPS(60, LEVELS, "bayes", scale=0.1)),
        ("ct", DPS(60, LEVELS, "bayes", scale=0.05)),
    ],
)
def test_draws_of_the_bayes_form_follow_the_law_of_the_chain(name: str, solver: DPS) -> None:
    posterior = posterior_of(name, 6)
    law = own_law(posterior, solver)
    require_standard_normal(law.whitened(answer(posterior, solver, 600)))
    # A law like the posterior would not show that the chain is the one of its equations.
    truth = dense_answer(posterior)
    assert float((law.mean - truth.mean).norm()) > 0.1 * float(truth.covariance.trace().sqrt())


def one_number(scale: float, data: float, sd: float, noise: float) -> Posterior:
    """Return y = scale u + noise for one real u ~ N(0, sd^2)."""
    space = Space((1,))
    operator = Matrix(space, space, torch.tensor([[scale]], dtype=torch.float64))
    likelihood = Likelihood(operator, GaussianNoise(noise), torch.tensor([data], dtype=torch.float64))
    return Posterior(Gaussian(0.0, sd * Identity(space)), likelihood)


def test_draws_of_the_norm_form_follow_their_law_in_one_dimension() -> None:
    """z' = (j + k - k j) z + s' sqrt(1 - k) w + scale j sign(y - a j z): a density on a grid."""
    steps, scale, gain, data, draws = 20, 0.6, 2.0 / 0.3, 1.5 / 0.3, 20000
    posterior = one_number(2.0, 1.5, 1.0, 0.3)
    sigmas = [t / (1 - t) for t in LEVELS.times(steps)]

    def step(z: Tensor, sigma: float, keep: float) -> Tensor:
        j = 1 / (1 + sigma**2)
        return (j + keep * (1 - j)) * z + scale * j * torch.sign(data - gain * j * z)

    points = torch.linspace(-8, 8, 1501, dtype=torch.float64) * sigmas[0]
    weights = torch.softmax(-0.5 * (points / sigmas[0]) ** 2, 0)
    for sigma, after in pairwise(sigmas[:-1]):
        keep = (after / sigma) ** 2
        middle, cell = points.shape[0] // 2, 2 * (6 * (after**2 + 1) ** 0.5 + 1) / 1500
        arrival = gain * step(points, sigma, keep) / gain
        points = (torch.arange(1501, dtype=torch.float64) - middle) * cell
        # The chance of each cell, so that steps narrower than a cell keep their mass.
        ends = torch.cat([points - cell / 2, points[-1:] + cell / 2])
        weights = (
            torch.special.ndtr((ends[:, None] - arrival) / (after * (1 - keep) ** 0.5)) @ weights
        ).diff()
    last = step(points, sigmas[-2], 0.0)
    mean = float(weights @ last)
    variance, fourth = (float(weights @ (last - mean) ** n) for n in (2, 4))
    drawn = answer(posterior, DPS(steps, LEVELS, "norm", scale), draws)[:, 0]
    assert abs(float(weights.sum()) - 1) < 1e-6
    assert abs(float(drawn.mean()) - mean) < 4 * (variance / draws) ** 0.5
    assert abs(float(drawn.var()) - variance) < 4 * ((fourth - variance**2) / draws) ** 0.5
    # The law is that of the method: far from the posterior's variance.
    assert abs(variance * (1 + gain**2) - 1) > 0.3


def test_a_step_is_one_evaluation_one_backward_pass_one_a_and_one_adjoint() -> None:
    posterior = posterior_of("ct")
    for solver, backward in ((DPS(7, LEVELS), 7), (DPS(7, LEVELS, jacobian="detached"), 0)):
        ledger = sample(posterior, solver, draws=3).record["ledger"]
        assert ledger["network_evaluations"] == 21
        assert ledger["backward_passes"] == 3 * backward
    few, more = (sample(posterior, DPS(n, LEVELS, "bayes", 0.01), draws=1).record["ledger"] for n in (7, 17))
    assert more["forwards"] - few["forwards"] == more["adjoints"] - few["adjoints"] == 10


def test_detached_is_exact_where_the_prior_is_isotropic() -> None:
    posterior = one_number(2.0, 1.5, 0.7, 0.3)
    for form in ("norm", "bayes"):
        one, other = (
            answer(posterior, DPS(200, LEVELS, form, jacobian=kind), 20)  # type: ignore[arg-type]
            for kind in ("exact", "detached")
        )
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_data_that_are_met_pull_nowhere() -> None:
    space = Space((3,))
    operator = Matrix(space, Space((2,)), torch.zeros(2, 3, dtype=torch.float64))
    posterior = Posterior(
        Gaussian(1.0, Identity(space)),
        Likelihood(operator, GaussianNoise(0.1), torch.zeros(2, dtype=torch.float64)),
    )
    u = answer(posterior, DPS(50, LEVELS), 400)
    assert bool(torch.isfinite(u).all())
    assert float((u.mean() - 1).abs()) < 4 * (1 / 1200) ** 0.5


def phase(noise: float = 0.05) -> Posterior:
    space = Space((3,))
    matrix = Keys(3, (0,)).normals((6, 3), "test: phase", like=LIKE)[0]
    operator = PhaseRetrieval(Matrix(space, Space((6,)), matrix))
    truth = torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64)
    return Posterior(
        Gaussian(1.0, 0.5 * Identity(space)), Likelihood(operator, GaussianNoise(noise), operator(truth))
    )


@pytest.mark.parametrize("form", ["norm", "bayes"])
def test_a_nonlinear_operator_is_followed(form: str) -> None:
    posterior = phase(0.5)
    likelihood = posterior.measured
    u = answer(posterior, DPS(600, form=form, scale=0.2), 16)  # type: ignore[arg-type]
    plain = posterior.prior.draw(Keys(1, tuple(range(16))), like=LIKE)
    gain = likelihood.log_likelihood(u).mean() - likelihood.log_likelihood(plain).mean()
    assert float(gain) > 5


def test_any_law_of_noise_goes_with_the_bayes_form_alone() -> None:
    space = Space((4,))
    noise = PoissonTransmission(100.0)
    data = torch.tensor([60.0, 40.0, 90.0, 70.0])
    posterior = Posterior(Gaussian(0.5, 0.3 * Identity(space)), Likelihood(Identity(space), noise, data))
    steps, draws = 100, 1000
    u = answer(posterior, DPS(steps, LEVELS, "bayes"), draws)
    # The chain once more, by hand: the score of counts with mean 100 exp(-m) is 100 exp(-m) - data.
    sigmas, keys = [t / (1 - t) for t in LEVELS.times(steps)], Keys(9, tuple(range(draws)))
    z, most = sigmas[0] * keys.normals((4,), "test: start", like=LIKE), curvature_norm(posterior) ** -2
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        j, keep = 0.09 / (0.09 + sigma**2), (after / sigma) ** 2
        estimate = 0.5 + j * (z - 0.5)
        white = keys.at(step).normals((4,), "test: step", like=LIKE)
        force = 100 * torch.exp(-estimate) - data
        z = (
            estimate
            + keep * (z - estimate)
            + after * (1 - keep) ** 0.5 * white
            + min(sigma**2 - after**2, most) * j * force
        )
    error = (u.var(0) / draws + z.var(0) / draws).sqrt()
    assert float(((u.mean(0) - z.mean(0)) / error).abs().max()) < 5
    assert float((u.var(0) / z.var(0)).log().abs().max()) < 5 * (4 / draws) ** 0.5
    with pytest.raises(TypeError, match="`noise` must be Gaussian for the norm of a residual.*form='bayes'"):
        answer(posterior, DPS(10), 2)


def test_few_steps_and_a_high_signal_to_noise_do_not_overshoot() -> None:
    posterior = one_number(1.0, 0.5, 1.0, 0.01)
    for form in ("norm", "bayes"):
        u = answer(posterior, DPS(20, form=form), 50)  # type: ignore[arg-type]
        assert float((u - 0.5).abs().max()) < (0.4 if form == "norm" else 0.1)
    # A stationary field whose widest direction is far wider than its mean one.
    space = Space.field(Grid.plane((32, 32), 1.0))
    prior = SpectralGaussian.smooth(space, sd=1.0, length=10.0)
    assert float(prior.root.norm()) > 10
    data = prior.draw(Keys(1, (0,)), like=LIKE)[0]
    wide = Posterior(prior, Likelihood(Identity(space), GaussianNoise(0.05), data))
    u = answer(wide, DPS(100, form="bayes"), 4)
    assert float((u - data).square().mean().sqrt()) < 0.2


def test_divergence_names_step_sigma_and_remedy() -> None:
    with pytest.raises(DivergedError, match=r"at step \d+ of 60, sigma = .*Take more steps.*z grew"):
        sample(phase(0.01), DPS(60, scale=1e9), draws=2)


def test_levels_have_to_be_those_of_the_prior() -> None:
    class Narrow(PoisonedDenoiser):
        @property
        def noise_range(self) -> tuple[float, float]:
            return 0.1, 10.0

        @property
        def data_sd(self) -> float:
            return 1.0

    plain = one_number(1.0, 0.5, 1.0, 0.1)
    posterior = Posterior(Narrow(plain.prior, 10**9), plain.physical_likelihood)  # type: ignore[arg-type]
    for levels, sigma in ((Karras(20.0, 0.2), "20"), (Karras(9.0, 0.05), "0.05")):
        with pytest.raises(ValueError, match=f"`levels` must stay inside.*0.1 to 10, got sigma = {sigma}"):
            sample(posterior, DPS(10, levels), draws=1)
    first, last = (DPS(10).plan(posterior).row(i).number("sigma") for i in (0, 9))
    assert (first, last) == pytest.approx((10.0, 0.1))
    # What no default fits is the prior's doing, not that of levels which nobody gave.
    Narrow.data_sd = 1e-3  # type: ignore[assignment]
    with pytest.raises(ValueError, match="`levels` must be chosen.* 0.1 to 10 and has data_sd = 0.001"):
        sample(posterior, DPS(10), draws=1)
    for levels, words in (
        (LogUniform(10.0, 0.1, from_noise=True), "begin at a finite level"),
        (LogUniform(10.0, 0.1, to_zero=False), "end at the image"),
    ):
        with pytest.raises(ValueError, match=f"`levels` must {words}"):
            sample(posterior, DPS(10, levels), draws=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "square"}, "`form` must be one of 'norm', 'bayes'"),
        ({"jacobian": "none"}, "`jacobian` must be one of"),
        ({"scale": 0.0}, "`scale` must be"),
        ({"steps": 0}, "`steps` must be"),
        ({"levels": 20.0}, "`levels` must be Levels or None"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DPS(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", [DPS(10), DPS(10, form="bayes", jacobian="detached")])
def test_a_network_that_gives_no_numbers_is_placed_by_step_and_level(solver: DPS) -> None:
    plain = one_number(1.0, 0.5, 1.0, 0.1)

    class Spoilt(PoisonedDenoiser):
        data_sd = 1.0

    posterior = Posterior(Spoilt(plain.prior, 3), plain.physical_likelihood)  # type: ignore[arg-type]
    level = solver.plan(posterior).row(3).number("sigma")
    with pytest.raises(DivergedError, match=f"at step 4 of 10, sigma = {level:.3g}, in draw 0"):
        sample(posterior, solver, draws=1)


def test_priors_without_scores_or_spread_are_refused() -> None:
    posterior = posterior_of("mask")
    with pytest.raises(TypeError, match="cannot work on this posterior"):
        sample(Posterior(Flat(posterior.space), posterior.physical_likelihood), DPS(10), draws=1)
    unknown = Posterior(
        PoisonedDenoiser(posterior.prior, 10**9),  # type: ignore[arg-type]
        posterior.physical_likelihood,
        units=posterior.units,
    )
    with pytest.raises(ValueError, match="`levels` must be chosen for a PoisonedDenoiser without a data_sd"):
        sample(unknown, DPS(10), draws=1)
    for solver, words in (
        (DPS(10, LEVELS, scale=0.3), "`form` must be another for a Poi.*, got 'norm'. Use form='bayes'"),
        (DPS(10, LEVELS, "bayes", jacobian="detached"), "`jacobian` must be another.*, got 'detached'"),
    ):
        with pytest.raises(ValueError, match=words):
            sample(unknown, solver, draws=1)


def test_default_levels_follow_prior_and_measurement() -> None:
    grid = Grid.plane((4, 4), 1.0)
    space = Space.field(grid)
    for sd, noise, last in ((2.0, 1.0, 0.02), (2.0, 0.01, 0.003)):
        likelihood = Likelihood(Identity(space), GaussianNoise(noise), torch.zeros(1, 4, 4).double())
        posterior = Posterior(Gaussian(0.0, sd * Identity(space)), likelihood)
        plan = DPS(20).plan(posterior)
        assert plan.row(0).number("sigma") == pytest.approx(200.0)
        assert plan.row(19).number("sigma") == pytest.approx(last)
        assert plan.row(19).number("next_sigma") == 0
