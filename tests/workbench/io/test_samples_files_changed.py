"""Lazy samples whose file changes under them, and paths as people write them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from operators.space import Space
from tests.samples_files_cases import EVERY, FORMATS, GRID, assert_same, bits, samples_of
from tests.workbench.test_store import header
from workbench.samples import Samples
from workbench.volume import Volume

pytest.importorskip("zarr", reason="zarr needs [io]")
pytest.importorskip("h5netcdf", reason="netCDF needs [io]")

from workbench.io import netcdf_file
from workbench.io.nifti import read_nifti, write_nifti
from workbench.io.samples import load_samples, save_samples
from workbench.io.zarr_store import ZarrStore


def two(seed: int = 0) -> Samples:
    x = torch.randn(3, *GRID.shape, generator=torch.Generator().manual_seed(seed))
    return Samples(x, Space.field(GRID), samples_of(*EVERY[0]).kind, unit="1/mm")


# -- the file changes ----------------------------------------------------------------------------------


def replaced(path: Path) -> None:
    save_samples(two(1), path)


def written_in_place(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def grown(path: Path) -> None:
    state = path.stat()
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def another_of_that_age_and_size(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("change", [replaced, written_in_place, grown, another_of_that_age_and_size])
def test_a_file_that_changed_is_not_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = save_samples(two(), tmp_path / "a.nc")
    os.utime(path, ns=(10**18, 10**18))  # a clock may stand still between two writes
    found = load_samples(path)
    derived = found[1:].map(torch.abs)
    assert bits(found.tensor()) == bits(two().tensor())
    change(path)
    for ask in (found.tensor, found.mean, lambda: found[0], derived.mean, lambda: found.quantile(0.5)):
        with pytest.raises(
            ValueError,
            match=r"`path` must still lead to .*a\.nc, which was replaced or .*Load it again: load_",
        ):
            ask()
    target = tmp_path / "b.nc"
    with pytest.raises(ValueError, match="which was replaced or written since"):
        save_samples(found, target)
    assert not target.exists()
    load_samples(path).tensor()


def test_a_file_that_is_replaced_while_it_is_opened_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_samples(two(), tmp_path / "a.nc")
    monkeypatch.setattr(netcdf_file, "_check_hdf5", lambda *arguments: save_samples(two(1), path))
    found = load_samples(path)
    with pytest.raises(ValueError, match="which was replaced or written since"):
        found.tensor()


def test_a_file_that_is_gone_says_so_and_may_come_back(tmp_path: Path) -> None:
    path = save_samples(two(), tmp_path / "a.nc")
    found = load_samples(path)
    path.rename(tmp_path / "b.nc")
    with pytest.raises(FileNotFoundError, match=r"a\.nc, which .* is there no more. Put it back, or load it"):
        found.tensor()
    (tmp_path / "b.nc").rename(path)
    assert bits(found.tensor()) == bits(two().tensor())


# -- writing to what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "derive",
    [
        lambda samples: samples,
        lambda samples: samples[1:],
        lambda samples: samples.map(torch.neg),
        lambda samples: samples.map(torch.neg, pointwise=True)[[0]].map(torch.abs),
    ],
)
def test_samples_are_not_saved_onto_what_they_are_read_from(
    tmp_path: Path, suffix: str, derive: Callable[[Samples], Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_samples(two(), tmp_path / f"a.{suffix}")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / f"b.{suffix}"
    link.symlink_to(path)
    found = derive(load_samples(path))
    monkeypatch.chdir(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    for target in (path, f"a.{suffix}", tmp_path / "links" / ".." / f"a.{suffix}", link):
        with pytest.raises(ValueError, match="`path` must be another place than .*Choose another name"):
            save_samples(found, target)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert_same(load_samples(path), two())
    save_samples(found, tmp_path / f"c.{suffix}")
    save_samples(found, tmp_path / f"d.{'nc' if suffix == 'zarr' else 'zarr'}")


def test_nothing_is_saved_into_the_folder_that_is_read(tmp_path: Path) -> None:
    path = save_samples(two(), tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="`path` must be another place than"):
        save_samples(load_samples(path), path / "draws" / "b.nc")


def test_other_files_and_samples_in_memory_may_be_replaced(tmp_path: Path) -> None:
    path = save_samples(two(), tmp_path / "a.nc")
    in_memory = load_samples(path).tensor()
    save_samples(two(1), tmp_path / "b.nc")
    save_samples(load_samples(path), tmp_path / "b.nc")
    assert_same(load_samples(tmp_path / "b.nc"), two())
    save_samples(Samples(-in_memory, two().space, two().kind), path)
    assert bits(load_samples(path).tensor()) == bits(-two().tensor())


# -- two units -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HU", "", None])
@pytest.mark.parametrize("suffix", FORMATS)
def test_two_units_are_refused(tmp_path: Path, suffix: str, variable: str | None) -> None:
    path = tmp_path / f"a.{suffix}"
    dataset = two().to_xarray()
    if variable is None:
        del dataset.draws.attrs["units"]
    else:
        dataset.draws.attrs["units"] = variable
    if suffix == "nc":
        dataset.to_netcdf(path, engine="h5netcdf")
    else:
        save_samples(two(), path)
        file = path / "draws" / "zarr.json"
        said = "" if variable is None else f'"units": "{variable}",'
        file.write_text(file.read_text().replace('"units": "1/mm",', said))
    if variable is None:
        assert load_samples(path).unit == "1/mm"  # what is not said contradicts nothing
        return
    message = (
        f"`path` must state one unit of its draws, got .*a.{suffix}, where the attribute `units` of the "
        f"variable `draws` says '{variable}' and the attribute `unit` of the header says '1/mm'. Find out"
    )
    with pytest.raises(ValueError, match=message):
        load_samples(path)


@pytest.mark.parametrize("unit", ["", "1/mm", "µm²/ms"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_one_unit_is_not(tmp_path: Path, suffix: str, unit: str) -> None:
    samples = two().map(torch.neg, unit=unit)
    assert load_samples(save_samples(samples, tmp_path / f"a.{suffix}")).unit == unit
    samples.to_xarray().to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    assert load_samples(tmp_path / "b.nc").unit == unit


# -- paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_home_is_written_out(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert save_samples(two(), f"~/a.{suffix}") == home / f"a.{suffix}"
    assert_same(load_samples(f"~/a.{suffix}"), two())
    assert_same(load_samples(Path("~") / f"a.{suffix}"), two())
    with pytest.raises(ValueError, match="`path` must be another place"):
        save_samples(load_samples(f"~/a.{suffix}"), home / f"a.{suffix}")
    ZarrStore("~/run").begin(header())
    assert (home / "run" / "draws").is_dir()
    write_nifti("~/a.nii", Volume(torch.zeros(GRID.shape), GRID))
    assert read_nifti("~/a.nii").grid.shape == GRID.shape
    assert not list((tmp_path / "elsewhere").iterdir())
    for act in (lambda path: save_samples(two(), path), load_samples, ZarrStore, read_nifti):
        with pytest.raises(
            ValueError, match="`path` must begin with the home of somebody known, got '~nobody-"
        ):
            act("~nobody-of-that-name/a.nc")


@pytest.mark.parametrize("name", ["a.NC", "A.Nc", "a.ZARR", "A.Zarr"])
def test_the_suffix_may_be_in_capitals(tmp_path: Path, name: str) -> None:
    path = save_samples(two(), tmp_path / name)
    assert path.name == name
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.is_dir() == name.lower().endswith("zarr")
    assert_same(load_samples(path), two())
