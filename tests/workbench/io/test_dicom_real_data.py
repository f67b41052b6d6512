"""Series as scanners and archives export them: read like SimpleITK reads them, or refused by name."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the [dicom] extra")

from operators.grid import TimeAxis  # noqa: E402
from workbench.io.dicom_series import dicom_series, read_dicom_series  # noqa: E402
from workbench.io.nifti import read_nifti  # noqa: E402
from workbench.volume import Volume  # noqa: E402

DATA = Path(__file__).resolve().parents[4] / "shared/data"
DICOM = DATA / "dicom"
FILES = DICOM / "pydicom_test_files"
MORE = DICOM / "pydicom_data"
pytestmark = pytest.mark.skipif(
    not DICOM.exists(), reason="needs the real series in ../shared/data/dicom, which no checkout holds"
)
LPS = np.array([-1.0, -1.0, 1.0])


def compare_with_simpleitk(volume: Volume, files: list[Path]) -> None:
    """Same values, and the same points at all corners; `files` in the order of the slices."""
    itk = pytest.importorskip("SimpleITK", reason="a second reader, from the [dev] extra")
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    image = itk.ReadImage([str(path) for path in files]) if len(files) > 1 else itk.ReadImage(str(files[0]))
    assert np.array_equal(itk.GetArrayFromImage(image), volume.data.numpy())
    for corner in np.ndindex(2, 2, 2):
        index = np.array(corner) * (np.array(volume.grid.shape) - 1)
        point = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
        assert np.abs(LPS * point - volume.grid.index_to_world(index)).max() < 1e-5


@pytest.mark.parametrize(
    ("folder", "reverse"),
    [
        ("mr/studyforrest_t1_dicom", False),
        ("dicom/dicom2nifti_generic_compressed_jpegls_001", True),
        ("dicom/dicom2nifti_generic_compressed_rle_001", True),
        ("dicom/dicom2nifti_hitachi_anatomical_001", True),
        ("dicom/dicom2nifti_philips_anatomical_001", False),
        ("dicom/pydicom_test_files/dicomdirtests/98892001/CT5N", True),
    ],
)
def test_whole_series_as_simpleitk_reads_them(folder: str, reverse: bool) -> None:
    volume = read_dicom_series(DATA / folder, dtype=torch.float64)
    files = sorted((DATA / folder).iterdir())
    # Names run along the normal or against it; `reverse` is what the second reader is told.
    compare_with_simpleitk(volume, files[::-1] if reverse else files)


@pytest.mark.parametrize(
    "path",
    [
        "pydicom_test_files/CT_small.dcm",
        "pydicom_test_files/MR_small.dcm",
        "pydicom_test_files/MR_small_RLE.dcm",
        "pydicom_test_files/MR_small_bigendian.dcm",
        "pydicom_test_files/MR_small_expb.dcm",
        "pydicom_test_files/MR_small_implicit.dcm",
        "pydicom_test_files/MR_small_jp2klossless.dcm",
        "pydicom_test_files/MR_small_jpeg_ls_lossless.dcm",
        "pydicom_test_files/MR_small_padded.dcm",
        "pydicom_test_files/J2K_pixelrep_mismatch.dcm",
        "pydicom_data/MR2_J2KI.dcm",
        "pydicom_data/MR2_J2KR.dcm",
        "pydicom_data/bad_sequence.dcm",
    ],
)
def test_single_slices_as_simpleitk_reads_them(path: str) -> None:
    compare_with_simpleitk(read_dicom_series(DICOM / path, dtype=torch.float64), [DICOM / path])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (DATA / "ct/lidc_0314_dicom", "missing slices: .* 222 slices are missing between the 24"),
        (
            DICOM / "dicom2nifti_failing_sliceincrement_001",
            "gaps of 10 mm from 28.1075 to 38.1075 mm.*: 1 slice is",
        ),
        (DICOM / "dicom2nifti_siemens_fmri_001", "a Siemens mosaic: no CSA image header"),
        (FILES / "MR_truncated.dcm", "damaged or cut short: .*8130 vs 8192 bytes"),
        (FILES / "ExplVR_BigEnd.dcm", "colours: PhotometricInterpretation RGB"),
        (FILES / "rtdose.dcm", "the class RT Dose"),
        (FILES / "badVR.dcm", "NumberOfFrames, which cannot be read"),
        (FILES / "rtplan_truncated.dcm", "no image: RT Plan"),
        (
            FILES / "no_meta.dcm",
            "left out: 1 not DICOM images",
        ),  # its bytes were changed as if they were text
        (FILES / "dicomdirtests/77654033/CR1", "MONOCHROME1"),
        (FILES / "dicomdirtests/77654033/CT2", "gaps of 202.5 mm from -99.48 to 103.02 mm"),
        (FILES / "JPEG2000.dcm", "images without ImageOrientationPatient, ImagePositionPatient"),
        (MORE / "emri_small.dcm", "10 frames and no PerFrameFunctionalGroupsSequence"),
        (MORE / "liver.dcm", "the class Segmentation"),
        (MORE / "parametric_map_float.dcm", "the class Parametric Map"),
        (DICOM / "qa_12bit", "several images at one place: 3 at each of 35 places"),
    ],
)
def test_refused_by_name(path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_dicom_series(path)


def test_every_file_is_read_or_refused(tmp_path: Path) -> None:
    read = refused = 0
    for path in [*FILES.rglob("*"), *MORE.rglob("*"), *(DICOM / "panimg").rglob("*.dcm")]:
        if path.is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert read_dicom_series(path).data.numel() > 0
                    read += 1
                except ValueError as error:
                    assert str(error).startswith("`path` must ")
                    refused += 1
    assert (read, refused) == (123, 55)


def pair_of_slices(tmp_path: Path, depth: float) -> Volume:
    """Two neighbours of the chest, copied out of the series that has gaps."""
    for path in (DATA / "ct/lidc_0314_dicom").iterdir():
        position = float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])
        if -0.01 < position - depth < 1.01:
            shutil.copy(path, tmp_path)
    # This archive gave every file a frame of reference of its own.
    with pytest.warns(UserWarning, match="states 2 frames of reference"):
        return read_dicom_series(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("depth", [-637.800049, -611.800049])
def test_chest_slices_lie_where_the_derived_volume_has_them(tmp_path: Path, depth: float) -> None:
    volume = pair_of_slices(tmp_path, depth)
    assert volume.unit == "HU" and volume.grid.shape == (2, 512, 512)
    half = read_nifti(DATA / "ct/lidc_0314/lidc_0314_half.nii.gz")
    compare_with_half(volume, half)


def test_head_lies_where_the_derived_volume_has_it() -> None:
    volume = read_dicom_series(DATA / "mr/studyforrest_t1_dicom", dtype=torch.float32)
    half = read_nifti(DATA / "mr/studyforrest_t1/studyforrest_t1_half.nii.gz")
    # The derived one has the slices as its second axis, reversed: brought to the order of the series.
    axes = np.abs(np.linalg.inv(volume.grid.directions) @ half.grid.directions).argmax(axis=1)
    half = half.permute([int(axis) for axis in axes])
    turned = np.diag(np.linalg.inv(volume.grid.directions) @ half.grid.directions) < 0
    compare_with_half(volume, half.flip(*[axis for axis in range(3) if turned[axis]]))


def compare_with_half(volume: Volume, half: Volume) -> None:
    """The means of 2 x 2 x 2 blocks are those of `half`, at the same world points."""
    start = half.grid.world_to_index(volume.downsample(2).grid.index_to_world((0, 0, 0)))
    parity = [int(abs(x - round(x)) > 0.25) for x in start]
    stop = [n - (n - p) % 2 for n, p in zip(volume.grid.shape, parity, strict=True)]
    blocks = volume.crop(parity, stop).downsample(2)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(blocks.grid.shape) - 1)
    index = half.grid.world_to_index(blocks.grid.index_to_world(corners))
    assert np.abs(index - index.round()).max() < 1e-3
    first, last = index.round().astype(int)[[0, -1]]
    held = half.crop(first.tolist(), (last + 1).tolist())
    assert held.grid.matches(blocks.grid, tolerance=1e-3)
    assert (held.data.float() - blocks.data).abs().max() <= 1.0  # stored as whole numbers


def test_a_tilted_gantry_puts_every_slice_in_its_place() -> None:
    folder = DICOM / "dicom2nifti_failing_gantrytilting_001"
    (summary,) = dicom_series(folder)
    volume = read_dicom_series(folder)
    assert summary.tilt == pytest.approx(14.0, abs=1e-3)
    for z, path in enumerate(sorted(folder.iterdir())):
        slice = pydicom.dcmread(path)
        point = LPS * np.array(slice.ImagePositionPatient, dtype=float)
        assert np.abs(volume.grid.index_to_world((z, 0, 0)) - point).max() < 1e-6
        assert np.array_equal(volume.data[z].numpy(), slice.pixel_array.astype(int) - 1024)


def test_a_philips_time_series_in_one_file() -> None:
    (path,) = (DICOM / "dicom2nifti_philips_enhanced_fmri_001").iterdir()
    with pytest.warns(UserWarning, match="counts 4 volumes by TemporalPositionIndex and states no times"):
        volume = read_dicom_series(path)
    file = pydicom.dcmread(path)
    assert volume.grid.array_shape == (4, 8, 64, 64) and volume.grid.time == TimeAxis(4, 1.0)
    frames = file.pixel_array * 1.85934065934065
    assert np.allclose(volume.data.numpy(), frames.reshape(8, 4, 64, 64).swapaxes(0, 1), rtol=1e-6)
    for z in (0, 7):
        item = file.PerFrameFunctionalGroupsSequence[4 * z].PlanePositionSequence[0].ImagePositionPatient
        assert np.abs(volume.grid.index_to_world((z, 0, 0)) - LPS * np.array(item, float)).max() < 1e-6


def test_an_enhanced_ct_whose_frames_run_against_the_normal() -> None:
    volume = read_dicom_series(MORE / "eCT_Supplemental.dcm")
    file = pydicom.dcmread(MORE / "eCT_Supplemental.dcm")
    assert volume.unit == "" and volume.grid.orientation == "IPR"
    for k, item in enumerate(file.PerFrameFunctionalGroupsSequence):
        point = LPS * np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        index = volume.grid.world_to_index(point)
        assert np.abs(index - index.round()).max() < 1e-9
        slice = volume.data[round(index[0])].numpy()
        assert np.array_equal(slice, file.pixel_array[k].astype(int) - 1024)


# nibabel says of its reader of these headers that it is experimental; it is the second opinion here.
@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental:UserWarning")
@pytest.mark.parametrize("name", ["12bitUnsigned", "12bitUnsigned_0x0F0F", "12bitSigned_0x0F0F"])
def test_a_mosaic_of_twelve_bits_with_dirt_above_them(name: str) -> None:
    pytest.importorskip("nibabel", reason="a second reader, from the [io] extra")
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    path = DICOM / f"qa_12bit/In/{name}.dcm"
    volume = read_dicom_series(path)
    other = wrapper_from_data(pydicom.dcmread(path))
    affine = np.diag([*LPS, 1.0]) @ other.affine  # of (row, column, slice)
    assert np.abs(affine[:, [2, 0, 1, 3]] - volume.grid.affine).max() < 1e-4
    stored = np.asarray(other.get_data()).transpose(2, 0, 1).astype(int) & 0xFFF
    signed = np.where(stored >= 2048, stored - 4096, stored)
    assert np.array_equal(volume.data.numpy(), signed if "Signed" in name else stored)
    if name == "12bitSigned_0x0F0F":
        assert {-241, -1} <= set(volume.data.unique().tolist())


def test_slopes_and_intercepts_that_differ_and_series_of_one_folder() -> None:
    for name in ("dicom_slope", "dicom_intercept"):
        volume = read_dicom_series(DICOM / "panimg" / name)
        assert volume.data.dtype == torch.float32 and volume.grid.shape == (2, 2, 3)
        second = pydicom.dcmread(DICOM / "panimg" / name / "2.dcm")
        values = second.pixel_array * float(second.RescaleSlope) + float(second.RescaleIntercept)
        assert np.allclose(volume.data[1].numpy(), values)
    listed = dicom_series(DICOM / "panimg/dicom_4d")
    assert len(listed) == 19 and {summary.shape for summary in listed} == {(4, 2, 3)}
    with pytest.raises(ValueError, match="`series` must choose one of several, got None, with 19 in"):
        read_dicom_series(DICOM / "panimg/dicom_4d")


def test_orientations_of_one_localizer_are_stacks() -> None:
    listed = dicom_series(FILES / "dicomdirtests/98892003/MR2")
    assert sum("orientation" in summary.split for summary in listed) == 6
    assert all(summary.readable for summary in listed)
