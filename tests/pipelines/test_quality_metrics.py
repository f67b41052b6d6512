"""Figures of the comparison against known values."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.quality.metrics import (
    expected_share,
    held_share,
    margin_of,
    mean_interval,
    nrmse,
    psnr,
    radial_spectrum,
    ssim,
)
from workbench.random import Keys

DOUBLE = torch.empty(0, dtype=torch.float64)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return Keys(seed, (0,)).normals(shape, "test", like=DOUBLE)[0]


def test_psnr_and_nrmse_of_a_known_error() -> None:
    truth = torch.full((1, 8, 8), 3.0)
    image = truth + 0.1 * torch.tensor([1.0, -1.0]).repeat(4)
    assert psnr(image, truth, 10.0) == pytest.approx(40.0, abs=1e-5)
    assert nrmse(image, truth) == pytest.approx(0.1 / 3, rel=1e-6)
    assert psnr(truth, truth, 10.0) == math.inf


def test_ssim_is_that_of_its_equation() -> None:
    pytest.importorskip("skimage")
    truth = normals(1, 32, 32)
    assert ssim(truth, truth, 4.0) == pytest.approx(1.0)
    # Of two constants only the luminance differs: (2 a b + c) / (a^2 + b^2 + c), c = (0.01 range)^2.
    a, b, c = 2.0, 3.0, (0.01 * 5.0) ** 2
    flat = torch.ones(1, 16, 16, dtype=torch.float64)
    assert ssim(a * flat, b * flat, 5.0) == pytest.approx((2 * a * b + c) / (a * a + b * b + c))
    assert ssim(truth + 0.5 * normals(1, 32, 32, seed=1), truth, 4.0) < 0.99


@pytest.mark.parametrize(("draws", "margin", "share"), [(8, 1, 7 / 9), (2, 1, 1 / 3), (64, 3, 59 / 65)])
def test_exact_draws_hold_the_expected_share(draws: int, margin: int, share: float) -> None:
    assert expected_share(draws, margin) == pytest.approx(share)
    voxels = 40000
    rows, truth = normals(draws, voxels), normals(voxels, seed=1)
    found = held_share(rows, truth, torch.ones(voxels, dtype=torch.bool), margin)
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / voxels))


def test_narrow_draws_hold_less_and_only_the_inside_counts() -> None:
    rows, truth = 0.3 * normals(8, 2000), normals(2000, seed=1)
    inside = torch.arange(2000) < 1000
    assert held_share(rows, truth, inside) < 0.5
    truth[1000:] = 1e6
    assert held_share(rows, truth, inside) > 0.1
    assert held_share(rows, truth, ~inside) == 0.0


def test_the_margin_of_90_percent() -> None:
    assert margin_of(64, 0.9) == 3
    assert margin_of(8, 0.9) == 1
    with pytest.raises(ValueError, match="margin"):
        expected_share(8, 5)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = normals(400).tolist()
    mean, low, high = mean_interval(values)
    error = torch.tensor(values).std().item() / math.sqrt(400)
    assert mean == pytest.approx(sum(values) / 400)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)
    assert mean_interval(values) == (mean, low, high)  # keyed
    alone = mean_interval([1.5])
    assert alone[0] == 1.5
    assert math.isnan(alone[1])


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    # Percentiles of 24 values are a little short of 95 %; Student's t of 4 normal ones is not.
    for count, runs, least, most in ((24, 200, 0.86, 0.99), (4, 2000, 0.93, 0.97), (10, 2000, 0.93, 0.97)):
        table = normals(runs, count)
        held = sum(low <= 0 <= high for _, low, high in (mean_interval(row.tolist()) for row in table))
        assert least < held / runs <= most


def test_an_empty_list_has_no_mean() -> None:
    with pytest.raises(ValueError, match="differences"):
        mean_interval([])


def test_the_spectrum_of_a_wave_is_at_its_frequency_and_white_noise_is_flat() -> None:
    x = torch.arange(32, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 5 * x / 32).expand(1, 32, 32)
    found = radial_spectrum(wave)
    assert int(found.argmax()) == 5
    white = radial_spectrum(normals(200, 32, 32))
    assert white.shape == (17,)
    assert torch.allclose(white, torch.ones_like(white), atol=0.25)
