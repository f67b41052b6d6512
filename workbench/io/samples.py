"""Samples on disk: netCDF-4 (`.nc`) or a zarr folder (`.zarr`), both as xarray opens them.

`xarray.open_dataset("a.nc")` and `xarray.open_zarr("a.zarr")` show `draws` with the axes (draw, [component],
[t], z, y, x), coordinates in mm, `log_weight` where draws are weighted, and affine, world, unit, kind and
record in the attributes. Complex numbers stay complex: in netCDF as the compound type of h5netcdf and
netCDF4. Draws are written a few at a time and read when they are asked for; nothing is lost on the way,
to the last bit. The folder of a finished run (`ZarrStore`) loads as it is.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import type_error, value_error
from operators.extras import require
from workbench.export import check_labels, coordinates, describe, draw_axes, header_from, to_array
from workbench.io.whole import written_whole
from workbench.io.zarr_folder import ZarrDraws, create_folder, finish_folder, open_for_writing, read_zarr
from workbench.samples import Samples
from workbench.store import Draws, Header

__all__ = ["load_samples", "save_samples"]

_AT_ONCE = 2**25


def save_samples(samples: Samples, path: str | Path) -> Path:
    """Write `samples` to `path`, which ends in .nc or .zarr, and return it.

    It appears under its name only once it is whole. A file is replaced; a folder that is there is not.
    """
    target = _checked_path(path)
    if not isinstance(samples, Samples):
        raise type_error("samples", "be Samples", type(samples).__name__, "Samples(draws, space, kind).")
    if target.suffix == ".nc":
        with written_whole(target) as partial:
            _write_netcdf(samples, partial)
    elif target.suffix == ".zarr":
        _write_zarr(samples, target)
    else:
        raise value_error("path", "end in .nc or .zarr", repr(str(path)))
    return target


def load_samples(path: str | Path) -> Samples:
    """Return the samples of a file or folder; its draws are read when they are asked for."""
    source = _checked_path(path)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist.")
    folder = source.is_dir()
    header, record, weights, draws = _open_zarr(source) if folder else _open_netcdf(source)
    return Samples(
        draws,
        header.space,
        header.kind,
        log_weights=weights,
        unit=header.unit,
        frame=header.frame,
        record=record,
    )


def _checked_path(path: object) -> Path:
    if not isinstance(path, (str, Path)):
        raise type_error("path", "be a path", f"{path!r} ({type(path).__name__})")
    return Path(path)


def _in_turn(samples: Samples) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield every draw with its number, a few read at a time."""
    step = max(1, _AT_ONCE // (math.prod(samples.space.shape) * samples.dtype.itemsize))
    for first in range(0, len(samples), step):
        yield from enumerate(to_array(samples.draws.read(slice(first, first + step))), first)


# -- zarr ----------------------------------------------------------------------------------------------


def _write_zarr(samples: Samples, target: Path) -> None:
    if target.exists():
        raise value_error("path", "be new", f"{target}, which is there", "Remove it, or choose another name.")
    # Whole before it has its name, as in workbench.io.whole, which knows files only.
    partial = target.resolve().with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        create_folder(partial, samples.header)
        array = open_for_writing(partial)
        for k, draw in _in_turn(samples):
            array[k] = draw
        finish_folder(partial, samples.header, samples.log_weights, samples.record)
        partial.rename(target)
    except OSError as error:
        if error.errno is not None:  # a full disk names no file, and the partial one nobody knows
            error.filename = str(target)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_zarr(folder: Path) -> tuple[Header, dict[str, Any], Tensor | None, Draws]:
    header, record, weights, finished = read_zarr(folder)
    if not finished:
        remedy = "Make the call that began it again, with ZarrStore of this folder: it goes on."
        raise value_error("path", "hold a finished run", f"{folder}, whose run is under way", remedy)
    draws = ZarrDraws(folder.resolve(), header.count)
    draws.check_whole()
    return header, record, weights, draws


# -- netCDF --------------------------------------------------------------------------------------------


class _NetcdfDraws(Draws):
    """Draws in a netCDF file, which is open only while it is read."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._shape = (header.count, *header.space.shape)
        self._dtype = header.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *space.shape)."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Their dtype."""
        return self._dtype

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of them."""
        h5py = require("h5py", feature="Reading netCDF", extra="io")
        with h5py.File(self._path, "r") as file:
            values = file["draws"][(draws, *region)]
        return torch.from_numpy(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")))


def _write_netcdf(samples: Samples, path: Path) -> None:
    h5netcdf = require("h5netcdf", feature="Writing netCDF", extra="io")
    h5py = require("h5py", feature="Writing netCDF", extra="io")
    axes = draw_axes(samples.space)
    shape = samples.draws.shape
    dtype = np.dtype(str(samples.dtype).removeprefix("torch.")).newbyteorder("<")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {axis.name: n for axis, n in zip(axes, shape, strict=True)}
        for name, (_, values, attributes) in coordinates(axes).items():
            kind = h5py.string_dtype() if values.dtype == object else values.dtype
            variable = file.create_variable(name, (name,), dtype=kind, data=values)
            variable.attrs.update(attributes)
        draws = file.create_variable("draws", tuple(axis.name for axis in axes), dtype=dtype)
        draws.attrs.update({"units": samples.unit, "kind": str(samples.kind)})
        draws[tuple(n - 1 for n in shape)] = 0  # gives the array its place in the file
        if samples.log_weights is not None:
            file.create_variable("log_weight", ("draw",), data=samples.log_weights.numpy())
        attributes = describe(samples.header, samples.record)
        file.attrs.update({k: np.array(v) if isinstance(v, list) else v for k, v in attributes.items()})
    with h5py.File(path, "r") as file:
        start = file["draws"].id.get_offset()
    # The bytes of an array in one piece are its values in order. Written without HDF5, which does not
    # survive a disk that fills up: its files can then neither be closed nor left open.
    with path.open("r+b") as raw:
        raw.seek(start)
        for _, draw in _in_turn(samples):
            raw.write(np.ascontiguousarray(draw, dtype=dtype).view(np.uint8).data)


def _open_netcdf(path: Path) -> tuple[Header, dict[str, Any], Tensor | None, Draws]:
    h5netcdf = require("h5netcdf", feature="Reading netCDF", extra="io")
    try:
        with h5netcdf.File(path, "r") as file:
            draws = file.variables["draws"]
            header, record = header_from(dict(file.attrs), draws.shape, draws.dtype)
            names = [name for name in file.variables if name not in ("draws", "log_weight")]
            check_labels(header, draws.dimensions, {name: file.variables[name][...] for name in names})
            weights = None
            if "log_weight" in file.variables:
                weights = torch.from_numpy(np.array(file.variables["log_weight"][...], dtype=np.float64))
    except OSError as error:
        # Files that may not be read say so by number; one that is no HDF5, or cut short, does not.
        if error.errno is not None:
            raise
        raise _foreign(path, error) from error
    except (LookupError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise _foreign(path, error) from error
    return header, record, weights, _NetcdfDraws(path.resolve(), header)


def _foreign(path: Path, error: Exception) -> ValueError:
    remedy = "Such files are written by save_samples; other images: workbench.io."
    return value_error("path", "be an undamaged file of samples", f"{path}: {error}", remedy)
