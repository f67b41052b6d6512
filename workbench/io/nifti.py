"""NIfTI: read and write with the frame, the units and the time axis kept.

NIfTI stores (x, y, z[, t]) with RAS mm; the workbench (t, z, y, x). Array and affine are turned
together, so voxels stay where they are in the world.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid, TimeAxis
from workbench.volume import Volume

__all__ = ["read_nifti", "write_nifti"]

SUFFIXES = (".nii", ".nii.gz")
_LENGTHS = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_TIMES = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_UNIT_PREFIX = "unit="


def read_nifti(path: str | Path, *, dtype: torch.dtype | None = None) -> Volume:
    """Return the image of a NIfTI file, rescaled, on its grid in RAS mm.

    Values come in the file's precision, or in `dtype`: integers stay integers unless the header
    rescales them. The sform is used where it is set, else the qform; a file with neither has no
    frame, which is warned about.
    """
    nibabel = _nibabel("Reading NIfTI")
    source = _checked_path(path)
    try:
        image = nibabel.load(source)
    except nibabel.filebasedimages.ImageFileError as error:
        raise value_error("path", "be a NIfTI image", f"{path}: {error}") from error
    header = image.header
    shape = image.shape
    if len(shape) < 2 or any(n > 1 for n in shape[4:]):
        raise value_error("path", "hold an image of 2, 3 or 4 axes", f"{path} of shape {shape}")
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        warnings.warn(
            f"{path} states no frame (sform and qform codes are 0): its place and orientation are a guess.",
            UserWarning,
            stacklevel=2,
        )
    values = np.asanyarray(image.dataobj)
    values = values.reshape((*shape[:4], *[1] * (3 - len(shape[:4]))))
    length, duration = header.get_xyzt_units()
    affine = image.affine.astype(np.float64)
    affine[:3] *= _LENGTHS.get(length, 1.0)
    grid = Grid.from_nifti(values.shape[:3], affine)
    if values.ndim == 4:
        seconds = _TIMES.get(duration, 1.0)
        step = float(header["pixdim"][4]) * seconds
        time = TimeAxis(values.shape[3], step if step > 0 else 1.0, float(header["toffset"]) * seconds)
        grid = grid.with_time(time)
    # Big-endian files and memory maps become plain arrays in the machine's own order.
    native = np.ascontiguousarray(values.T, dtype=values.dtype.newbyteorder("="))
    data = torch.from_numpy(native if native.flags.writeable else native.copy())
    description = bytes(header["descrip"]).split(b"\0")[0].decode("latin-1")
    unit = description.removeprefix(_UNIT_PREFIX) if description.startswith(_UNIT_PREFIX) else ""
    return Volume(data if dtype is None else data.to(dtype), grid, unit)


def write_nifti(path: str | Path, volume: Volume) -> Path:
    """Write `volume` as NIfTI-1 in its own precision and return the path.

    sform and qform carry the same frame, in mm (a sheared grid has no qform). The file appears under
    its name only once it is whole.
    """
    nibabel = _nibabel("Writing NIfTI")
    target = _checked_path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist. Make it first.")
    values = _storable(volume.data.detach().cpu().resolve_conj().numpy()).T
    affine = volume.grid.nifti_affine
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code="scanner")
    axes = volume.grid.directions
    sheared = np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6
    if sheared:
        image.header["qform_code"] = 0
    else:
        image.set_qform(affine, code="scanner")
    if volume.grid.time is not None:
        image.header["pixdim"][4] = volume.grid.time.step
        image.header["toffset"] = volume.grid.time.start
    image.header["descrip"] = (_UNIT_PREFIX + volume.unit).encode("latin-1", "replace")[:79]
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        nibabel.save(image, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _nibabel(feature: str) -> ModuleType:
    return require("nibabel", feature=feature, extra="io")


def _checked_path(path: str | Path) -> Path:
    checked = Path(path)
    if not checked.name.endswith(SUFFIXES):
        raise value_error("path", "end in .nii or .nii.gz", repr(str(path)))
    return checked


def _storable(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `values` in a type NIfTI-1 and its readers know."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype == np.int64:
        # Few readers accept 64-bit integers; label maps never need them.
        limits = np.iinfo(np.int32)
        if values.min() < limits.min or values.max() > limits.max:
            raise value_error("data", "fit 32-bit integers", f"{values.min()}..{values.max()}")
        return values.astype(np.int32)
    return values
