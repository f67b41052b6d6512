"""Priors of slices on whatever grid: the network sees the same image, however it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from operators.grid import Grid, TimeAxis
from operators.identity import Identity
from operators.space import Space
from workbench import Posterior, Units
from workbench.calibrate.hounsfield import hounsfield_units, water_attenuation
from workbench.io.slice_prior import read_slice_prior
from workbench.io.weights import write_network
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.priors.network import Architecture, Card, EDMOutput, Labelled, Provenance, Training
from workbench.priors.slice_frame import LABELS, SliceAxis, SliceFrame
from workbench.priors.unet import UNet, UNetSettings

SLICES = {"slices": {"frame": 1, "spacing": [1.5, 3.0]}}
HU = Units(1000.0, 0.0, "HU")


def written(folder: Path, *, is_complex: bool = False, notes: object = SLICES, units: Units = HU) -> Path:
    """Return a file of a network with weights of no meaning, all of them at work."""
    channels = 2 if is_complex else 1
    settings = UNetSettings(
        in_channels=channels, out_channels=channels, widths=(8, 16), blocks=(1, 1), attention=(1,),
        head_width=8, groups=4, labels=LABELS,
    )  # fmt: skip
    network = UNet(settings, seed=2)
    with torch.no_grad():
        for i, weight in enumerate(network.parameters()):
            weight += 0.05 * torch.sin(torch.arange(weight.numel()).float() + i).reshape(weight.shape)
    training = Training(dimensions=2, is_complex=is_complex, units=units, data_sd=0.5, noise_range=(0.01, 80))
    card = Card(Architecture.of(network), EDMOutput(0.5), Labelled(LABELS), training, Provenance(notes=notes))
    return write_network(folder / "prior.safetensors", network, card)


def pattern(grid: Grid, *, is_complex: bool = False) -> torch.Tensor:
    """Return values that are a function of the world point."""
    index = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) for n in grid.shape])
    r, a, s = torch.from_numpy(grid.index_to_world(index.numpy())).T
    values = (torch.sin(0.2 * r) + torch.cos(0.15 * a + 0.1 * s) * torch.sin(0.05 * (r + s))).float()
    values = torch.complex(values, torch.cos(0.1 * r + 0.2 * a).float()) if is_complex else values
    return values.reshape(grid.shape)


VOLUME = Grid.from_spacing((24, 20, 22), 2.0)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("axis", list(SliceAxis))
def test_a_stored_slice_is_denoised_as_the_one_the_right_way_up(
    tmp_path: Path, axis: SliceAxis, is_complex: bool
) -> None:
    path = written(tmp_path, is_complex=is_complex, units=Units() if is_complex else HU)
    normal = 2 - axis.world
    plain = VOLUME.slice_at(normal, 5).permute((normal, *[a for a in range(3) if a != normal]))
    other = plain.permute((0, 2, 1)).flip(1, 2)
    answers = []
    for grid in (plain, other):
        z = pattern(grid, is_complex=is_complex)[None]
        answers.append(SliceFrame.of(grid).seen(read_slice_prior(path, grid).denoise(z, 0.4)))
    assert torch.allclose(*answers, atol=1e-5)


def test_the_network_is_told_spacing_and_axis(tmp_path: Path) -> None:
    path = written(tmp_path)
    fine, coarse = Grid.plane((16, 16), (1.5, 1.5)), Grid.plane((16, 16), (3.0, 3.0))
    coronal = Grid.from_spacing((16, 1, 16), 1.5).permute((1, 0, 2))
    z = pattern(fine)[None]
    answers = [read_slice_prior(path, grid).denoise(z, 0.4) for grid in (fine, coarse, coronal)]
    assert (answers[0] - answers[1]).abs().max() > 1e-3
    assert (answers[0] - answers[2]).abs().max() > 1e-3


def test_of_hounsfield_units_it_makes_attenuation_at_an_energy(tmp_path: Path) -> None:
    grid = Grid.plane((16, 16), (2.0, 2.0))
    prior = read_slice_prior(written(tmp_path), grid, energy=70.0)
    water = water_attenuation(70.0)
    assert prior.units == Units(water, water, "1/mm")
    assert prior.units.physical(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx(
        [0, water, 2 * water]
    )
    likelihood = Likelihood(
        Identity(Space.field(grid)), Gaussian(0.001), torch.zeros(grid.shape), unit="1/mm"
    )
    assert Posterior(prior, likelihood).units == prior.units
    plain = read_slice_prior(tmp_path / "prior.safetensors", grid)
    with pytest.raises(ValueError, match=r"prior.units.then\(hounsfield_units\(energy\)\)"):
        Posterior(plain, likelihood)
    assert plain.units.then(hounsfield_units(70.0)) == prior.units


def test_sizes_that_halve_unevenly_are_padded(tmp_path: Path) -> None:
    grid = Grid.plane((19, 30), (2.0, 2.0))
    prior = read_slice_prior(written(tmp_path), grid)
    assert prior.denoise(pattern(grid)[None], 0.4).shape == (1, 1, 19, 30)


def test_what_it_was_not_trained_for_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(ValueError, match=r"`grid` must have voxels of 1.5 to 3 mm.*got 1 mm. Reconstruct"):
        read_slice_prior(path, Grid.plane((16, 16), (1.0, 1.0)))
    with pytest.raises(ValueError, match="`grid` must be a single slice"):
        read_slice_prior(path, VOLUME)
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", notes={})
    with pytest.raises(ValueError, match="`path` must hold a prior of slices"):
        read_slice_prior(other, Grid.plane((16, 16), (2.0, 2.0)))
    (tmp_path / "mr").mkdir()
    mr = written(tmp_path / "mr", is_complex=True, units=Units())
    with pytest.raises(ValueError, match="`energy` must be None: the prior is not in HU"):
        read_slice_prior(mr, Grid.plane((16, 16), (2.0, 2.0)), energy=70.0)


def test_slices_unlike_any_that_was_trained_on_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, notes={"slices": {**SLICES["slices"], "sizes": [[64, 64], [128, 128]]}})
    assert read_slice_prior(path, Grid.plane((16, 40), (2.0, 2.0), thickness=12.0)) is not None
    with pytest.raises(ValueError, match="`grid` must have sides of 16 voxels or more: .* got 15 x 40"):
        read_slice_prior(path, Grid.plane((15, 40), (2.0, 2.0)))
    with pytest.raises(ValueError, match="`grid` must be at most 12 mm thick, got 13 mm"):
        read_slice_prior(path, Grid.plane((32, 32), (2.0, 2.0), thickness=13.0))
    with pytest.raises(ValueError, match="`grid` must have voxels of 1.5 to 3 mm, .* got 1.48 mm"):
        read_slice_prior(path, Grid.plane((32, 32), (1.48, 1.48)))
    with pytest.raises(ValueError, match="`grid` must be a slice at one time, got 3 frames"):
        read_slice_prior(path, Grid.plane((32, 32), (2.0, 2.0)).with_time(TimeAxis(3, 1.0)))
