"""Plug-and-play ADMM against the fixed points that are known in closed form."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.base import Operator
from operators.blur import Blur, GaussianPSF
from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
from operators.space import Space
from tests.problems import PROBLEMS, UNITS, dense_answer, posterior_of, real_matrix, reals
from tests.solver_contract import SolverContract
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.noise.rician import Rician
from workbench.phantoms import WATER, chest_phantom
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.flat import Flat
from workbench.priors.nonlocal_means import NonlocalMeansDenoiser
from workbench.priors.total_variation import TotalVariationDenoiser
from workbench.priors.wavelet import WaveletDenoiser
from workbench.random import Keys
from workbench.solvers.classical.plug_and_play import PlugAndPlay
from workbench.solvers.classical.total_variation import TotalVariation
from workbench.units import Units

DOUBLE = torch.empty(0, dtype=torch.float64)


class TestPlugAndPlay(SolverContract):
    covers = (PlugAndPlay,)

    def make(self) -> PlugAndPlay:
        return PlugAndPlay(0.5, tolerance=1e-3)


def weighted(posterior: Posterior, weight: float) -> Tensor:
    """Return the mean under the prior N(m, S / weight), over the real components of u."""
    prior: Any = posterior.prior
    root, (b, z) = real_matrix(prior.root), posterior.measured.whitened
    mean = reals(prior.mean_like(posterior.like())[None])[0]
    matrix = real_matrix(b)
    precision = matrix.T @ matrix + weight * torch.linalg.inv(root @ root.T)
    return mean + torch.linalg.solve(precision, matrix.T @ (reals(z[None])[0] - matrix @ mean))


@pytest.mark.parametrize("sigma", [None, 0.3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_with_a_gaussian_prior_it_is_the_posterior_mean_whatever_sigma_is(
    name: str, sigma: float | None
) -> None:
    posterior = posterior_of(name)
    samples = sample(posterior, PlugAndPlay(sigma, iterations=400, tolerance=1e-6))
    u, mean = reals(posterior.from_physical(samples.tensor()))[0], dense_answer(posterior).mean
    # It stops where a step is below 1e-6 sigma: the slowest direction then has some 30 of these before it.
    assert float((u - mean).square().mean().sqrt()) < 5e-5


@pytest.mark.parametrize("weight", [0.2, 5.0])
def test_the_weight_divides_the_covariance_of_the_prior(weight: float) -> None:
    posterior = posterior_of("mask")
    samples = sample(posterior, PlugAndPlay(weight=weight, iterations=500, tolerance=1e-7))
    u = reals(posterior.from_physical(samples.tensor()))[0]
    assert float((u - weighted(posterior, weight)).square().mean().sqrt()) < 5e-6


class LinearDenoiser(Denoiser):
    """z -> m + G (z - m), whatever the level."""

    def __init__(self, space: Space, matrix: Tensor, mean: float, units: Units) -> None:
        super().__init__(space, units)
        self.matrix, self.mean = matrix, mean

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        flat = (z - self.mean).flatten(1)
        return self.mean + (flat @ self.matrix.to(z.dtype).mT).reshape(z.shape)


@pytest.mark.parametrize("name", ["ct", "coils"])
def test_a_linear_denoiser_has_the_fixed_point_of_the_head_of_the_file(name: str) -> None:
    gaussian = posterior_of(name)
    size, sigma, weight = gaussian.space.size, 0.8, 1.7
    turned = torch.linalg.qr(Keys(1, (0,)).normals((size, size), "basis", like=DOUBLE)[0])[0]
    gain = turned @ torch.diag(torch.linspace(0.3, 0.95, size, dtype=torch.float64)) @ turned.T
    prior = LinearDenoiser(gaussian.space, gain, 0.2, UNITS)
    posterior = Posterior(prior, gaussian.physical_likelihood)
    samples = sample(posterior, PlugAndPlay(sigma, weight, iterations=500, tolerance=1e-6))
    u = reals(posterior.from_physical(samples.tensor()))[0]
    b, z = posterior.measured.whitened
    matrix = real_matrix(b)
    whole = torch.kron(gain, torch.eye(2, dtype=gain.dtype)) if posterior.space.is_complex else gain
    penalty = weight * (torch.linalg.inv(whole) - torch.eye(len(whole), dtype=gain.dtype)) / sigma**2
    mean = reals(torch.full((1, *b.domain.shape), 0.2, dtype=posterior.like().dtype))[0]
    side = matrix.T @ (reals(z[None])[0] - matrix @ mean)
    expected = mean + torch.linalg.solve(matrix.T @ matrix + penalty, side)
    assert float((u - expected).square().mean().sqrt()) < 5e-5


@pytest.mark.parametrize(("name", "sigma"), [("ct", 1.0), ("coils", 1.0)])
def test_with_a_prox_it_ends_at_the_minimum_of_its_objective(name: str, sigma: float) -> None:
    likelihood = posterior_of(name).physical_likelihood
    assert likelihood is not None
    prior = TotalVariationDenoiser(likelihood.domain, weight=1.5, tolerance=1e-3, units=UNITS)
    flat = Posterior(Flat(likelihood.domain, UNITS), likelihood)
    expected = sample(flat, TotalVariation(1.5, iterations=3000, tolerance=1e-5)).tensor()
    x = sample(Posterior(prior, likelihood), PlugAndPlay(sigma, iterations=500, tolerance=1e-3)).tensor()
    # Errors of 1e-3 sigma per denoising add up, as steps do that are not taken.
    assert float((x - expected).abs().square().mean().sqrt()) < 1e-2 * sigma * UNITS.scale


def require_mode(posterior: Posterior, x: Tensor, bound: float) -> None:
    """Fail unless log p(y | u) + log p(u) is level at x, up to `bound` of the likelihood's own slope."""
    u = posterior.from_physical(x).requires_grad_()
    (slope,) = torch.autograd.grad(posterior.log_density(u).sum(), u)
    own = posterior.measured.gradient(u.detach())
    assert float(slope.norm()) < bound * float(own.norm())


def test_counts_need_no_approximation() -> None:
    gaussian = posterior_of("ct")
    likelihood = gaussian.physical_likelihood
    assert likelihood is not None
    counts = (200 * torch.exp(-likelihood.data)).round()
    measured = dataclasses.replace(likelihood, data=counts, noise=PoissonTransmission(200.0))
    posterior = Posterior(gaussian.prior, measured)
    x = sample(posterior, PlugAndPlay(iterations=400, tolerance=1e-5)).tensor()
    require_mode(posterior, x, 1e-3)


class Bent(Operator):
    """x -> x + x^3 / 3, entry by entry."""

    def _apply(self, x: Tensor) -> Tensor:
        return x + x**3 / 3


def test_nonlinear_operators_are_welcome() -> None:
    prior: Any = posterior_of("blur", 4, units=Units()).prior
    operator = Bent(prior.space, prior.space)
    truth = prior.draw(Keys(1, (0,)), like=DOUBLE)[0]
    data = Gaussian(0.2).draw(operator(truth)[None], Keys(2, (0,)))[0]
    posterior = Posterior(prior, Likelihood(operator, Gaussian(0.2), data))
    x = sample(posterior, PlugAndPlay(iterations=400, tolerance=1e-5)).tensor()
    require_mode(posterior, x, 1e-3)


CHEST = Grid.plane((28, 32), 11.0)
VOLUME = Grid.from_spacing((3, 14, 16), (40.0, 22.0, 22.0))


@pytest.mark.parametrize("kind", [WaveletDenoiser, NonlocalMeansDenoiser, TotalVariationDenoiser])
@pytest.mark.parametrize("grid", [CHEST, VOLUME], ids=["plane", "volume"])
def test_denoisers_without_a_law_need_no_tuning(grid: Grid, kind: type[Denoiser]) -> None:
    """Closer to the truth than the maximum likelihood of a mild blur, at the default level."""
    space = Space.field(grid)
    truth = chest_phantom(grid).data.double() / WATER
    operator = Blur(space, GaussianPSF(1.2 * grid.spacing[-1]), "reflect")
    data = Gaussian(0.05).draw(operator(truth)[None], Keys(2, (0,)))[0]
    likelihood = Likelihood(operator, Gaussian(0.05), data)
    errors = [
        float((sample(Posterior(prior, likelihood), PlugAndPlay(tolerance=0.05)).tensor()[0] - truth).norm())
        for prior in (kind(space), Flat(space))
    ]
    assert errors[0] < 0.8 * errors[1]
    assert errors[0] < float((data - truth).norm())


def test_the_default_level_is_that_of_the_noise_and_with_a_law_between_it_and_the_spread() -> None:
    space = Space.field(Grid.plane((4, 5), 1.0))
    likelihood = Likelihood(Identity(space), Gaussian(0.04), torch.zeros(space.shape, dtype=torch.float64))

    def level(prior: Denoiser) -> float:
        row = PlugAndPlay().plan(Posterior(prior, likelihood)).row(0)
        return row.number("sigma")

    assert level(Flat(space)) == pytest.approx(0.04)
    assert level(TotalVariationDenoiser(space, units=Units(2.0))) == pytest.approx(0.02)
    prior: Any = posterior_of("blur").prior
    wide = Likelihood(Identity(prior.space), Gaussian(1e-4), torch.zeros(prior.space.shape).double())
    row = PlugAndPlay().plan(Posterior(prior, wide)).row(0)
    assert row.number("sigma") == pytest.approx(math.sqrt(1e-4 / UNITS.scale * prior.data_sd))


def test_a_flat_prior_leaves_the_maximum_of_the_likelihood() -> None:
    space = Space.field(Grid.plane((4, 5), 1.0))
    data = Keys(1, (0,)).normals(space.shape, "data", like=DOUBLE)[0]
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(0.1), data))
    x = sample(posterior, PlugAndPlay(tolerance=1e-9)).tensor()[0]
    assert torch.allclose(x, data, atol=1e-8)


class Narrow(Flat):
    @property
    def noise_range(self) -> tuple[float, float]:
        return 0.2, 0.3


def test_levels_that_the_prior_does_not_know() -> None:
    gaussian = posterior_of("ct")
    posterior = Posterior(Narrow(gaussian.space, UNITS), gaussian.physical_likelihood)
    with pytest.raises(ValueError, match="`sigma` must lie in the range that the Narrow knows, 0.2 to 0.3"):
        sample(posterior, PlugAndPlay(0.5))
    assert 0.2 <= PlugAndPlay().plan(posterior).row(0).number("sigma") <= 0.3


def test_where_nothing_says_what_the_level_is() -> None:
    space = Space.field(Grid.plane((2, 3), 1.0))
    loud = Likelihood(Identity(space), Rician(1.0), torch.full(space.shape, 9.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="`sigma` must be given where the likelihood is not convex at u = 0"):
        sample(Posterior(TotalVariationDenoiser(space), loud), PlugAndPlay())


def test_it_says_where_it_stopped_short() -> None:
    with pytest.warns(
        ConvergenceWarning, match=r"still moved by .* sigma, not 0.001, after 2 iterations. Rai"
    ):
        sample(posterior_of("ct"), PlugAndPlay(0.1, iterations=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`sigma` must be a finite number > 0, got 0.0"),
        ({"weight": -1.0}, "`weight` must be a finite number > 0, got -1.0"),
        ({"iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"tolerance": 0.0}, "`tolerance` must be a finite number > 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlugAndPlay(**options)


def test_a_prior_alone_is_refused() -> None:
    with pytest.raises(CapabilityError, match="`posterior` must have a likelihood, got a prior alone"):
        sample(Posterior(posterior_of("ct").prior), PlugAndPlay())
