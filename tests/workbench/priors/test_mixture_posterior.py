"""What is left of a Gaussian mixture after a measurement, against integrals and dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from tests.contracts import close
from tests.gaussian_cases import REAL, covariance_of, mean_of, two_modes
from tests.problems import UNITS, dense_answer, grid_of, operator_of, posterior_of, real_matrix, reals
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import DenseGaussian, Gaussian
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys


def likelihood_of(matrix: Tensor, noise: float, data: Tensor) -> Likelihood:
    space = Space((matrix.shape[0],), matrix.is_complex())
    return Likelihood(Matrix(Space((matrix.shape[1],)), space, matrix), GaussianNoise(noise), data)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.tensor([[1.0, 0.5]], dtype=torch.float64),
        torch.tensor([[1.0, 0.5], [0.2, -0.7], [0.1, 0.4]], dtype=torch.float64),
        torch.tensor([[1.0 + 0.4j, 0.5j]], dtype=torch.complex128),
    ],
    ids=["less data", "more data", "complex data"],
)
def test_a_posterior_is_that_of_an_integral(matrix: Tensor) -> None:
    prior = two_modes()
    data = (matrix @ torch.tensor([0.3, 0.2], dtype=matrix.dtype)) + 0.1
    likelihood = likelihood_of(matrix, 0.6, data)
    posterior = prior.conditioned(likelihood)
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    logs = prior.log_density(points) + likelihood.log_likelihood(points)
    cell = float(axis[1] - axis[0]) ** 2
    logs = logs - torch.logsumexp(logs, 0) - math.log(cell)
    seen = logs > -40
    assert (posterior.log_density(points[seen]) - logs[seen]).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["mask", "blur", "coils"])
def test_one_component_is_a_gaussian_posterior(name: str) -> None:
    whole = posterior_of(name, 6)
    truth = dense_answer(whole)
    assert isinstance(whole.prior, Gaussian)
    got = GaussianMixture((2.0,), [whole.prior], UNITS).conditioned(whole.measured)
    assert got.units == UNITS
    (component,) = got.components
    assert close(reals(component.mean[None])[0], truth.mean, 1e-9)
    root = real_matrix(component.root)
    assert close(root @ root.T, truth.covariance, 1e-9)


def test_evidence_of_complex_fields_counts_both_components() -> None:
    space = Space.field(grid_of(6), is_complex=True)
    operator = operator_of("coils", 6)
    assert operator.domain.shape == space.shape
    means = torch.stack([mean_of(space), 0.9 * mean_of(space)])
    parts = [
        DenseGaussian(space, m, s * covariance_of(space)) for m, s in zip(means, (0.1, 0.12), strict=True)
    ]
    prior = GaussianMixture((0.4, 0.6), parts)
    noise = GaussianNoise(0.8)
    data = noise.draw(operator(means[:1]), Keys(3, (0,)))[0]
    likelihood = Posterior(prior, Likelihood(operator, noise, data)).measured
    b, z = likelihood.whitened
    matrix, rows = real_matrix(b), reals(z[None])[0]
    logs = []
    for weight, part in zip((0.4, 0.6), parts, strict=True):
        root = real_matrix(part.root)
        covariance = matrix @ root @ root.T @ matrix.T + torch.eye(len(rows), dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(matrix @ reals(part.mean[None])[0], covariance)
        logs.append(math.log(weight) + law.log_prob(rows))
    expected = torch.softmax(torch.stack(logs), 0)
    assert 1e-3 < float(expected[0]) < 1 - 1e-3
    assert close(prior.conditioned(likelihood).weights, expected, 1e-9)


def test_what_is_hardly_noisy_keeps_what_was_not_measured() -> None:
    prior = two_modes()
    matrix = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    posterior = prior.conditioned(likelihood_of(matrix, 1e-6, torch.tensor([0.2], dtype=torch.float64)))
    for before, after in zip(prior.components, posterior.components, strict=True):
        s = before.covariance_product(torch.eye(2, dtype=torch.float64))
        got = after.covariance_product(torch.eye(2, dtype=torch.float64))
        assert float(after.mean[0]) == pytest.approx(0.2, abs=1e-10)
        assert float(got[1, 1]) == pytest.approx(float(s[1, 1] - s[0, 1] ** 2 / s[0, 0]), rel=1e-9)
        assert float(got[0, 0]) == pytest.approx(1e-12, rel=1e-3)


def test_over_the_reals_alone_is_refused_for_complex_images() -> None:
    space = Space((2,), is_complex=True)
    prior = GaussianMixture.isotropic(space, (1,), torch.zeros(1, 2, dtype=torch.complex128), 1.0)
    real_part = RealPart(space)
    likelihood = Likelihood(real_part, GaussianNoise(1.0), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(TypeError, match="`likelihood.operator` must be linear over the complex numbers"):
        prior.conditioned(likelihood)


class RealPart(LinearOperator):
    """x -> Re x: linear over the real numbers alone."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, Space(space.shape))

    @property
    def over_complex(self) -> bool:
        return False

    def _apply(self, x: Tensor) -> Tensor:
        return x.real.clone()

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return torch.complex(y, torch.zeros_like(y))


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: two_modes().conditioned(REAL), TypeError, "`likelihood` must be a Likelihood, got Space"),
        (
            lambda: two_modes().conditioned(posterior_of("mask", 4).measured),
            ValueError,
            "`likelihood.domain` must be",
        ),
        (
            lambda: GaussianMixture((1,), [posterior_of("mask", 48).prior]).conditioned(
                posterior_of("mask", 48).measured
            ),
            ValueError,
            "`space` must have at most 2048 entries, got 2304",
        ),
    ],
)
def test_mistakes(attempt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()  # type: ignore[operator]
