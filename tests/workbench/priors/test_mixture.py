"""Gaussian mixtures against torch.distributions, integrals on a grid, and dense posteriors."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.diagonal import Diagonal
from operators.errors import NoClosedFormError
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from tests.contracts import close
from tests.gaussian_cases import (
    COMPLEX,
    REAL,
    VECTORS,
    cast,
    covariance_of,
    density,
    mean_of,
    power_of,
    two_modes,
)
from tests.oracles import random_element
from tests.prior_contract import PriorContract
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys

WEIGHTS = (0.5, 0.3, 0.2)
POINT = Space((2,))


class MixtureContract(PriorContract):
    """The battery with the oracle of all mixtures: means and covariances in full."""

    covers = (GaussianMixture,)
    space = REAL
    sizes = (1.0, 0.5, 2.0)

    def means(self) -> Tensor:
        # Apart by the same in the real and in the imaginary part, so that these have one sd.
        step = torch.linspace(-1.5, 1.5, self.space.size, dtype=torch.float64).reshape(self.space.shape)
        step = step * (1 + 1j) if self.space.is_complex else step
        return torch.stack([mean_of(self.space) + k * step for k in (0, 1, -2)])

    def covariances(self) -> Tensor:
        return torch.stack([size * covariance_of(self.space) for size in self.sizes])

    def make(self, dtype: torch.dtype) -> GaussianMixture:
        return GaussianMixture.dense(
            self.space, WEIGHTS, cast(self.means(), dtype), cast(self.covariances(), dtype)
        )

    def other(self) -> GaussianMixture:
        return GaussianMixture.dense(self.space, (1, 1, 1), self.means(), self.covariances())

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        noise = sigma**2 * torch.eye(self.space.size, dtype=torch.float64)
        parts = zip(WEIGHTS, self.means(), self.covariances(), strict=True)
        logs = [math.log(w) + density(self.space, m, s + noise, z) for w, m, s in parts]
        return torch.logsumexp(torch.stack(logs), dim=0)

    def mean_and_sd(self) -> tuple[Tensor, Tensor]:
        weights = torch.tensor(WEIGHTS, dtype=torch.float64).reshape(-1, *[1] * self.space.ndim)
        mean = (weights * self.means()).sum(0)
        within = torch.stack([s.diagonal().real.reshape(self.space.shape) for s in self.covariances()])
        return mean, (weights * (within + (self.means() - mean).real ** 2)).sum(0).sqrt()


class TestDense(MixtureContract):
    pass


class TestDenseOnComplexFields(MixtureContract):
    space = COMPLEX


class TestDenseOnVectorFields(MixtureContract):
    space = VECTORS


class TestOfOneCovariance(MixtureContract):
    sizes = (1.0, 1.0, 1.0)

    def make(self, dtype: torch.dtype) -> GaussianMixture:
        return GaussianMixture.dense(
            self.space, WEIGHTS, cast(self.means(), dtype), cast(self.covariances()[0], dtype)
        )


class TestOfOneCovarianceOnComplexFields(TestOfOneCovariance):
    space = COMPLEX


class TestOfOneSingularCovariance(TestOfOneCovariance):
    has_density = False

    def covariances(self) -> Tensor:
        return torch.stack([covariance_of(self.space, rank=7) for _ in self.sizes])


class TestOfOneSpectrum(TestOfOneCovariance):
    def parts(self) -> list[Gaussian]:
        first = SpectralGaussian(self.space, 0.0, power_of(1, 3, 4))
        return [Gaussian(mean, first.root) for mean in self.means()]

    def covariances(self) -> Tensor:
        eye = torch.eye(self.space.size, dtype=torch.float64).reshape(-1, *self.space.shape)
        return torch.stack([prior.covariance_product(eye).flatten(1).T for prior in self.parts()])

    def make(self, dtype: torch.dtype) -> GaussianMixture:
        return GaussianMixture(WEIGHTS, self.parts())


class TestSingular(MixtureContract):
    has_density = False

    def covariances(self) -> Tensor:
        return torch.stack([size * covariance_of(self.space, rank=7) for size in self.sizes])


class TestOfRoundComponents(MixtureContract):
    sizes = (0.3, 0.8, 0.1)

    def covariances(self) -> Tensor:
        return torch.stack([sd**2 * torch.eye(self.space.size, dtype=torch.float64) for sd in self.sizes])

    def make(self, dtype: torch.dtype) -> GaussianMixture:
        return GaussianMixture.isotropic(self.space, WEIGHTS, cast(self.means(), dtype), self.sizes)


class TestOfSpectralComponents(MixtureContract):
    def parts(self) -> list[Gaussian]:
        power = power_of(1, 3, 4)
        pairs = zip(self.sizes, self.means(), strict=True)
        return [SpectralGaussian(self.space, mean, size * power) for size, mean in pairs]

    def covariances(self) -> Tensor:
        eye = torch.eye(self.space.size, dtype=torch.float64).reshape(-1, *self.space.shape)
        return torch.stack([prior.covariance_product(eye).flatten(1).T for prior in self.parts()])

    def make(self, dtype: torch.dtype) -> GaussianMixture:
        return GaussianMixture(WEIGHTS, self.parts())


@pytest.mark.parametrize("contract", [TestDense, TestDenseOnComplexFields, TestOfRoundComponents])
def test_moments_are_those_of_the_law(contract: type[MixtureContract]) -> None:
    prior = contract().make(torch.float64)
    mean, sd = contract().mean_and_sd()
    assert close(prior.mean, mean, 1e-12)
    assert close(prior.marginal_sd(), sd, 1e-12)
    assert prior.data_sd == pytest.approx(float(sd.square().mean().sqrt()))
    assert prior.weights.tolist() == pytest.approx(WEIGHTS)


def test_responsibilities_are_those_of_bayes() -> None:
    prior = TestDense().make(torch.float64)
    z = random_element(REAL, 2, 3)
    for sigma in (0.0, 0.4, 30.0):
        noise = sigma**2 * torch.eye(12, dtype=torch.float64)
        pairs = zip(WEIGHTS, prior.components, TestDense().covariances(), strict=True)
        logs = [math.log(w) + density(REAL, part.mean, s + noise, z) for w, part, s in pairs]
        expected = torch.softmax(torch.stack(logs, dim=-1), dim=-1).reshape(2, 3, 3)
        got = prior.responsibilities(z, sigma)
        assert got.dtype == torch.float64
        assert (got - expected).abs().max() < 1e-11
    assert prior.responsibilities(z[0, 0], 1.0).shape == (3,)


@pytest.mark.parametrize("sigma", [0.0, 1e-12, 1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("distance", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_tails_and_extreme_levels_are_numbers(sigma: float, distance: float, dtype: torch.dtype) -> None:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=dtype)
    prior = GaussianMixture.isotropic(POINT, (0.5, 0.5), means, (0.1, 0.2))
    z = torch.tensor([[distance, 0.3 * distance]], dtype=dtype, requires_grad=True)
    mean = prior.denoise(z, sigma)
    assert mean.isfinite().all()
    (slope,) = torch.autograd.grad(mean.sum(), z)
    assert slope.isfinite().all()
    shares = prior.responsibilities(z.detach(), sigma)
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-12)
    first, second = (Fraction(v) for v in z.detach().double()[0].tolist())
    exact = []
    for centre, sd in ((-1, 0.1), (1, 0.2)):
        variance = (
            Fraction(sd) ** 2 + Fraction(sigma if dtype == torch.float64 else float(np.float32(sigma))) ** 2
        )
        exact.append(-((first - centre) ** 2 + second**2) / (2 * variance) - Fraction(math.log(variance)))
    odds = float(max(min(exact[1] - exact[0], Fraction(700)), Fraction(-700)))
    if sigma > 0 and abs(exact[0]) < 1e5 and dtype == torch.float64:
        scaled = prior.denoise_scaled(z.detach() / sigma, 1 / sigma)
        assert (scaled - mean.detach()).abs().max() < 1e-9 * (1 + distance)
    # What is lost is relative to the logits, of which the difference counts.
    assert float(shares[0, 1]) == pytest.approx(
        1 / (1 + math.exp(-odds)), abs=1e-15 * float(abs(exact[0])) + 1e-12
    )


def test_points_attract_what_is_nearest() -> None:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    prior = GaussianMixture.isotropic(POINT, (0.2, 0.2, 0.6), means, 0.0)
    z = torch.tensor([[0.2, 0.1], [-0.1, 0.1], [0.0, 1.5]], dtype=torch.float64)
    assert (prior.denoise(z, 0.0) - means[[1, 0, 2]]).abs().max() < 1e-12
    assert (prior.denoise(z, 1e-3) - means[[1, 0, 2]]).abs().max() < 1e-12
    with pytest.raises(ValueError, match="`prior` must have a covariance without zero eigenvalues"):
        prior.log_density(z)
    assert prior.smoothed_log_density(z, 0.5).isfinite().all()


def test_the_density_integrates_to_one_and_the_mean_is_an_integral() -> None:
    prior = two_modes()
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    cell = float(axis[1] - axis[0]) ** 2
    p = prior.log_density(points).exp()
    assert float(p.sum()) * cell == pytest.approx(1.0, abs=1e-9)
    z, sigma = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.8
    weight = p * torch.exp(-0.5 * (z - points).square().sum(1) / sigma**2)
    expected = (weight[:, None] * points).sum(0) / weight.sum()
    assert close(prior.denoise(z, sigma), expected, 1e-9)


def test_draws_have_the_weights() -> None:
    means = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    prior = GaussianMixture.isotropic(POINT, (1.0, 0.0, 3.0), means, 0.1)
    like = torch.empty(0, dtype=torch.float64)
    draws = prior.draw(Keys(2, tuple(range(4000))), like=like)
    nearest = torch.cdist(draws, means).argmin(1)
    counts = torch.bincount(nearest, minlength=3)
    assert counts[1] == 0
    # Five standard deviations of a binomial.
    assert abs(float(counts[0]) / 4000 - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    some = prior.draw(Keys(2, (7, 3000)), like=like)
    assert torch.equal(some, draws[[7, 3000]])


def sd_that_varies() -> LinearOperator:
    sd = 0.5 + random_element(REAL, seed=46).abs()
    return Diagonal(REAL, sd) @ SpectralGaussian(REAL, 0.0, power_of(1, 3, 4)).root


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: GaussianMixture((1.0,), []), TypeError, "`components` must be a sequence of Gaussians, one"),
        (lambda: GaussianMixture((1.0,), Identity(REAL)), TypeError, "`components` must be a sequence"),
        (
            lambda: GaussianMixture((1.0,), [REAL]),
            TypeError,
            r"`components\[0\]` must be a Gaussian, got Space",
        ),
        (lambda: two([1.0]), ValueError, r"`weights` must be 2 real numbers, got torch.float64, \(1,\)"),
        (lambda: two([1.0, -1.0]), ValueError, "`weights` must be >= 0, and one of them larger, got -1 to 1"),
        (lambda: two([0.0, 0.0]), ValueError, "`weights` must be >= 0, and one of them larger"),
        (lambda: two([1.0, math.nan]), ValueError, "`weights` must hold finite values"),
        (
            lambda: GaussianMixture((1, 1), [two((1, 1)).components[0], Gaussian(0, Identity(REAL))]),
            ValueError,
            r"`components\[1\].space` must be",
        ),
        (
            lambda: GaussianMixture((1,), [Gaussian(0, sd_that_varies())]),
            NoClosedFormError,
            r"components\[0\] has no density in closed form.*Use DenseGaussian",
        ),
        (
            lambda: GaussianMixture.isotropic(POINT, (1,), torch.zeros(2), 1.0),
            ValueError,
            r"`means` must have shape \(K, 2\), got \(2,\)",
        ),
        (
            lambda: GaussianMixture.isotropic(POINT, (1,), torch.zeros(1, 2), -1.0),
            ValueError,
            "`sd` must be a finite number >= 0",
        ),
        (
            lambda: GaussianMixture.isotropic(POINT, (1,), torch.zeros(1, 2), [1.0, 2.0]),
            ValueError,
            "`sd` must be one number or 1, one per mean, got 2",
        ),
        (
            lambda: GaussianMixture.dense(POINT, (1,), torch.zeros(1, 2), torch.eye(3)),
            ValueError,
            r"`covariances` must have shape \(1, 2, 2\) or \(2, 2\), got \(3, 3\)",
        ),
    ],
)
def test_mistakes(attempt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()  # type: ignore[operator]


def two(weights: object) -> GaussianMixture:
    return GaussianMixture.isotropic(POINT, weights, torch.zeros(2, 2), 1.0)  # type: ignore[arg-type]
