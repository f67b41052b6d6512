"""Draws in a netCDF-4 file that xarray reads; it is open only while it is read.

A file is known by its inode, its time of change and its size: one that was replaced or written since
it was loaded is not read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import value_error
from operators.extras import require
from workbench.export import check_labels, coordinates, describe, draw_axes, header_from
from workbench.io.checks import check_unit
from workbench.store import Draws, Header

__all__ = ["NetcdfDraws", "read_netcdf", "write_netcdf"]

_WRITTEN_BY = "Such files are written by save_samples; other images: workbench.io."
_CUT = re.compile(r"truncated file: eof = (\d+), .*stored_eof = (\d+)")


class NetcdfDraws(Draws):
    """Draws in a netCDF file."""

    def __init__(self, path: Path, header: Header, state: tuple[int, ...]) -> None:
        self._path, self._state = path, state
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

    @property
    def sources(self) -> tuple[Path, ...]:
        """The file."""
        return (self._path,)

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of them."""
        h5py = require("h5py", feature="Reading netCDF", extra="io")
        self._check_unchanged()
        try:
            with h5py.File(self._path, "r") as file:
                values = file["draws"][(draws, *region)]
        except (OSError, RuntimeError, LookupError) as error:
            raise _unreadable(self._path, error) from error
        self._check_unchanged()  # nor while it was read
        return torch.from_numpy(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")))

    def _check_unchanged(self) -> None:
        try:
            state = _state(self._path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self._path}, which the samples are read from, is there no more. "
                "Put it back, or load it where it is now: load_samples(path)."
            ) from error
        if state != self._state:
            raise value_error(
                "path",
                "still lead to the file that the samples were loaded from",
                f"{self._path}, which was replaced or written since",
                "Load it again: load_samples(path).",
            )


def write_netcdf(
    path: Path,
    header: Header,
    log_weights: Tensor | None,
    record: Mapping[str, Any],
    draws: Iterable[tuple[int, NDArray[Any]]],
) -> None:
    """Write a file of `draws`, which come one by one, in order."""
    h5netcdf, h5py = _modules("Writing netCDF")
    axes = draw_axes(header.space)
    shape = (header.count, *header.space.shape)
    dtype = np.dtype(str(header.dtype).removeprefix("torch.")).newbyteorder("<")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {axis.name: n for axis, n in zip(axes, shape, strict=True)}
        for name, (_, values, attributes) in coordinates(axes).items():
            kind = h5py.string_dtype() if values.dtype == object else values.dtype
            variable = file.create_variable(name, (name,), dtype=kind, data=values)
            variable.attrs.update(attributes)
        array = file.create_variable("draws", tuple(axis.name for axis in axes), dtype=dtype)
        array.attrs.update({"units": header.unit, "kind": str(header.kind)})
        array[tuple(n - 1 for n in shape)] = 0  # gives the array its place in the file
        if log_weights is not None:
            file.create_variable("log_weight", ("draw",), data=log_weights.numpy())
        attributes = describe(header, record)
        file.attrs.update({k: np.array(v) if isinstance(v, list) else v for k, v in attributes.items()})
    with h5py.File(path, "r") as file:
        start = file["draws"].id.get_offset()
    # The bytes of an array in one piece are its values in order. Written without HDF5, which does not
    # survive a disk that fills up: its files can then neither be closed nor left open.
    with path.open("r+b") as raw:
        raw.seek(start)
        for _, draw in draws:
            raw.write(np.ascontiguousarray(draw, dtype=dtype).view(np.uint8).data)


def read_netcdf(path: Path) -> tuple[Header, dict[str, Any], Tensor | None, Draws]:
    """Return header, record, log-weights and draws, or say why they are not there."""
    h5netcdf, h5py = _modules("Reading netCDF")
    state = _state(path)  # before it is opened: what replaces it from now on is noticed
    _check_hdf5(path, h5py)
    weights = None
    try:
        with h5py.File(path, "r") as raw:
            raw.attrs.get("_nc3_strict")  # h5netcdf asks this first, and where it fails is not closed cleanly
            with h5netcdf.File(raw, "r") as file:
                if "draws" not in file.variables:
                    raise ValueError("it has no variable `draws`")
                draws = file.variables["draws"]
                header, record = header_from(dict(file.attrs), draws.shape, draws.dtype)
                names = [name for name in file.variables if name not in ("draws", "log_weight")]
                check_labels(header, draws.dimensions, {name: file.variables[name][...] for name in names})
                units = draws.attrs.get("units")
                if "log_weight" in file.variables:
                    values = np.array(file.variables["log_weight"][...], dtype=np.float64)
                    weights = torch.from_numpy(values)
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, json.JSONDecodeError) as error:
        # h5py gives the words of HDF5 as any of these.
        if isinstance(error, (OSError, RuntimeError)) or "Unable to" in str(error):
            raise _unreadable(path, error) from error
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise value_error(
            "path", "be an undamaged file of samples", f"{path}: {reason}", _WRITTEN_BY
        ) from error
    check_unit(path, units, header.unit)
    return header, record, weights, NetcdfDraws(path.resolve(), header, state)


def _modules(feature: str) -> tuple[ModuleType, ModuleType]:
    return require("h5netcdf", feature=feature, extra="io"), require("h5py", feature=feature, extra="io")


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check_hdf5(path: Path, h5py: ModuleType) -> None:
    """Raise unless the file may be read and is HDF5, which is what netCDF-4 is."""
    with path.open("rb") as file:
        start = file.read(3)
    if not h5py.is_hdf5(path):
        what = "is empty" if not start else "is netCDF-3, an older format" if start == b"CDF" else "is not"
        raise value_error("path", "be a netCDF-4 file of samples", f"{path}, which {what}", _WRITTEN_BY)


def _unreadable(path: Path, error: Exception) -> Exception:
    """Return an error in plain words for one in those of HDF5."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, os.strerror(error.errno), str(path))
    cut = _CUT.search(str(error))
    what = f"is cut short: {cut[1]} of {cut[2]} bytes" if cut else "HDF5 cannot read"
    remedy = "Copy it again from where it is whole, or write it anew with save_samples."
    return value_error("path", "be an undamaged file of samples", f"{path}, which {what}", remedy)
