"""ISMRMRD files that are damaged, foreign or silent: named errors and warnings, no guesses."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from operators.grid import Grid
from tests.workbench.io.ismrmrd_cases import COILS, NOISE, header, readout, seeded, written
from workbench.calibration import CoilMaps
from workbench.io.ismrmrd import ismrmrd_counters, read_ismrmrd
from workbench.io.raw_scan import RawScan
from workbench.noise.gaussian import Gaussian

DATA = seeded(COILS, 12, 16)


def readouts(**settings: object) -> list[object]:
    return [readout(DATA[:, ky], ky=ky, **settings) for ky in range(12)]  # type: ignore[arg-type]


def file(tmp_path: Path, document: bytes | None = None, **settings: object) -> Path:
    return written(tmp_path / "a.h5", document or header(), readouts(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`path` must be an undamaged ISMRMRD file, got .*a.h5"):
        read_ismrmrd(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.h5 does not exist"):
        read_ismrmrd(tmp_path / "none.h5")
    with pytest.raises(OSError):
        read_ismrmrd(tmp_path)
    with pytest.raises(TypeError, match="`path` must be a path"):
        read_ismrmrd(3)  # type: ignore[arg-type]


def test_a_truncated_file(tmp_path: Path) -> None:
    path = file(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="`path` must be an undamaged ISMRMRD file"):
        read_ismrmrd(path)


def test_hdf5_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as raw:
        raw.create_group("kspace")
    with pytest.raises(ValueError, match=r"without dataset/xml; its groups: \['kspace'\]\.$"):
        read_ismrmrd(path)
    with h5py.File(path, "w") as raw:
        raw.create_dataset("dataset/xml", data=np.array([header()], dtype=object), dtype=h5py.string_dtype())
        raw.create_dataset("dataset/data", data=np.zeros(3))
    with pytest.raises(ValueError, match="`path` must be an ISMRMRD file with readouts"):
        read_ismrmrd(path)
    with pytest.raises(ValueError, match="Choose another group: group='dataset'"):
        read_ismrmrd(file(tmp_path), group="other")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<experimentalConditions>", b"<conditions>", "its header cannot be read"),
        (b"reconSpace", b"shownSpace", "its header cannot be read"),
        (b"<x>16</x>", b"<x>many</x>", r"its header cannot be read \(Failed .*matrixSizeType.x"),
        (b"<x>16</x>", b"<x>0</x>", r"its header states a matrix \(z, y, x\) of \(1, 12, 0\)"),
    ],
)
def test_a_damaged_header(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = file(tmp_path, header().replace(old, new))
    with pytest.raises(ValueError, match=f"`path` must be an undamaged ISMRMRD file, got .*{message}"):
        read_ismrmrd(path)


def test_readouts_that_do_not_fit(tmp_path: Path) -> None:
    cases = {
        r"its kspace_encode_step_1 runs from 0 to 30": [*readouts(), readout(DATA[:, 0], ky=30)],
        r"readout 12, of 16 samples with the centre at 0, does not fit": [
            *readouts(), readout(DATA[:, 0], centre=0, average=1)
        ],
        r"its directions are not perpendicular": readouts(axes=np.ones((3, 3))),
        r"readout 1 holds NaN": [readout(DATA[:, 0]), readout(DATA[:, 1] * np.nan, ky=1)],
    }  # fmt: skip
    for message, made in cases.items():
        path = written(tmp_path / "a.h5", header(), made)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"undamaged ISMRMRD file.*{message}"):
            read_ismrmrd(path)


def test_a_readout_that_holds_less_than_it_states(tmp_path: Path) -> None:
    path = file(tmp_path)
    with h5py.File(path, "a") as raw:
        row = raw["dataset/data"][4]
        row["data"] = row["data"][:-2]
        raw["dataset/data"][4] = row
    with pytest.raises(
        ValueError, match="readout 4 states 16 samples of 3 coils .* but holds 94 and 0 numbers"
    ):
        read_ismrmrd(path)


def test_coils_and_places_that_change(tmp_path: Path) -> None:
    fewer = [*readouts(), readout(DATA[:2, 0], flags=[NOISE])]
    with pytest.raises(ValueError, match=r"one number of coils, the noise scan included, got \[2, 3\]"):
        read_ismrmrd(written(tmp_path / "a.h5", header(), fewer))  # type: ignore[arg-type]
    moved = [*readouts(), readout(DATA[:, 0], position=(0.0, 0.0, 9.0))]
    with pytest.raises(ValueError, match="`path` must hold readouts of one position in each slice"):
        read_ismrmrd(written(tmp_path / "b.h5", header(), moved))  # type: ignore[arg-type]


def test_what_a_file_does_not_say_is_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="states no centre of kspace_encode_step_1: it is taken as 6 of 12"):
        scan = read_ismrmrd(file(tmp_path, header(centres=None)))
    assert np.array_equal(scan.kspace[:, 0].numpy(), DATA)
    with pytest.warns(UserWarning, match="states no directions"):
        scan = read_ismrmrd(file(tmp_path, axes=np.zeros((3, 3))))
    assert scan.grid.orientation == "SPL"
    with pytest.warns(UserWarning, match="states no field of view to be shown"):
        read_ismrmrd(file(tmp_path, header(shown=(0.0, 0.0, 0.0))))
    with pytest.warns(UserWarning, match="repeats 1 encoding steps within one average"):
        read_ismrmrd(written(tmp_path / "b.h5", header(), [*readouts(), readout(DATA[:, 3], ky=3)]))  # type: ignore[list-item]
    with pytest.warns(UserWarning, match="states the trajectory 'epi', and Cartesian encoding steps"):
        read_ismrmrd(file(tmp_path, header(trajectory="epi")))
    several = [readout(DATA[:, ky], ky=ky, dwell_us=5.0 + ky % 2) for ky in range(12)]
    with pytest.warns(UserWarning, match="states several dwell times"):
        assert read_ismrmrd(written(tmp_path / "c.h5", header(), several)).dwell is None
    assert read_ismrmrd(file(tmp_path, dwell_us=0.0)).dwell is None


def test_the_field_of_view_is_asked_for_and_may_be_corrected(tmp_path: Path) -> None:
    silent = file(tmp_path, header(field_of_view=(0.0, 0.0, 0.0), shown=(0.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="`field_of_view` must be given for .*, whose header states none"):
        read_ismrmrd(silent)
    path = file(tmp_path, header(shown=(5.0, 24.0, 16.0)))
    scan = read_ismrmrd(path, field_of_view=(3.0, 48.0, 64.0))
    assert scan.grid.spacing == pytest.approx((3.0, 4.0, 4.0))
    assert scan.recon_field_of_view == pytest.approx((3.0, 48.0, 32.0))


def test_what_must_be_chosen(tmp_path: Path) -> None:
    path = file(tmp_path, header(encodings=2))
    with pytest.raises(ValueError, match=r"`encoding` must be chosen out of 0\.\.1"):
        read_ismrmrd(path)
    with pytest.raises(ValueError, match="`encoding` must be one of the 2 of .*, from 0, got 2"):
        read_ismrmrd(path, encoding=2)
    with pytest.raises(ValueError, match="`path` must hold readouts of an image in encoding 1"):
        read_ismrmrd(path, encoding=1)
    assert ismrmrd_counters(path, encoding=0)["slice"] == (0,)
    with pytest.raises(ValueError, match="`average` must be one of 0, which .* holds, got 3"):
        read_ismrmrd(path, encoding=0, average=3)
    odd = file(tmp_path, header(shown=(5.0, 24.0, 17.0)))
    with pytest.raises(ValueError, match="`remove_oversampling` must be False where the shown field of view"):
        read_ismrmrd(odd, remove_oversampling=True)


def test_trajectories_that_are_missing_or_have_no_unit(tmp_path: Path) -> None:
    radial = header(trajectory="radial")
    with pytest.raises(ValueError, match="hold readouts of one length, each with its trajectory"):
        read_ismrmrd(file(tmp_path, radial))
    path = file(tmp_path, radial, trajectory=np.zeros((16, 2), np.float32))
    with pytest.raises(
        ValueError, match="`trajectory_unit` must be one of 1/mm.*does not state it, got None"
    ):
        read_ismrmrd(path)
    with pytest.raises(ValueError, match="`trajectory_axes` must be 2 or 3 and at most the 2 stored axes"):
        read_ismrmrd(path, trajectory_unit="1/mm", trajectory_axes=3)


def test_a_measurement_needs_the_maps_of_its_coils(tmp_path: Path) -> None:
    scan = read_ismrmrd(file(tmp_path))
    assert isinstance(scan, RawScan)
    with pytest.raises(ValueError, match="`calibration` must hold the maps of the 3 coils"):
        scan.measurement(Gaussian(1.0))
    maps = CoilMaps(torch.ones(2, *scan.grid.shape, dtype=torch.complex64), scan.grid)
    with pytest.raises(ValueError, match="maps of as many coils as k-space, 3, got 2"):
        scan.measurement(Gaussian(1.0), maps)


def test_a_measurement_knows_what_was_sampled_and_how_often(tmp_path: Path) -> None:
    made = [readout(DATA[:, ky], ky=ky, average=a) for ky in (4, 5, 6, 9) for a in range(1 + (ky == 5))]
    scan = read_ismrmrd(written(tmp_path / "a.h5", header(), made))
    assert isinstance(scan, RawScan)
    maps = CoilMaps(torch.ones(COILS, *scan.grid.shape, dtype=torch.complex64), scan.grid)
    measurement = scan.measurement(Gaussian(scan.sd(2.0)), maps)
    x = torch.ones(scan.grid.shape, dtype=torch.complex64)
    predicted = measurement.operator(scan.grid)(x)
    assert torch.equal(predicted != 0, predicted * scan.sampled != 0)
    assert measurement.noise.sigma[0, 5, 0] == pytest.approx(2 / np.sqrt(2))
    assert measurement.provenance.source.endswith("a.h5")
    single = scan.with_(kspace=scan.kspace[:1]).measurement(Gaussian(1.0))
    assert single.operator(scan.grid).codomain.shape == scan.grid.shape
    assert Grid.require(single.likelihood(scan.grid).grid).matches(scan.grid)
