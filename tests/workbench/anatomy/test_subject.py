"""Any subject: what a grid sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.grid import Grid, TimeAxis
from workbench.anatomy import Subject


@dataclass(frozen=True)
class Ball(Subject):
    """A ball of 100 in zero, its middle off the centre of its box."""

    seed: int = 0
    unit: str = "HU"
    label_names: Mapping[int, str] = None  # type: ignore[assignment]
    radius: float = 20.0

    @property
    def box(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        return (-30.0, -25.0, -22.0), (40.0, 25.0, 22.0)

    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        inside = (points - torch.tensor([4.0, 0.0, -1.0])).norm(dim=1) < self.radius
        return 100 * inside.float(), inside.short()


def test_its_grid_covers_the_box_along_the_axes_of_the_world() -> None:
    grid = Ball().grid((4.0, 3.0, 7.0))
    assert grid.orientation == "SAR"
    assert grid.spacing == pytest.approx((4.0, 3.0, 7.0))
    low, high = grid.index_to_world([-0.5] * 3), grid.index_to_world(np.array(grid.shape) - 0.5)
    assert (low <= np.array(Ball().box[0]) + 1e-9).all()
    assert (high >= np.array(Ball().box[1]) - 1e-9).all()
    assert np.allclose((low + high) / 2, (5.0, 0.0, 0.0))


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_voxel_is_the_mean_over_its_points_and_has_the_label_of_its_centre(supersample: int) -> None:
    grid = Ball().grid(5.0)
    rendered = Ball().render(grid, supersample=supersample)
    assert rendered.labels.data.dtype == torch.int16
    assert rendered.image.unit == "HU"
    assert rendered.image.grid == rendered.labels.grid == grid
    centres = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    assert torch.equal(rendered.labels.data.flatten(), Ball().values(centres)[1])
    levels = 100 * torch.arange(supersample**3 + 1) / supersample**3
    assert (rendered.image.data.flatten()[:, None] - levels).abs().amin(dim=1).max() < 1e-3
    volume = float(rendered.image.data.sum()) / 100 * grid.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.04)


def test_points_of_any_shape_have_values() -> None:
    values, labels = Ball().values(torch.zeros(2, 3, 3, dtype=torch.float64))
    assert values.shape == labels.shape == (2, 3)
    assert values.unique().tolist() == [100.0]


def test_frames_of_a_grid_are_left_out() -> None:
    grid = Ball().grid(10.0)
    assert Ball().render(grid.with_time(TimeAxis(3))).image.grid == grid


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="`grid` must be a Grid, got int"):
        Ball().render(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`supersample` must be an integer >= 1, got 0"):
        Ball().render(Grid.from_spacing((2, 2, 2), 1.0), supersample=0)
    with pytest.raises(ValueError, match=r"`spacing\[0\]` must be a finite number > 0, got -1"):
        Ball().grid(-1)
