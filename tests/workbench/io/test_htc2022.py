"""Files of the Helsinki challenge: written here as the challenge wrote them, and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators.ct import FanBeamGeometry
from operators.errors import NonFiniteError
from tests.workbench.solvers.analytic.ct_cases import MU, chords, distances
from workbench.driver import sample
from workbench.io.htc2022 import read_htc2022
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection

scipy_io = pytest.importorskip("scipy.io")

ANGLES = np.arange(0, 360, 2.0)
CENTRE = (6.0, -9.0, 0.0)
SCAN = FanBeamGeometry(tuple(np.deg2rad(ANGLES)), 140, 0.8, source_to_axis=410.66, source_to_detector=553.74)
SD = 0.004


def contents() -> dict[str, Any]:
    clean = chords(SCAN, 20.0, CENTRE, ball=False).numpy()[:, 0]
    noise = np.random.Generator(np.random.Philox(4)).normal(size=clean.shape)
    return {
        "type": "2d",
        "sinogram": clean + SD * np.exp(clean / 2) * noise,
        "parameters": {
            "distanceSourceOrigin": 410.66,
            "distanceSourceDetector": 553.74,
            "distanceUnit": "mm",
            "pixelSizePost": 0.8,
            "numDetectorsPost": 140,
            "angles": ANGLES,
            "projectName": "a disc",
        },
    }


def write(path: Path, data: dict[str, Any], name: str = "CtDataFull") -> Path:
    scipy_io.savemat(path, {name: data})
    return path


@pytest.mark.parametrize("name", ["CtDataFull", "CtDataLimited"])
def test_a_disc_lies_where_it_was_with_its_noise(tmp_path: Path, name: str) -> None:
    scan = read_htc2022(write(tmp_path / "disc.mat", contents(), name))
    assert scan.geometry == SCAN
    measurement = scan.measurement()
    assert isinstance(measurement.noise, Gaussian)
    stated = Gaussian(0.5)
    assert scan.measurement(stated).noise is stated
    clean = chords(SCAN, 20.0, CENTRE, ball=False)
    ratio = scan.sd().double() / (SD * torch.exp(clean / 2))
    assert 0.97 < float(ratio.median()) < 1.1
    grid = scan.grid(128)
    assert np.allclose(grid.spacing[1:], 0.8 * 410.66 / 553.74)
    likelihood = measurement.likelihood(grid)
    x = sample(Posterior(Flat(likelihood.domain), likelihood), FilteredBackProjection("hann")).tensor()[0]
    inside = distances(grid, CENTRE) < 17
    assert float(x[inside].mean()) == pytest.approx(MU, rel=0.005)
    # y upwards: the disc, below the middle, lies in the lower rows.
    assert float(x[0, 64:].sum()) > 2 * float(x[0, :64].sum())


def changed(**changes: Any) -> dict[str, Any]:
    made = contents()
    made["parameters"] = {**made["parameters"], **changes}
    return made


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path, no_angles = tmp_path / "disc.mat", contents()
    del no_angles["parameters"]["angles"]
    cases = [
        (no_angles, "CtDataFull", "state angles, got .* without"),
        ({"parameters": 1.0}, "CtDataFull", "state sinogram, distanceSourceOrigin"),
        (contents(), "Other", "hold CtDataLimited or CtDataFull, got .* with Other"),
        (changed(distanceUnit="cm"), "CtDataFull", "state lengths in mm, got .* in cm"),
        (changed(numDetectorsPost=139), "CtDataFull", r"hold a sinogram of shape \(180, 139\)"),
    ]
    for data, name, message in cases:
        with pytest.raises(ValueError, match=message):
            read_htc2022(write(path, data, name))
    holes = contents()
    holes["sinogram"][3, 4] = np.inf
    with pytest.raises(NonFiniteError, match="hold finite line integrals, got .* with 1 others"):
        read_htc2022(write(path, holes))


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "disc.mat", contents()).read_bytes()
    damaged = tmp_path / "damaged.mat"
    for content in (b"", b"no file of Matlab's, of some length" * 8, whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` must be an undamaged \.mat file"):
            read_htc2022(damaged)
    with pytest.raises(FileNotFoundError):
        read_htc2022(tmp_path / "absent.mat")


def test_too_few_views_tell_no_noise(tmp_path: Path) -> None:
    scan = read_htc2022(write(tmp_path / "disc.mat", contents()))
    short = type(scan)(scan.sinogram[:2], scan.geometry)
    with pytest.raises(ValueError, match="`sinogram` must have three views or more"):
        short.sd()
    still = type(scan)(torch.ones_like(scan.sinogram), scan.geometry)
    with pytest.raises(ValueError, match="`sinogram` must hold noise"):
        still.sd()
