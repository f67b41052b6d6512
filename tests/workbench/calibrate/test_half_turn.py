"""Half a turn as the angles state it, from phantoms whose angles are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from tests.workbench.solvers.analytic.ct_cases import chords
from workbench.calibrate.half_turn import stated_half_turn
from workbench.solvers.analytic.ramp_filter import smoothed

STEP = math.radians(1)


def smooth_views(angles: object, noise: float = 0.0, *, turning: bool = True) -> np.ndarray:
    scan = ParallelBeamGeometry(tuple(angles), 101, 1.0, axis_column=48.0)  # type: ignore[arg-type]
    # Of one disc alone the opposed views of half a turn cannot tell a turn from a shift of the axis.
    data = chords(scan, 25.0, (12.0 * turning, 3.0 * turning, 0.0), ball=False)
    data += turning * chords(scan, 8.0, (-4.0, 21.0, 0.0), ball=False)
    random = np.random.Generator(np.random.Philox(2)).normal(size=data.shape)
    found: np.ndarray = smoothed(data + noise * torch.from_numpy(random), window="hann", cutoff=0.5).numpy()
    return found


@pytest.mark.parametrize("scale", [1.0, 180 / 181, 181 / 180, 179.5 / 180])
@pytest.mark.parametrize("views", [181, 361])
def test_it_is_the_scale_of_the_angles(views: int, scale: float) -> None:
    angles = np.arange(views) * STEP
    found = stated_half_turn(smooth_views(angles), angles * scale, 48.0)
    assert found is not None
    assert abs(found.angle - math.pi * scale) < 0.3 * STEP
    assert found.gap == pytest.approx(STEP * scale)
    assert found.is_wrong == (abs(scale - 1) > 0.6 / 180)


@pytest.mark.parametrize(
    "order", [slice(None, None, -1), np.random.Generator(np.random.Philox(1)).permutation(181)]
)
def test_the_order_of_the_views_is_no_matter(order: object) -> None:
    angles = np.arange(181) * STEP
    data = smooth_views(angles)
    plain, other = (stated_half_turn(data[o], angles[o], 48.0) for o in (slice(None), order))  # type: ignore[index]
    assert plain == other


@pytest.mark.parametrize(
    ("views", "noise", "turning"),
    [(181, 0.3, True), (181, 0.0, False), (120, 0.0, True), (8, 0.0, True)],
    ids=["noise", "a centred disc", "nothing opposed", "few views"],
)
def test_where_nothing_can_be_told_nothing_is(views: int, noise: float, turning: bool) -> None:
    angles = np.arange(views) * STEP
    assert stated_half_turn(smooth_views(angles, noise, turning=turning), angles, 48.0) is None


def test_one_disc_over_half_a_turn_leaves_it_open() -> None:
    angles = np.arange(181) * STEP
    scan = ParallelBeamGeometry(tuple(angles), 101, 1.0, axis_column=48.0)
    data = smoothed(chords(scan, 25.0, (12.0, 3.0, 0.0), ball=False), window="hann", cutoff=0.5).numpy()
    found = stated_half_turn(data, angles * 180 / 181, 48.0)
    assert found is None or not found.is_wrong
