"""What voxels cannot represent, against what line integrals of a disc are known to be."""

from __future__ import annotations

import math

import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from workbench.calibrate.discretisation import discretisation_error
from workbench.measurement import Measurement
from workbench.noise.poisson import LogTransmission
from workbench.random import Keys
from workbench.volume import Volume

RADIUS, WATER, BLANK = 40.0, 0.02, 1e6
ANGLES = [math.pi * i / 12 for i in range(12)]


def disc(grid: Grid, fineness: int = 8) -> Volume:
    """Return a disc of water by its means over voxels."""
    rows, columns = (
        (torch.arange(n * fineness) + 0.5) / fineness * step - n * step / 2
        for n, step in zip(grid.shape[1:], grid.spacing[1:], strict=True)
    )
    inside = (rows[:, None] ** 2 + columns**2 < RADIUS**2).double()
    means = inside.reshape(grid.shape[1], fineness, grid.shape[2], fineness).mean(dim=(1, 3))
    return Volume(WATER * means[None].float(), grid, unit="1/mm")


def integrals(geometry: ParallelBeamGeometry) -> torch.Tensor:
    """Return the chords of the disc times its attenuation."""
    columns = geometry.columns
    u = (torch.arange(columns) - (columns - 1) / 2) * geometry.column_pitch
    chords = 2 * WATER * (RADIUS**2 - u**2).clamp(min=0).sqrt()
    return chords.expand(len(ANGLES), 1, columns).clone()


def test_it_is_how_far_the_grid_is_from_the_object() -> None:
    fine = Grid.plane((128, 128), (1.0, 1.0))
    coarse = fine.downsample((1, 2, 2))
    geometry = ParallelBeamGeometry.around(coarse, ANGLES)
    found = discretisation_error(geometry, disc(fine), (1, 2, 2))
    exact = integrals(geometry)
    true = geometry.operator(coarse)(disc(coarse).data).reshape(exact.shape) - exact
    assert found == pytest.approx(float(true.square().mean().sqrt()), rel=0.35)
    # It falls with the voxels, and an object without edges has next to none.
    finer = discretisation_error(geometry, disc(Grid.plane((256, 256), (0.5, 0.5))), (1, 2, 2))
    assert finer < 0.7 * found
    y, x = torch.meshgrid(torch.arange(128) - 63.5, torch.arange(128) - 63.5, indexing="ij")
    smooth = Volume(WATER * torch.exp(-(x**2 + y**2) / 800.0)[None], fine, unit="1/mm")
    assert discretisation_error(geometry, smooth, (1, 2, 2)) < 0.1 * found


def test_with_it_the_truth_fits_the_data() -> None:
    fine = Grid.plane((128, 128), (1.0, 1.0))
    coarse = fine.downsample((1, 2, 2))
    geometry = ParallelBeamGeometry.around(coarse, ANGLES)
    exact = integrals(geometry).double()
    counts = Keys(1, (0,)).poisson(BLANK * torch.exp(-exact)[None], "counts")[0].float()
    excess = discretisation_error(geometry, disc(fine), (1, 2, 2))
    chi = []
    for noise in (LogTransmission(BLANK), LogTransmission(BLANK, excess)):
        likelihood = Measurement(counts, geometry, noise).likelihood(coarse)
        forward, data = likelihood.whitened
        apart = forward.apply(disc(coarse).data[None]) - data
        chi.append(float(apart.double().square().mean()))
    assert chi[0] > 5
    assert 0.3 < chi[1] < 2


def test_what_stays_as_fine_as_it_was_is_refused() -> None:
    fine = Grid.plane((16, 16), (1.0, 1.0))
    geometry = ParallelBeamGeometry.around(fine, ANGLES)
    with pytest.raises(ValueError, match="`factor` must make one axis coarser, got 1"):
        discretisation_error(geometry, disc(fine), 1)


def test_an_object_that_is_hardly_there_is_told_of() -> None:
    fine = Grid.plane((128, 128), (4.0, 4.0))
    geometry = ParallelBeamGeometry.around(fine.downsample((1, 2, 2)), ANGLES)
    with pytest.warns(UserWarning, match=r"the object fills \d\.\d% of its grid"):
        discretisation_error(geometry, disc(fine), (1, 2, 2))
