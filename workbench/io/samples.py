"""Samples on disk: netCDF-4 (`.nc`) or a zarr folder (`.zarr`), both as xarray opens them.

`xarray.open_dataset("a.nc")` and `xarray.open_zarr("a.zarr")` show `draws` with the axes (draw, [component],
[t], z, y, x), coordinates in mm, `log_weight` where draws are weighted, and affine, world, unit, kind and
record in the attributes. Complex numbers stay complex: in netCDF as the compound type of h5netcdf and
netCDF4. Draws are written a few at a time and read when they are asked for; nothing is lost on the way,
to the last bit. The folder of a finished run (`ZarrStore`) loads as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from operators.errors import type_error, value_error
from workbench.export import to_array
from workbench.io.checks import check_not_read_from, checked_path
from workbench.io.netcdf_file import read_netcdf, write_netcdf
from workbench.io.whole import folder_written_whole, written_whole
from workbench.io.zarr_folder import ZarrDraws, fill_folder, finish_folder, open_for_writing, read_zarr
from workbench.samples import Samples
from workbench.store import Draws, Header

__all__ = ["load_samples", "save_samples"]

_AT_ONCE = 2**25


def save_samples(samples: Samples, path: str | Path) -> Path:
    """Write `samples` to `path`, which ends in .nc or .zarr, and return it.

    It appears under its name only once it is whole. A file is replaced, unless it is the one that lazy
    `samples` are read from; a folder that is there is not.
    """
    target = checked_path(path)
    if not isinstance(samples, Samples):
        raise type_error("samples", "be Samples", type(samples).__name__, "Samples(draws, space, kind).")
    suffix = target.suffix.lower()
    if suffix not in (".nc", ".zarr"):
        raise value_error("path", "end in .nc or .zarr", repr(str(path)))
    check_not_read_from(samples.draws.sources, target)
    if target.is_dir() or (target.exists() and suffix == ".zarr"):
        raise value_error("path", "be new", f"{target}, which is there", "Remove it, or choose another name.")
    if suffix == ".nc":
        with written_whole(target) as partial:
            write_netcdf(partial, samples.header, samples.log_weights, samples.record, _in_turn(samples))
    else:
        with folder_written_whole(target) as partial:
            fill_folder(partial, samples.header)
            array = open_for_writing(partial)
            for k, draw in _in_turn(samples):
                array[k] = draw
            finish_folder(partial, samples.header, samples.log_weights, samples.record)
    return target


def load_samples(path: str | Path) -> Samples:
    """Return the samples of a file or folder; its draws are read when they are asked for.

    A netCDF file that is replaced or written later is read no more: load it again.
    """
    source = checked_path(path)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist.")
    folder = source.is_dir()
    header, record, weights, draws = _read_folder(source) if folder else read_netcdf(source)
    return Samples(
        draws,
        header.space,
        header.kind,
        log_weights=weights,
        unit=header.unit,
        frame=header.frame,
        record=record,
    )


def _in_turn(samples: Samples) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield every draw with its number, a few read at a time."""
    step = max(1, _AT_ONCE // (math.prod(samples.space.shape) * samples.dtype.itemsize))
    for first in range(0, len(samples), step):
        yield from enumerate(to_array(samples.draws.read(slice(first, first + step))), first)


def _read_folder(folder: Path) -> tuple[Header, dict[str, Any], Tensor | None, Draws]:
    header, record, weights, finished = read_zarr(folder)
    if not finished:
        remedy = "Make the call that began it again, with ZarrStore of this folder: it goes on."
        raise value_error("path", "hold a finished run", f"{folder}, whose run is under way", remedy)
    draws = ZarrDraws(folder.resolve(), header.count)
    draws.check_whole()
    return header, record, weights, draws
