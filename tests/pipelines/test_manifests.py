"""The manifests of the repository, and volumes read through them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr

from operators.grid import Grid
from pipelines.config.loading import ConfigError, load
from pipelines.config.manifest import Manifest, VolumeEntry, check_splits
from pipelines.training.data import fingerprint_of, mixed, read_manifests
from pipelines.training.files import READERS, read_entry, sha256_of_files
from tests.workbench.io.dicom_cases import ramp, saved, stack
from tests.workbench.training.training_cases import world_volume
from workbench.io.nifti import write_nifti
from workbench.training.volumes import SliceVolume

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
MANIFESTS = sorted((ROOT / "data_manifests").glob("*.toml"))
GRID = Grid.from_spacing((40, 48, 44), 3.0, centre=(1.0, 2.0, 3.0))
#: Never trained on, by any prior.
HELD_OUT = {"NSCLC Radiogenomics R01-001", "TotalSegmentator example", "studyforrest"}


def test_there_are_manifests_for_both_priors() -> None:
    assert {path.stem for path in MANIFESTS} >= {"ct", "mr"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_says_whose_each_volume_is_where_it_is_from_and_under_what_licence(path: Path) -> None:
    manifest = load(Manifest, path, env={})
    for entry in manifest.volumes:
        assert entry.origin.startswith("https://"), entry.name
        assert entry.licence, entry.name
        assert entry.attribution, entry.name
        assert entry.sha256, entry.name


def test_who_is_held_out_is_trained_on_in_none_of_them() -> None:
    manifests = [load(Manifest, path, env={}) for path in MANIFESTS]
    assert check_splits(manifests) == []
    entries = [entry for manifest in manifests for entry in manifest.volumes]
    assert {entry.subject for entry in entries if entry.split == "test"} == HELD_OUT
    for entry in entries:
        # A name that slips through under another subject: by its path and origin.
        marked = any(word in entry.path.lower() for word in ("r01-001", "totalseg", "studyforrest"))
        assert marked == (entry.split == "test"), entry.name


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not on this machine")
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_volume_is_read_as_its_manifest_says(path: Path) -> None:
    for entry in load(Manifest, path, env={}).volumes:
        volume = read_entry(entry, SHARED)
        assert torch.isfinite(volume.data).all(), entry.name
        cut = SliceVolume.of(volume, subject=entry.subject, name=entry.name, fill=0.0)
        assert cut.axes, entry.name


def entry(kind: str, path: str, **more: object) -> VolumeEntry:
    facts = {"name": "v", "subject": "V", "split": "train", "kind": kind, "path": path, "unit": "HU"}
    return VolumeEntry(**facts, **more)  # type: ignore[arg-type]


def test_kinds_of_file_give_the_same_volume(tmp_path: Path) -> None:
    volume = world_volume(GRID)
    volume = volume.with_data(volume.data.round().to(torch.int16))
    write_nifti(tmp_path / "v.nii.gz", volume)
    affine = volume.grid.affine.ravel().tolist()
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["scan/volume"] = volume.data.numpy()
        file["scan/volume"].attrs["affine"] = affine
        file["plain"] = volume.data.numpy().astype(">i2")
    group = zarr.open_group(str(tmp_path / "v.zarr"), mode="w")
    array = group.create_array("volume", data=volume.data.numpy())
    array.attrs["affine"] = affine
    read = {
        "nifti": read_entry(entry("nifti", "v.nii.gz"), tmp_path),
        "hdf5": read_entry(entry("hdf5", "v.h5", array="scan/volume"), tmp_path),
        "plain": read_entry(entry("hdf5", "v.h5", array="plain", spacing=(3.0, 3.0, 3.0)), tmp_path),
        "zarr": read_entry(entry("zarr", "v.zarr", array="volume"), tmp_path),
    }
    for kind, got in read.items():
        assert got.data.dtype == torch.float32, kind
        assert torch.equal(got.canonical().data, volume.data.float()), kind
        if kind != "plain":
            assert got.canonical().grid.matches(volume.grid, tolerance=1e-4), kind
    assert read["plain"].grid.spacing == (3.0, 3.0, 3.0)


def test_a_series_of_dicom_files_is_read_too(tmp_path: Path) -> None:
    saved(tmp_path / "series", stack(ramp()))
    got = read_entry(entry("dicom", "series"), tmp_path)
    assert (got.data.dtype, got.unit) == (torch.float32, "HU")
    assert got.data.shape == ramp().shape


def test_values_are_scaled_as_the_manifest_says(tmp_path: Path) -> None:
    volume = world_volume(GRID)
    write_nifti(tmp_path / "v.nii.gz", volume.with_data(volume.data.float()))
    scaled = read_entry(entry("nifti", "v.nii.gz", slope=2.0, intercept=-1024.0), tmp_path)
    assert torch.allclose(scaled.canonical().data, 2 * volume.data.float() - 1024)


def test_a_file_without_a_frame_lies_as_the_manifest_says(tmp_path: Path) -> None:
    volume = world_volume(GRID)
    write_nrrd(tmp_path / "v.nrrd", volume.permute((0, 1, 2)).flip(0, 2).data.to(torch.int16).numpy())
    got = read_entry(entry("nrrd", "v.nrrd", orientation="IAL"), tmp_path)
    assert got.grid.orientation == "IAL"
    assert torch.equal(got.canonical().data, volume.data.to(torch.int16).float())
    with pytest.raises(ValueError, match=r"`v.orientation` must name three axes"):
        read_entry(entry("nrrd", "v.nrrd", orientation="SIR"), tmp_path)
    write_nifti(tmp_path / "v.nii.gz", volume)
    with pytest.raises(ValueError, match=r"`v.orientation` must be left to the file"):
        read_entry(entry("nifti", "v.nii.gz", orientation="SAR"), tmp_path)


def write_nrrd(path: Path, values: np.ndarray) -> None:
    """Write an array (z, y, x) with spacings and no frame."""
    sizes = " ".join(map(str, values.shape[::-1]))
    facts = ("type: short", "dimension: 3", f"sizes: {sizes}", "spacings: 3 3 3", "endian: little")
    header = "\n".join(("NRRD0004", *facts, "encoding: raw", "", ""))
    path.write_bytes(header.encode() + values.astype("<i2").tobytes())


def test_arrays_that_are_not_there_or_lie_nowhere_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["volume"] = np.zeros((4, 4, 4))
        file["flat"] = np.zeros((4, 4))
    with pytest.raises(ValueError, match=r"`v.array` must be one of flat, volume, got 'image'"):
        read_entry(entry("hdf5", "v.h5", array="image"), tmp_path)
    with pytest.raises(ValueError, match="`v` must say where its voxels lie"):
        read_entry(entry("hdf5", "v.h5", array="volume"), tmp_path)
    with pytest.raises(ValueError, match=r"`v` must be an array \(z, y, x\), got \(4, 4\)"):
        read_entry(entry("hdf5", "v.h5", array="flat", spacing=(1.0, 1.0, 1.0)), tmp_path)


@pytest.mark.parametrize("affine", [np.eye(3).ravel(), np.array([b"a"] * 16)], ids=["nine", "text"])
def test_affines_that_are_none_are_refused(tmp_path: Path, affine: np.ndarray) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["volume"] = np.zeros((4, 4, 4))
        file["volume"].attrs["affine"] = affine
    with pytest.raises(ValueError, match="`v.affine` must be 16 numbers, got"):
        read_entry(entry("hdf5", "v.h5", array="volume"), tmp_path)


def test_units_may_be_bytes_as_other_programs_write_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["volume"] = np.zeros((4, 4, 4))
        file["volume"].attrs["units"] = np.bytes_("HU")
    volume = read_entry(entry("hdf5", "v.h5", array="volume", spacing=(1.0, 1.0, 1.0)), tmp_path)
    assert volume.unit == "HU"


def test_folders_and_headers_are_hashed_with_all_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    saved(folder, stack(ramp()))
    printed = "find * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    told = subprocess.run(printed, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    sha256 = told.split()[0]
    assert sha256_of_files(folder) == sha256
    assert read_entry(entry("dicom", "series", sha256=sha256), tmp_path).unit == "HU"
    some = sorted(path for path in folder.rglob("*") if path.is_file())[1]
    some.write_bytes(some.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"`v` must have the SHA-256 {sha256}"):
        read_entry(entry("dicom", "series", sha256=sha256), tmp_path)
    # A header alone says nothing of the values beside it.
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "v.nhdr").write_text("header")
    (tmp_path / "n" / "v.raw").write_bytes(b"1")
    before = sha256_of_files(tmp_path / "n" / "v.nhdr")
    (tmp_path / "n" / "v.raw").write_bytes(b"2")
    assert sha256_of_files(tmp_path / "n" / "v.nhdr") != before


def test_every_kind_of_the_schema_has_a_reader() -> None:
    kinds = VolumeEntry.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    assert set(kinds) == set(READERS)


def sliced(name: str, weight: float) -> SliceVolume:
    return SliceVolume.of(world_volume(GRID), subject=name, name=name, fill=0.0, weight=weight)


def test_generated_subjects_have_their_share() -> None:
    parts = mixed([sliced("a", 3.0), sliced("b", 1.0)], [sliced("g", 5.0), sliced("h", 5.0)], 0.4)
    weights = {volume.name: volume.weight for volume in parts}
    assert weights == pytest.approx({"a": 0.45, "b": 0.15, "g": 0.2, "h": 0.2})
    assert [volume.name for volume in mixed([sliced("a", 1.0)], [], 0.4)] == ["a"]


def test_fingerprints_change_with_a_voxel() -> None:
    one, two = sliced("a", 1.0), sliced("a", 1.0)
    assert fingerprint_of([one]) == fingerprint_of([two])
    two.above[0, 3, 4, 5] += 1
    assert fingerprint_of([one]) != fingerprint_of([two])


def test_seeds_of_two_splits_may_not_meet(tmp_path: Path) -> None:
    text = 'name = "g"\n'
    for name, split, first in (("a", "train", 0), ("b", "validate", 4)):
        text += (
            f'[[generators]]\nname = "{name}"\nsplit = "{split}"\nkind = "torso"\nunit = "HU"\n'
            f"first_seed = {first}\ncount = 5\n"
        )
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(ConfigError, match="the torso of seed 4 must be in one split"):
        read_manifests([str(tmp_path / "g.toml")])


def test_a_mistake_in_an_entry_is_named_with_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    entry = (
        '[[volumes]]\nname = "b"\npatient = "B"\nsplit = "val"\nkind = "nifti"\npath = "b.nii"\nunit = "HU"\n'
    )
    path.write_text(f'name = "m"\n{entry}sha256 = "8b73..."\nspacing = [1, 2]\n')
    with pytest.raises(ConfigError) as caught:
        load(Manifest, path, env={})
    said = dict(problem.split("` ", 1) for problem in caught.value.problems)
    assert said["`volumes[0].subject"] == f"has no default and must be set (b) ({path})."
    assert said["`volumes[0].patient"].startswith(
        f"is not a known key (b) ({path}); known here: name, subject"
    )
    assert said["`volumes[0].split"].startswith('must be one of "train", "validate", "test", got "val"')
    assert said["`volumes[0].sha256"].startswith("must match pattern")
    assert said["`volumes[0].spacing"].startswith("must be 3 numbers > 0, got [1, 2]")


def test_of_a_file_that_is_not_there_nothing_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Manifest, "no-such-file.toml", env={})
    assert len(caught.value.problems) == 1
    assert "'no-such-file.toml' does not exist" in caught.value.problems[0]
