"""Breathing and beating move what they should, and do not fold space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.deformation.jacobian import check_diffeomorphic
from operators.grid import Grid, TimeAxis
from workbench.anatomy.motion import Movement, Together, render_frames
from workbench.anatomy.torso import Beating, Breathing, Torso

TORSO = Torso.draw(1)
MOVEMENTS = [Breathing(TORSO.landmarks["diaphragm"]), Beating(TORSO.landmarks["heart"])]
BOTH = Together(*MOVEMENTS)
COARSE = Grid.from_spacing((1, 60, 50), (4.0, 5.0, 5.0), centre=TORSO.landmarks["heart"])


@pytest.mark.parametrize("movement", [*MOVEMENTS, BOTH], ids=lambda movement: type(movement).__name__)
def test_no_frame_folds_and_nothing_moves_the_table(movement: Movement) -> None:
    grid = TORSO.grid(8.0)
    points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    field = movement.displacement(points, movement.period / 2.0)
    check_diffeomorphic(field.T.reshape(3, *grid.shape), grid)
    table = TORSO.values(points)[1] == 43
    assert TORSO.label_names[43] == "table"
    assert table.any()
    assert field[table].norm(dim=1).max() < 0.05


def test_bones_of_the_back_hardly_move() -> None:
    grid = TORSO.grid(6.0)
    points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    labels = TORSO.values(points)[1]
    for movement, time in zip(MOVEMENTS, (2.0, 0.3), strict=True):
        size = movement.displacement(points, time).norm(dim=1)
        for bone in (29, 38):  # vertebrae, pelvis
            assert size[labels == bone].mean() < 0.3
            assert size[labels == bone].max() < 5


@pytest.mark.parametrize("movement", [Breathing((0, 0, 0), 60.0, 60.0), Beating((0, 0, 0), 0.99)], ids=str)
def test_the_largest_movements_that_are_accepted_do_not_fold(movement: Movement) -> None:
    grid = Grid.from_spacing((150, 80, 100), 4.0, centre=(0.0, 20.0, -30.0))
    points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    time = 2.0 if isinstance(movement, Breathing) else 0.3
    field = movement.displacement(points, time).T.reshape(3, *grid.shape)
    slopes = torch.stack(torch.gradient(field, spacing=4.0, dim=(1, 2, 3)), dim=-1).movedim(0, -2)
    # Of world axes R, A, S the grid's arrays run S, A, R.
    jacobian = torch.linalg.det(torch.eye(3) + slopes.flip(-1))
    assert jacobian.min() > 0.25


def test_two_movements_at_once_are_one_after_the_other() -> None:
    breathing, beating = MOVEMENTS
    points = torch.tensor([TORSO.landmarks["heart"], (30.0, 60.0, 250.0)], dtype=torch.float64)
    moved = points + breathing.displacement(points, 1.3)
    rest = moved + beating.displacement(moved, 1.3)
    assert torch.allclose(points + BOTH.displacement(points, 1.3), rest)
    assert BOTH.period == breathing.period


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
    behind = beating.displacement(torch.tensor([[-20.0, 20.0 - 61.0, 280.0]]), 0.3)
    assert behind.abs().max() == 0
    assert float(systole[1:].abs().max()) == 0
    assert beating.displacement(point, 0.0).abs().max() == 0
    far = torch.tensor([[-20.0, 20.0, 360.0]])
    assert beating.displacement(far, 0.3).abs().max() == 0
    blood = [len((render_frames(TORSO, MOVEMENTS[1], COARSE.with_time(TimeAxis(1, 0.1, start)), supersample=1)
                  .labels.data == 9).nonzero()) for start in (0.0, 0.3)]  # fmt: skip
    assert TORSO.label_names[9] == "heart chamber left"
    assert blood[1] < 0.85 * blood[0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`period` must be a finite number > 0, got 0"):
        Breathing((0, 0, 0), period=0)
    with pytest.raises(ValueError, match="`depth` must be at most 60 mm, got 80. More would fold"):
        Breathing((0, 0, 0), depth=80)
    with pytest.raises(ValueError, match="`contraction` must be below 1, got 1.5. More would fold"):
        Beating((0, 0, 0), contraction=1.5)
