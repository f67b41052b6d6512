import math

import pytest
import torch

from workbench.random import Keys
from workbench.training.spectrum import difference_in_decibels, radial_power

NOISE = Keys(3, draws=tuple(range(200))).normals((48, 64), "noise", like=torch.empty(0))


def test_white_noise_has_the_same_power_at_all_frequencies() -> None:
    power = radial_power(2 * NOISE, bins=12)
    window = (3 / 8) ** 2  # the mean square of a Hann window, along both axes
    assert torch.allclose(power[1:], torch.full((11,), 4 * window, dtype=torch.float64), rtol=0.06)


def test_complex_noise_has_the_power_of_both_parts() -> None:
    both = torch.complex(NOISE[:100], NOISE[100:])
    ratio = radial_power(both, bins=12)[1:] / radial_power(NOISE, bins=12)[1:]
    assert torch.allclose(ratio, torch.full((11,), 2.0, dtype=torch.float64), rtol=0.1)


def test_a_wave_lies_in_the_ring_of_its_frequency() -> None:
    wave = torch.cos(2 * math.pi * 0.3 * torch.arange(64.0)).expand(1, 64, 64)
    assert int(radial_power(wave, bins=16).argmax()) == int(0.3 * 2 * 16)


def test_half_the_detail_is_six_decibels() -> None:
    power = radial_power(NOISE, bins=8)
    assert difference_in_decibels(radial_power(NOISE / 2, bins=8), power).tolist() == pytest.approx(
        [-6.02] * 8, abs=0.01
    )


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`images` must be \(count, y, x\) with sides of at least 32"):
        radial_power(torch.zeros(2, 16, 64))
