"""On a scanner's own numbers: eight coils of a brain, and the radial path of another scan."""

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.mri.density import density_weights
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.patterns import equispaced
from operators.space import Space
from tests.operators.mri.kspace_oracle import relative

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "kspace" / "brain8ch"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/kspace/brain8ch")


def brain() -> tuple[Grid, torch.Tensor, torch.Tensor]:
    """Return a grid, k-space (coils, 1, ky, kx) and coil images of it; the field of view is nominal."""
    data = torch.from_numpy(np.load(FOLDER / "cartesian_ksp.npy"))[:, None]
    grid = Grid.plane(data.shape[-2:], 1.0)
    return grid, data, CartesianGeometry.around(grid).operator(grid, components=(8,)).adjoint(data)


def test_a_third_of_the_lines_reconstructs_the_brain() -> None:
    grid, data, images = brain()
    energy = images.abs().square().sum(0).sqrt()
    maps = images / energy.clamp(min=1e-6 * float(energy.max()))
    pattern = equispaced(grid.shape[1], 3, acs=24)
    geometry = SampledCartesianGeometry.lines(CartesianGeometry.around(grid), pattern)
    op = geometry.operator(grid, components=(8,)) @ Coils(Space.field(grid, is_complex=True), maps)
    normal = op.adjoint(data)
    solved = op.normal_solve(normal, 1e-3, tolerance=1e-4)
    assert relative(solved.abs(), energy) < 0.5 * relative(normal.abs(), energy)
    # Maps made of all the data: what is left is noise, amplified by the geometry of the coils.
    assert relative(solved.abs(), energy) < 0.12


def test_the_radial_path_samples_the_same_brain() -> None:
    grid, _, images = brain()
    coordinates = np.load(FOLDER / "projection_coord.npy")
    # Given in samples of some matrix: scaled to reach just the Nyquist frequency of these voxels.
    geometry = NonCartesianGeometry(coordinates / (2 * np.abs(coordinates).max()))
    maps = images / images.abs().square().sum(0).sqrt().clamp(min=1e-12)
    whole = images.abs().square().sum(0).sqrt().to(torch.complex64)
    results = {}
    for engine in ("finufft", "torch"):
        op = geometry.operator(grid, components=(8,), engine=engine) @ Coils(
            Space.field(grid, is_complex=True), maps
        )
        results[engine] = op(whole)
        assert relative(op.gram(whole), op.adjoint(results[engine])) < 1e-4
    assert relative(results["torch"], results["finufft"]) < 1e-4
    weights = density_weights(geometry, grid, "pipe").float()
    assert bool((weights > 0).all())
