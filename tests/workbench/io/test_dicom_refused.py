"""What is no volume is refused by its name, with what to do about it, and listed with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the [dicom] extra")

from operators.extras import MissingExtraError  # noqa: E402
from tests.workbench.io.dicom_cases import image, places, ramp, saved, stack  # noqa: E402
from workbench.io import dicom_files  # noqa: E402
from workbench.io.dicom_series import dicom_series, read_dicom_series  # noqa: E402


@pytest.mark.parametrize(
    ("depths", "reason"),
    [
        (
            (0, 2.5, 7.5, 10),
            "missing slices: along the normal gaps of 5 mm from 79.5 to 84.5 mm, where others are of 2.5 mm: "
            "1 slice is missing between the 4 that are there",
        ),
        (
            (0, 2.5, 5, 15),
            "missing slices: along the normal gaps of 10 mm from 82 to 92 mm, where others are of 2.5 mm: "
            "3 slices are missing between the 4 that are there",
        ),
        (
            (0, 2.5, 5, 8.75),
            "uneven gaps: along the normal gaps of 3.75 mm from 82 to 85.75 mm, where others are of 2.5 mm",
        ),
        (
            (0, 2, 4.5, 7.5),
            "uneven gaps: along the normal gaps of 2 mm from 77 to 79 mm, 3 mm from 81.5 to 84.5 mm",
        ),
    ],
)
def test_gaps_are_named(tmp_path: Path, depths: tuple[float, ...], reason: str) -> None:
    where = places()
    where[:, 2] = 77.0 + np.array(depths)
    folder = saved(tmp_path, stack(positions=where))
    (summary,) = dicom_series(folder)
    assert reason in summary.problem and not summary.readable and summary.shape is None
    with pytest.raises(
        ValueError, match="`path` must hold (every slice of its stack|slices at even distances)"
    ) as caught:
        read_dicom_series(folder)
    assert f"{folder} with {reason}" in str(caught.value)


def test_slices_beside_one_another_are_refused(tmp_path: Path) -> None:
    where = places()
    where[2, 0] += 0.4
    with pytest.raises(
        ValueError, match=r"with slices beside one another: the slice at \(-30.6, 12.5, 82\) mm"
    ):
        read_dicom_series(saved(tmp_path, stack(positions=where)))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImagePositionPatient": None}, "no place in the world: images without ImagePositionPatient"),
        ({"PixelSpacing": None}, "no place in the world: images without PixelSpacing"),
        ({"PixelSpacing": [0.5, 0]}, r"an unusable header: \(0.5, 0\)"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]},
            r"an unusable orientation: \(1, 0, 0, 0.5, 1, 0\)",
        ),
        ({"ImageOrientationPatient": [1, 0, 0]}, r"an unusable header: \(1, 0, 0\)"),
        ({"RescaleSlope": 0}, "must state a RescaleSlope other than zero"),
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            "MONOCHROME1: images whose low values are shown bright",
        ),
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "colours: PhotometricInterpretation PALETTE COLOR, 1 samples",
        ),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "a modality lookup table"),
        ({"BitsStored": 12, "HighBit": 9}, "BitsAllocated 16, BitsStored 12, HighBit 9"),
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"},
            "the class RT Dose: a dose with a scaling of its own",
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "the class Segmentation: labels of segments"),
        ({"Rows": None}, "no image: CT Image"),
    ],
)
def test_images_that_are_no_slices_of_one_quantity(
    tmp_path: Path, tags: dict[str, object], reason: str
) -> None:
    folder = saved(tmp_path, stack(tags=tags))
    with pytest.raises(ValueError, match=reason):
        read_dicom_series(folder)
    assert not any(summary.readable for summary in dicom_series(folder))


def test_one_unusable_slice_leaves_a_choice_and_never_a_shorter_volume_unasked(tmp_path: Path) -> None:
    files = stack()
    del files[3].ImagePositionPatient
    folder = saved(tmp_path, files)
    with pytest.raises(ValueError, match="`series` must choose one of several, got None, with 2 in"):
        read_dicom_series(folder)
    assert sorted(summary.images for summary in dicom_series(folder)) == [1, 3]


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "RLELossless"])
def test_pixels_cut_short(tmp_path: Path, syntax: str) -> None:
    files = stack(ramp((4, 32, 32)))
    for file in files:
        if syntax == "RLELossless":
            file.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    folder = saved(tmp_path, files)
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged or cut short|be an undamaged DICOM file"):
        read_dicom_series(folder)


def test_a_header_cut_short_is_counted_and_warned_about(tmp_path: Path) -> None:
    folder = saved(tmp_path, stack())
    bad = folder / "a000.dcm"
    bad.write_bytes(next(folder.iterdir()).read_bytes()[:300])
    listed = dicom_series(folder)
    total = sum(len(paths) for paths in listed.left_out.values()) + sum(summary.files for summary in listed)
    assert total == 5
    if listed.left_out["damaged"]:
        with pytest.warns(UserWarning, match="holds 1 damaged DICOM files, such as a000.dcm"):
            read_dicom_series(folder)
    else:
        assert any("no image" in summary.problem for summary in listed)
    with pytest.raises(ValueError, match="undamaged DICOM file|must hold images"):
        read_dicom_series(bad)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("\x08 nothing")
    with pytest.raises(ValueError, match="`path` must hold DICOM images, got .*left out: 1 not DICOM images"):
        read_dicom_series(tmp_path)
    assert dicom_series(tmp_path) == ()
    with pytest.raises(FileNotFoundError):
        dicom_series(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        read_dicom_series(3)  # type: ignore[arg-type]


def test_a_missing_decoder_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, [image(ramp((5, 6)))])
    (path,) = folder.iterdir()
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    file.PixelData = pydicom.encaps.encapsulate([b"\0" * 20])
    file["PixelData"].VR = "OB"
    file.save_as(path)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(
        MissingExtraError, match=r"JPEG-LS Lossless .*pip install 'inverse-workbench\[dicom\]'"
    ):
        read_dicom_series(folder)


def test_a_compression_that_nothing_decodes_is_refused(tmp_path: Path) -> None:
    file = image(ramp((5, 6)))
    file.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    file.PixelData = pydicom.encaps.encapsulate([b"\0" * 20])
    file["PixelData"].VR = "OB"
    with pytest.raises(ValueError, match="decodes, got .* in MPEG2 Main Profile / Main Level. Export it"):
        read_dicom_series(saved(tmp_path, [file]))


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, *, feature: str, extra: str) -> None:
        raise MissingExtraError(f"{feature} needs {module}: [{extra}]")

    monkeypatch.setattr(dicom_files, "require", absent)
    with pytest.raises(MissingExtraError, match=r"Reading DICOM needs pydicom: \[dicom\]"):
        dicom_series(tmp_path)
