import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray

from operators.space import Space
from tests.samples_files_cases import EVERY, FORMATS, GRID, assert_same, samples_of
from workbench.samples import Samples
from workbench.volume import Volume

pytest.importorskip("zarr", reason="zarr needs [io]")
pytest.importorskip("h5netcdf", reason="netCDF needs [io]")

from workbench.io.nifti import write_nifti
from workbench.io.samples import load_samples, save_samples

# -- whole or not at all -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_write_that_fails_leaves_nothing_and_what_was_there(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(*EVERY[0])
    before = save_samples(samples, tmp_path / "before.nc").read_bytes()

    def fails(samples: Samples) -> Any:
        yield 0, samples.tensor()[0].numpy()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.io.samples._in_turn", fails)
    name = "before.nc" if suffix == "nc" else "a.zarr"
    with pytest.raises(OSError, match="No space left on device"):
        save_samples(samples, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["before.nc"]
    assert (tmp_path / "before.nc").read_bytes() == before


def test_a_file_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    samples = samples_of(*EVERY[0])
    for _ in range(2):
        save_samples(samples, tmp_path / "a.nc")
    save_samples(samples, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="`path` must be new, got .*a.zarr, which is there. Remove it"):
        save_samples(samples, tmp_path / "a.zarr")
    for name, suffix in (("a.zarr", "nc"), ("b.nc", "zarr")):
        (tmp_path / "b.nc").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / f"folder.{suffix}")
        with pytest.raises(ValueError, match=f"`path` must be new, got .*folder.{suffix}, which is there"):
            save_samples(samples, tmp_path / f"folder.{suffix}")
    assert_same(load_samples(tmp_path / "a.nc"), samples)


# -- what is refused -----------------------------------------------------------------------------------


def without(name: str) -> Callable[[xarray.Dataset], xarray.Dataset]:
    def act(dataset: xarray.Dataset) -> xarray.Dataset:
        del dataset.attrs[name]
        return dataset

    return act


def changed_by_xarray(change: Callable[[xarray.Dataset], xarray.Dataset]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with xarray.open_dataset(path) as dataset:
            changed = change(dataset.load())
        changed.to_netcdf(path, engine="h5netcdf")

    return act


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_by_xarray(lambda d: d.drop_vars("draws")), "it has no variable `draws`"),
        (changed_by_xarray(without("kind")), "it lacks 'kind'"),
        (changed_by_xarray(lambda d: d.drop_attrs()), "not marked as inverse-workbench samples"),
        (
            changed_by_xarray(lambda d: d.isel(x=slice(2, None))),
            "coordinates along x are not those of its af",
        ),
        (changed_by_xarray(lambda d: d.isel(z=slice(None, None, -1))), "coordinates along z are not those"),
        (changed_by_xarray(lambda d: d.transpose("draw", "x", "y", "z")), "its axes are"),
        (changed_by_xarray(lambda d: d.assign_attrs(format_version=2)), "version 2 is newer than this workb"),
        (changed_by_xarray(lambda d: d.assign_attrs(kind="guess")), "guess"),
        (changed_by_xarray(lambda d: d.assign_attrs(element="blob")), "the element 'blob' is not known"),
        (changed_by_xarray(lambda d: d.assign_attrs(affine=[1.0, 2.0])), "reshape"),
        (changed_by_xarray(lambda d: d.assign_attrs(record="{")), ""),
        (changed_by_xarray(lambda d: d.astype("float16")), "float16"),
    ],
)
def test_damaged_and_foreign_files_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    target = save_samples(samples_of(*EVERY[0], weighted=False), tmp_path / "a.nc")
    damage(target)
    expected = (
        f"`path` must be an undamaged file of samples, got .*a.nc: .*{message}.*written by save_samples"
    )
    with pytest.raises(ValueError, match=expected):
        load_samples(target)


def cut_to(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def garbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:600] = b"\xff" * 500
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_to(-400), r"an undamaged file of samples, got .*a\.nc, which is cut short: \d+ of \d+ bytes"),
        (cut_to(3000), r"an undamaged file of samples, got .*a\.nc, which is cut short: 3000 of \d+ bytes"),
        (cut_to(10), r"an undamaged file of samples, got .*a\.nc, which HDF5 cannot read"),
        (garbled, r"an undamaged file of samples, got .*a\.nc, which HDF5 cannot read"),
        (cut_to(0), r"a netCDF-4 file of samples, got .*a\.nc, which is empty"),
        (cut_to(4), r"a netCDF-4 file of samples, got .*a\.nc, which is not"),
        (lambda path: path.write_text("hello"), r"a netCDF-4 file of samples, got .*a\.nc, which is not"),
        (
            lambda path: path.write_bytes(b"CDF\x01\0\0"),
            r"a netCDF-4 file .*, which is netCDF-3, an older format",
        ),
    ],
)
def test_files_that_hdf5_cannot_read_are_refused_in_plain_words(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    target = save_samples(samples_of(*EVERY[0]), tmp_path / "a.nc")
    damage(target)
    with pytest.raises(ValueError, match=f"^`path` must be {message}\\. .*save_samples") as caught:
        load_samples(target)
    assert not re.search("synchronously|sblock|Errno|signature", str(caught.value))


def test_draws_that_hdf5_cannot_read_any_more_are_refused_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = save_samples(samples_of(*EVERY[0]), tmp_path / "a.nc")
    found = load_samples(target)
    monkeypatch.setattr("workbench.io.netcdf_file.NetcdfDraws._check_unchanged", lambda draws: None)
    cut_to(-400)(target)
    with pytest.raises(ValueError, match=r"undamaged file of samples, got .*a\.nc, which is cut short"):
        found.tensor()
    target.unlink()
    with pytest.raises(FileNotFoundError, match=rf"^\[Errno 2\] No such file or directory: '{target}'$"):
        found.tensor()


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save_samples(samples_of(*EVERY[0]), tmp_path / "a.nc")

    def locked(*arguments: object) -> None:
        text = "Unable to synchronously open file (unable to lock file, errno = 11, error message = 'Res"
        raise BlockingIOError(errno.EAGAIN, text)

    monkeypatch.setattr("h5py.File", locked)
    with pytest.raises(BlockingIOError, match=rf"^\[Errno 11\] [^()]*: '{target}'$"):
        load_samples(target)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_record_that_would_come_back_changed_is_refused_before_anything_is_written(
    tmp_path: Path, suffix: str
) -> None:
    samples = samples_of(*EVERY[0])
    with pytest.raises(TypeError, match=r"`record\['sites'\]` must have text as keys, got 3 \(int\)"):
        save_samples(
            Samples(samples.tensor(), samples.space, samples.kind, record={"sites": {3: "a"}}),
            tmp_path / f"a.{suffix}",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "zarr.json").unlink(),
        lambda folder: (folder / "zarr.json").write_text("{"),
        lambda folder: (folder / "draws" / "zarr.json").unlink(),
        lambda folder: (folder / "z" / "zarr.json").unlink(),
        lambda folder: (folder / "draws" / "c" / "1" / "0" / "0" / "0").unlink(),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    target = save_samples(samples_of(*EVERY[0]), tmp_path / "a.zarr")
    damage(target)
    with pytest.raises(ValueError, match="`path` must be an undamaged folder of draws, got .*a.zarr: "):
        load_samples(target)


def test_wrong_arguments(tmp_path: Path) -> None:
    samples = samples_of(*EVERY[0])
    with pytest.raises(ValueError, match=r"`path` must end in \.nc or \.zarr, got '.*a\.npz'"):
        save_samples(samples, tmp_path / "a.npz")
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        save_samples(samples, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`samples` must be Samples, got Tensor"):
        save_samples(samples.tensor(), tmp_path / "a.nc")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_samples(tmp_path / "a.nc")
    for suffix in FORMATS:
        with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist. Make it first"):
            save_samples(samples, tmp_path / "nowhere" / f"a.{suffix}")


def test_nifti_has_no_components(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="NIfTI needs [io]")
    volume = samples_of(Space.vectors(GRID), torch.float32)[0]
    assert isinstance(volume, Volume)
    with pytest.raises(
        ValueError, match=r"one number per voxel for NIfTI, got components R, A, S\..*components=\(\)"
    ):
        write_nifti(tmp_path / "a.nii", volume)
    write_nifti(tmp_path / "a.nii", volume.with_data(volume.data[0], components=()))


def test_the_extras_are_imported_only_where_they_are_used() -> None:
    extras = {"zarr", "h5py", "h5netcdf", "xarray"}
    code = "import sys, workbench.io.samples, workbench.io.zarr_store; "
    code += f"raise SystemExit(bool({extras} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
