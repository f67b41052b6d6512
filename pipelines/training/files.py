"""One volume of a manifest, read from whatever kind of file it is in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from operators.errors import value_error
from pipelines.config.manifest import VolumeEntry
from workbench.volume import Volume

__all__ = ["read_entry"]

CHUNK = 2**20


def read_entry(entry: VolumeEntry, root: Path) -> Volume:
    """Return the volume of an entry below the folder `root`, in float32 or complex64."""
    path = root / entry.path
    if not path.exists():
        origin = f" It comes from {entry.origin}." if entry.origin else ""
        raise FileNotFoundError(f"{path} does not exist: {entry.name} of the manifest.{origin}")
    if entry.sha256 and path.is_file():
        found = _sha256(path)
        if found != entry.sha256:
            remedy = "Fetch it again, or correct the manifest."
            raise value_error(entry.name, f"have the SHA-256 {entry.sha256}", f"{found} of {path}", remedy)
    volume = READERS[entry.kind](path, entry)
    wide = torch.complex64 if volume.data.is_complex() else torch.float32
    return volume.with_data(volume.data.to(wide) * entry.slope + entry.intercept)


def _nifti(path: Path, entry: VolumeEntry) -> Volume:
    del entry
    from workbench.io.nifti import read_nifti

    return read_nifti(path)


def _dicom(path: Path, entry: VolumeEntry) -> Volume:
    del entry
    from workbench.io.dicom_series import read_dicom_series

    return read_dicom_series(path)


READERS: dict[str, Callable[[Path, VolumeEntry], Volume]] = {
    "nifti": _nifti,
    "dicom": _dicom,
}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
