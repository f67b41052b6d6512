import math
import warnings

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from operators.space import Space
from tests.noise_contract import NoiseContract, keys
from tests.oracles import random_element
from workbench.noise.base import Noise
from workbench.noise.poisson import LogTransmission, PoissonTransmission, lambert
from workbench.random import Keys

SPACE = Space((2, 3))
COLUMNS = torch.tensor([20.0, 60.0, 200.0], dtype=torch.float64)
COUNTS = torch.tensor([[0.0, 7.0, 90.0], [31.0, 55.0, 1.0]], dtype=torch.float64)


class TransmissionContract(NoiseContract):
    space = SPACE
    blank: float | Tensor

    def make(self, dtype: torch.dtype) -> Noise:
        return self.covers[0](self.blank.to(dtype) if isinstance(self.blank, Tensor) else self.blank)  # type: ignore[call-arg]

    def predicted(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        return random_element(self.space, *batch, seed=seed).abs().to(dtype)


class TestPoisson(TransmissionContract):
    covers = (PoissonTransmission,)
    blank = 40.0

    def data(self, dtype: torch.dtype) -> Tensor:
        return COUNTS.to(dtype)

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        return stats.poisson.logpmf(data, np.asarray(self.blank) * np.exp(-predicted)).sum()


class TestPoissonPerColumn(TestPoisson):
    blank = COLUMNS


class TestLogarithm(TransmissionContract):
    covers = (LogTransmission,)
    blank = 1e6

    def data(self, dtype: torch.dtype) -> Tensor:
        return (COUNTS * 1e3 + 5e3).to(dtype)

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        integrals = -np.log(data / np.asarray(self.blank))
        return stats.norm.logpdf(integrals, predicted, data**-0.5).sum()


class TestLogarithmPerColumn(TestLogarithm):
    blank = COLUMNS * 1e5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lambert(dtype: torch.dtype) -> None:
    q = torch.cat([torch.linspace(-80, 4, 400), torch.logspace(0, 6, 200)]).to(dtype)
    u = lambert(q).double().numpy()
    small = q.double().numpy()[:400]
    expected = special.lambertw(np.exp(small)).real
    # exp(q) carries the rounding of q.
    assert np.abs(u[:400] / expected - 1).max() <= 40 * torch.finfo(dtype).eps
    big = q.double().numpy()[400:]
    assert np.abs((u[400:] + np.log(u[400:])) / big - 1).max() <= 4 * torch.finfo(dtype).eps
    far = lambert(torch.tensor([-1e3, -200.0], dtype=dtype))
    assert ((far > 0) & (far < 1e-37)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [1e-8, 1e-2, 1e4])
def test_prox_over_the_range(dtype: torch.dtype, step: float) -> None:
    """The stationary point, to the rounding of the terms that make it."""
    noise = PoissonTransmission(1e5)
    point, counts = torch.linspace(-3, 30, 34, dtype=dtype), torch.logspace(0, 6, 34, dtype=dtype)
    m = noise.prox(point, counts, step).double()
    rate = 1e5 * torch.exp(-m)
    residual = step * (counts.double() - rate) + m - point.double()
    # A change of m by its rounding changes the residual by this much.
    blur = (step * rate + 1) * m.abs().clamp(min=1) + step * counts + point.abs()
    assert (residual.abs() <= 30 * torch.finfo(dtype).eps * blur).all()


def test_negative_line_integrals_do_not_overflow() -> None:
    noise = PoissonTransmission(1e5)
    m, y = torch.tensor([[-1e4, 0.0], [-90.0, 1.0]]), torch.tensor([10.0, 20.0])
    assert torch.isfinite(noise.score(m, y)).all()
    assert torch.isfinite(noise.curvature(m, y, torch.ones(2, 2))).all()
    assert torch.isfinite(noise.prox(m, y, 0.5)).all()
    value = noise.log_likelihood(m, y)
    assert value[0] == -math.inf
    assert torch.isfinite(value[1])


def test_counts_have_the_mean_and_the_variance_of_their_law() -> None:
    m = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    drawn = PoissonTransmission(50.0).draw(m.expand(20000, 3), keys(20000))
    rate = 50 * torch.exp(-m)
    assert torch.equal(drawn, drawn.round())
    assert torch.allclose(drawn.mean(0), rate, rtol=0.02)
    assert torch.allclose(drawn.var(0), rate, rtol=0.06)


@pytest.mark.parametrize("excess", [0.0, 0.02])
def test_counts_of_the_logarithm_have_its_mean_and_variance(excess: float) -> None:
    m = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    drawn = -(LogTransmission(1e4, excess).draw(m.expand(20000, 3), keys(20000)) / 1e4).log()
    variance = torch.exp(m) / 1e4 + excess**2
    assert torch.allclose(drawn.var(0), variance, rtol=0.05)
    assert ((drawn.mean(0) - m).abs() <= 5 * (variance / 20000).sqrt()).all()


def test_the_logarithm_approximates_many_counts() -> None:
    m = torch.tensor([0.5, 2.0], dtype=torch.float64)
    counts = 1e6 * torch.exp(-m) + torch.tensor([300.0, -200.0], dtype=torch.float64)
    exact, near = PoissonTransmission(1e6), LogTransmission(1e6)
    assert torch.allclose(near.score(m, counts), exact.score(m, counts), rtol=1e-2)
    d = torch.ones(2, dtype=torch.float64)
    assert torch.allclose(near.curvature(m, counts, d), exact.curvature(m, counts, d), rtol=1e-2)


def test_what_is_beyond_counting_bounds_the_weights() -> None:
    counts = torch.tensor([1e2, 1e12], dtype=torch.float64)
    curvature = LogTransmission(1e12, 0.1).curvature(torch.zeros(2), counts, torch.ones_like(counts))
    assert curvature.tolist() == pytest.approx([50.0, 100.0])
    with pytest.raises(ValueError, match="`excess` must be a finite number >= 0, got -0.1"):
        LogTransmission(1e4, -0.1)


def test_starved_rays_are_told_of_once() -> None:
    noise = LogTransmission(100.0)
    with pytest.warns(UserWarning, match="of the rays counted no photon"):
        noise.check(torch.tensor([0.0, 5.0]), Space((2,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise.check(torch.tensor([0.0, 5.0]), Space((2,)))
        score = noise.score(torch.zeros(2), torch.tensor([0.0, 5.0]))
    assert score[0].item() == pytest.approx(0.5 * math.log(100 / 0.5))


def test_too_many_counts_are_told_of_in_line_integrals() -> None:
    with pytest.raises(ValueError, match=r"`predicted` must be line integrals .* integral of -40.*unit"):
        PoissonTransmission(1e4).draw(torch.full((1, 2, 3), -40.0), Keys(0, (0,)))


@pytest.mark.parametrize("law", [PoissonTransmission, LogTransmission])
def test_bad_values(law: type[PoissonTransmission]) -> None:
    for blank, error, message in (
        (0.0, ValueError, "`blank` must be finite and > 0"),
        (math.inf, ValueError, "`blank` must be a finite number"),
        (torch.tensor([1.0, -1.0]), ValueError, r"`blank` must be finite and > 0, got -1\.0 to 1\.0"),
        (torch.tensor([1j]), TypeError, "`blank` must be real"),
        (None, TypeError, "`blank` must be a finite number"),
    ):
        with pytest.raises(error, match=message):
            law(blank)  # type: ignore[arg-type]
    noise = law(10.0)
    with pytest.raises(ValueError, match=r"`data` must be photon counts >= 0, got a minimum of -1\.0"):
        noise.check(-torch.ones(2, 3), SPACE)
    with pytest.raises(TypeError, match="`operator` must have real values, line integrals, for this noise"):
        noise.check(torch.ones(2, 3), Space((2, 3), is_complex=True))
    with pytest.raises(ValueError, match=r"`blank` must be a number or broadcast to \(2, 3\)"):
        law(torch.ones(2)).check(torch.ones(2, 3), SPACE)
