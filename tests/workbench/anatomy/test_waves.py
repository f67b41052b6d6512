"""Random fields as sums of waves: their moments, their gradient."""

from __future__ import annotations

import pytest
import torch

from workbench.anatomy.dice import Dice
from workbench.anatomy.waves import EvenWaves, ScaledWaves, Warp

DICE = Dice(1, "test/")
POINTS = 400 * DICE.uniforms("points", 3, 40000).float()


def test_scaled_waves_have_their_sd_and_wavelengths() -> None:
    waves = ScaledWaves.draw(DICE, "scaled", fields=2, lengths=(20, 60), sd=3.0)
    fields = waves(POINTS)
    assert fields.shape == (2, POINTS.shape[1])
    assert fields.std(dim=1).tolist() == pytest.approx([3.0, 3.0], rel=0.1)
    lengths = 2 * torch.pi / waves.vectors.norm(dim=1)
    assert 20 < lengths.min() < 30 < 40 < lengths.max() < 60
    long = ScaledWaves.draw(DICE, "scaled", fields=2, lengths=(20, 60), sd=3.0, stretch=(1, 1, 2))
    assert torch.equal(long.vectors[:, 2], waves.vectors[:, 2] / 2)


def test_even_waves_have_variance_one_and_their_gradient() -> None:
    waves = EvenWaves.draw(DICE, "even", count=16, lengths=(20.0, 30.0))
    values, slope = waves.with_slope(POINTS)
    torch.testing.assert_close(values, waves(POINTS))
    assert float(values.std()) == pytest.approx(1, rel=0.1)
    points = POINTS[:, :200].double().requires_grad_()
    (expected,) = torch.autograd.grad(_differentiable(waves, points).sum(), points)
    torch.testing.assert_close(slope[:, :200], expected.float(), atol=1e-4, rtol=1e-3)
    # As few points as one likes: no sum depends on how many there are.
    assert torch.equal(waves(POINTS[:, :7]), values[:7])


def _differentiable(waves: EvenWaves, points: torch.Tensor) -> torch.Tensor:
    vectors = torch.tensor(waves.vectors, dtype=torch.float64)
    return waves.gain * (vectors @ points + torch.tensor(waves.phases)[:, None].double()).sin().sum(dim=0)


def test_a_warp_moves_points_by_its_size() -> None:
    warp = Warp.draw(DICE, "warp", size=4.0, count=24, lengths=(50.0, 100.0))
    moved = warp(POINTS) - POINTS
    assert float(moved.square().sum(dim=0).mean().sqrt()) == pytest.approx(4.0, rel=0.3)
