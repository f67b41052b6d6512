"""Lesions are where they say, as large as they say, with the contrast that they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.grid import Grid
from workbench.anatomy import Torso
from workbench.anatomy.torso.lesions import KINDS, counted
from workbench.anatomy.torso.tissues import LABELS, NAMES

ASKED = {"lung nodule": 2, "ground-glass nodule": 1, "liver metastasis": 2, "bone lesion": 1}
TORSO = Torso.draw(2, contrast="none", lesions=ASKED)


def test_there_are_as_many_as_asked_for_apart_from_one_another() -> None:
    assert [lesion.kind for lesion in TORSO.lesions] == [
        *["lung nodule"] * 2,
        "ground-glass nodule",
        *["liver metastasis"] * 2,
        "bone lesion",
    ]
    for i, one in enumerate(TORSO.lesions):
        for other in TORSO.lesions[:i]:
            assert np.linalg.norm(np.subtract(one.centre, other.centre)) > one.radius + other.radius


@pytest.mark.parametrize("lesion", TORSO.lesions, ids=lambda lesion: lesion.kind)
def test_each_is_what_it_says(lesion) -> None:
    kind = KINDS[lesion.kind]
    assert NAMES[lesion.label] == lesion.kind
    assert kind.radii[0] <= lesion.radius <= kind.radii[1]
    size = 0.4 if lesion.radius < 6 else 1.0
    count = int(3.2 * lesion.radius / size)
    grid = Grid.from_spacing((count, count, count), size, centre=lesion.centre)
    rendered = TORSO.render(grid, supersample=1)
    held = rendered.labels.data == lesion.label
    volume = int(held.sum()) * grid.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * lesion.radius**3, rel=0.2)
    centre = grid.index_to_world(held.nonzero().double().mean(dim=0).numpy())
    assert np.linalg.norm(centre - lesion.centre) < 0.15 * lesion.radius
    # Against the same subject without it, at its core.
    healthy = Torso.draw(2, contrast="none").render(grid, supersample=1)
    offset = grid.index_to_world(np.argwhere(np.ones(grid.shape))) - lesion.centre
    core = torch.from_numpy(np.linalg.norm(offset, axis=1) < 0.4 * lesion.radius).reshape(grid.shape)
    if kind.mixed:
        rise = (rendered.image.data - healthy.image.data)[core].mean()
    else:
        rise = rendered.image.data[core].mean() - TORSO.tissues[kind.tissue]
    assert float(rise) == pytest.approx(lesion.contrast, abs=12)
    # It lies in its organ: what it displaces is the organ, or a vessel in it.
    hosts = [*kind.hosts, "lung vessel", "airway"] if "nodule" in lesion.kind else kind.hosts
    host = torch.isin(healthy.labels.data, torch.tensor([LABELS[name] for name in hosts]).short())
    assert host[core].float().mean() > 0.85


def test_nothing_else_changes() -> None:
    healthy = Torso.draw(2, contrast="none")
    grid = healthy.grid(20.0)
    with_, without = TORSO.render(grid, supersample=1), healthy.render(grid, supersample=1)
    changed = with_.image.data != without.image.data
    points = grid.index_to_world(np.argwhere(changed.numpy()))
    for point in points:
        assert (
            min(np.linalg.norm(point - lesion.centre) - 1.5 * lesion.radius for lesion in TORSO.lesions) < 6
        )


def test_a_number_is_shared_out_among_the_kinds() -> None:
    assert counted(6) == {
        "lung nodule": 2,
        "ground-glass nodule": 2,
        "liver metastasis": 1,
        "bone lesion": 1,
    }
    assert counted({"bone lesion": 1, "lung nodule": 3}) == {"lung nodule": 3, "bone lesion": 1}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`lesions` must name kinds out of lung nodule, .*, got 'wart'"):
        Torso.draw(1, lesions={"wart": 1})
    with pytest.raises(ValueError, match="`lesions` must be an integer >= 0, got -1"):
        Torso.draw(1, lesions=-1)
    with pytest.raises(TypeError, match="`lesions` must be a number, or kinds with their numbers, got 'two'"):
        Torso.draw(1, lesions="two")  # type: ignore[arg-type]
