import math

import pytest
import torch

from operators.grid import Grid
from workbench.anatomy.brain.phase import complex_image, phase_at, smooth_phase
from workbench.volume import Volume

GRID = Grid.from_spacing((1, 90, 90), 2.0, centre=(0, -17, 10))


def test_the_phase_is_a_function_of_the_world_point() -> None:
    whole = smooth_phase(GRID, 3)
    assert whole.shape == GRID.shape
    part = smooth_phase(GRID.crop((0, 10, 20), (1, 50, 60)), 3)
    torch.testing.assert_close(part, whole[:, 10:50, 20:60], rtol=0, atol=1e-5)
    point = torch.from_numpy(GRID.index_to_world([0, 4, 7]))
    assert float(phase_at(point, 3)) == pytest.approx(float(whole[0, 4, 7]), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_phase_is_smooth(seed: int) -> None:
    phase = smooth_phase(Grid.from_spacing((1, 90, 90), 2.0, centre=(0, 0, -30)), seed)
    for axis in (1, 2):
        assert float(phase.diff(dim=axis).abs().max()) < 0.7  # rad per 2 mm, over the sinuses
    # Second differences of a smooth function are far smaller than first ones.
    assert float(phase.diff(n=2, dim=1).abs().mean()) < 0.15 * float(phase.diff(dim=1).abs().mean())


def test_seeds_differ_and_the_constant_is_any_angle() -> None:
    centres = torch.tensor([float(phase_at(torch.zeros(3), seed)) for seed in range(40)])
    mean = torch.polar(torch.ones(40), centres).mean().abs()
    assert float(mean) < 0.4


def test_without_strength_there_is_a_constant() -> None:
    phase = smooth_phase(GRID, 1, strength=0.0, susceptibility=0.0)
    assert float(phase.max() - phase.min()) == 0
    assert abs(float(phase.mean())) <= math.pi


def test_the_image_is_magnitude_times_a_unit_phase() -> None:
    image = Volume(torch.full(GRID.shape, 2.0), GRID)
    made = complex_image(image, 5)
    torch.testing.assert_close(made.data.abs(), image.data, rtol=1e-6, atol=0)
    expected = torch.polar(torch.ones(GRID.shape), smooth_phase(GRID, 5))
    torch.testing.assert_close(made.data / 2, expected)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="`image` must be a Volume of real magnitudes, got torch.complex64"):
        complex_image(Volume(torch.ones(GRID.shape, dtype=torch.complex64), GRID), 0)
    with pytest.raises(ValueError, match="`strength` must be a finite number >= 0, got -1"):
        smooth_phase(GRID, 0, strength=-1)
    with pytest.raises(TypeError, match="`points` must be a tensor of world points"):
        phase_at(torch.zeros(4), 0)
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0, got -1"):
        smooth_phase(GRID, -1)
