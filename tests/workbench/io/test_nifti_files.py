"""Files that are damaged, strange or in the way: read as they are meant, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.io.nifti import read_nifti, write_nifti
from workbench.io.nifti_description import description_of
from workbench.kinds import Kind
from workbench.volume import Volume

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the [io] extra")


def phantom(dtype: torch.dtype = torch.float32) -> Volume:
    """Return a volume in which every voxel differs."""
    grid = Grid.from_spacing((5, 6, 8), (4.0, 1.5, 0.7))
    return Volume(torch.arange(240).reshape(grid.shape).to(dtype) * 5, grid, "1/mm")


@pytest.mark.parametrize("unit", ["hz", "ppm", "rads"])
def test_a_fourth_axis_that_is_no_time_is_refused(tmp_path: Path, unit: str) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(
        ValueError, match=f"`path` must have time, in s, as its fourth axis, got .* in {unit}"
    ):
        read_nifti(tmp_path / "a.nii")


def test_a_missing_time_step_is_one_second_and_said(tmp_path: Path) -> None:
    for frames in (5, 1):
        image = nibabel.Nifti1Image(np.zeros((2, 3, 4, frames), np.float32), np.eye(4))
        image.header["pixdim"][4] = 0
        nibabel.save(image, tmp_path / f"{frames}.nii")
    with pytest.warns(UserWarning, match="states no time step: 1 s is taken"):
        assert read_nifti(tmp_path / "5.nii").grid.time == TimeAxis(5, 1.0)
    assert read_nifti(tmp_path / "1.nii").grid.time == TimeAxis(1, 1.0)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4), header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.data.dtype == torch.float32
    assert volume.data[3, 2, 1] == 23


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_five_axes_are_refused(tmp_path: Path, suffix: str) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 1, 3), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / f"a{suffix}")
    with pytest.raises(
        ValueError, match=r"hold an image of 2, 3 or 4 axes, got .* of shape \(2, 3, 4, 1, 3\)"
    ):
        read_nifti(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.02, 0.6, 0.999])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, part: float) -> None:
    path = write_nifti(tmp_path / f"a{suffix}", phantom())
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match="`path` must be an undamaged NIfTI file, got .*a.nii"):
        read_nifti(path)


def test_no_flipped_bit_of_a_compressed_file_goes_unnoticed(tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.Philox(key=[0, 0])).normal(size=(5, 6, 8))
    volume = phantom().with_data(torch.from_numpy(noise))
    path = write_nifti(tmp_path / "a.nii.gz", volume)
    whole = path.read_bytes()
    for place in range(20, len(whole), 97):  # the first bytes are the gzip header: time, name
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="`path` must be an undamaged NIfTI file"):
            read_nifti(path)


@pytest.mark.parametrize(
    ("code", "bits", "label"),
    [(128, 24, "RGB"), (2304, 32, "RGBA")],
)
def test_values_torch_does_not_know_are_refused_by_name(
    tmp_path: Path, code: int, bits: int, label: str
) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[70:74] = np.array([code, bits], np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ValueError, match=f"`path` must .* got .* {label}"):
        read_nifti(tmp_path / "a.nii")


def test_headers_that_make_no_sense_name_the_file(tmp_path: Path) -> None:
    def written(name: str) -> Path:
        image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), None)
        image.header.set_sform(np.zeros((4, 4)) if name == "singular" else np.eye(4), code=1)
        image.header["toffset"] = np.nan if name == "toffset" else 0
        image.header["xyzt_units"] = 56 if name == "units" else 10
        nibabel.save(image, tmp_path / f"{name}.nii")
        return tmp_path / f"{name}.nii"

    with pytest.raises(ValueError, match=r"`path` must state a usable frame, got .*toffset\.nii: `start`"):
        read_nifti(written("toffset"))
    with pytest.raises(ValueError, match=r"`path` must state a usable frame, got .*singular\.nii: `affine`"):
        read_nifti(written("singular"))
    with pytest.raises(ValueError, match=r"undamaged NIfTI file, got .*units\.nii: unit code 56"):
        read_nifti(written("units"))


@pytest.mark.parametrize(
    ("stored", "dtype", "kept"),
    [
        (torch.float32, torch.int16, False),
        (torch.complex64, torch.float32, False),
        (torch.int16, torch.uint8, False),
        (torch.int16, torch.bool, False),
        (torch.int16, torch.int32, True),
        (torch.int16, torch.float32, True),
        (torch.float64, torch.float32, True),
        (torch.float32, torch.complex64, True),
    ],
)
def test_values_are_converted_only_where_that_keeps_them(
    tmp_path: Path, stored: torch.dtype, dtype: torch.dtype, kept: bool
) -> None:
    path = write_nifti(tmp_path / "a.nii", phantom(dtype=stored))
    if kept:
        assert torch.equal(read_nifti(path, dtype=dtype).data, phantom(dtype=dtype).data)
    else:
        with pytest.raises(TypeError, match=f"`dtype` must hold the file's values, of {stored}, got {dtype}"):
            read_nifti(path, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_as_single(tmp_path: Path, dtype: torch.dtype) -> None:
    volume = phantom(dtype=dtype)
    back = read_nifti(write_nifti(tmp_path / "a.nii", volume))
    assert back.data.dtype == torch.float32
    assert torch.equal(back.data, volume.data.float())


def test_lazy_views_are_written_as_they_read(tmp_path: Path) -> None:
    values = phantom(dtype=torch.complex64).data * (1 - 2j)
    for view in (values.conj(), values.conj().imag):
        back = read_nifti(write_nifti(tmp_path / "a.nii", phantom().with_data(view)))
        assert torch.equal(back.data, view)


@pytest.mark.parametrize("unit", ["µm/ms", "x" * 74, ""])
def test_units_that_fit_are_kept(tmp_path: Path, unit: str) -> None:
    volume = phantom()
    path = write_nifti(tmp_path / "a.nii", volume.with_data(volume.data, unit=unit))
    assert read_nifti(path).unit == unit


@pytest.mark.parametrize("unit", ["x" * 75, "Ω", "a\0b"])
def test_units_that_do_not_fit_are_refused(tmp_path: Path, unit: str) -> None:
    volume = phantom()
    with pytest.raises(ValueError, match="`unit` must fit NIfTI: at most 74 characters of Latin-1"):
        write_nifti(tmp_path / "a.nii", volume.with_data(volume.data, unit=unit))


@pytest.mark.parametrize("statistic", ["", "mean", "quantile 0.05"])
@pytest.mark.parametrize("unit", ["", "1/mm", "a;kind=b"])
@pytest.mark.parametrize("kind", [None, Kind.SUPERVISED_ESTIMATE])
def test_the_kind_of_answer_is_kept(tmp_path: Path, kind: Kind | None, unit: str, statistic: str) -> None:
    image = phantom()
    volume = Volume(image.data, image.grid, unit, image.space, kind=kind, statistic=statistic)
    back = read_nifti(write_nifti(tmp_path / "a.nii", volume))
    assert (back.kind, back.statistic, back.unit) == (kind, statistic, unit)


def test_what_the_description_cannot_hold_is_refused(tmp_path: Path) -> None:
    image = phantom()
    for statistic, unit, message in (
        ("a;b", "mm", "`statistic` must be text without ';', got 'a;b'"),
        ("mean", "x" * 60, "`unit` must fit NIfTI: at most 41 characters"),
    ):
        volume = Volume(image.data, image.grid, unit, kind=Kind.EXACT_SAMPLE, statistic=statistic)
        with pytest.raises(ValueError, match=message):
            write_nifti(tmp_path / "a.nii", volume)


@pytest.mark.parametrize("text", ["kind=a lie", "FSL5.0", "kind=", "statistic=", "kind=point estimate more"])
def test_a_description_of_somebody_else_says_nothing(text: str) -> None:
    assert description_of(text) == ("", None, "")


@pytest.mark.parametrize("name", ["A.NII", "A.NII.GZ", "b.Nii.gz"])
def test_the_suffix_may_be_in_capitals(tmp_path: Path, name: str) -> None:
    path = write_nifti(tmp_path / name, phantom())
    assert (path.read_bytes()[:2] == b"\x1f\x8b") is name.lower().endswith(".gz")
    assert torch.equal(read_nifti(path).data, phantom().data)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "a.nii"
    link.symlink_to(tmp_path / "store" / "b.nii")
    write_nifti(link, phantom())
    assert link.is_symlink()
    assert torch.equal(read_nifti(tmp_path / "store" / "b.nii").data, phantom().data)


def test_bad_paths_and_values(tmp_path: Path) -> None:
    volume = phantom()
    with pytest.raises(ValueError, match=r"`path` must end in \.nii or \.nii\.gz, got 'a\.png'"):
        write_nifti("a.png", volume)
    with pytest.raises(FileNotFoundError, match="does not exist. Make it first"):
        write_nifti(tmp_path / "nowhere" / "a.nii", volume)
    with pytest.raises(FileNotFoundError):
        read_nifti(tmp_path / "absent.nii")
    with pytest.raises(ValueError, match="fit 32-bit integers"):
        write_nifti(tmp_path / "a.nii", volume.with_data(torch.full(volume.grid.shape, 2**40)))
    (tmp_path / "text.nii").write_text("not an image")
    with pytest.raises(ValueError, match=r"`path` must be an undamaged NIfTI file, got .*text\.nii"):
        read_nifti(tmp_path / "text.nii")
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        read_nifti(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`volume` must be a Volume, got Tensor"):
        write_nifti(tmp_path / "a.nii", volume.data)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`dtype` must be a torch.dtype, got 'float32'"):
        read_nifti(tmp_path / "absent.nii", dtype="float32")  # type: ignore[arg-type]
    long = Grid.from_spacing((1, 1, 32768), 1.0)
    with pytest.raises(ValueError, match="axes of at most 32767"):
        write_nifti(tmp_path / "a.nii", Volume(torch.zeros(long.shape), long))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.nii'"):
        write_nifti(tmp_path / "a.nii", phantom())
    assert not list(tmp_path.iterdir())
