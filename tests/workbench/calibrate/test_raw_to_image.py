"""From a raw file with a noise scan to an image: the residual is as large as the noise that was measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry
from tests.workbench.calibrate.coil_cases import COILS, blob, coil_data, true_maps
from tests.workbench.io.ismrmrd_cases import NOISE, header, readout, seeded, written
from workbench.calibrate.coil_compression import compress_coils
from workbench.calibrate.coil_maps import espirit_maps
from workbench.calibrate.prewhitening import noise_covariance, prewhitening
from workbench.calibrate.signal_scale import signal_scale
from workbench.calibration import CoilMaps
from workbench.driver import sample
from workbench.io.ismrmrd import read_ismrmrd
from workbench.io.raw_scan import RawScan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient

MATRIX, EXTENT = (1, 48, 40), (5.0, 96.0, 80.0)
REACH = (1e3, 96.0, 80.0)
#: The noise scan is sampled twice as fast, through a filter that passes 0.79 of its band.
NOISE_DWELL, DWELL, BAND = 5.0, 10.0, 0.79
MIXING = 0.02 * (np.eye(COILS) + 0.4 * seeded(COILS, COILS, seed=8))


@pytest.fixture
def scan(tmp_path: Path) -> RawScan:
    """Return the scan of the blob: two averages of the even lines, one of the odd ones, and noise."""
    # The grid that the file will state: readout to the left, lines to posterior, as in LPS.
    empty = written(tmp_path / "grid.h5", header(MATRIX, EXTENT), [readout(seeded(1, 40))])
    grid = read_ismrmrd(empty).grid
    clean = coil_data(grid, CartesianGeometry.around(grid), REACH).numpy()[:, 0]
    readouts = []
    for average in (0, 1):
        noise = np.tensordot(MIXING, seeded(COILS, 48, 40, seed=average), axes=1)
        for ky in range(0, 48, 1 + average):
            line = (clean + noise)[:, ky]
            readouts.append(readout(line, ky=ky, average=average, dwell_us=DWELL))
    # Variance ~ bandwidth: twice the band, 0.79 of the power in it.
    factor = math.sqrt(DWELL / NOISE_DWELL * BAND)
    for i in range(40):
        samples = factor * np.tensordot(MIXING, seeded(COILS, 512, seed=50 + i), axes=1)
        readouts.append(readout(samples, flags=[NOISE], dwell_us=NOISE_DWELL))
    found = read_ismrmrd(written(tmp_path / "scan.h5", header(MATRIX, EXTENT), readouts))
    assert isinstance(found, RawScan) and found.grid.matches(grid)
    return found


def image_of(scan: RawScan, maps: CoilMaps, noise: object) -> tuple[torch.Tensor, float]:
    """Return the least-squares image and the mean square of its residual per real component of noise."""
    measurement = scan.measurement(noise, maps)  # type: ignore[arg-type]
    likelihood = measurement.likelihood(scan.grid)
    units = signal_scale(scan.kspace, maps, geometry=scan.geometry)
    posterior = Posterior(Flat(likelihood.domain), likelihood, units=units)
    image = sample(posterior, ConjugateGradient(60, 1e-6)).tensor()[0]
    whitened, target = likelihood.whitened
    return image, float((whitened(image) - target).abs().square().sum())


def true_grid_maps(grid: Grid) -> CoilMaps:
    return CoilMaps(true_maps(grid, REACH).to(torch.complex64), grid)


def test_the_residual_is_the_noise(scan: RawScan) -> None:
    covariance = noise_covariance(
        scan.noise_scan,  # type: ignore[arg-type]
        noise_dwell=scan.noise_dwell,
        scan_dwell=scan.dwell,
        receiver_bandwidth=scan.receiver_bandwidth or 1.0,
    )
    whitening = prewhitening(covariance)
    white = scan.with_(kspace=whitening.apply(scan.kspace))
    image, square = image_of(white, whitening.maps(true_grid_maps(scan.grid)), whitening.noise(scan.averages))
    voxels = 48 * 40
    degrees = 2 * (COILS - 1) * voxels
    # Chi-square, and the noise scan's own error: 5 variances from 20 480 samples each.
    spread = math.sqrt(2 * degrees) + degrees / math.sqrt(COILS * 20_480)
    assert abs(square - degrees) < 5 * spread
    truth = blob(scan.grid, REACH)
    assert float((image - truth).norm() / truth.norm()) < 0.03


def test_compressed_and_calibrated_from_itself(scan: RawScan) -> None:
    whitening = prewhitening(
        noise_covariance(
            scan.noise_scan,  # type: ignore[arg-type]
            noise_dwell=scan.noise_dwell,
            scan_dwell=scan.dwell,
            receiver_bandwidth=0.79,
        )
    )
    kspace, matrix = compress_coils(scan.kspace, coils=4, whitening=whitening)
    small = scan.with_(kspace=kspace)
    maps = espirit_maps(kspace, scan.grid, geometry=scan.geometry)
    image, square = image_of(small, maps, matrix.noise(scan.averages))
    inside = int((maps.maps.abs().sum(0) > 0).sum())
    degrees = 2 * (4 * 48 * 40 - inside)
    # 5 sd of chi-square; maps out of the same noisy data leave next to none of the signal unexplained.
    assert abs(square / degrees - 1) < 5 * math.sqrt(2 / degrees)
    # Maps of unit norm: the image carries the norm of the true ones in these channels.
    norm = matrix.maps(true_grid_maps(scan.grid)).maps.abs().square().sum(0).sqrt()
    expected = norm * blob(scan.grid, REACH).abs()
    error = float((image.abs() - expected).norm() / expected.norm())
    assert error < 0.02  # measured 0.013, where the noise of both components is 0.015
