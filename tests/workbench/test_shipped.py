"""The priors that come with the workbench: one line each, and what their cards promise."""

from __future__ import annotations

import subprocess

import pytest
import torch

from operators.grid import Grid
from workbench.io.weights import read_card
from workbench.random import Keys
from workbench.shipped import SHIPPED, shipped_path, shipped_prior

MEGABYTE = 2**20


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_prior_is_small_and_says_where_it_comes_from(name: str) -> None:
    path = shipped_path(name)
    assert path.stat().st_size <= 12 * MEGABYTE
    card = read_card(path)
    assert card.dtype == "float16"
    assert card.provenance.licence
    assert card.provenance.attribution
    assert card.provenance.steps
    assert card.provenance.metrics
    assert len(card.sha256) == 64
    spoken = f"{card.provenance.data} {card.provenance.attribution}"
    for held_out in ("R01-001", "TotalSegmentator", "studyforrest"):
        assert held_out not in spoken


@pytest.mark.parametrize("name", SHIPPED)
def test_git_does_not_ignore_what_is_shipped(name: str) -> None:
    path = shipped_path(name)
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=path.parent, check=False).returncode
    if ignored == 128:
        pytest.skip("this is no checkout")
    assert ignored == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_history_holds_three_versions_of_the_weights_at_most(name: str) -> None:
    path = shipped_path(name)
    command = ["git", "log", "--format=%h", "--", path.name]
    log = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if log.returncode:
        pytest.skip("this is no checkout")
    assert len(log.stdout.split()) <= 3


def body(grid: Grid) -> torch.Tensor:
    """Return a disc of water with a vertebra, in thousands of HU, and air around."""
    _, rows, columns = grid.shape
    y, x = torch.meshgrid(torch.arange(rows) - rows / 2, torch.arange(columns) - columns / 2, indexing="ij")
    image = torch.full((rows, columns), -1.0)
    image[(x / 48) ** 2 + (y / 32) ** 2 < 1] = 0.04
    image[x**2 + (y + 20) ** 2 < 36] = 0.4
    return image[None]


def test_the_prior_of_ct_takes_noise_off_a_body() -> None:
    grid = Grid.plane((128, 128), (2.7, 2.7))
    prior = shipped_prior("ct-slice", grid, energy=70.0)
    assert prior.units.unit == "1/mm"
    image = body(grid)
    noise = torch.sin(torch.arange(128 * 128).float() ** 2 % 97).reshape(1, 128, 128)
    sigma = float(noise.std())
    for level in (0.1, 0.3):
        z = image + noise * level / sigma
        left = (prior.denoise(z[None], level)[0] - image).square().mean().sqrt()
        assert left < 0.35 * level


def test_it_is_the_same_prior_whichever_way_the_slice_is_stored() -> None:
    grid = Grid.plane((96, 128), (2.0, 2.0))
    other = grid.permute((0, 2, 1)).flip(1)
    z = body(grid)[None] + 0.1
    there = shipped_prior("ct-slice", grid).denoise(z, 0.2)
    here = shipped_prior("ct-slice", other).denoise(z.transpose(-1, -2).flip(-2), 0.2)
    assert torch.allclose(here.flip(-2).transpose(-1, -2), there, atol=2e-4)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="`name` must be one of ct-slice.* got 'knee'"):
        shipped_path("knee")


def head(grid: Grid) -> torch.Tensor:
    """Return a disc of brain within a ring of skin, under a smooth phase."""
    _, rows, columns = grid.shape
    y, x = torch.meshgrid(torch.arange(rows) - rows / 2, torch.arange(columns) - columns / 2, indexing="ij")
    radius = ((x / 36) ** 2 + (y / 46) ** 2).sqrt()
    image = 0.8 * (radius < 1).float() + 0.9 * ((radius > 1.15) & (radius < 1.25)).float()
    image[(x / 6) ** 2 + (y / 12) ** 2 < 1] = 0.3
    return torch.polar(image, 1 + x / 40 + (y / 60) ** 2)[None]


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.2])
def test_the_prior_of_mr_takes_noise_off_a_head_whose_scale_is_not_quite_known(scale: float) -> None:
    grid = Grid.plane((128, 128), (1.8, 1.8))
    prior = shipped_prior("mr-slice", grid)
    image = scale * head(grid)
    assert prior.space.is_complex
    noise = Keys(1, (0,)).normals(image.shape, "test", like=image)[0]
    for level, share in ((0.05, 0.55), (0.2, 0.35)):
        z = image + noise * level
        left = (prior.denoise(z[None], level)[0] - image).abs().square().mean().sqrt()
        assert left < share * 2**0.5 * level  # sigma is that of each component
    z = (image + 0.1 * noise)[None]
    turned = prior.denoise(1j * z, 0.1) - 1j * prior.denoise(z, 0.1)
    assert turned.abs().square().mean().sqrt() < 0.05  # no phase is another's better
