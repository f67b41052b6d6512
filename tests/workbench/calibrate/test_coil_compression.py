"""Coil compression: principal components, white noise kept white, physics kept between channels."""

from __future__ import annotations

import math

import pytest
import torch

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry
from tests.workbench.calibrate.coil_cases import COILS, blob, coil_data, true_maps
from workbench.calibrate.coil_compression import CoilCompression, compress_coils
from workbench.calibrate.prewhitening import noise_covariance, prewhitening
from workbench.calibration import CoilMaps
from workbench.measurement import Measurement
from workbench.noise.gaussian import Gaussian

GRID = Grid.from_spacing((1, 24, 20), (5.0, 2.0, 2.0))
REACH = (1e3, 48.0, 40.0)
GEOMETRY = CartesianGeometry.around(GRID)
DATA = coil_data(GRID, GEOMETRY, REACH)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return complex normals with sd 1 in each real component."""
    return math.sqrt(2) * torch.randn(
        shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("coils", [1, 3, COILS])
def test_it_keeps_what_the_singular_values_say(coils: int) -> None:
    compressed, matrix = compress_coils(DATA, coils=coils)
    squares = torch.linalg.svdvals(DATA.flatten(1)) ** 2
    assert compressed.shape == (coils, *DATA.shape[1:])
    assert torch.allclose(compressed.abs().square().sum((1, 2, 3)), squares[:coils])
    assert matrix.energy == pytest.approx(float(squares[:coils].sum() / squares.sum()))
    assert torch.allclose(
        matrix.matrix @ matrix.matrix.mH, torch.eye(coils, dtype=torch.complex128), atol=1e-10
    )
    back = torch.tensordot(matrix.matrix.mH, compressed, dims=1)
    lost = float((back - DATA).abs().square().sum() / squares.sum())
    assert lost == pytest.approx(1 - matrix.energy, abs=1e-12)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_the_fewest_coils_that_keep_an_energy(energy: float) -> None:
    squares = torch.linalg.svdvals(DATA.flatten(1)) ** 2
    kept = squares.cumsum(0) / squares.sum()
    _, matrix = compress_coils(DATA, energy=energy)
    assert matrix.energy >= energy - 1e-9
    assert matrix.channels == 1 or float(kept[matrix.channels - 2]) < energy


def test_the_result_is_one_of_its_data() -> None:
    first, matrix = compress_coils(DATA, coils=3)
    again, _ = compress_coils(DATA.clone(), coils=3)
    assert torch.equal(first, again)
    assert torch.allclose(compress_coils(7.0 * DATA, coils=3)[1].matrix, matrix.matrix, atol=1e-9)
    largest = matrix.matrix.gather(1, matrix.matrix.abs().argmax(1, keepdim=True))
    assert torch.allclose(largest, largest.abs() + 0j, atol=1e-12)
    assert compress_coils(DATA.to(torch.complex64), coils=3)[0].dtype == torch.complex64


def test_white_noise_stays_white() -> None:
    mixing = torch.eye(COILS, dtype=torch.complex128) + 0.5 * normals(COILS, COILS, seed=7)
    whitening = prewhitening(mixing @ mixing.mH)
    raw = torch.tensordot(mixing, DATA, dims=1)
    compressed, matrix = compress_coils(raw, coils=3, whitening=whitening)
    # Applied to what was not whitened: the matrix is V W.
    assert torch.allclose(compressed, matrix.apply(raw))
    samples = 40_000
    after = noise_covariance(matrix.apply(mixing @ normals(COILS, samples)))
    assert float((after - torch.eye(3)).abs().max()) < 5 / math.sqrt(samples)
    assert matrix.noise().sigma == 1.0
    with pytest.raises(ValueError, match="`sigma` must be known"):
        compress_coils(DATA, coils=2)[1].noise()


def test_physics_holds_between_the_channels() -> None:
    maps = CoilMaps(true_maps(GRID, REACH), GRID)
    compressed, matrix = compress_coils(DATA, coils=3)
    assert isinstance(matrix, CoilCompression)
    measurement = Measurement(compressed, GEOMETRY, Gaussian(1.0), matrix.maps(maps))
    assert torch.allclose(measurement.operator(GRID)(blob(GRID, REACH)), compressed, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`coils` must be given, or `energy`, and not both, got None and None"),
        ({"coils": 2, "energy": 0.9}, "and not both, got 2 and 0.9"),
        ({"coils": 6}, "`coils` must be at most the number of coils, 5, got 6"),
        ({"coils": 0}, "`coils` must be an integer >= 1"),
        ({"energy": 1.1}, "`energy` must be at most 1"),
        ({"energy": 0.0}, "`energy` must be a finite number > 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress_coils(DATA, **arguments)  # type: ignore[arg-type]


def test_bad_samples() -> None:
    with pytest.raises(ValueError, match="`kspace` must hold a signal, got zeros"):
        compress_coils(torch.zeros_like(DATA), coils=1)
    with pytest.raises(TypeError, match="`kspace` must be complex"):
        compress_coils(DATA.real, coils=1)
    with pytest.raises(ValueError, match=r"`kspace` must have shape \(coils, \.\.\.\)"):
        compress_coils(DATA.flatten(), coils=1)
    with pytest.raises(TypeError, match="`whitening` must be a Prewhitening or None"):
        compress_coils(DATA, coils=1, whitening=torch.eye(5))  # type: ignore[arg-type]
    other = prewhitening(torch.eye(3))
    with pytest.raises(ValueError, match="`samples` must have 3 coils in front"):
        compress_coils(DATA, coils=1, whitening=other)
