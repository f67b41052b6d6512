import errno
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
    # Also what is read from the very file that it is written to.
    save_samples(load_samples(tmp_path / "a.nc"), tmp_path / "a.nc")
    assert_same(load_samples(tmp_path / "a.nc"), samples)


# -- what is refused -----------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def changed_by_xarray(change: Callable[[xarray.Dataset], xarray.Dataset]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with xarray.open_dataset(path) as dataset:
            changed = change(dataset.load())
        changed.to_netcdf(path, engine="h5netcdf")

    return act


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "truncated file"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_text("hello"), ""),
        (changed_by_xarray(lambda d: d.drop_vars("draws")), "draws"),
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
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    target = save_samples(samples_of(*EVERY[0], weighted=False), tmp_path / "a.nc")
    damage(target)
    expected = (
        f"`path` must be an undamaged file of samples, got .*a.nc: .*{message}.*written by save_samples"
    )
    with pytest.raises(ValueError, match=expected):
        load_samples(target)


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
