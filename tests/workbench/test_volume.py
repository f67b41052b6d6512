from collections.abc import Callable

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.volume import Volume

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def slopes(shape: tuple[int, int, int] = (4, 6, 8), time: TimeAxis | None = None) -> Volume:
    """Return an oblique volume whose value is a linear function of the world point."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION @ np.diag([3.0, 2.0, 1.0])
    affine[:3, 3] = (10.0, -20.0, 30.0)
    grid = Grid(shape, affine, time)
    return Volume(value_at(grid), grid, "HU")


def value_at(grid: Grid) -> torch.Tensor:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    values = torch.from_numpy(grid.index_to_world(index) @ np.array([1.0, 10.0, 100.0]))
    return values if grid.time is None else values.expand(grid.array_shape).clone()


@pytest.mark.parametrize("time", [None, TimeAxis(2)])
@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.crop((1, 0, 2), (3, 6, 7)),
        lambda v: v.flip(0, 2),
        lambda v: v.permute((2, 0, 1)),
        lambda v: v.downsample((2, 3, 4)),
        lambda v: v.resample(v.grid.resample(shape=(5, 7, 4)).crop((1, 1, 1), (4, 6, 3))),
        lambda v: v.resample(v.grid.flip(1)),
    ],
    ids=["crop", "flip", "permute", "downsample", "resample", "resample flipped"],
)
def test_voxels_and_frame_move_together(change: Callable[[Volume], Volume], time: TimeAxis | None) -> None:
    """A linear function of the world point stays that function, whatever is done to the grid."""
    changed = change(slopes(time=time))
    assert (changed.data - value_at(changed.grid)).abs().max() < 1e-9
    assert changed.grid.time == time
    assert changed.unit == "HU"


def test_pad_adds_the_stated_value_around() -> None:
    volume = slopes()
    padded = volume.pad((1, 0, 2), (0, 3, 1), value=-7.0)
    assert torch.equal(padded.crop((1, 0, 2), (5, 6, 10)).data, volume.data)
    assert (padded.data == -7.0).sum() == padded.data.numel() - volume.data.numel()


def test_resample_outside_gives_the_stated_value() -> None:
    volume = slopes()
    wider = volume.resample(volume.grid.pad(1), outside=-1000.0)
    assert (wider.data[0] == -1000).all()
    assert torch.allclose(wider.crop((1, 1, 1), (5, 7, 9)).data, volume.data)


def test_one_slice_can_be_resampled() -> None:
    plane = slopes((1, 6, 8))
    assert torch.allclose(plane.resample(plane.grid.flip(2)).data, plane.data.flip(-1))


def test_bad_volumes() -> None:
    grid = Grid.from_spacing((2, 3, 4), 1.0)
    with pytest.raises(
        ValueError, match=r"`data` must have the grid's array shape \(2, 3, 4\), got \(2, 3, 5\)"
    ):
        Volume(torch.zeros(2, 3, 5), grid)
    with pytest.raises(TypeError, match=r"`data` must be a torch\.Tensor, got ndarray"):
        Volume(np.zeros((2, 3, 4)), grid)  # type: ignore[arg-type]
    labels = Volume(torch.zeros(2, 3, 4, dtype=torch.int16), grid)
    with pytest.raises(TypeError, match="be floating point or complex to downsample, got torch.int16"):
        labels.downsample((2, 1, 1))
