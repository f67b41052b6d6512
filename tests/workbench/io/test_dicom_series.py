"""Slices come to their place by their positions alone, and numbers to their values slice by slice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the [dicom] extra")

from tests.workbench.io.dicom_cases import (  # noqa: E402
    AXIAL,
    CORNER,
    MR,
    OBLIQUE,
    SERIES,
    SHAPE,
    SPACING,
    image,
    normal,
    places,
    ramp,
    saved,
    stack,
)
from workbench.io.dicom_series import dicom_series, read_dicom_series  # noqa: E402

LPS = np.array([-1.0, -1.0, 1.0])


def expected(index: tuple[int, int, int], orientation: tuple[float, ...]) -> np.ndarray:
    """The standard's equation (PS3.3, C.7.6.2.1.1), turned into RAS."""
    z, y, x = index
    r, c = np.array(orientation[:3]), np.array(orientation[3:])
    lps = places(orientation)[z] + c * SPACING[1] * y + r * SPACING[2] * x
    return LPS * lps


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_every_voxel_lies_where_the_standard_says(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    tags = {"ImageOrientationPatient": list(orientation)}
    volume = read_dicom_series(saved(tmp_path, stack(positions=places(orientation), tags=tags)))
    assert volume.grid.shape == SHAPE
    assert volume.grid.spacing == pytest.approx(SPACING)
    assert np.array_equal(volume.data.numpy(), ramp())
    for index in [(0, 0, 0), (3, 4, 5), (1, 2, 3), (2, 0, 5)]:
        assert np.abs(volume.grid.index_to_world(index) - expected(index, orientation)).max() < 1e-6
    assert (volume.space, volume.unit, volume.data.dtype) == ("scanner", "HU", torch.int16)


def test_files_in_any_order_and_of_any_number_give_one_volume(tmp_path: Path) -> None:
    files = stack()
    for k, file in enumerate(files):
        file.InstanceNumber, file.SliceLocation = 40 - k, -3.0 * k  # both lie
    there = read_dicom_series(saved(tmp_path / "a", files))
    back = read_dicom_series(saved(tmp_path / "b", files[::-1]))
    assert torch.equal(there.data, back.data) and there.grid == back.grid
    assert np.array_equal(there.data.numpy(), ramp())


def test_simpleitk_reads_the_same_values_at_the_same_points(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="a second reader, from the [dev] extra")
    tags = {"ImageOrientationPatient": list(OBLIQUE), "RescaleIntercept": -1000, "RescaleSlope": 0.5}
    folder = saved(tmp_path, stack(positions=places(OBLIQUE), tags=tags))
    image = itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    volume = read_dicom_series(folder, dtype=torch.float64)
    assert np.array_equal(itk.GetArrayFromImage(image), volume.data.numpy())
    for index in np.ndindex(2, 2, 2):
        corner = np.array(index) * (np.array(SHAPE) - 1)
        point = image.TransformIndexToPhysicalPoint([int(i) for i in corner[::-1]])
        assert np.abs(LPS * point - volume.grid.index_to_world(corner)).max() < 1e-5


def test_a_tilted_gantry_is_a_sheared_grid_in_which_every_slice_is_in_its_place(tmp_path: Path) -> None:
    angle = np.deg2rad(14)
    orientation = (1, 0, 0, 0, float(np.cos(angle)), -float(np.sin(angle)))
    where = np.array(CORNER) + np.outer(np.arange(4) * 2.5, (0, 0, 1))  # the table moves along z
    tags = {"ImageOrientationPatient": list(orientation)}
    folder = saved(tmp_path, stack(positions=where, tags=tags))
    volume = read_dicom_series(folder)
    for z in range(4):
        assert np.abs(volume.grid.index_to_world((z, 0, 0)) - LPS * where[z]).max() < 1e-9
    (summary,) = dicom_series(folder)
    assert summary.tilt == pytest.approx(14.0)
    assert "tilted by 14 degrees" in str(summary)
    # Straightened, a plane of the world is a plane of the array: values along it do not change.
    smooth = volume.with_data(
        torch.from_numpy(volume.grid.index_to_world(np.moveaxis(np.indices(SHAPE), 0, -1))[..., 2])
    )
    straight = smooth.resample(
        type(volume.grid).from_spacing((3, 3, 3), 0.5, centre=volume.grid.centre), outside=0
    )
    middle = volume.grid.centre[2]
    assert straight.data[:, 1, 1].tolist() == pytest.approx([middle - 0.5, middle, middle + 0.5])


def test_rounded_positions_make_no_shear_and_no_warning(tmp_path: Path) -> None:
    tags = {"ImageOrientationPatient": [round(cosine, 4) for cosine in OBLIQUE]}
    where = places(OBLIQUE).round(3)
    volume = read_dicom_series(saved(tmp_path, stack(positions=where, tags=tags)))
    axes = volume.grid.directions
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-9
    assert np.abs(volume.grid.index_to_world((3, 0, 0)) - LPS * where[3]).max() < 1e-2 * SPACING[2]


def test_slices_a_little_off_are_placed_evenly_with_a_warning(tmp_path: Path) -> None:
    where = places()
    where[1, 2] += 0.1
    with pytest.warns(UserWarning, match="up to 0.1 mm from even places 2.5 mm apart"):
        volume = read_dicom_series(saved(tmp_path, stack(positions=where)))
    assert volume.grid.spacing[0] == pytest.approx(2.5)


def test_one_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    path = saved(tmp_path, stack(ramp((1, 5, 6)))) / "a003of1.dcm"
    volume = read_dicom_series(path)
    assert volume.grid.shape == (1, 5, 6) and volume.grid.spacing == SPACING
    saved(tmp_path / "b", [image(ramp((5, 6)), {"SliceThickness": None})])
    with pytest.warns(UserWarning, match="no SliceThickness for its one slice: 1 mm is taken"):
        assert read_dicom_series(tmp_path / "b").grid.spacing[0] == 1.0


# -- values ------------------------------------------------------------------------------------------


def test_each_slice_is_rescaled_with_its_own_numbers(tmp_path: Path) -> None:
    files = stack(tags={"Modality": "MR", "SOPClassUID": MR})
    for k, file in enumerate(files):
        file.RescaleSlope, file.RescaleIntercept = f"{1 + 0.25 * k}", f"{-10.0 * k}"
    volume = read_dicom_series(saved(tmp_path, files))
    k = np.arange(4).reshape(4, 1, 1)
    assert volume.data.dtype == torch.float32 and volume.unit == ""
    assert np.array_equal(volume.data.numpy(), ramp() * (1 + 0.25 * k) - 10.0 * k)


@pytest.mark.parametrize(
    ("stored", "tags", "kind"),
    [
        ("u1", {"RescaleIntercept": None, "RescaleSlope": None}, torch.uint8),
        ("u2", {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}, torch.int16),
        ("u2", {}, torch.int32),
        ("i2", {}, torch.int16),
        ("i2", {"RescaleIntercept": -1024}, torch.int32),
        ("u4", {}, torch.int64),
        ("u2", {"RescaleSlope": "0.1"}, torch.float32),
    ],
)
def test_whole_numbers_stay_whole_in_what_holds_all_that_the_bits_allow(
    tmp_path: Path, stored: str, tags: dict[str, object], kind: torch.dtype
) -> None:
    folder = saved(tmp_path, stack(ramp((2, 3, 4)).astype(stored), tags=tags))
    volume = read_dicom_series(folder)
    assert volume.data.dtype == kind
    values = ramp((2, 3, 4)) * float(tags.get("RescaleSlope") or 1) + int(tags.get("RescaleIntercept") or 0)
    assert np.allclose(volume.data.numpy(), values, rtol=1e-7)
    exact = read_dicom_series(folder, dtype=torch.float64)
    assert np.array_equal(exact.data.numpy(), values)


def test_a_dtype_must_hold_the_values(tmp_path: Path) -> None:
    folder = saved(tmp_path, stack(tags={"RescaleSlope": "0.5"}))
    assert read_dicom_series(folder, dtype=torch.float64).data.dtype == torch.float64
    with pytest.raises(
        TypeError, match="`dtype` must hold the file's values, of torch.float32, got torch.int16"
    ):
        read_dicom_series(folder, dtype=torch.int16)
    with pytest.raises(TypeError, match="`dtype` must be a torch.dtype, got 'float32'"):
        read_dicom_series(folder, dtype="float32")  # type: ignore[arg-type]


@pytest.mark.parametrize("signed", [False, True])
def test_bits_beside_the_stored_ones_are_masked_and_the_sign_is_that_of_the_high_bit(
    tmp_path: Path, signed: bool
) -> None:
    values = np.array([[0, 1, 2047, -1], [-2048, -241, 100, 7]]) + (0 if signed else 2048)
    dirty = (values & 0xFFF) | np.array([[0x0000, 0xF000, 0xA000, 0x0000], [0x7000, 0x1000, 0x8000, 0xF000]])
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    volume = read_dicom_series(saved(tmp_path, [image(dirty.astype("u2"), tags)]))
    assert volume.data[0].tolist() == values.tolist()


def test_bits_may_lie_higher_up(tmp_path: Path) -> None:
    values = np.array([[0, 5, 4095]], dtype="u2")
    volume = read_dicom_series(saved(tmp_path, [image((values << 4) | 3, {"BitsStored": 12, "HighBit": 15})]))
    assert volume.data[0].tolist() == values.tolist()


def test_padding_stays_as_stored_with_a_warning_or_becomes_what_is_asked(tmp_path: Path) -> None:
    pixels = np.array([[-2000, 24, 1024], [-2000, 0, -2000]], dtype="i2")
    # Files of signed numbers often state the padding as the bits would read unsigned.
    tags = {"RescaleIntercept": -1024}
    file = image(pixels, tags)
    file.add_new(0x00280120, "US", 65536 - 2000)
    folder = saved(tmp_path, [file])
    with pytest.warns(UserWarning, match=r"50.0% of its pixels as padding, which come as down to -3024 HU"):
        kept = read_dicom_series(folder)
    assert kept.data[0].tolist() == [[-3024, -1000, 0], [-3024, -1024, -3024]]
    air = read_dicom_series(folder, padding=-1000.0)
    assert air.data[0].tolist() == [[-1000, -1000, 0], [-1000, -1024, -1000]]
    unknown = read_dicom_series(folder, padding=float("nan"))
    assert unknown.data.isnan().sum() == 3 and unknown.data.dtype == torch.float32
    with pytest.raises(TypeError, match="`padding` must be a finite number, got 'air'"):
        read_dicom_series(folder, padding="air")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "unit"),
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"RescaleType": "US"}, ""),
        ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ""),
        ({"Modality": "MR", "RescaleType": "US"}, ""),
        ({"Modality": "PT", "Units": "BQML"}, "Bq/mL"),
    ],
)
def test_units(tmp_path: Path, tags: dict[str, object], unit: str) -> None:
    assert read_dicom_series(saved(tmp_path, stack(tags=tags))).unit == unit


# -- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian"]
)
def test_other_encodings(tmp_path: Path, syntax: str) -> None:
    uid = getattr(pydicom.uid, syntax)
    for k, file in enumerate(stack()):
        if syntax == "ExplicitVRBigEndian":
            file.PixelData = ramp()[k].byteswap().tobytes()
        file.file_meta.TransferSyntaxUID = uid
        # A dataset without the memory of how it was made, which would refuse another byte order.
        fresh = pydicom.Dataset({element.tag: element for element in file})
        fresh.file_meta = file.file_meta
        fresh.save_as(tmp_path / f"{k}", enforce_file_format=True)
    assert np.array_equal(read_dicom_series(tmp_path).data.numpy(), ramp())


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("kind", ["u2", "i2"])
def test_compressed_pixels(tmp_path: Path, syntax: str, kind: str) -> None:
    pytest.importorskip("openjpeg", reason="needs the decoders of the [dicom] extra")
    pytest.importorskip("jpeg_ls", reason="needs the decoders of the [dicom] extra")
    volume = (np.arange(2 * 32 * 40).reshape(2, 32, 40) * 3).astype(kind) - (500 if kind == "i2" else 0)
    files = stack(volume)
    for file in files:
        file.compress(getattr(pydicom.uid, syntax), generate_instance_uid=False)
    assert np.array_equal(read_dicom_series(saved(tmp_path, files)).data.numpy(), volume)


@pytest.mark.parametrize(
    "syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian"]
)
def test_a_file_without_preamble_and_meta_is_known_by_its_content(tmp_path: Path, syntax: str) -> None:
    uid = getattr(pydicom.uid, syntax)
    for k, file in enumerate(stack()):
        bare = pydicom.Dataset({element.tag: element for element in file})
        if syntax == "ExplicitVRBigEndian":
            bare.PixelData = ramp()[k].byteswap().tobytes()
        bare.save_as(tmp_path / f"{k}", implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian)
    assert np.array_equal(read_dicom_series(tmp_path).data.numpy(), ramp())


def test_a_folder_is_looked_through_and_what_is_no_image_is_counted(tmp_path: Path) -> None:
    files = stack()
    saved(tmp_path / "deep" / "er", files[:2])
    saved(tmp_path / "copy", files[:1])
    saved(tmp_path, files[2:], name="b")
    (tmp_path / "LICENSE").write_text("Anybody may read this.")
    (tmp_path / "empty").touch()
    directory = image(ramp((5, 6)))
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.save_as(tmp_path / "DICOMDIR")
    listed = dicom_series(tmp_path)
    (summary,) = listed
    assert {reason: len(paths) for reason, paths in listed.left_out.items()} == {
        "not DICOM images": 3,
        "damaged": 0,
        "copies of others": 1,
    }
    assert str(listed).endswith("left out: 3 not DICOM images, 1 copies of others")
    assert (summary.name, summary.uid, summary.modality) == (SERIES, SERIES, "CT")
    assert (summary.description, summary.files, summary.images) == ("thorax", 4, 4)
    assert (summary.shape, summary.unit, summary.readable) == (SHAPE, "HU", True)
    assert summary.spacing == pytest.approx(SPACING)
    assert np.array_equal(read_dicom_series(tmp_path).data.numpy(), ramp())


def test_one_of_several_series_is_chosen(tmp_path: Path) -> None:
    other = SERIES + ".2"
    saved(tmp_path, stack())
    saved(tmp_path, stack(ramp((2, 5, 6)) + 7, tags={"SeriesInstanceUID": other, "Modality": "MR"}), name="b")
    report = image(ramp((5, 6)), {"SeriesInstanceUID": SERIES + ".3", "Modality": "SR"})
    for name in ("Rows", "Columns", "BitsAllocated", "PixelData"):
        del report[name]
    saved(tmp_path, [report], name="c")
    with pytest.raises(
        ValueError, match="`series` must choose one of several, got None, with 2 in"
    ) as caught:
        read_dicom_series(tmp_path)
    assert f"series='{other}': MR, 'thorax', 2 x 5 x 6 voxels, 2.5 x 0.75 x 0.5 mm" in str(caught.value)
    assert read_dicom_series(tmp_path, series=other).data.min() == 7
    for summary in dicom_series(tmp_path):
        if summary.readable:
            assert read_dicom_series(tmp_path, series=summary).grid.array_shape == summary.shape
    with pytest.raises(
        ValueError, match=re.escape(f"`series` must be one of those listed, got '{SERIES}.4'")
    ):
        read_dicom_series(tmp_path, series=SERIES + ".4")
    with pytest.raises(TypeError, match="`series` must be a name that dicom_series lists, got 3"):
        read_dicom_series(tmp_path, series=3)  # type: ignore[arg-type]


def test_nothing_names_the_patient(tmp_path: Path) -> None:
    files = stack()
    for file in files:
        file.AccessionNumber = file.StudyID = file.InstitutionName = "4711"
    folder = saved(tmp_path, [files[0], files[3], files[3]])
    volume = read_dicom_series(saved(tmp_path / "whole", stack()))
    said = [repr(dicom_series(folder)), str(dicom_series(folder)), repr(volume.grid), volume.unit]
    for name in ("ImagePositionPatient", "PixelSpacing"):
        file = image(ramp((5, 6)))
        file.add_new(name, "LO", "Doe^Jane 4711")
        saved(tmp_path / name, [file])
        with pytest.raises(ValueError) as caught:
            read_dicom_series(tmp_path / name)
        said.append(str(caught.value).replace(str(tmp_path), ""))
    assert not any(secret in text for text in said for secret in ("Doe", "Jane", "4711"))


def test_frames_of_reference_that_differ_from_slice_to_slice_are_warned_about(tmp_path: Path) -> None:
    files = stack()
    for k, file in enumerate(files):
        file.FrameOfReferenceUID = f"{SERIES}.{k}"
    with pytest.warns(UserWarning, match="states 4 frames of reference in one stack: they are taken for one"):
        assert read_dicom_series(saved(tmp_path, files)).grid.shape == SHAPE


def test_the_normal_is_the_first_axis(tmp_path: Path) -> None:
    tags = {"ImageOrientationPatient": list(OBLIQUE)}
    grid = read_dicom_series(saved(tmp_path, stack(positions=places(OBLIQUE), tags=tags))).grid
    assert np.abs(grid.directions[:, 0] - LPS * normal(OBLIQUE)).max() < 1e-9
