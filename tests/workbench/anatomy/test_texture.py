"""Random fields on lattices: their moments, and how alike neighbours are."""

from __future__ import annotations

import pytest
import torch

from workbench.anatomy.dice import Dice
from workbench.anatomy.texture import SharpTexture, SmoothTexture

DICE = Dice(1, "test/")
POINTS = 100 * DICE.uniforms("points", 3, 20000).float()


def test_a_smooth_texture_has_independent_channels_and_any_cell() -> None:
    texture = SmoothTexture.draw(DICE, "smooth", channels=2, size=24)
    fields = texture(POINTS, 3.0)
    assert fields.shape == (2, POINTS.shape[1])
    assert fields.mean(dim=1).abs().max() < 0.1
    assert 0.6 < float(fields.std()) < 1.05
    assert float(torch.corrcoef(fields)[0, 1].abs()) < 0.1
    torch.testing.assert_close(texture(2 * POINTS, 6.0), fields, atol=1e-3, rtol=0)


def test_a_sharp_texture_has_the_same_variance_between_lattice_points() -> None:
    texture = SharpTexture.draw(DICE, "sharp", step=2.0, size=32)
    values = texture(POINTS)
    frame = torch.tensor(texture.frame)
    torch.testing.assert_close(frame @ frame.T, torch.eye(3) / 4, atol=1e-6, rtol=0)
    off = (frame @ POINTS) % 1
    middle = ((off - 0.5).abs() < 0.2).all(dim=0)
    assert float(values.std()) == pytest.approx(1, abs=0.05)
    assert float(values[middle].std()) == pytest.approx(1, abs=0.15)
    far = torch.corrcoef(torch.stack([values, texture(POINTS + 8.0)]))[0, 1]
    near = torch.corrcoef(torch.stack([values, texture(POINTS + 0.2)]))[0, 1]
    assert abs(float(far)) < 0.05
    assert float(near) > 0.8
