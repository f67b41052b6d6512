"""Several images at each place: times make an axis, echoes and the like make stacks, nothing is guessed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pydicom", reason="DICOM needs the [dicom] extra")

from operators.grid import TimeAxis
from tests.workbench.io.dicom_cases import (
    AXIAL,
    CORNER,
    MR,
    OBLIQUE,
    SERIES,
    SHAPE,
    SPACING,
    enhanced,
    image,
    normal,
    places,
    ramp,
    saved,
    stack,
)
from workbench.io.dicom_series import dicom_series, read_dicom_series

LPS = np.array([-1.0, -1.0, 1.0])
VOLUMES = ramp((3, *SHAPE))


def repeated(stated: Callable[[int, int], dict[str, object]]) -> list[Any]:
    """Three volumes at the same places; `stated(t, z)` gives what their files state."""
    files = []
    for t, volume in enumerate(VOLUMES):
        for z, file in enumerate(stack(volume, tags={"Modality": "MR", "SOPClassUID": MR})):
            for name, value in stated(t, z).items():
                setattr(file, name, value)
            files.append(file)
    return files


@pytest.mark.parametrize(
    ("stated", "step"),
    [
        (lambda t, z: {"TriggerTime": 40 * t}, 0.04),
        (lambda t, z: {"TriggerTime": 33 * t + (t == 2), "TemporalPositionIdentifier": 3 - t}, None),
        (lambda t, z: {"AcquisitionTime": f"12595{7 + t}.{z}"}, 1.0),
        # Past midnight, with the slices of a volume one after the other.
        (
            lambda t, z: {
                "AcquisitionDate": f"2020010{1 + (t > 0)}",
                "AcquisitionTime": ("235959", "000001", "000003")[t],
            },
            2.0,
        ),
        (lambda t, z: {"AcquisitionDateTime": f"2020010112000{2 * t}.{z}+0100"}, 2.0),
        (lambda t, z: {"TemporalPositionIdentifier": t + 5, "TemporalResolution": 1500}, 1.5),
        (lambda t, z: {"AcquisitionNumber": t, "FrameReferenceTime": 250.0 * t}, 0.25),
    ],
)
def test_even_times_are_an_axis(
    tmp_path: Path, stated: Callable[[int, int], dict[str, object]], step: float | None
) -> None:
    folder = saved(tmp_path, repeated(stated))
    if step is None:  # the counter runs against the clock, and is the one that is meant to count
        with pytest.warns(
            UserWarning, match="by TemporalPositionIdentifier and states no times that rise with it"
        ):
            volume = read_dicom_series(folder)
        assert volume.grid.time == TimeAxis(3, 1.0)
        assert np.array_equal(volume.data.numpy(), VOLUMES[::-1])
        return
    volume = read_dicom_series(folder)
    assert volume.grid.time is not None and volume.grid.time.count == 3
    assert volume.grid.time.step == pytest.approx(step)
    assert np.array_equal(volume.data.numpy(), VOLUMES)
    (summary,) = dicom_series(folder)
    assert summary.shape == (3, *SHAPE) and summary.images == 12


def test_uneven_times_are_volumes_apart(tmp_path: Path) -> None:
    folder = saved(tmp_path, repeated(lambda t, z: {"AcquisitionTime": f"1200{t**2:02d}"}))
    listed = dicom_series(folder)
    assert [(summary.name, summary.split) for summary in listed] == [
        (f"{SERIES}/1", "time 0 s"),
        (f"{SERIES}/2", "time 1 s"),
        (f"{SERIES}/3", "time 4 s"),
    ]
    assert np.array_equal(read_dicom_series(folder, series=f"{SERIES}/2").data.numpy(), VOLUMES[1])
    with pytest.raises(ValueError, match=f"`series` must choose one of several, got '{SERIES}', with 3 in"):
        read_dicom_series(folder, series=SERIES)


@pytest.mark.parametrize(
    ("stated", "splits"),
    [
        (lambda t, z: {"EchoTime": (14, 5, 9.5)[t], "EchoNumbers": (3, 1, 2)[t]}, ["5", "9.5", "14"]),
        (lambda t, z: {"DiffusionBValue": 500.0 * t}, ["0", "500", "1000"]),
        (lambda t, z: {"ImageType": ["ORIGINAL", "PRIMARY", "MPR"[t]]}, ["M", "P", "R"]),
        (lambda t, z: {"NominalPercentageOfCardiacPhase": 10.0 * t}, ["0", "10", "20"]),
        (lambda t, z: {"AcquisitionNumber": t}, ["0", "1", "2"]),
    ],
)
def test_echoes_and_the_like_are_stacks(
    tmp_path: Path, stated: Callable[[int, int], dict[str, object]], splits: list[str]
) -> None:
    folder = saved(tmp_path, repeated(stated))
    listed = dicom_series(folder)
    assert [summary.shape for summary in listed] == [SHAPE] * 3
    for split, summary in zip(splits, listed, strict=True):
        assert summary.split.removesuffix(".0").endswith(split)
    found = sorted(int(read_dicom_series(folder, series=summary).data.min()) for summary in listed)
    assert found == [int(volume.min()) for volume in VOLUMES]


def test_echoes_each_with_its_times(tmp_path: Path) -> None:
    files = []
    for echo in (2.0, 4.0):
        for file in repeated(lambda t, z: {"AcquisitionTime": f"12000{t}"}):
            file.EchoTime = echo
            files.append(file)
    assert [(s.split, s.shape) for s in dicom_series(saved(tmp_path, files))] == [
        ("EchoTime 2.0", (3, *SHAPE)),
        ("EchoTime 4.0", (3, *SHAPE)),
    ]


def test_angles_and_shapes_are_stacks(tmp_path: Path) -> None:
    files = stack() + stack(ramp((2, 3, 4)), positions=places(count=2))
    files += stack(positions=places(OBLIQUE), tags={"ImageOrientationPatient": list(OBLIQUE)})
    first, second, third = dicom_series(saved(tmp_path, files))
    assert (first.shape, second.shape, third.shape) in {
        (SHAPE, SHAPE, (2, 3, 4)),
        (SHAPE, (2, 3, 4), SHAPE),
        ((2, 3, 4), SHAPE, SHAPE),
    }
    assert "orientation (0.36, -0.8, 0.48) (0.48, 0.6, 0.64)" in first.split + second.split + third.split
    assert "shape 3 x 4" in first.split + second.split + third.split


def test_images_that_nothing_tells_apart_are_refused_with_the_tags_that_differ(tmp_path: Path) -> None:
    refused = (
        r"with several images at one place: 2 at each of 4 places, such as \(-31, 12.5, 77\) mm \(LPS\), "
    )
    twice = [*stack(), *stack(ramp() + 1)]
    with pytest.raises(ValueError, match=refused + "and nothing that is looked at tells them apart"):
        read_dicom_series(saved(tmp_path / "a", twice))
    for k, file in enumerate(twice):
        file.EchoTime = k  # another at every image: no echo covers the places
    with pytest.raises(ValueError, match=refused + "which differ there in EchoTime, not alike at all places"):
        read_dicom_series(saved(tmp_path / "b", twice))
    with pytest.raises(ValueError, match="1 to 2 at each of 4 places"):
        read_dicom_series(saved(tmp_path / "c", twice[:5]))


# -- several frames in one file ------------------------------------------------------------------------


def test_an_enhanced_file_is_put_in_order_by_its_frames(tmp_path: Path) -> None:
    where = places(OBLIQUE)
    frames = [{"position": where[z], "slope": 1 + z, "intercept": -z} for z in (2, 0, 3, 1)]
    path = saved(tmp_path, [enhanced(ramp()[[2, 0, 3, 1]], frames)]) / "a003of1.dcm"
    volume = read_dicom_series(path)
    z = np.arange(4).reshape(4, 1, 1)
    assert np.array_equal(volume.data.numpy(), ramp() * (1 + z) - z)
    assert volume.grid.spacing == pytest.approx(SPACING) and volume.unit == ""
    for k in range(4):
        assert np.abs(volume.grid.index_to_world((k, 0, 0)) - LPS * where[k]).max() < 1e-6


def test_an_enhanced_file_of_times_and_one_of_echoes(tmp_path: Path) -> None:
    where = places(OBLIQUE)
    order = [(t, z) for z in range(4) for t in range(3)]
    volumes = np.stack([VOLUMES[t, z] for t, z in order])
    times = [
        {
            "position": where[z],
            "TemporalPositionIndex": t + 1,
            "FrameReferenceDateTime": f"2020010112000{3 * t}",
        }
        for t, z in order
    ]
    volume = read_dicom_series(saved(tmp_path / "t", [enhanced(volumes, times)]))
    assert volume.grid.time == TimeAxis(3, 3.0)
    assert np.array_equal(volume.data.numpy(), VOLUMES)
    echoes = [{"position": where[z], "echo": 1.5 + t} for t, z in order]
    folder = saved(tmp_path / "e", [enhanced(volumes, echoes)])
    assert [s.split for s in dicom_series(folder)] == [f"EffectiveEchoTime {1.5 + t}" for t in range(3)]
    assert np.array_equal(read_dicom_series(folder, series=f"{SERIES}/3").data.numpy(), VOLUMES[2])


def test_frames_without_places_or_descriptions_are_refused(tmp_path: Path) -> None:
    file = enhanced(ramp(), [{"position": place} for place in places(OBLIQUE)])
    file.PerFrameFunctionalGroupsSequence = file.PerFrameFunctionalGroupsSequence[:3]
    with pytest.raises(ValueError, match="NumberOfFrames 4, and 3 items in PerFrameFunctionalGroupsSequence"):
        read_dicom_series(saved(tmp_path / "a", [file]))
    del file.PerFrameFunctionalGroupsSequence
    with pytest.raises(ValueError, match="4 frames and no PerFrameFunctionalGroupsSequence"):
        read_dicom_series(saved(tmp_path / "b", [file]))


# -- mosaics -------------------------------------------------------------------------------------------


def csa(entries: dict[str, list[str]]) -> bytes:
    """A Siemens CSA header of the second kind."""
    data = b"SV10\4\3\2\1" + struct.pack("<II", len(entries), 77)
    for name, values in entries.items():
        data += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            data += struct.pack("<4i", len(text), len(text), 77, 0) + text + b"\0" * (-len(text) % 4)
    return data


def mosaic(entries: dict[str, list[str]], volume: np.ndarray) -> Any:
    """One file of the slices of `volume` as 2 x 2 tiles, described by a CSA header of `entries`."""
    count, rows, columns = volume.shape
    pixels = np.zeros((2 * rows, 2 * columns), dtype=np.int16)
    for k in range(count):
        pixels[k // 2 * rows : (k // 2 + 1) * rows, k % 2 * columns : (k % 2 + 1) * columns] = volume[k]
    # The stated corner is that of a slice of the mosaic's size about the same centre.
    r, c = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    corner = np.array(CORNER) - r * SPACING[2] * columns / 2 - c * SPACING[1] * rows / 2
    tags = {
        "ImagePositionPatient": [float(f"{x:.10g}") for x in corner],
        "ImageOrientationPatient": list(OBLIQUE),
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        "SpacingBetweenSlices": SPACING[0],
        "Modality": "MR",
    }
    file = image(pixels, tags)
    block = file.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa(entries))
    return file


@pytest.mark.parametrize("sign", [1, -1])
def test_tiles_of_a_mosaic_come_to_their_places(tmp_path: Path, sign: int) -> None:
    entries = {
        "NumberOfImagesInMosaic": ["3"],
        "SliceNormalVector": [f"{sign * cosine:.8f}" for cosine in normal(OBLIQUE)],
    }
    files = [mosaic(entries, volume[:3]) for volume in VOLUMES[:2]]
    for t, file in enumerate(files):
        file.AcquisitionTime = f"12000{2 * t}"
    volume = read_dicom_series(saved(tmp_path, files))
    assert volume.grid.array_shape == (2, 3, *SHAPE[1:]) and volume.grid.time == TimeAxis(2, 2.0)
    first = 0 if sign > 0 else 2  # slices are in order along the normal, tiles may run against it
    for k in range(3):
        index = (abs(first - k), 0, 0)
        place = np.array(CORNER) + sign * k * SPACING[0] * normal(OBLIQUE)
        assert np.abs(volume.grid.index_to_world(index) - LPS * place).max() < 1e-5
        assert np.array_equal(volume.data[1, index[0]].numpy(), VOLUMES[1, k])


def test_mosaics_whose_slices_are_not_known_are_refused(tmp_path: Path) -> None:
    known = {"NumberOfImagesInMosaic": ["4"], "SliceNormalVector": ["0", "0", "1"]}
    cases = {
        "no CSA image header": mosaic(known, ramp()),
        "no NumberOfImagesInMosaic": mosaic({"Other": []}, ramp()),
        "reverse order of the slices": mosaic({**known, "ProtocolSliceNumber": ["3"]}, ramp()),
        "5 tiles in 10 x 12 pixels": mosaic({**known, "NumberOfImagesInMosaic": ["5"]}, ramp()),
        "a damaged CSA header": mosaic(known, ramp()),
    }
    element = cases["a damaged CSA header"][0x0029, 0x1010]
    element.value = element.value[:-110]
    del cases["no CSA image header"][0x0029, 0x1010]
    for k, (reason, file) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=f"with a Siemens mosaic: .*{reason}.* Convert it with dcm2niix"):
            read_dicom_series(saved(tmp_path / f"{k}", [file]))


def test_a_time_axis_of_one_place_is_a_plane_in_time(tmp_path: Path) -> None:
    files = [
        file
        for file in repeated(lambda t, z: {"TriggerTime": 50 * t})
        if file.ImagePositionPatient[2] == CORNER[2]
    ]
    volume = read_dicom_series(saved(tmp_path, files))
    assert volume.grid.array_shape == (3, 1, *SHAPE[1:])
    assert torch.equal(volume.data[:, 0], torch.from_numpy(VOLUMES[:, 0].copy()))
    assert volume.grid.orientation == "SPL" and AXIAL == (1, 0, 0, 0, 1, 0)
