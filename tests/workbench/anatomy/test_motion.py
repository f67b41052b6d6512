"""Frames are the subject at r + u(r, t)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.anatomy.motion import Movement, render_frames
from workbench.anatomy.torso import Beating, Breathing, Torso

TORSO = Torso.draw(1)
MOVEMENTS = [Breathing(TORSO.landmarks["diaphragm"]), Beating(TORSO.landmarks["heart"])]


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


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="`grid` must have a time axis"):
        render_frames(TORSO, MOVEMENTS[0], Grid.from_spacing((1, 60, 50), 4.0))
