import numpy as np
import pytest
import torch

from operators.grid import Grid
from workbench.phantoms import WATER, _ribs, chest_phantom

GRID = Grid.from_spacing((12, 48, 64), (12.0, 5.0, 5.0))


def at(volume_grid: Grid, data: torch.Tensor, point: tuple[float, float, float]) -> float:
    z, y, x = np.round(volume_grid.world_to_index(point)).astype(int)
    return float(data[z, y, x]) / WATER


def test_organs_lie_where_anatomy_has_them() -> None:
    volume = chest_phantom(GRID, vessels=0)
    assert volume.unit == "1/mm"
    assert at(GRID, volume.data, (66, 6, 0)) == pytest.approx(0.26, abs=0.01)  # right lung
    assert at(GRID, volume.data, (-30, 26, -12)) > 1.0  # heart, on the patient's left
    assert at(GRID, volume.data, (0, -62, 0)) == pytest.approx(1.35, abs=0.01)  # spine, posterior
    assert at(GRID, volume.data, (56, 0, -66)) > 1.0  # liver, right and inferior
    assert at(GRID, volume.data, (0, 118, 0)) == 0.0  # air


def test_it_is_the_same_object_on_any_grid_and_for_one_seed() -> None:
    once = chest_phantom(GRID, seed=3)
    assert torch.equal(once.data, chest_phantom(GRID, seed=3).data)
    assert not torch.equal(once.data, chest_phantom(GRID, seed=4).data)
    flipped = chest_phantom(GRID.flip(0, 2), seed=3)
    assert torch.allclose(flipped.flip(0, 2).data, once.data)
    coarse = Grid.from_spacing((20, 60, 80), 4.0)
    fine = chest_phantom(coarse.resample(shape=(40, 120, 160)), seed=3).downsample(2)
    # The edge is one voxel wide on either grid: only voxels on a surface differ.
    assert (fine.data - chest_phantom(coarse, seed=3).data).abs().mean() < 0.02 * WATER


def test_the_chest_is_about_the_centre_of_its_grid_wherever_that_lies() -> None:
    elsewhere = Grid.from_spacing(GRID.shape, GRID.spacing, centre=(100.0, -50.0, 300.0))
    assert torch.allclose(chest_phantom(elsewhere).data, chest_phantom(GRID).data, atol=1e-6)


@pytest.mark.parametrize("y", [-26.0, 0.0, 26.0])
def test_ribs_fall_from_the_spine_to_the_front(y: float) -> None:
    x = 128 * np.sqrt(1 - (y / 84) ** 2)
    height = 13 - 0.25 * y  # of one rib; the next gap is half a period up
    points = np.array([[x, y, height], [x, y, height + 13], [-x, y, height], [x, y, height + 26]])
    assert _ribs(points, edge=1.0).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0, got -1"):
        chest_phantom(GRID, seed=-1)
    with pytest.raises(ValueError, match="`vessels` must be an integer >= 0"):
        chest_phantom(GRID, vessels=-1)
