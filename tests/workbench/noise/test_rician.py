import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from operators.space import Space
from tests.noise_contract import NoiseContract, keys
from tests.oracles import random_element
from workbench.noise.gaussian import Gaussian
from workbench.noise.rician import Rician, bessel_ratio

REAL = Space((2, 3))
COMPLEX = Space((2, 3), is_complex=True)
DATUM = torch.linspace(0.4, 1.2, 3, dtype=torch.float64)


class RicianContract(NoiseContract):
    covers = (Rician,)
    log_concave = False
    sigma: float | Tensor = 0.5

    def make(self, dtype: torch.dtype) -> Rician:
        return Rician(self.sigma.to(dtype) if isinstance(self.sigma, Tensor) else self.sigma)

    def data(self, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[0.3, 1.0, 2.5], [4.0, 0.1, 1.7]], dtype=dtype)

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        sigma = np.asarray(self.sigma)
        return stats.rice.logpdf(data, np.abs(predicted) / sigma, scale=sigma).sum()


class TestRealPrediction(RicianContract):
    space = REAL


class TestComplexPrediction(RicianContract):
    space = COMPLEX


class TestSigmaPerDatum(RicianContract):
    space, sigma = COMPLEX, DATUM


def exact_ratio(z: float) -> tuple[float, float, float]:
    """Return r, r / z and r' by the continued fraction r = 1 / (2/z + 1 / (4/z + ...))."""
    with localcontext(prec=60):
        argument, value = Decimal(z), Decimal(0)
        for k in range(max(60, int(4 * z)), 0, -1):
            value = 1 / (2 * k / argument + value)
        return float(value), float(value / argument), float(1 - value / argument - value**2)


@pytest.mark.parametrize("z", [1e-9, 1e-3, 0.1, 1.0, 7.0, 30.0, 49.9, 50.1, 90.0, 4000.0])
def test_ratio_of_bessel_functions(z: float) -> None:
    for got, expected in zip(bessel_ratio(torch.tensor(z, dtype=torch.float64)), exact_ratio(z), strict=True):
        assert got.item() == pytest.approx(expected, rel=1e-12)


def test_ratio_at_the_ends() -> None:
    r, quotient, slope = bessel_ratio(torch.tensor([0.0, 1e12], dtype=torch.float64))
    assert r.tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert quotient.tolist() == pytest.approx([0.5, 1e-12])
    assert slope.tolist() == pytest.approx([0.5, 0.5e-24])


@pytest.mark.parametrize("step", [0.05, 0.3, 2.0, 50.0])
@pytest.mark.parametrize("y", [0.0, 0.2, 0.75, 1.5, 6.0])
def test_prox_against_a_grid(step: float, y: float) -> None:
    """Global also in the non-convex region, from points on both sides and at zero."""
    noise, data = Rician(0.5), torch.tensor([y], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 160001, dtype=torch.float64)[:, None]
    energy = -noise.log_likelihood(grid, data)
    for v in (-3.0, -0.4, 0.0, 1e-9, 0.02, 0.7, 5.0):
        objective = energy + (grid[:, 0] - v) ** 2 / (2 * step)
        got = noise.prox(torch.tensor([v], dtype=torch.float64), data, step)
        reached = -noise.log_likelihood(got, data) + (got[0] - v) ** 2 / (2 * step)
        assert reached <= objective.min() + 1e-12
        assert reached == pytest.approx(objective.min().item(), abs=1e-7)
        assert got.item() * v >= 0


def test_prox_at_zero_parts_where_the_step_is_long() -> None:
    """m = 0 is the minimum up to step = sigma^2 / (y^2 / (2 sigma^2) - 1), and none beyond."""
    sigma, y = 0.5, torch.tensor([1.0], dtype=torch.float64)
    critical = sigma**2 / (1.0 / (2 * sigma**2) - 1)
    zero = torch.zeros(1, dtype=torch.float64)
    noise = Rician(sigma)
    assert noise.prox(zero, y, 0.99 * critical).item() == 0
    assert noise.prox(zero, y, 1.01 * critical).item() > 0.04
    turned = noise.prox(zero.to(torch.complex128), y, 1.01 * critical)
    assert turned.imag.item() == 0
    assert turned.real.item() > 0.04
    assert noise.prox(zero, torch.zeros(1, dtype=torch.float64), 10.0).item() == 0


def test_prox_keeps_the_phase() -> None:
    point = random_element(COMPLEX, 4, seed=3)
    got = Rician(0.5).prox(point, torch.full((2, 3), 1.3, dtype=torch.float64), 0.7)
    assert torch.allclose(torch.angle(got), torch.angle(point), atol=1e-12)


def test_where_it_is_not_convex() -> None:
    noise = Rician(0.5)
    zero = torch.zeros(2, dtype=torch.float64)
    border = math.sqrt(2) * 0.5
    y = torch.tensor([0.99 * border, 1.01 * border], dtype=torch.float64)
    assert (noise.least_curvature(zero, y) < 0).tolist() == [False, True]
    assert (noise.least_curvature(zero.to(torch.complex128), y) < 0).tolist() == [False, True]
    # A complex m: the smallest eigenvalue of the 2x2 Hessian of autograd.
    y = torch.tensor([2.0], dtype=torch.float64)
    for size in (0.3, 1.2, 1.8, 3.0):
        m = size * torch.tensor([math.cos(1.0), math.sin(1.0)], dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(
            lambda v: -noise.log_likelihood(torch.view_as_complex(v)[None], y), m
        )
        assert isinstance(hessian, Tensor)
        least = noise.least_curvature(torch.view_as_complex(m)[None], y)
        assert least.item() == pytest.approx(torch.linalg.eigvalsh(hessian)[0].item(), rel=1e-9)


def test_curvature_at_zero_is_the_limit() -> None:
    noise, y = Rician(0.5), torch.tensor([1.7], dtype=torch.float64)
    d = torch.tensor([0.3 - 0.8j])
    at_zero = noise.curvature(torch.zeros(1, dtype=torch.complex128), y, d.to(torch.complex128))
    near = noise.curvature(torch.full((1,), 1e-7 + 1e-7j, dtype=torch.complex128), y, d.to(torch.complex128))
    assert torch.allclose(at_zero, near, rtol=1e-10)
    assert torch.equal(
        noise.score(torch.zeros(1, dtype=torch.complex128), y), torch.zeros(1).to(torch.complex128)
    )


def test_it_is_even_in_a_real_prediction() -> None:
    m, y = random_element(REAL, 3), random_element(REAL, seed=2).abs()
    noise = Rician(0.5)
    assert torch.equal(noise.log_likelihood(-m, y), noise.log_likelihood(m, y))
    assert torch.equal(noise.score(-m, y), -noise.score(m, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_sigmas_away_it_is_gaussian(dtype: torch.dtype) -> None:
    m = torch.tensor([1000.0, 999.0, 1002.0], dtype=dtype)
    y = torch.tensor([1001.0, 1000.0, 999.0], dtype=dtype)
    rician, gaussian = Rician(0.1), Gaussian(0.1)
    assert torch.allclose(rician.score(m, y), gaussian.score(m, y), rtol=1e-4)
    assert torch.allclose(rician.curvature(m, y, m), gaussian.curvature(m, y, m), rtol=1e-4)
    assert torch.allclose(rician.log_likelihood(m, y), gaussian.log_likelihood(m, y), rtol=1e-4)
    assert torch.allclose(rician.prox(m, y, 0.02), gaussian.prox(m, y, 0.02), rtol=1e-6)


def test_likelihood_ratios_of_empty_pixels() -> None:
    noise, y = Rician(0.5), torch.zeros(1, dtype=torch.float64)
    m = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    values = noise.log_likelihood(m, y)
    assert (values[1] - values[0]).item() == pytest.approx(-1 / (2 * 0.25))
    assert torch.isfinite(noise.score(m, y)).all()


def test_draws_follow_the_law_of_scipy() -> None:
    m = torch.tensor([0.0, 0.8, 3.0 * 1j], dtype=torch.complex128)
    drawn = Rician(0.5).draw(m.expand(4000, 3), keys(4000))
    for column, size in zip(drawn.T, (0.0, 0.8, 3.0), strict=True):
        law = stats.rice(size / 0.5, scale=0.5)
        assert stats.kstest(column.numpy(), law.cdf).pvalue > 1e-3


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="`sigma` must be finite and > 0.*floor"):
        Rician(0.0)
    with pytest.warns(UserWarning, match="its floor"):
        Rician(0.0, floor=0.1)
    with pytest.raises(ValueError, match=r"`data` must be magnitudes >= 0, got a minimum of -1\.0"):
        Rician(1.0).check(-torch.ones(2, 3), COMPLEX)
    with pytest.raises(TypeError, match="`data` must be real for this noise"):
        Rician(1.0).check(torch.ones(2, 3, dtype=torch.complex64), COMPLEX)
