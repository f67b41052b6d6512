"""Data Exchange files as they are written, and as they are damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from tests.workbench.solvers.analytic.ct_cases import MU, chords, distances
from workbench.calibration import CentreOfRotation
from workbench.driver import sample
from workbench.io.data_exchange import ProjectionScan, read_data_exchange
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection

h5py = pytest.importorskip("h5py")

VIEWS, ROWS, COLUMNS = 90, 2, 64
CENTRE = (0.006, -0.004, 0.0)
SCAN = ParallelBeamGeometry(
    tuple(math.pi * k / VIEWS for k in range(VIEWS)), COLUMNS, 0.001, ROWS, 0.001, axis_column=30.0
)


def contents() -> dict[str, Any]:
    # In mm of a sample of 0.04 mm: 1000 times as dense as water, to be seen at all.
    integrals = 1000 * chords(SCAN, 0.018, CENTRE, ball=False).numpy()
    beam = np.linspace(2e4, 3e4, COLUMNS)[None]
    return {
        "data": (100 + beam * np.exp(-integrals)).astype(np.float32),
        "data_white": np.broadcast_to(100 + beam, (3, ROWS, COLUMNS)).astype(np.float32),
        "data_dark": np.full((3, ROWS, COLUMNS), 100, np.float32),
        "theta": np.degrees(SCAN.angles),
    }


def write(
    path: Path, parts: dict[str, Any], unit: str | None = "degrees", pixel: float | None = None
) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in parts.items():
            file[f"exchange/{name}"] = values
        if unit is not None and "theta" in parts:
            file["exchange/theta"].attrs["units"] = unit
        if pixel is not None:
            place = "measurement/instrument/detector/actual_pixel_size_x"
            file[place] = pixel
            file[place].attrs["units"] = "um"
    return path


def test_angles_without_a_unit_that_look_like_rad_are_warned_about(tmp_path: Path) -> None:
    parts = contents()
    write(tmp_path / "degrees.h5", parts, unit=None)
    assert np.allclose(read_data_exchange(tmp_path / "degrees.h5").angles, SCAN.angles)
    write(tmp_path / "rad.h5", parts | {"theta": np.array(SCAN.angles)}, unit=None)
    with pytest.warns(UserWarning, match=r"has no unit of theta, which spans 3\.11: taken for degrees"):
        scan = read_data_exchange(tmp_path / "rad.h5")
    assert np.allclose(scan.with_(angles=np.degrees(scan.angles)).angles, SCAN.angles)


def test_a_scan_becomes_an_image(tmp_path: Path) -> None:
    scan = read_data_exchange(write(tmp_path / "scan.h5", contents(), pixel=1.0))
    assert scan.pixel == pytest.approx(0.001)
    assert np.allclose(scan.angles, SCAN.angles)
    measurement = scan.measurement(CentreOfRotation(30.0), gain=1.0)
    assert isinstance(measurement.noise, PoissonTransmission)
    assert measurement.geometry == SCAN.with_(axis_column=None, angles=scan.angles)
    assert measurement.provenance.source == "scan.h5"
    grid = scan.grid(columns=48)
    likelihood = measurement.likelihood(grid)
    x = sample(Posterior(Flat(likelihood.domain), likelihood), FilteredBackProjection()).tensor()[0]
    inside = distances(grid, CENTRE) < 0.013
    assert float((x[inside] / (1000 * MU) - 1).abs().max()) < 0.03


def test_turning_the_other_way_round_mirrors_the_angles(tmp_path: Path) -> None:
    scan = read_data_exchange(write(tmp_path / "scan.h5", contents()))
    assert scan.geometry(pixel=1.0, clockwise=True).angles == tuple(-a for a in scan.angles)
    with pytest.raises(ValueError, match="`pixel` must be the size of a pixel at the sample in mm"):
        scan.geometry()


def test_radians_rows_integers_and_no_darks(tmp_path: Path) -> None:
    parts = contents()
    parts["theta"] = np.array(SCAN.angles)
    parts["data"] = parts["data"].astype(np.uint16)
    del parts["data_dark"]
    path = write(tmp_path / "scan.h5", parts, "rad")
    with pytest.warns(UserWarning, match="has no /exchange/data_dark"):
        scan = read_data_exchange(path, rows=slice(1, 2))
    assert np.allclose(scan.angles, SCAN.angles)
    assert scan.projections.shape == (VIEWS, 1, COLUMNS)
    assert torch.equal(scan.projections, torch.from_numpy(parts["data"][:, 1:].astype(np.float32)))
    assert scan.darks is None
    assert scan.transmission().counts.shape == scan.projections.shape


def test_other_values_by_hand(tmp_path: Path) -> None:
    scan = read_data_exchange(write(tmp_path / "scan.h5", contents(), None))
    assert np.allclose(scan.angles, SCAN.angles)  # degrees, where the file does not say
    ends = scan.with_(angles=tuple(np.linspace(0, math.pi, VIEWS)), pixel=2.0)
    assert isinstance(ends, ProjectionScan)
    assert ends.geometry().column_pitch == 2.0


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in contents().items() if key != name}


@pytest.mark.parametrize(
    ("parts", "unit", "message"),
    [
        (without("theta"), None, r"hold /exchange/theta, got .*scan\.h5 with data, data_dark, data_white"),
        (without("data_white"), "deg", "hold /exchange/data_white"),
        ({}, None, "hold /exchange/data, /exchange/data_white, /exchange/theta, got .* with no /exchange"),
        ({**contents(), "theta": np.zeros(5)}, "deg", "hold 90 finite angles, one per view, got .* with 5"),
        ({**contents(), "theta": np.full(90, np.nan)}, "deg", "with 90, 90 of them not finite"),
        (contents(), "gon", "state theta in .* in 'gon'"),
        ({**contents(), "data": np.zeros((90, 64))}, "deg", r"hold numbers \(frames, rows, columns\)"),
        ({**contents(), "data_white": np.ones((3, 2, 63))}, "deg", r"of the pixels of the data, \(2, 64\)"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, parts: dict[str, Any], unit: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_data_exchange(write(tmp_path / "scan.h5", parts, unit))


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "scan.h5", contents()).read_bytes()
    damaged = tmp_path / "damaged.h5"
    for content in (b"", b"no HDF5 file", whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be an undamaged HDF5 file"):
            read_data_exchange(damaged)
    with pytest.raises(FileNotFoundError):
        read_data_exchange(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="`rows` must take some of the 2 rows"):
        read_data_exchange(tmp_path / "scan.h5", rows=slice(5, 6))


def test_dead_pixels_are_said_by_their_number(tmp_path: Path) -> None:
    parts = contents()
    parts["data_white"][:, 0, :3] = 0
    scan = read_data_exchange(write(tmp_path / "scan.h5", parts))
    with pytest.raises(ValueError, match="3 of 128 pixels"):
        scan.measurement(pixel=1.0, gain=1.0)
