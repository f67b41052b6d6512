"""Frames are the subject at r + u(r, t), and u does not fold space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.deformation.jacobian import check_diffeomorphic
from operators.grid import Grid, TimeAxis
from workbench.anatomy import Torso
from workbench.anatomy.motion import Beating, Breathing, Movement, render_frames

TORSO = Torso.draw(1)
MOVEMENTS = [Breathing(TORSO.landmarks["diaphragm"]), Beating(TORSO.landmarks["heart"])]
COARSE = Grid.from_spacing((1, 60, 50), (4.0, 5.0, 5.0), centre=TORSO.landmarks["heart"])


def coronal(movement: Movement, count: int = 4) -> Grid:
    still = Grid.from_spacing((50, 1, 60), 6.0, centre=(0, 15, 240))
    return still.with_time(TimeAxis(count, movement.period / count))


@pytest.mark.parametrize("movement", MOVEMENTS, ids=lambda movement: type(movement).__name__)
def test_a_frame_is_the_subject_at_displaced_points(movement: Movement) -> None:
    grid = coronal(movement)
    frames = render_frames(TORSO, movement, grid, supersample=1)
    assert frames.image.data.shape == frames.labels.data.shape == (4, 50, 1, 60)
    assert frames.image.grid == grid
    still = grid.with_time(None)
    points = torch.from_numpy(still.index_to_world(np.argwhere(np.ones(still.shape))))
    for k, field in enumerate(frames.fields):
        assert field.components == ("R", "A", "S")
        assert (field.unit, field.grid) == ("mm", still)
        values, labels = TORSO.values(points + field.data.reshape(3, -1).T.double())
        # A field in single precision displaces an edge a little.
        same = (values - frames.image.data[k].flatten()).abs() < 2
        assert same.float().mean() > 0.99
        assert (labels == frames.labels.data[k].flatten()).float().mean() > 0.995
    assert torch.equal(frames.image.data[0], TORSO.render(still, supersample=1).image.data)
    assert frames.fields[0].data.abs().max() == 0
    assert (frames.image.data[2] - frames.image.data[0]).abs().mean() > 1


@pytest.mark.parametrize("movement", MOVEMENTS, ids=lambda movement: type(movement).__name__)
def test_no_frame_folds_and_nothing_moves_the_table(movement: Movement) -> None:
    grid = TORSO.grid(8.0)
    points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    field = movement.displacement(points, movement.period / 2.0)
    check_diffeomorphic(field.T.reshape(3, *grid.shape), grid)
    table = TORSO.values(points)[1] == 43
    assert TORSO.label_names[43] == "table"
    assert table.any()
    assert field[table].norm(dim=1).max() < 0.05


def test_breathing_in_moves_the_dome_down_and_the_front_forward() -> None:
    breathing = Breathing((0.0, 10.0, 230.0), depth=20.0, rise=6.0)
    dome, front, spine = (
        breathing.displacement(torch.tensor([point]), 2.0)[0]
        for point in ([60.0, 10.0, 225.0], [0.0, 110.0, 210.0], [0.0, -38.0, 225.0])
    )
    # What is at r now was above it, and behind it.
    assert 14 < float(dome[2]) < 20
    assert -6.1 < float(front[1]) < -4
    assert spine.norm() < 2
    assert max(breathing.share(0.0), breathing.share(4.0)) < 1e-20
    assert breathing.share(2.0) == 1


def test_the_heart_contracts_to_its_middle() -> None:
    beating = Beating((-20.0, 20.0, 280.0), contraction=0.25)
    point = torch.tensor([[0.0, 20.0, 280.0]])
    systole = beating.displacement(point, 0.3)[0]
    assert float(systole[0]) == pytest.approx(0.25 * 20 * (1 - (20 / 75) ** 2) ** 2, rel=1e-4)
    assert float(systole[1:].abs().max()) == 0
    assert beating.displacement(point, 0.0).abs().max() == 0
    far = torch.tensor([[-20.0, 20.0, 360.0]])
    assert beating.displacement(far, 0.3).abs().max() == 0
    blood = [len((render_frames(TORSO, MOVEMENTS[1], COARSE.with_time(TimeAxis(1, 0.1, start)), supersample=1)
                  .labels.data == 9).nonzero()) for start in (0.0, 0.3)]  # fmt: skip
    assert TORSO.label_names[9] == "heart chamber left"
    assert blood[1] < 0.85 * blood[0]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="`grid` must have a time axis"):
        render_frames(TORSO, MOVEMENTS[0], COARSE)
    with pytest.raises(ValueError, match="`period` must be a finite number > 0, got 0"):
        Breathing((0, 0, 0), period=0)
    with pytest.raises(ValueError, match="`depth` must be at most 60 mm, got 80. More would fold"):
        Breathing((0, 0, 0), depth=80)
    with pytest.raises(ValueError, match="`contraction` must be below 1, got 1.5. More would fold"):
        Beating((0, 0, 0), contraction=1.5)
