"""A landmark in an asymmetric, oblique, anisotropic volume is found at its world point by every reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.io.nifti import read_nifti, write_nifti
from workbench.volume import Volume

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the [io] extra")

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
LANDMARK = (3, 1, 6)  # array index (z, y, x)


def phantom(
    *,
    mirrored: bool = False,
    time: TimeAxis | None = None,
    dtype: torch.dtype = torch.float32,
    space: str = "scanner",
) -> Volume:
    """Return a volume in which every voxel differs and one, the landmark, is the largest."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION @ np.diag([-4.0 if mirrored else 4.0, 1.5, 0.7])
    affine[:3, 3] = (-31.0, 12.5, 77.0)
    grid = Grid((5, 6, 8), affine, time)
    data = torch.arange(np.prod(grid.array_shape), dtype=torch.float64).reshape(grid.array_shape)
    data[(..., *LANDMARK)] = 1e4
    return Volume(data.to(dtype), grid, "1/mm", space)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_round_trip_keeps_voxels_frame_and_unit(tmp_path: Path, mirrored: bool, suffix: str) -> None:
    volume = phantom(mirrored=mirrored)
    back = read_nifti(write_nifti(tmp_path / f"a{suffix}", volume))
    assert back.grid.matches(volume.grid, tolerance=1e-4)  # the header holds single precision
    assert torch.equal(back.data, volume.data)
    assert back.unit == "1/mm"
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_nibabel_finds_the_landmark_at_its_world_point(tmp_path: Path, mirrored: bool) -> None:
    volume = phantom(mirrored=mirrored)
    image = nibabel.load(write_nifti(tmp_path / "a.nii", volume))
    index = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
    assert index == LANDMARK[::-1]
    world = nibabel.affines.apply_affine(image.affine, index)
    assert np.abs(world - volume.grid.index_to_world(LANDMARK)).max() < 1e-4
    assert image.header.get_xyzt_units() == ("mm", "sec")
    for get in (image.get_sform, image.get_qform):
        affine, code = get(coded=True)
        assert code == 1
        assert np.abs(affine - volume.grid.nifti_affine).max() < 1e-4


@pytest.mark.parametrize("mirrored", [False, True])
def test_simpleitk_finds_the_landmark_at_its_world_point(tmp_path: Path, mirrored: bool) -> None:
    itk = pytest.importorskip("SimpleITK", reason="a second reader, from the [dev] extra")
    volume = phantom(mirrored=mirrored)
    image = itk.ReadImage(str(write_nifti(tmp_path / "a.nii", volume)))
    index = tuple(int(i) for i in LANDMARK[::-1])
    assert image[index] == 1e4
    left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
    assert np.abs(np.array([-left, -posterior, superior]) - volume.grid.index_to_world(LANDMARK)).max() < 1e-4


# napari announces that it shows an oblique volume unturned; its coordinates are right all the same.
@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
# npe2, napari's plugin engine, still uses a retired pydantic setting.
@pytest.mark.filterwarnings("ignore:.json_encoders. is deprecated:DeprecationWarning")
def test_napari_places_the_landmark_radiologically() -> None:
    layers = pytest.importorskip("napari.layers", reason="needs the [viewer] extra")
    volume = phantom()
    layer = layers.Image(volume.data.numpy(), affine=volume.grid.napari_affine)
    right, anterior, superior = volume.grid.index_to_world(LANDMARK)
    down_screen = np.array(layer.data_to_world(LANDMARK))
    # World axes of napari: slice, row (down), column (to the right): S, -A, -R.
    assert np.allclose(down_screen, (superior, -anterior, -right), atol=1e-9)


def test_time_axis_and_four_dimensions(tmp_path: Path) -> None:
    volume = phantom(time=TimeAxis(3, step=0.25, start=1.5))
    back = read_nifti(write_nifti(tmp_path / "a.nii.gz", volume))
    assert back.grid.time == volume.grid.time
    assert torch.equal(back.data, volume.data)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.int16, torch.int16),
        (torch.uint8, torch.uint8),
        (torch.int64, torch.int32),
        (torch.bool, torch.uint8),
    ],
)
def test_values_keep_their_type(tmp_path: Path, written: torch.dtype, read: torch.dtype) -> None:
    volume = phantom()
    data = (volume.data % 100).to(written)
    if written.is_complex:
        data = data * (1 - 2j)
    back = read_nifti(write_nifti(tmp_path / "a.nii", volume.with_data(data)))
    assert back.data.dtype == read
    assert torch.equal(back.data, data.to(read))
    assert read_nifti(tmp_path / "a.nii", dtype=torch.complex128).data.dtype == torch.complex128


def test_a_plane_stays_one_slice(tmp_path: Path) -> None:
    plane = Grid.plane((4, 5), (2.0, 1.0), thickness=7.0)
    volume = Volume(torch.rand(plane.shape, generator=torch.Generator().manual_seed(0)), plane)
    back = read_nifti(write_nifti(tmp_path / "a.nii", volume))
    assert back.grid.matches(plane, tolerance=1e-5)
    nibabel.save(nibabel.Nifti1Image(volume.data[0].numpy().T, plane.nifti_affine), tmp_path / "flat.nii")
    assert read_nifti(tmp_path / "flat.nii").grid.shape == (1, 4, 5)


def test_scaling_and_units_of_the_header_are_applied(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.diag([0.002, 0.002, 0.003, 1]))
    image.header.set_slope_inter(0.5, -10)
    image.header.set_xyzt_units("meter", "msec")
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.grid.spacing == pytest.approx((3.0, 2.0, 2.0))
    assert np.allclose(volume.data.numpy().T, np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj))
    assert volume.data[3, 2, 1] == 0.5 * stored[1, 2, 3] - 10


def test_a_sheared_grid_has_a_frame_all_the_same(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 0] = 0.2  # slices shifted along anterior: a tilted gantry
    volume = Volume(torch.zeros(2, 3, 4), Grid((2, 3, 4), affine))
    path = write_nifti(tmp_path / "a.nii", volume)
    assert read_nifti(path).grid.matches(volume.grid)
    header = nibabel.load(path).header
    # A quaternion cannot shear: better no qform than a wrong one.
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    assert header.get_zooms() == pytest.approx(volume.grid.spacing[::-1])


@pytest.mark.parametrize(("space", "code"), [("scanner", 1), ("aligned", 2), ("talairach", 3), ("mni", 4)])
def test_the_space_is_the_frame_code_both_ways(tmp_path: Path, space: str, code: int) -> None:
    path = write_nifti(tmp_path / "a.nii", phantom(space=space))
    header = nibabel.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (code, code)
    assert read_nifti(path).space == space


def test_a_file_without_a_frame_is_warned_about_and_stays_without(tmp_path: Path) -> None:
    bare = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), None)
    bare.header.set_zooms((2.0, 3.0, 4.0))
    nibabel.save(bare, tmp_path / "a.nii")
    with pytest.warns(UserWarning, match="states no frame"):
        volume = read_nifti(tmp_path / "a.nii")
    assert (volume.space, volume.grid.spacing) == ("unknown", (4.0, 3.0, 2.0))
    with pytest.warns(UserWarning, match="written without a frame: the volume's space is 'unknown'"):
        path = write_nifti(tmp_path / "b.nii", volume)
    header = nibabel.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    with pytest.warns(UserWarning, match="states no frame"):
        again = read_nifti(path)
    assert (again.space, again.grid) == ("unknown", volume.grid)


@pytest.mark.parametrize(
    ("sform", "qform", "space"), [(4, 0, "mni"), (0, 1, "scanner"), (4, 1, "mni"), (5, 0, "aligned")]
)
def test_one_code_is_a_frame(tmp_path: Path, sform: int, qform: int, space: str) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), None)
    image.header.set_sform(np.diag([1.0, 2, 3, 1]), code=sform)
    image.header.set_qform(np.diag([1.0, 2, 3, 1]), code=qform)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")  # and no warning
    assert (volume.space, volume.grid.spacing) == (space, (3.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("length", "millimetres", "duration", "seconds"),
    [("meter", 1000.0, "sec", 1.0), ("micron", 1e-3, "msec", 1e-3), ("mm", 1.0, "usec", 1e-6)],
)
def test_units_of_the_header(
    tmp_path: Path, length: str, millimetres: float, duration: str, seconds: float
) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(length, duration)
    image.header["pixdim"][4] = 8.0
    image.header["toffset"] = 2.0
    nibabel.save(image, tmp_path / "a.nii")
    grid = read_nifti(tmp_path / "a.nii").grid
    assert grid.spacing == pytest.approx((4 * millimetres, 3 * millimetres, 2 * millimetres))
    assert grid.time is not None
    assert (grid.time.step, grid.time.start) == pytest.approx((8 * seconds, 2 * seconds))
