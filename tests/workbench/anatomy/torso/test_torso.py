"""The torso: one for each seed, the same on any grid, with each organ where it belongs and of its HU."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
import torch

from operators.grid import Grid
from workbench.anatomy import Rendered, Torso
from workbench.anatomy.torso.habitus import Frame, rib_cage
from workbench.anatomy.torso.tissues import LABELS, NAMES, PHASES


@lru_cache
def coarse(seed: int, contrast: str | None = None) -> tuple[Torso, Rendered]:
    torso = Torso.draw(seed, contrast=contrast)
    return torso, torso.render(torso.grid(6.0), supersample=1)


@lru_cache
def sliced() -> tuple[Torso, Grid, Rendered]:
    torso = Torso.draw(5, noise=10.0, lesions={"lung nodule": 1})
    grid = Grid.from_spacing((5, 25, 31), (36.0, 9.0, 11.3), centre=(1, 2, 190))
    return torso, grid, torso.render(grid, supersample=2)


def of(rendered: Rendered, *names: str) -> torch.Tensor:
    held = torch.zeros_like(rendered.labels.data, dtype=torch.bool)
    for name in names:
        held |= rendered.labels.data == LABELS[name]
    return held


def middle(rendered: Rendered, name: str) -> np.ndarray:
    index = of(rendered, name).nonzero().double().mean(dim=0)
    return rendered.image.grid.index_to_world(index.numpy())


def test_a_seed_is_a_subject_in_every_voxel() -> None:
    grid = Grid.from_spacing((6, 30, 40), (30.0, 8.0, 10.0), centre=(0, 0, 140))
    one, same, other = (Torso.draw(seed).render(grid, supersample=1) for seed in (3, 3, 4))
    assert torch.equal(one.image.data, same.image.data)
    assert torch.equal(one.labels.data, same.labels.data)
    assert (one.labels.data != other.labels.data).float().mean() > 0.1


@pytest.mark.parametrize(("axis", "index"), [(0, 2), (1, 14), (2, 11)])
def test_a_slice_shows_what_the_volume_shows_there(axis: int, index: int) -> None:
    torso, grid, whole = sliced()
    alone = torso.render(grid.slice_at(axis, index), supersample=2)
    part = [slice(None)] * 3
    part[axis] = slice(index, index + 1)
    assert torch.equal(alone.labels.data, whole.labels.data[tuple(part)])
    torch.testing.assert_close(alone.image.data, whole.image.data[tuple(part)], atol=0.02, rtol=1e-5)


def test_it_is_the_same_on_an_oblique_grid_stored_otherwise() -> None:
    torso = Torso.draw(6)
    turn, _ = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.2, 1.0, 0.4], [0.1, -0.5, 1.0]]))
    affine = np.eye(4)
    affine[:3, :3] = turn * (6.0, 2.0, 3.0)
    affine[:3, 3] = (0, 0, 200) - affine[:3, :3] @ ((np.array((1, 60, 70)) - 1) / 2)
    grid = Grid((1, 60, 70), affine)
    straight = torso.render(grid, supersample=1)
    turned = torso.render(grid.permute((2, 0, 1)).flip(0), supersample=1)
    back = turned.image.flip(0).permute((1, 2, 0))
    torch.testing.assert_close(back.data, straight.image.data, atol=0.02, rtol=1e-5)
    assert torch.equal(turned.labels.flip(0).permute((1, 2, 0)).data, straight.labels.data)
    assert len(straight.labels.data.unique()) > 10
    points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape))))
    torch.testing.assert_close(torso.values(points)[0], straight.image.data.flatten(), atol=0.02, rtol=1e-5)


#: Median HU of an organ's voxels without contrast.
RANGES = {
    "fat": (-125, -80),
    "muscle": (25, 75),
    "lung right": (-940, -740),
    "lung left": (-940, -740),
    "liver": (0, 85),
    "spleen": (30, 70),
    "kidney right": (10, 50),
    "aorta": (15, 70),
    "bladder": (-10, 45),
    "vertebra": (60, 420),
    "pelvis": (60, 700),
    "disc": (40, 130),
    "airway": (-1024, -500),
    "bowel gas": (-1024, -600),
}


@pytest.mark.parametrize("seed", [1, 2])
def test_organs_have_their_hu(seed: int) -> None:
    _, rendered = coarse(seed, "none")
    for name, (low, high) in RANGES.items():
        held = of(rendered, name)
        assert held.any(), name
        median = float(rendered.image.data[held].median())
        assert low < median < high, (name, median)
    outside = rendered.image.data[rendered.labels.data == 0]
    assert float(outside.median()) == -1000.0
    assert rendered.image.data.min() >= -1024
    assert rendered.image.data.max() <= 3071


def test_organs_lie_where_anatomy_has_them() -> None:
    _, rendered = coarse(1, "none")
    at = {name: middle(rendered, name) for name in NAMES.values() if of(rendered, name).any()}
    # R, A, S: right is positive.
    for right, left in (("liver", "spleen"), ("lung right", "lung left"), ("kidney right", "kidney left")):
        assert at[right][0] > 20 > -20 > at[left][0]
    assert at["heart muscle"][0] < -5
    assert at["sternum"][1] > at["heart muscle"][1] > at["vertebra"][1]
    order = ("thyroid", "airway", "heart muscle", "liver", "kidney right", "small bowel", "bladder", "femur")
    heights = [at[name][2] for name in order]
    assert heights == sorted(heights, reverse=True)
    assert at["stomach"][0] < 0
    missing = set(NAMES.values()) - set(at) - {"table", "cloth", "humerus", "breast gland", "pleural fluid"}
    assert all("nodule" in name or "lesion" in name or "metastasis" in name for name in missing), missing


def test_iodine_arrives_in_the_arteries_first() -> None:
    level = {}
    for phase in PHASES:
        torso = Torso.draw(2, contrast=phase)
        level[phase] = {name: torso.tissues[name] for name in ("aorta", "vein", "liver", "kidney cortex")}
        rest = {f.name: getattr(torso.habitus, f.name) for f in dataclasses.fields(torso.habitus)}
        level[phase]["same"] = rest["height"]
    none, arterial, venous = (level[phase] for phase in PHASES)
    assert arterial["aorta"] > venous["aorta"] > none["aorta"] + 50
    assert venous["vein"] > arterial["vein"]
    assert venous["liver"] > arterial["liver"] > none["liver"]
    assert arterial["kidney cortex"] > none["kidney cortex"] + 80
    assert none["same"] == arterial["same"] == venous["same"]


def test_labels_are_named_and_image_and_labels_agree() -> None:
    torso, rendered = coarse(1, "none")
    assert torso.label_names[0] == "outside"
    assert set(rendered.labels.data.unique().tolist()) <= set(torso.label_names)
    # Bone is dense and lung is not, voxel by voxel but for those on an edge.
    assert (rendered.image.data[of(rendered, "femur", "vertebra", "pelvis")] > -60).float().mean() > 0.97
    assert (rendered.image.data[of(rendered, "lung right", "lung left")] < -300).float().mean() > 0.95


def test_subjects_differ_in_build() -> None:
    builds = [Torso.draw(seed).habitus for seed in range(60)]
    assert len({build.fat for build in builds}) == 60
    assert min(b.fat for b in builds) < 6 < 30 < max(b.fat for b in builds)
    assert max(b.height for b in builds) > 1.1 * min(b.height for b in builds)
    assert {b.arms for b in builds} == {"up", "down", "absent"}
    assert 15 < sum(b.female for b in builds) < 45
    assert {Torso.draw(seed).contrast for seed in range(12)} == set(PHASES)


def test_organs_stay_inside_the_body() -> None:
    for seed in range(50):
        torso = Torso.draw(seed)
        grid = torso.grid((24.0, 20.0, 20.0))
        points = torch.from_numpy(grid.index_to_world(np.argwhere(np.ones(grid.shape)))).float()
        q = torso._frame.body(points)
        skin, muscle = torso._surfaces(q, points.T)
        lungs = torso._chest.lungs(q) < 0
        assert 200 < int(lungs.sum()) < 900, seed  # of 9.6 ml each
        for name, organ in (("lungs", lungs), ("liver", torso._abdomen.liver(q) < 0)):
            assert organ.any(), (seed, name)
            assert float(skin[organ].max()) < -3, (seed, name)
            assert float(muscle[organ].max()) < 0, (seed, name)
        ribs = (rib_cage(q)[0] < 0) & (q[2] > 150)
        assert float(skin[ribs].max()) < 0, seed


def test_the_body_lies_inside_its_box() -> None:
    _, rendered = coarse(1, "none")
    body = (rendered.labels.data > 0) & ~of(rendered, "table", "cloth")
    for face in (body[:, 0], body[:, -1], body[:, :, 0], body[:, :, -1]):
        assert not face.any()
    assert body[0].any()  # thighs and neck go on
    assert body[-1].any()


def test_the_way_to_the_body_and_back() -> None:
    torso = Torso.draw(9)
    frame: Frame = torso._frame
    points = torch.tensor([[60.0, 20.0, 200.0], [-80.0, -40.0, 350.0], [0.0, 90.0, 40.0]])
    torch.testing.assert_close(frame.world(frame.body(points)), points, atol=0.01, rtol=0)


def test_noise_is_added_to_the_same_subject() -> None:
    grid = Grid.from_spacing((3, 40, 40), (2.0, 1.5, 1.5), centre=(70, 0, 190))
    still = Torso.draw(2).render(grid, supersample=1)
    noisy = Torso.draw(2, noise=20.0).render(grid, supersample=1)
    assert torch.equal(still.labels.data, noisy.labels.data)
    difference = noisy.image.data - still.image.data
    assert abs(float(difference.mean())) < 2
    assert 10 < float(difference.std()) < 25
    sharp, soft = (Torso.draw(2, edge=edge).render(grid, supersample=1).image.data for edge in (1.0, 4.0))
    assert sharp.diff(dim=2).abs().max() > soft.diff(dim=2).abs().max()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0, got -1"):
        Torso.draw(-1)
    with pytest.raises(ValueError, match="`contrast` must be one of none, arterial, venous, got 'late'"):
        Torso.draw(1, contrast="late")
    with pytest.raises(ValueError, match="`noise` must be a finite number >= 0, got -2"):
        Torso.draw(1, noise=-2)
    with pytest.raises(ValueError, match="`edge` must be a finite number > 0, got 0"):
        Torso.draw(1, edge=0)
