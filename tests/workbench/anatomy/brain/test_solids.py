"""The solids of a head are the shared shapes but for rounding."""

from __future__ import annotations

import torch

from workbench.anatomy.brain.solids import join, meet, superellipsoid, tube
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ellipsoid, smooth_max, smooth_min
from workbench.anatomy.tubes import Tubes

POINTS = 30 * Dice(1, "test/").normals("points", 3, 2000).float()


def test_join_and_meet_are_smooth_unions_and_intersections() -> None:
    a, b, _ = POINTS
    torch.testing.assert_close(join(a, b, 9.0), smooth_min(a, b, 9.0), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(meet(a, b, 9.0), smooth_max(a, b, 9.0), atol=1e-4, rtol=1e-5)


def test_a_superellipsoid_of_power_two_is_an_ellipsoid() -> None:
    centre, axes = (3.0, -4.0, 5.0), (25.0, 40.0, 30.0)
    expected, found = (solid(POINTS, centre, axes) for solid in (ellipsoid, superellipsoid))
    near = expected.abs() < 8
    torch.testing.assert_close(found[near], expected[near], atol=1e-3, rtol=1e-3)
    boxy = superellipsoid(POINTS, centre, axes, power=3.0)
    assert (boxy[found < 0] < 0).all()
    assert (boxy < 0).sum() > 1.05 * (found < 0).sum()
    # Unlike `ellipsoid`, it has a distance at its middle.
    assert float(superellipsoid(torch.tensor([centre]).T, centre, axes)) == -25.0


def test_a_tube_is_one_of_tubes() -> None:
    path, radii = ((0.0, 0.0, 0.0), (10.0, 20.0, -5.0), (30.0, 20.0, 0.0)), (4.0, 6.0, 2.0)
    many = Tubes(path[:-1], path[1:], radii[:-1], radii[1:])
    found = many.nearest(POINTS, 1e3)
    assert found is not None
    torch.testing.assert_close(tube(POINTS, path, radii), found[0], atol=1e-3, rtol=1e-4)
