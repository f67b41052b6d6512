"""Results as xarray: labelled axes in mm, the frame in the attributes.

The axes are ('draw', 'component', 't', 'z', 'y', 'x'), those that there are. Coordinates are distances
in mm along each array axis from index 0, and seconds. The attribute `affine` holds the 16 numbers of
the 4x4 matrix row by row, a flat list because netCDF stores no other; it maps the array index
(z, y, x) of this array to RAS mm. xarray knows nothing of it: after `isel` or any other slicing it is
still that of the full array. Crop the Volume, or select the draws of the Samples, then export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import type_error
from operators.grid import Grid, TimeAxis
from operators.space import Space
from workbench.kinds import Kind
from workbench.store import Header
from workbench.volume import Volume

if TYPE_CHECKING:
    import xarray

__all__ = ["Axis", "to_array", "to_xarray"]

#: The name of the format that `describe` writes and `header_from` reads, and its version.
FORMAT = "inverse-workbench samples"
VERSION = 1

_TYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, torch.int64)
_DTYPES = {np.dtype(str(dtype).removeprefix("torch.")): dtype for dtype in _TYPES}


@dataclass(frozen=True)
class Axis:
    """One labelled axis: its name and, where there are any, its coordinates and their unit."""

    name: str
    values: NDArray[Any] | None = None
    unit: str = ""


def to_xarray(volume: Volume, *, name: str = "image") -> xarray.DataArray:
    """Return a copy as a DataArray, real or complex; both go to netCDF with engine="h5netcdf".

    bfloat16, which NumPy does not know, becomes float32; the attribute `converted_from` says so.
    """
    import xarray

    if not isinstance(volume, Volume):
        raise type_error("volume", "be a Volume", type(volume).__name__)
    axes = _component_axes(volume.components) + _grid_axes(volume.grid)
    attributes = {
        "units": volume.unit,
        "world": "RAS, mm",
        "space": volume.space,
        "affine": volume.grid.affine.ravel().tolist(),
    }
    if volume.kind is not None:
        attributes |= {"kind": str(volume.kind), "statistic": volume.statistic}
    data = volume.data
    if data.dtype == torch.bfloat16:
        data = data.float()
        attributes["converted_from"] = "bfloat16"
    return xarray.DataArray(
        to_array(data).copy(),
        coords=coordinates(axes),
        dims=[axis.name for axis in axes],
        name=name,
        attrs=attributes,
    )


def to_array(data: Tensor) -> NDArray[Any]:
    """Return the values as an array, on the CPU."""
    array: NDArray[Any] = data.detach().cpu().resolve_conj().resolve_neg().numpy()
    return array


def coordinates(axes: Sequence[Axis]) -> dict[str, tuple[str, NDArray[Any], dict[str, str]]]:
    """Return the coordinates as xarray takes them."""
    return {
        axis.name: (axis.name, axis.values, {"units": axis.unit} if axis.unit else {})
        for axis in axes
        if axis.values is not None
    }


def component_names(space: Space) -> tuple[str, ...] | None:
    """Return the names along the one axis of components, () without one, None if there are several."""
    lead = _leading(space)
    if len(lead) > 1:
        return None
    if space.is_vector:
        return ("R", "A", "S")
    return tuple(str(i) for i in range(lead[0])) if lead else ()


def draw_axes(space: Space) -> list[Axis]:
    """Return the axes of an array (count, *space.shape)."""
    draw = [Axis("draw")]
    if space.grid is None:
        return draw + [Axis(f"axis_{i}") for i in range(space.ndim)]
    names = component_names(space)
    if names is None:
        return draw + [Axis(f"component_{i}") for i in range(len(_leading(space)))] + _grid_axes(space.grid)
    return draw + _component_axes(names) + _grid_axes(space.grid)


def describe(header: Header, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a data set of draws: with the shape and the dtype they are the header."""
    space = header.space
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "kind": str(header.kind),
        "element": space.kind,
        "unit": header.unit,
        "frame": header.frame,
        "fingerprint": header.fingerprint,
        "record": json.dumps(dict(record)),
    }
    if space.classes is not None:
        attributes["classes"] = space.classes
    if space.grid is not None:
        attributes |= {"world": "RAS, mm", "affine": space.grid.affine.ravel().tolist()}
        if space.grid.time is not None:
            attributes |= {"time_step": space.grid.time.step, "time_start": space.grid.time.start}
    return attributes


def header_from(
    attributes: Mapping[str, Any], shape: Sequence[int], dtype: np.dtype[Any]
) -> tuple[Header, dict[str, Any]]:
    """Return header and record out of `describe`'s attributes and the array of draws.

    Raises LookupError, TypeError or ValueError where they do not say what they should.
    """
    if attributes.get("format") != FORMAT:
        raise ValueError(f"they are not marked as {FORMAT}")
    if int(attributes["format_version"]) > VERSION:
        raise ValueError(
            f"version {attributes['format_version']} is newer than this workbench's, {VERSION}. Update it."
        )
    count, *element = (int(n) for n in shape)
    grid = None
    if "affine" in attributes:
        time = None
        if "time_step" in attributes:
            step, start = float(attributes["time_step"]), float(attributes["time_start"])
            time = TimeAxis(element[-4], step, start)
        affine = np.asarray(attributes["affine"], dtype=np.float64).reshape(4, 4)
        z, y, x = element[-3:]
        grid = Grid((z, y, x), affine, time)
    kind = attributes["element"]
    space = Space(
        tuple(element),
        is_complex=kind == "complex field",
        grid=grid,
        is_vector=kind == "vector field",
        classes=int(attributes["classes"]) if "classes" in attributes else None,
    )
    if space.kind != kind:
        raise ValueError(f"the element {kind!r} is not known")
    header = Header(
        space,
        count,
        _DTYPES[dtype.newbyteorder("=")],
        Kind(attributes["kind"]),
        str(attributes["unit"]),
        str(attributes["frame"]),
        str(attributes["fingerprint"]),
    )
    return header, json.loads(attributes["record"])


def check_labels(header: Header, names: Sequence[str], values: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless axes and coordinates are those of the header.

    Who cuts or turns a data set with xarray keeps its affine, which is then that of another array.
    """
    axes = draw_axes(header.space)
    if list(names) != [axis.name for axis in axes]:
        raise ValueError(f"its axes are {tuple(names)}, not {tuple(axis.name for axis in axes)}")
    for axis in axes:
        if axis.values is None:
            continue
        found = np.asarray(values[axis.name])
        same = axis.values.dtype == object or np.array_equal(found, axis.values)
        if not same or found.shape != axis.values.shape:
            raise ValueError(f"its coordinates along {axis.name} are not those of its affine: was it cut?")


def _leading(space: Space) -> tuple[int, ...]:
    return () if space.grid is None else space.shape[: space.ndim - len(space.grid.array_shape)]


def _component_axes(names: tuple[str, ...]) -> list[Axis]:
    return [Axis("component", np.array(names, dtype=object))] if names else []


def _grid_axes(grid: Grid) -> list[Axis]:
    axes = [
        Axis(name, np.arange(n) * step, "mm")
        for name, n, step in zip("zyx", grid.shape, grid.spacing, strict=True)
    ]
    if grid.time is not None:
        axes.insert(0, Axis("t", grid.time.start + grid.time.step * np.arange(grid.time.count), "s"))
    return axes
