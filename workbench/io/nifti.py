"""NIfTI: read and write with the frame, the units and the time axis kept.

NIfTI stores (x, y, z[, t]) with RAS mm; the workbench (t, z, y, x). Array and affine are turned
together, so voxels stay where they are in the world. The sform code is the volume's `space`; its unit and
its kind of answer stand in the description, which viewers show.
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.extras import require
from operators.grid import Grid, TimeAxis
from workbench.io.checks import checked_path
from workbench.io.nifti_description import described, description_of
from workbench.io.whole import written_whole
from workbench.volume import Volume

__all__ = ["read_nifti", "write_nifti"]

_LENGTHS = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_TIMES = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_CODES = {"unknown": 0, "scanner": 1, "aligned": 2, "talairach": 3, "mni": 4}
_LONGEST_AXIS = 32767
_HEADER_SIZE_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
_KNOWN = "biufc"  # NumPy's letters for booleans, integers, floats, complex numbers


def read_nifti(path: str | Path, *, dtype: torch.dtype | None = None) -> Volume:
    """Return the image of a NIfTI file, rescaled, on its grid in RAS mm.

    Values come in the file's precision, or in `dtype` where that holds them: integers stay integers
    unless the header rescales them. The sform is used where it is set, else the qform; a file with
    neither is in the space "unknown", which is warned about.
    """
    nibabel = _nibabel("Reading NIfTI")
    source = _checked_path(path)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise type_error("dtype", "be a torch.dtype", repr(dtype), "Such as torch.float32.")
    image, values = _read(nibabel, source)
    codes = [int(image.header[name]) for name in ("sform_code", "qform_code")]
    code = codes[0] or codes[1]
    if code == 0:
        warnings.warn(
            f"{path} states no frame (sform and qform codes are 0): its place and orientation are a guess.",
            UserWarning,
            stacklevel=2,
        )
    # Codes beyond the four are worlds of other images ("template"), which is what aligned means.
    space = {number: name for name, number in _CODES.items()}.get(code, "aligned")
    grid = _grid(image, values.shape, source)
    # Big-endian files become arrays in the machine's own order.
    native = np.ascontiguousarray(values.T, dtype=values.dtype.newbyteorder("="))
    data = torch.from_numpy(native if native.flags.writeable else native.copy())
    description = bytes(image.header["descrip"]).split(b"\0")[0].decode("latin-1")
    unit, kind, statistic = description_of(description)
    data = data if dtype is None else _converted(data, dtype)
    return Volume(data, grid, unit, space, kind=kind, statistic=statistic)


def write_nifti(path: str | Path, volume: Volume) -> Path:
    """Write `volume` as NIfTI-1 in its own precision and return the path.

    sform and qform carry the same frame, in mm (a sheared grid has no qform), with the code of the
    volume's space. The space "unknown" has the code 0: other readers then go by the voxel sizes
    alone, which is warned about. The file appears under its name only once it is whole.
    """
    nibabel = _nibabel("Writing NIfTI")
    target = _checked_path(path)
    if not isinstance(volume, Volume):
        raise type_error("volume", "be a Volume", type(volume).__name__, "Use Volume(data, grid).")
    if volume.components:
        raise value_error(
            "volume",
            "have one number per voxel for NIfTI",
            f"components {', '.join(volume.components)}",
            "Write one by one: volume.with_data(volume.data[0], components=()).",
        )
    description = described(volume)
    if max(volume.data.shape) > _LONGEST_AXIS:
        raise value_error("volume", f"have axes of at most {_LONGEST_AXIS} for NIfTI", volume.grid)
    code = _CODES[volume.space]
    if code == 0:
        warnings.warn(
            f"{path} is written without a frame: the volume's space is 'unknown'. "
            "Where it is known, say so: Volume(..., space='scanner').",
            UserWarning,
            stacklevel=2,
        )
    affine = volume.grid.nifti_affine
    axes = volume.grid.directions
    sheared = np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6
    # Given an affine, nibabel would choose codes of its own.
    image = nibabel.Nifti1Image(_storable(volume.data).numpy().T, None)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_qform(affine, code=0 if sheared else code)  # sets the voxel sizes too
    image.header.set_sform(affine, code=code)
    if volume.grid.time is not None:
        image.header["pixdim"][4] = volume.grid.time.step
        image.header["toffset"] = volume.grid.time.start
    image.header["descrip"] = description
    with written_whole(target) as partial:
        nibabel.save(image, partial)
    return target


def _nibabel(feature: str) -> ModuleType:
    return require("nibabel", feature=feature, extra="io")


def _checked_path(path: str | Path) -> Path:
    checked = checked_path(path)
    if not checked.name.lower().endswith((".nii", ".nii.gz")):
        raise value_error("path", "end in .nii or .nii.gz", repr(str(path)))
    return checked


def _read(nibabel: ModuleType, source: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return the image and its values with 3 or 4 axes (x, y, z[, t])."""
    problems = (
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
    )
    values = None
    try:
        with source.open("rb") as file:
            compressed = source.name.lower().endswith(".gz")
            stream = gzip.GzipFile(fileobj=file) if compressed else file
            version_2 = stream.read(4) in _HEADER_SIZE_2
            stream.seek(0)
            kind = nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image
            # nibabel's load would want the name's suffix in one case, and would stop before the checksum.
            image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)}, mmap=False)
            stored, shape = image.get_data_dtype(), image.shape
            if stored.kind in _KNOWN and stored.itemsize <= (16 if stored.kind == "c" else 8):
                values = np.asanyarray(image.dataobj)
            while stream.read(2**22):
                pass  # gzip compares the checksum at the very end
    except problems as error:
        raise _damaged(source, error) from error
    except OSError as error:
        # Files that are absent or may not be read say so by number; a damaged one does not.
        if error.errno is None:
            raise _damaged(source, error) from error
        raise
    if values is None:
        label = nibabel.nifti1.data_type_codes.label[int(image.header["datatype"])]
        raise value_error(
            "path",
            "hold one number per voxel, of at most 64 bits a part",
            f"{source} of type {label}",
            "Convert it first.",
        )
    if len(shape) < 2 or min(shape) < 1 or any(n > 1 for n in shape[4:]):
        raise value_error("path", "hold an image of 2, 3 or 4 axes", f"{source} of shape {shape}")
    return image, values.reshape((*shape[:4], *[1] * (3 - len(shape[:4]))))


def _damaged(source: Path, error: Exception) -> ValueError:
    return value_error("path", "be an undamaged NIfTI file", f"{source}: {error}")


def _grid(image: Any, shape: tuple[int, ...], source: Path) -> Grid:
    header = image.header
    try:
        length, duration = header.get_xyzt_units()
    except KeyError as error:
        raise _damaged(source, ValueError(f"unit code {int(header['xyzt_units'])}")) from error
    affine = image.affine.astype(np.float64)
    affine[:3] *= _LENGTHS[length]
    try:
        grid = Grid.from_nifti(shape[:3], affine)
        if len(shape) < 4:
            return grid
        if duration not in _TIMES:
            raise value_error("path", "have time, in s, as its fourth axis", f"{source} in {duration}")
        step = float(header["pixdim"][4]) * _TIMES[duration]
        if not step > 0:
            if shape[3] > 1:
                warnings.warn(f"{source} states no time step: 1 s is taken.", UserWarning, stacklevel=3)
            step = 1.0
        return grid.with_time(TimeAxis(shape[3], step, float(header["toffset"]) * _TIMES[duration]))
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise value_error("path", "state a usable frame", f"{source}: {error}") from error


def _converted(data: Tensor, dtype: torch.dtype) -> Tensor:
    kept = torch.can_cast(data.dtype, dtype)
    if kept and not dtype.is_floating_point and not dtype.is_complex:
        kept = torch.equal(data.to(dtype).to(torch.int64), data.to(torch.int64))
    if not kept:
        raise type_error(
            "dtype",
            f"hold the file's values, of {data.dtype}",
            dtype,
            "Read it without dtype and round, clip or take a part of the values yourself.",
        )
    return data.to(dtype)


def _storable(data: Tensor) -> Tensor:
    """Return `data` on the CPU, in a type NIfTI-1 and its readers know."""
    data = data.detach().cpu().resolve_conj().resolve_neg()
    if data.dtype == torch.bool:
        return data.to(torch.uint8)
    if data.dtype in (torch.float16, torch.bfloat16):
        return data.float()
    if data.dtype == torch.int64:
        # Few readers accept 64-bit integers; label maps never need them.
        limits = torch.iinfo(torch.int32)
        low, high = int(data.min()), int(data.max())
        if low < limits.min or high > limits.max:
            raise value_error("data", "fit 32-bit integers", f"{low}..{high}")
        return data.to(torch.int32)
    return data
