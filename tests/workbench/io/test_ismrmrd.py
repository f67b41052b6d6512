"""ISMRMRD: samples come to their frequency, the grid to its place, and what is not said is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workbench.io.ismrmrd_cases import (
    BOTH,
    CALIBRATION,
    COILS,
    GAINS,
    NAVIGATOR,
    NOISE,
    REVERSED,
    header,
    lines,
    point,
    readout,
    seeded,
    written,
)
from workbench.io.ismrmrd import ismrmrd_counters, read_ismrmrd
from workbench.io.raw_scan import RawScan, RawTrajectory
from workbench.noise.gaussian import Gaussian

MATRIX, EXTENT = (1, 12, 16), (5.0, 24.0, 32.0)


def turned(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    a, b, c = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def scan_of(path: Path, **settings: object) -> RawScan:
    scan = read_ismrmrd(path, **settings)  # type: ignore[arg-type]
    assert isinstance(scan, RawScan)
    return scan


def images(scan: RawScan) -> torch.Tensor:
    encoding = getattr(scan.geometry, "encoding", scan.geometry)
    return encoding.operator(scan.grid, components=(scan.kspace.shape[0],)).H(scan.kspace)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("matrix", "extent"),
    [(MATRIX, EXTENT), ((1, 11, 15), (4.0, 22.0, 30.0)), ((6, 8, 10), (18.0, 16.0, 25.0))],
)
def test_a_point_is_found_where_it_lies(
    tmp_path: Path, matrix: tuple[int, int, int], extent: tuple[float, float, float], mirrored: bool
) -> None:
    axes = turned((20.0, -35.0, 70.0)) * (np.array([1, 1, -1])[:, None] if mirrored else 1)
    position = (12.0, -7.5, 31.0)
    spacing = np.array(extent) / np.array(matrix)
    voxel = np.array([2, 1, 3]) - np.array(matrix) // 2  # z, y, x, off the centre of the FFT
    voxel[0] = 0 if matrix[0] == 1 else voxel[0]
    place = np.array(position) + (voxel * spacing)[::-1] @ axes
    line = point(matrix, extent, axes, position, place)
    path = written(
        tmp_path / "a.h5", header(matrix, extent), lines(line, matrix, axes=axes, position=position)
    )
    scan = scan_of(path)
    found = images(scan)
    peak = np.unravel_index(int(found[0].abs().argmax()), matrix)
    # All the energy of a point on a voxel centre is in that voxel, and its phase is 0.
    height = np.sqrt(np.prod(matrix))
    assert np.allclose(found[(slice(None), *peak)].numpy(), GAINS * height, atol=1e-4 * height)
    world = scan.grid.index_to_world(peak)
    assert np.allclose(world, place * [-1, -1, 1], atol=1e-4)  # LPS in the file, RAS here
    assert np.allclose(scan.grid.spacing, spacing, rtol=1e-6)


def test_the_samples_are_those_of_the_file(tmp_path: Path) -> None:
    data = seeded(COILS, 1, 12, 16)
    order = np.random.default_rng(1).permutation(12)
    readouts = [readout(data[:, 0, ky], ky=int(ky)) for ky in order]
    scan = scan_of(written(tmp_path / "a.h5", header(), readouts))
    assert np.array_equal(scan.kspace.numpy(), data)
    assert bool((scan.averages == 1).all())
    assert scan.dwell == pytest.approx(5e-6)
    assert scan.receiver_bandwidth == pytest.approx(0.79)
    assert scan.noise_scan is None and scan.calibration is None
    assert scan.provenance.details == {"vendor": "ACME"}  # and not the patient's name
    assert scan.counters == {
        "encoding": 0, "slice": 0, "contrast": 0, "phase": 0, "repetition": 0, "set": 0
    }  # fmt: skip


def test_partial_fourier_and_asymmetric_echoes_stand_about_the_stated_centre(tmp_path: Path) -> None:
    data = seeded(COILS, 8, 11)
    # Step 2 is frequency zero, sample 4 the echo; sample 0 is discarded.
    readouts = [readout(data[:, ky], ky=ky, centre=4, discard=(1, 0)) for ky in range(8)]
    scan = scan_of(written(tmp_path / "a.h5", header(centres=(0, 2)), readouts))
    assert bool(scan.sampled[0, 4:, 5:15].all()) and int(scan.sampled.sum()) == 8 * 10
    assert np.array_equal(scan.kspace[:, 0, 6, 8].numpy(), data[:, 2, 4])
    with pytest.raises(ValueError, match="`remove_oversampling` must be False for readouts"):
        read_ismrmrd(
            written(tmp_path / "b.h5", header(centres=(0, 2), shown=(5.0, 24.0, 16.0)), readouts),
            remove_oversampling=True,
        )


def test_reversed_readouts_are_turned_round(tmp_path: Path) -> None:
    data = seeded(COILS, 1, 12, 16)
    readouts = [
        readout(data[:, 0, ky, ::-1], ky=ky, flags=[REVERSED]) if ky % 2 else readout(data[:, 0, ky], ky=ky)
        for ky in range(12)
    ]
    assert np.array_equal(scan_of(written(tmp_path / "a.h5", header(), readouts)).kspace.numpy(), data)
    short = [readout(data[:, 0, 3, :3:-1], ky=3, centre=4, flags=[REVERSED], discard=(2, 1))]
    scan = scan_of(written(tmp_path / "b.h5", header(), short))
    assert np.flatnonzero(scan.sampled[0, 3]).tolist() == list(range(5, 14))
    assert np.array_equal(scan.kspace[:, 0, 3, 5:14].numpy(), data[:, 0, 3, 5:14])


def test_averages_are_averaged_and_counted(tmp_path: Path) -> None:
    data = seeded(2, COILS, 12, 16)
    readouts = [
        readout(data[a, :, ky], ky=ky, average=a) for a in (0, 1) for ky in range(12) if a == 0 or ky < 5
    ]
    path = written(tmp_path / "a.h5", header(), readouts)
    scan = scan_of(path)
    assert np.allclose(scan.kspace[:, 0, :5].numpy(), data[:, :, :5].mean(0), atol=1e-6)
    assert np.array_equal(scan.kspace[:, 0, 5:].numpy(), data[0, :, 5:])
    assert scan.averages[0, :, 0].tolist() == [2] * 5 + [1] * 7
    assert torch.allclose(scan.sd(3.0), 3 / scan.averages.double().sqrt())
    second = scan_of(path, average=1)
    assert np.array_equal(second.kspace[:, 0, :5].numpy(), data[1, :, :5])
    assert int(second.sampled.sum()) == 5 * 16
    assert ismrmrd_counters(path)["average"] == (0, 1)


def test_slices_contrasts_and_repetitions_are_chosen(tmp_path: Path) -> None:
    data = seeded(2, 3, 2, COILS, 12, 16)
    readouts = [
        readout(data[s, c, r, :, ky], ky=ky, slice=s, contrast=c, repetition=r, position=(0, 0, 7.0 * s))
        for s in range(2) for c in range(3) for r in range(2) for ky in range(12)
    ]  # fmt: skip
    path = written(tmp_path / "a.h5", header(), readouts)
    several = {"slice": (0, 1), "contrast": (0, 1, 2), "repetition": (0, 1)}
    assert ismrmrd_counters(path) == several | {"phase": (0,), "set": (0,), "average": (0,)}
    for s in range(2):
        scan = scan_of(path, slice=s, contrast=2, repetition=1)
        assert np.array_equal(scan.kspace[:, 0].numpy(), data[s, 2, 1])
        assert scan.grid.index_to_world((0, 6, 8)) == pytest.approx([0, 0, 7.0 * s])
        assert scan.counters["contrast"] == 2
    with pytest.raises(ValueError, match="`slice` must be chosen, since .* holds several, got None of 0, 1"):
        read_ismrmrd(path, contrast=0, repetition=0)
    with pytest.raises(ValueError, match="`contrast` must be one of 0, 1, 2, which .* holds, got 5"):
        read_ismrmrd(path, slice=0, contrast=5, repetition=0)


def test_noise_and_navigators_are_kept_apart(tmp_path: Path) -> None:
    data, noise = seeded(COILS, 12, 16), seeded(2, COILS, 40, seed=5)
    readouts = [readout(n, flags=[NOISE], dwell_us=8.0) for n in noise]
    readouts += [readout(100 * data[:, 0], flags=[NAVIGATOR])]
    readouts += [readout(data[:, ky], ky=ky) for ky in range(12)]
    scan = scan_of(written(tmp_path / "a.h5", header(), readouts))
    assert np.array_equal(scan.kspace[:, 0].numpy(), data)
    assert scan.noise_scan is not None
    assert np.array_equal(scan.noise_scan.numpy(), np.concatenate(noise, axis=1))
    assert (scan.noise_dwell, scan.dwell) == (pytest.approx(8e-6), pytest.approx(5e-6))
    assert scan.provenance.steps[-1] == "left out 1 navigators, corrections and the like"


@pytest.mark.parametrize(
    ("mode", "given", "lines_of_image"),
    [
        ("embedded", None, [0, 2, 4, 5, 6, 7, 8, 10]),
        ("separate", None, [0, 2, 4, 6, 8, 10]),
        ("other", True, [0, 2, 4, 5, 6, 7, 8, 10]),
        ("embedded", False, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_calibration_lines(tmp_path: Path, mode: str, given: bool | None, lines_of_image: list[int]) -> None:
    data = seeded(COILS, 12, 16)
    kinds = {ky: [] for ky in range(0, 12, 2)} | {4: [BOTH], 5: [CALIBRATION], 6: [BOTH], 7: [CALIBRATION]}
    readouts = [readout(data[:, ky], ky=ky, flags=flags) for ky, flags in kinds.items()]
    path = written(tmp_path / "a.h5", header(calibration=mode), readouts)
    scan = scan_of(path, embedded_calibration=given)
    assert np.flatnonzero(scan.sampled[0, :, 0]).tolist() == lines_of_image
    assert scan.calibration is not None and scan.calibration_averages is not None
    assert np.flatnonzero(scan.calibration_averages[0, :, 0]).tolist() == [4, 5, 6, 7]
    assert np.array_equal(scan.calibration[:, 0, 4:8].numpy(), data[:, 4:8])
    if mode == "other":
        with pytest.raises(ValueError, match="`embedded_calibration` must say whether .* the mode 'other'"):
            read_ismrmrd(path)


def test_oversampling_is_cropped_in_the_image_exactly(tmp_path: Path) -> None:
    data = seeded(COILS, 12, 16)
    document = header(shown=(5.0, 24.0, 16.0), recon_matrix=(1, 12, 8))
    readouts = [readout(data[:, ky], ky=ky, flags=[BOTH] if ky in (5, 6) else []) for ky in range(12)]
    path = written(tmp_path / "a.h5", document, readouts)
    whole, narrow = scan_of(path), scan_of(path, remove_oversampling=True)
    assert narrow.matrix == (1, 12, 8) and narrow.field_of_view == (5.0, 24.0, 16.0)
    assert torch.allclose(images(narrow), images(whole)[..., 4:12], atol=1e-5)
    assert narrow.grid.matches(whole.grid.crop((0, 0, 4), (1, 12, 12)))
    assert narrow.grid.matches(whole.recon_grid)
    assert narrow.averages.shape == (1, 12, 8) and narrow.calibration is not None
    assert narrow.provenance.steps[-1] == "removed the readout oversampling, 16 to 8 samples"
    assert scan_of(path).matrix == (1, 12, 16)
    plain = written(tmp_path / "b.h5", header(), readouts)
    assert scan_of(plain, remove_oversampling=True).matrix == (1, 12, 16)


def test_zeros_in_every_coil_are_not_measurements(tmp_path: Path) -> None:
    data = seeded(COILS, 12, 16)
    data[:, 3, 5:9] = 0
    data[0, 7] = 0  # a coil that is silent there
    path = written(tmp_path / "a.h5", header(), [readout(data[:, ky], ky=ky) for ky in range(12)])
    with pytest.warns(UserWarning, match=r"2\.1% of the samples in .* are exactly zero in every coil"):
        scan = scan_of(path)
    assert np.flatnonzero(~scan.sampled.flatten()).tolist() == [3 * 16 + x for x in range(5, 9)]
    assert scan_of(path, zeros_are_data=False).sampled.equal(scan.sampled)
    assert bool(scan_of(path, zeros_are_data=True).sampled.all())


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("1/mm", (1.0, 1.0)), ("1/m", (1e-3, 1e-3)), ("1/fov", (1 / 32, 1 / 24)), ("1/pixel", (0.5, 0.5)),
     ("rad/pixel", (0.25 / np.pi, 0.25 / np.pi))],
)  # fmt: skip
def test_a_trajectory_comes_in_its_unit(tmp_path: Path, unit: str, factor: tuple[float, float]) -> None:
    data, path = seeded(4, COILS, 10), seeded(4, 10, 2, seed=3).real.copy()
    readouts = [readout(data[i], trajectory=path[i], discard=(1, 2)) for i in range(4)]
    source = written(tmp_path / "a.h5", header(trajectory="radial"), readouts)
    scan = read_ismrmrd(source, trajectory_unit=unit)
    assert isinstance(scan, RawTrajectory)
    assert np.array_equal(scan.kspace.numpy(), data.transpose(1, 0, 2)[..., 1:8])
    assert np.allclose(scan.trajectory.numpy(), path[:, 1:8] * factor, rtol=1e-6)
    assert scan.grid.shape == (1, 12, 16)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_point_seen_along_a_trajectory_is_found_where_it_lies(tmp_path: Path, mirrored: bool) -> None:
    axes = turned((20.0, -35.0, 70.0)) * (np.array([1, 1, -1])[:, None] if mirrored else 1)
    position, voxel = (12.0, -7.5, 31.0), np.array([0, 3, -4])
    place = np.array(position) + (voxel * 2.0)[::-1] @ axes
    offset = axes @ (place - np.array(position))
    angles = np.arange(24) * np.pi / 24
    radius = (np.arange(16) - 8) / 32.0  # 1/mm
    spokes = np.stack([np.outer(np.cos(angles), radius), np.outer(np.sin(angles), radius)], -1)
    made = [
        readout(
            GAINS[:1, None] * np.exp(-2j * np.pi * spoke @ offset[:2]),
            trajectory=spoke.astype(np.float32),
            axes=axes,
            position=position,
        )
        for spoke in spokes
    ]
    path = written(tmp_path / "a.h5", header(trajectory="radial"), made)
    scan = read_ismrmrd(path, trajectory_unit="1/mm")
    measurement = scan.measurement(Gaussian(1.0))
    back = measurement.operator(scan.grid).H(measurement.data)  # type: ignore[attr-defined]
    peak = np.unravel_index(int(back.abs().argmax()), back.shape)
    assert np.allclose(scan.grid.index_to_world(peak), place * [-1, -1, 1], atol=1e-4)
    assert float(back[peak].imag.abs() / back[peak].abs()) < 1e-2


def test_a_third_axis_of_one_slice_may_be_weights(tmp_path: Path) -> None:
    path = np.abs(seeded(10, 3, seed=3).real)
    readouts = [readout(seeded(COILS, 10), trajectory=path)]
    source = written(tmp_path / "a.h5", header(trajectory="spiral"), readouts)
    with pytest.raises(ValueError, match="`trajectory_axes` must be given where one slice has three"):
        read_ismrmrd(source, trajectory_unit="1/mm")
    scan = read_ismrmrd(source, trajectory_unit="1/mm", trajectory_axes=2)
    assert isinstance(scan, RawTrajectory) and scan.trajectory.shape == (1, 10, 2)


def test_the_third_axis_of_a_mirrored_trajectory_turns_round(tmp_path: Path) -> None:
    path = seeded(10, 3, seed=3).real.copy()
    readouts = [readout(seeded(COILS, 10), trajectory=path, axes=np.diag([1.0, 1.0, -1.0]))]
    document = header((4, 12, 16), (8.0, 24.0, 32.0), trajectory="other")
    scan = read_ismrmrd(written(tmp_path / "a.h5", document, readouts), trajectory_unit="1/mm")
    assert isinstance(scan, RawTrajectory)
    assert np.allclose(scan.trajectory[0].numpy(), path * [1, 1, -1], rtol=1e-6)
    assert np.allclose(scan.frame.to_world[:3, :3], np.diag([-1.0, -1.0, 1.0]))
