"""Distances near the surfaces of shapes, and how shapes join."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ball, ellipsoid, length, oval, rotation, smooth_max, smooth_min, step

CENTRE, AXES = (3.0, -2.0, 1.0), (20.0, 30.0, 12.0)
AWAY = Dice(1, "test/").normals("directions", 3, 500)
SURFACE = torch.tensor(AXES)[:, None] * AWAY / AWAY.norm(dim=0)


def test_a_ball_and_lengths_are_exact() -> None:
    points = AWAY.float()
    torch.testing.assert_close(length(points), points.norm(dim=0))
    torch.testing.assert_close(ball(points, (0, 0, 0), 2.0), points.norm(dim=0) - 2)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_distance_to_an_ellipsoid_is_of_first_order(angle: float) -> None:
    turn = rotation(2, angle, torch.float64)
    points = turn.T @ SURFACE + torch.tensor(CENTRE)[:, None]
    assert ellipsoid(points, CENTRE, AXES, turn).abs().max() < 1e-4
    normal = turn.T @ (SURFACE / torch.tensor(AXES)[:, None].square())
    normal = normal / normal.norm(dim=0)
    for off in (-0.2, 0.2):
        found = ellipsoid(points + off * normal, CENTRE, AXES, turn)
        torch.testing.assert_close(found, torch.full_like(found, off), atol=0.01, rtol=0)


def test_an_oval_of_power_two_is_an_ellipse() -> None:
    x, y = SURFACE[:2] / SURFACE[:2].div(torch.tensor(AXES[:2])[:, None]).norm(dim=0)
    distance, radius = oval(x, y, AXES[0], AXES[1])
    assert distance.abs().max() < 1e-4
    torch.testing.assert_close(radius, torch.ones_like(radius), atol=1e-5, rtol=0)
    boxy, _ = oval(x, y, AXES[0], AXES[1], 3.0)
    assert boxy.max() < 1e-4


def test_smooth_unions_differ_from_sharp_ones_near_the_crease_only() -> None:
    a = torch.linspace(-10, 10, 81)
    for sharp, smooth, sign in ((torch.minimum, smooth_min, -1), (torch.maximum, smooth_max, 1)):
        off = sign * (smooth(a, -a, 4.0) - sharp(a, -a))
        assert off.min() > -1e-6
        assert float(off.max()) == pytest.approx(1.0)  # a quarter of the width, where they cross
        assert off[(2 * a).abs() > 4].abs().max() == 0


def test_a_step_rises_or_falls() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])
    assert step(x, 0, 2).tolist() == [0, 0, 0.5, 1, 1]
    assert step(x, 2, 0).tolist() == [1, 1, 0.5, 0, 0]


def test_a_turn_is_about_its_axis() -> None:
    torch.testing.assert_close(rotation(2, math.pi / 2) @ torch.eye(3)[0], torch.eye(3)[1])
    assert rotation(1, 0.3, torch.float64).dtype == torch.float64
