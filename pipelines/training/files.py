"""One volume of a manifest, read from whatever kind of file it is in."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid
from pipelines.config.manifest import VolumeEntry
from workbench.volume import Volume

__all__ = ["read_entry", "sha256_of_files"]

CHUNK = 2**20
#: Headers whose data are in other files.
DETACHED = (".nhdr", ".mhd")


def read_entry(entry: VolumeEntry, root: Path) -> Volume:
    """Return the volume of an entry below the folder `root`, in float32 or complex64."""
    path = root / entry.path
    if not path.exists():
        origin = f" It comes from {entry.origin}." if entry.origin else ""
        raise FileNotFoundError(f"{path} does not exist: {entry.name} of the manifest.{origin}")
    if entry.sha256:
        found = sha256_of_files(path)
        if found != entry.sha256:
            remedy = "Fetch it again, or correct the manifest."
            raise value_error(entry.name, f"have the SHA-256 {entry.sha256}", f"{found} of {path}", remedy)
    with warnings.catch_warnings():
        if entry.orientation:
            # What the file leaves out, the manifest says.
            warnings.filterwarnings("ignore", ".*states no frame")
        volume = READERS[entry.kind](path, entry)
    if entry.orientation:
        volume = _oriented(volume, entry)
    wide = torch.complex64 if volume.data.is_complex() else torch.float32
    return volume.with_data(volume.data.to(wide) * entry.slope + entry.intercept)


def sha256_of_files(path: Path) -> str:
    """Return the SHA-256 of a file, or of what sha256sum prints of all files of a folder, sorted.

    Of a header whose data lie beside it, the folder is that which both are in.
    """
    detached = path.suffix.lower() in DETACHED
    if path.is_file() and not detached:
        return _sha256(path)
    folder = path.parent if detached else path
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    lines = "".join(f"{_sha256(files[name])}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _nifti(path: Path, entry: VolumeEntry) -> Volume:
    del entry
    from workbench.io.nifti import read_nifti

    return read_nifti(path)


def _dicom(path: Path, entry: VolumeEntry) -> Volume:
    del entry
    from workbench.io.dicom_series import read_dicom_series

    return read_dicom_series(path)


def _nrrd(path: Path, entry: VolumeEntry) -> Volume:
    del entry
    from workbench.io.nrrd import read_nrrd

    return read_nrrd(path)


def _metaimage(path: Path, entry: VolumeEntry) -> Volume:
    from workbench.io.metaimage import read_metaimage

    return read_metaimage(path, channels="complex" if entry.is_complex else None)


def _hdf5(path: Path, entry: VolumeEntry) -> Volume:
    h5py = require("h5py", feature="Reading HDF5", extra="io")
    with h5py.File(path, "r") as file:
        found = file.get(entry.array)
        if not isinstance(found, h5py.Dataset):
            raise _no_array(entry, list(file))
        return _placed(np.asarray(found), dict(found.attrs), entry)


def _zarr(path: Path, entry: VolumeEntry) -> Volume:
    zarr = require("zarr", feature="Reading zarr", extra="io")
    group = zarr.open_group(str(path), mode="r")
    if entry.array not in group:
        raise _no_array(entry, list(group))
    found = group[entry.array]
    return _placed(np.asarray(found[...]), dict(found.attrs), entry)


def _placed(values: NDArray[Any], attributes: Mapping[str, Any], entry: VolumeEntry) -> Volume:
    """Return an array (z, y, x) on the grid of its attribute `affine`, or of the spacing that is stated."""
    if values.ndim != 3:
        raise value_error(entry.name, "be an array (z, y, x)", values.shape, "Name another: array = ...")
    if "affine" in attributes:
        grid = Grid(values.shape, _affine(attributes["affine"], entry))
    elif entry.spacing is not None:
        grid = Grid.from_spacing(values.shape, entry.spacing)
    else:
        remedy = "State spacing = [z, y, x] in mm in the manifest; indices then grow towards S, A and R."
        raise value_error(entry.name, "say where its voxels lie", "no attribute affine, no spacing", remedy)
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    unit = attributes.get("units", "")
    return Volume(torch.from_numpy(native), grid, unit.decode() if isinstance(unit, bytes) else str(unit))


def _affine(said: object, entry: VolumeEntry) -> NDArray[np.float64]:
    found = np.asarray(said)
    if found.dtype.kind not in "iuf" or found.size != 16:
        remedy = "Row by row: from indices (z, y, x, 1) to millimetres along R, A, S."
        raise value_error(f"{entry.name}.affine", "be 16 numbers", f"{found.size} of {found.dtype}", remedy)
    return found.astype(np.float64).reshape(4, 4)


def _no_array(entry: VolumeEntry, known: list[str]) -> ValueError:
    return value_error(f"{entry.name}.array", f"be one of {', '.join(known) or 'none'}", repr(entry.array))


READERS: dict[str, Callable[[Path, VolumeEntry], Volume]] = {
    "nifti": _nifti,
    "dicom": _dicom,
    "nrrd": _nrrd,
    "metaimage": _metaimage,
    "hdf5": _hdf5,
    "zarr": _zarr,
}


def _oriented(volume: Volume, entry: VolumeEntry) -> Volume:
    """Return a volume whose array axes run as its manifest says."""
    axes = [
        next(axis for axis, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        for letter in entry.orientation
    ]
    if sorted(axes) != [0, 1, 2]:
        raise value_error(f"{entry.name}.orientation", "name three axes, such as SAR", entry.orientation)
    if volume.space != "unknown":
        remedy = "Leave orientation out, or correct the file."
        raise value_error(
            f"{entry.name}.orientation",
            "be left to the file, which states a frame",
            entry.orientation,
            remedy,
        )
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for column, (letter, axis) in enumerate(zip(entry.orientation, axes, strict=True)):
        affine[axis, column] = volume.grid.spacing[column] * (1 if letter in "RAS" else -1)
    return Volume(volume.data, Grid(volume.grid.shape, affine), volume.unit)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
