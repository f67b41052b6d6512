"""The covariance of a noise scan, data in which it is white, and sigma out of k-space: Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch

from operators.space import Space
from workbench.calibrate.coil_matrix import CoilMatrix
from workbench.calibrate.prewhitening import Prewhitening, noise_covariance, outer_kspace_sd, prewhitening
from workbench.noise.gaussian import Gaussian

COILS = 4
SAMPLES = 20_000


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return complex normals with sd 1 in each real component."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(*shape, 2, dtype=torch.float64, generator=generator)
    return torch.view_as_complex(parts)


def mixing() -> torch.Tensor:
    """Return L of a covariance with strong correlations and coils of different gain."""
    mixed = torch.eye(COILS, dtype=torch.complex128) + 0.4 * white(COILS, COILS, seed=9)
    return torch.diag(torch.tensor([1.0, 1e-3, 30.0, 2.0], dtype=torch.complex128)) @ mixed


COVARIANCE = mixing() @ mixing().mH


def relative(covariance: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    scale = expected.diagonal().real.sqrt()
    return (covariance - expected).abs() / (scale[:, None] * scale)


def test_the_covariance_is_that_of_each_real_component() -> None:
    noise = mixing() @ white(COILS, SAMPLES)
    found = noise_covariance(noise)
    # Var of an entry, relative to sd_i sd_j, is at most 1 / n: E|n_i n_j*|^2 / 4 n, sd 1 / sqrt(n).
    assert float(relative(found, COVARIANCE).max()) < 5 / math.sqrt(SAMPLES)
    assert torch.allclose(noise_covariance(noise.reshape(COILS, 100, -1)), found)
    assert found.dtype == torch.complex128


def test_dwell_times_and_the_filter_scale_it() -> None:
    noise = white(COILS, 64)
    plain = noise_covariance(noise)
    # Longer dwell in the scan: narrower band, less noise. A filtered noise scan understates it.
    scaled = noise_covariance(noise, noise_dwell=2e-6, scan_dwell=8e-6, receiver_bandwidth=0.8)
    assert torch.allclose(scaled, plain * (2 / 8) / 0.8)


def test_the_noise_after_it_is_white_with_sd_one() -> None:
    fresh = mixing() @ white(COILS, SAMPLES, seed=1)
    exact = prewhitening(COVARIANCE)
    after = noise_covariance(exact.apply(fresh))
    assert float((after - torch.eye(COILS)).abs().max()) < 5 / math.sqrt(SAMPLES)
    estimated = prewhitening(noise_covariance(mixing() @ white(COILS, SAMPLES, seed=2)))
    after = noise_covariance(estimated.apply(fresh))
    assert float((after - torch.eye(COILS)).abs().max()) < 5 * math.sqrt(2 / SAMPLES)


def test_the_matrix_whitens_exactly() -> None:
    found = prewhitening(COVARIANCE)
    assert isinstance(found, Prewhitening) and (found.coils, found.channels) == (COILS, COILS)
    assert torch.allclose(
        found.matrix @ COVARIANCE @ found.matrix.mH, torch.eye(COILS, dtype=torch.complex128), atol=1e-10
    )
    single = prewhitening(COVARIANCE.to(torch.complex64))
    assert single.apply(white(COILS, 3).to(torch.complex64)).dtype == torch.complex64


def test_its_noise_law_is_that_of_its_data() -> None:
    law = prewhitening(COVARIANCE).noise()
    assert isinstance(law, Gaussian) and law.sigma == 1.0
    data = prewhitening(COVARIANCE).apply(mixing() @ white(COILS, SAMPLES, seed=4))
    law.check(data, Space(tuple(data.shape), is_complex=True))
    # -2 log p + const counts sum |w|^2: chi-square with 2 COILS SAMPLES degrees of freedom.
    count = 2 * data.numel()
    square = float(-2 * (law.log_likelihood(torch.zeros_like(data), data)) - count * math.log(2 * math.pi))
    assert abs(square - count) < 5 * math.sqrt(2 * count)


def test_averages_lower_the_noise() -> None:
    found = prewhitening(COVARIANCE)
    assert found.noise(4).sigma == 0.5
    counts = torch.tensor([[0, 1], [4, 9]])
    assert torch.allclose(
        found.noise(counts).sigma, torch.tensor([[1, 1], [1 / 2, 1 / 3]], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (torch.zeros(2, 2), r"a variance > 0 for each coil, got none for coils \[0, 1\]"),
        (torch.diag(torch.tensor([1.0, 0.0])), r"none for coils \[1\]. Leave coils without noise"),
        (torch.ones(2, 2), "`covariance` must be positive definite, got correlations"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "`covariance` must be Hermitian"),
        (torch.ones(2, 3), r"`covariance` must have shape \(coils, coils\)"),
        (torch.full((2, 2), torch.nan), "`covariance` must hold finite values"),
    ],
)
def test_covariances_that_are_none(covariance: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prewhitening(covariance)


def test_a_repeated_coil_is_found_in_the_noise() -> None:
    noise = white(3, 500)
    noise[2] = 5j * noise[0]
    with pytest.raises(ValueError, match="positive definite.*leave some out"):
        prewhitening(noise_covariance(noise))


@pytest.mark.parametrize(
    ("noise", "settings", "error", "message"),
    [
        (white(4, 3), {}, ValueError, "at least as many samples as its 4 coils, got 3"),
        (white(4), {}, ValueError, r"`noise` must have shape \(coils, samples\)"),
        (torch.ones(2, 9), {}, TypeError, "`noise` must be complex"),
        (white(2, 9) * torch.inf, {}, ValueError, "`noise` must hold finite values"),
        (white(2, 9), {"scan_dwell": 1.0}, ValueError, "`noise_dwell` must be given with `scan_dwell`"),
        (white(2, 9), {"noise_dwell": 0.0, "scan_dwell": 1.0}, ValueError, "`noise_dwell` must be a finite"),
        (white(2, 9), {"receiver_bandwidth": 0.0}, ValueError, "`receiver_bandwidth` must be a finite"),
    ],
)
def test_bad_noise_scans(
    noise: torch.Tensor, settings: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        noise_covariance(noise, **settings)


SHAPE = (1, 120, 100)
SIGMAS = torch.tensor([0.1, 3.0], dtype=torch.float64)


def noisy(signal: float = 0.0) -> torch.Tensor:
    """Return k-space of noise with a peak at its centre, narrow beside its width."""
    y, x = (torch.arange(n) - n // 2 for n in SHAPE[1:])
    peak = signal * torch.exp(-(y[:, None] ** 2 + x**2) / (2 * 8.0**2))
    return SIGMAS[:, None, None, None] * white(2, *SHAPE) + peak


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sigma_out_of_k_space(share: float) -> None:
    found = outer_kspace_sd(noisy(signal=100.0), share=share)
    count = 2 * share * SHAPE[1] * SHAPE[2]  # real components
    allowed = 5 * 1.166 / math.sqrt(count)
    # exp(-r^2 / 128) of 100 is below 1e-6 sigma beyond r = 48; the outer tenth lies beyond.
    bias = 0.0 if share == 0.1 else 0.02
    assert bool(((found / SIGMAS - 1).abs() < allowed + bias).all())


def test_only_measured_samples_count() -> None:
    lines = torch.zeros(120, dtype=torch.bool)
    lines[::3] = True
    data = noisy() * lines[:, None]
    expected = 5 * 1.166 / math.sqrt(2 * 0.1 * 40 * 100)
    for mask in (None, lines[:, None]):
        assert bool(((outer_kspace_sd(data, mask=mask) / SIGMAS - 1).abs() < expected).all())
    with pytest.raises(ValueError, match=r"hold noise in its outer samples, got zeros in coils \[0, 1\]"):
        outer_kspace_sd(data, mask=torch.ones(1, 1, dtype=torch.bool))


def test_a_tenth_of_signal_biases_it_by_an_eighth_at_most() -> None:
    data = SIGMAS[:, None, None, None] * white(2, *SHAPE)
    loud = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.1
    found = outer_kspace_sd(data + 1e3 * loud, share=1.0) / SIGMAS
    # The median of |w| moves to the quantile 1/2 + 1 / (4 (1 - share)) of w where the real parts are signal;
    # here the imaginary parts, half of the components, are noise: a share of 0.05.
    allowed = 5 * 1.166 / math.sqrt(2 * loud.numel())
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = float(normal.icdf(torch.tensor(0.5 + 0.5 / (2 * 0.95)))) / 0.67449
    assert bool(((found - expected).abs() < 2 * allowed).all()) and expected < 1.07
    both = outer_kspace_sd(data + (1e3 + 1e3j) * loud, share=1.0) / SIGMAS
    expected = float(normal.icdf(torch.tensor(0.5 + 0.5 / (2 * 0.9)))) / 0.67449
    assert expected == pytest.approx(1.134, abs=1e-3)
    assert bool(((both - expected).abs() < 2 * allowed).all())


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, "`share` must be a finite number > 0"),
        (1.5, "`share` must be at most 1"),
        (1e-4, "at least 32 outer samples, got 1"),
    ],
)
def test_bad_shares(share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outer_kspace_sd(noisy(), share=share)


def test_a_matrix_checks_what_it_is_applied_to() -> None:
    matrix = CoilMatrix(torch.ones(2, 3))
    with pytest.raises(ValueError, match="`samples` must have 3 coils in front, got"):
        matrix.apply(white(2, 5))
    with pytest.raises(TypeError, match="`samples` must be complex"):
        matrix.apply(torch.ones(3, 5))
    with pytest.raises(TypeError, match="`maps` must be CoilMaps, got Tensor"):
        matrix.maps(white(3, 5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`sigma` must be known, got None"):
        matrix.noise()
    with pytest.raises(ValueError, match="`averages` must be counts >= 0"):
        prewhitening(COVARIANCE).noise(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(channels, coils\)"):
        CoilMatrix(torch.ones(3))
