"""The denoiser of a finite data set against sums written out, in long arithmetic where sums lose."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from operators.space import Space
from tests.contracts import close
from tests.gaussian_cases import COMPLEX, REAL, VECTORS, cast
from tests.oracles import random_element
from tests.prior_contract import PriorContract
from workbench.paths.noise_law import GaussianLaw, NoiseLaw, StudentT
from workbench.priors import finite_data
from workbench.priors.finite_data import FiniteData
from workbench.random import Keys

WEIGHTS = (0.4, 0.1, 0.3, 0.2)
LINE = Space((1,))


class TestFiniteData(PriorContract):
    covers = (FiniteData,)
    has_density = False
    space = REAL

    def points(self) -> Tensor:
        real = 0.7 * random_element(Space(self.space.shape), len(WEIGHTS), seed=51)
        # One sd for the real and the imaginary part.
        return real * (1 + 1j) if self.space.is_complex else real

    def make(self, dtype: torch.dtype) -> FiniteData:
        # Rounded once, so that both precisions hold the same points.
        return FiniteData(
            cast(self.points(), torch.float32).to(cast(self.points(), dtype).dtype), self.space, WEIGHTS
        )

    def other(self) -> FiniteData:
        return FiniteData(self.points(), self.space)

    def given_points(self) -> Tensor:
        return self.make(torch.float64).points

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        squares = (z[:, None] - self.given_points()).abs().square().flatten(2).sum(-1)
        return torch.logsumexp(
            torch.tensor(WEIGHTS, dtype=torch.float64).log() - squares / (2 * sigma**2), dim=1
        )

    def mean_and_sd(self) -> tuple[Tensor, Tensor]:
        weights = torch.tensor(WEIGHTS, dtype=torch.float64).reshape(-1, *[1] * self.space.ndim)
        mean = (weights * self.given_points()).sum(0)
        return mean, (weights * (self.given_points() - mean).real ** 2).sum(0).sqrt()


class TestOnComplexFields(TestFiniteData):
    space = COMPLEX


class TestOnVectorFields(TestFiniteData):
    space = VECTORS


class TestStudentT(TestFiniteData):
    law = StudentT(3.0)
    settles = False

    def make(self, dtype: torch.dtype) -> FiniteData:
        return FiniteData(super().make(dtype).points, self.space, WEIGHTS, self.law)

    def other(self) -> FiniteData:
        return FiniteData(self.make(torch.float64).points, self.space, WEIGHTS, StudentT(4.0))


class TestStudentTOnComplexFields(TestStudentT):
    space = COMPLEX


@pytest.mark.parametrize("law", [GaussianLaw(), StudentT(1.0), StudentT(128.0)], ids=repr)
@pytest.mark.parametrize("space", [REAL, COMPLEX], ids=["real", "complex"])
def test_it_is_the_sum_over_points_written_out(law: NoiseLaw, space: Space) -> None:
    points = random_element(space, 6, seed=52)
    prior = FiniteData(points, space, law=law)
    z = 2 * random_element(space, 5)
    count = space.size * (2 if space.is_complex else 1)
    for sigma in (0.3, 1.0, 20.0):
        squares = (z[:, None] - points).abs().square().flatten(2).sum(-1)
        if isinstance(law, StudentT):
            kernel = (1 + squares / (law.dof * sigma**2)) ** (-(law.dof + count) / 2)
        else:
            kernel = torch.exp(-(squares - squares.min(1, keepdim=True).values) / (2 * sigma**2))
        shares = kernel / kernel.sum(1, keepdim=True)
        assert (prior.responsibilities(z, sigma) - shares).abs().max() < 1e-11
        expected = torch.einsum("bk,k...->b...", shares.to(points.dtype), points)
        assert close(prior.denoise(z, sigma), expected, 1e-10)


def test_the_kernel_is_that_of_pfgm() -> None:
    # p_r(z | x) ~ (|z - x|^2 + r^2)^-((N + D) / 2) with r = sigma sqrt(D).
    points, z = random_element(REAL, 5, seed=53), random_element(REAL, 1)
    sigma, augmented = 0.8, 8.0
    squares = (z - points).square().flatten(1).sum(1)
    kernel = (squares + sigma**2 * augmented) ** (-(12 + augmented) / 2)
    got = FiniteData(points, REAL, law=StudentT(augmented)).responsibilities(z[0], sigma)
    assert (got - kernel / kernel.sum()).abs().max() < 1e-12


def test_many_degrees_of_freedom_are_normal_noise() -> None:
    points, z = random_element(REAL, 5, seed=53), random_element(REAL, 3)
    normal, heavy = FiniteData(points, REAL), FiniteData(points, REAL, law=StudentT(1e8))
    assert close(heavy.denoise(z, 0.7), normal.denoise(z, 0.7), 1e-5)


@pytest.mark.parametrize("law", [GaussianLaw(), StudentT(1.0), StudentT(16.0)], ids=repr)
def test_shares_are_the_frequencies_under_the_noise_of_the_law(law: NoiseLaw) -> None:
    points = random_element(REAL, 8, seed=57)
    prior = FiniteData(points, REAL, law=law)
    keys = Keys(11, tuple(range(20000)))
    x = prior.draw(keys, like=points)
    z = x + 2.0 * law.draw(keys, REAL.shape, "test", like=points)
    came_from = (x[:, None] == points).flatten(2).all(-1).double()
    shares = prior.responsibilities(z, 2.0)
    assert 0.2 < float(shares.amax(1).mean()) < 0.8  # neither certain nor ignorant
    # Given z, each row of the difference has mean 0 whatever it is multiplied by: five standard errors.
    for factor in (torch.ones_like(shares), shares, shares**3, torch.log(shares + 1e-3)):
        terms = factor * (came_from - shares)
        assert (terms.mean(0).abs() <= 5 * terms.std(0) / len(terms) ** 0.5).all()


def exact_share(z: float, points: list[float], sigma: float, dof: float | None) -> list[float]:
    """Return the shares on a line, their exponents in rational arithmetic."""
    squares = [(Fraction(z) - Fraction(x)) ** 2 for x in points]
    if dof is None:
        logs = [float((min(squares) - s) / (2 * Fraction(sigma) ** 2)) for s in squares]
    else:
        variance = Fraction(dof) * Fraction(sigma) ** 2
        ratios = [(s - min(squares)) / (variance + min(squares)) for s in squares]
        logs = [-(dof + 1) / 2 * math.log1p(float(ratio)) for ratio in ratios]
    total = sum(math.exp(log) for log in logs)
    return [math.exp(log) / total for log in logs]


@pytest.mark.parametrize("dof", [None, 4.0], ids=["normal", "student"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0, 1e4, 1e8])
def test_shares_are_right_at_any_level(sigma: float, offset: float, dof: float | None) -> None:
    # Two points as near one another as the noise, and two far away; z between, and in the far tail.
    points = [offset, offset + 1.5 * sigma, offset + 1.0, offset - 2.0]
    law: NoiseLaw = GaussianLaw() if dof is None else StudentT(dof)
    prior = FiniteData(torch.tensor(points, dtype=torch.float64)[:, None], LINE, law=law)
    for z in (offset + 0.7 * sigma, offset + 0.75 * sigma, offset + 30 * sigma, offset):
        got = prior.responsibilities(torch.tensor([z], dtype=torch.float64), sigma).tolist()
        # The sum rounds points about their mean, 1e-16 of the offset, against sigma.
        bound = 1e-12 + 4e-16 * 40 * (offset + 2 + sigma) / sigma
        assert got == pytest.approx(exact_share(z, points, sigma, dof), abs=bound)


def test_without_noise_the_nearest_point_is_left() -> None:
    points = random_element(REAL, 50, seed=54)
    prior = FiniteData(points, REAL)
    z = random_element(REAL, 20)
    nearest = points[torch.cdist(z.flatten(1), points.flatten(1)).argmin(1)]
    for sigma in (0.0, 1e-300, 1e-20, 1e-3):
        assert (prior.denoise(z, sigma) - nearest).abs().max() < 1e-14
    again = prior.denoise(points, 0.0)
    assert (again - points).abs().max() < 1e-14


def test_between_two_points_the_mean_jumps_and_its_derivative_is_known() -> None:
    prior = FiniteData(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), LINE)
    z = torch.zeros(1, 1, dtype=torch.float64)
    for sigma in (0.0, 1e-3, 1.0):
        assert float(prior.denoise(z, sigma)) == pytest.approx(0.0, abs=1e-15)
    # E[x | z] = tanh(z / sigma^2): the covariance at the middle is that of a fair coin.
    assert float(prior.covariance(z, 0.1, torch.ones_like(z))) == pytest.approx(1.0, rel=1e-12)


def test_heavy_tails_without_noise_leave_a_weighted_mean() -> None:
    points = torch.tensor([[-1.0], [1.0], [4.0]], dtype=torch.float64)
    prior = FiniteData(points, LINE, law=StudentT(2.0))
    z = torch.tensor([[0.5]], dtype=torch.float64)
    kernel = (z - points).abs() ** -3
    assert float(prior.denoise(z, 0.0)) == pytest.approx(
        float((kernel * points).sum() / kernel.sum()), rel=1e-12
    )
    assert (prior.denoise(points, 0.0) - points).abs().max() < 1e-12


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = FiniteData(random_element(REAL, 30, seed=55), REAL)
    z = random_element(REAL, 17)
    sigma = torch.linspace(0.0, 3.0, 17, dtype=torch.float64)
    whole = prior.denoise(z, sigma)
    for pairs in (1, 100):
        monkeypatch.setattr(finite_data, "PAIRS", pairs)
        assert (prior.denoise(z, sigma) - whole).abs().max() < 1e-14


def test_draws_are_the_points_themselves() -> None:
    points = random_element(REAL, 3, seed=56)
    prior = FiniteData(points, REAL, (0.5, 0.0, 0.5))
    draws = prior.draw(Keys(1, tuple(range(500))), like=points)
    found = (draws[:, None] == points).flatten(2).all(-1)
    assert bool((found.sum(1) == 1).all())
    assert not found[:, 1].any()
    assert abs(float(found[:, 0].double().mean()) - 0.5) < 5 * 0.5 / 500**0.5


def test_one_point_is_certainty() -> None:
    point = random_element(COMPLEX, 1)
    for law in (GaussianLaw(), StudentT(1.0)):
        prior = FiniteData(point, COMPLEX, law=law)
        for sigma in (0.0, 1.0, 1e6):
            assert close(
                prior.denoise(random_element(COMPLEX, 2, seed=4), sigma), point.expand(2, -1, -1, -1), 1e-14
            )
        assert prior.data_range is None


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: FiniteData(torch.zeros(1, 3, 4), REAL),
            ValueError,
            r"`points` must have shape \(K, 1, 3, 4\)",
        ),
        (
            lambda: FiniteData(torch.zeros(2, 3), REAL),
            ValueError,
            r"`points` must have shape \(..., 1, 3, 4\)",
        ),
        (lambda: FiniteData(torch.zeros(2, 1, 3, 4).long(), REAL), TypeError, "`points` must have dtype"),
        (
            lambda: FiniteData(torch.full((2, 1), math.inf), LINE),
            ValueError,
            "`points` must hold finite values",
        ),
        (lambda: FiniteData(torch.zeros(2, 1), LINE, (1,)), ValueError, "`weights` must be 2 real numbers"),
        (
            lambda: FiniteData(torch.zeros(2, 1), LINE, law="t"),
            TypeError,
            "`law` must be a NoiseLaw, got str",
        ),
        (
            lambda: FiniteData(torch.zeros(2, 1), LINE).log_density(torch.zeros(1)),
            TypeError,
            "a known density",
        ),
        (
            lambda: FiniteData(torch.zeros(2, 3), Space((3,), classes=2)),
            TypeError,
            "`space` must be of real, complex or vector fields",
        ),
    ],
)
def test_mistakes(attempt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()  # type: ignore[operator]
