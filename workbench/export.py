"""Results as xarray: labelled axes in mm, the frame in the attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from operators.errors import type_error
from workbench.volume import Volume

if TYPE_CHECKING:
    import xarray

__all__ = ["to_xarray"]


def to_xarray(volume: Volume, *, name: str = "image") -> xarray.DataArray:
    """Return a copy as a DataArray with axes ('z', 'y', 'x'), a 't' axis in front where there is time.

    Coordinates are distances in mm along each array axis, from index 0. The attribute `affine` holds
    the 16 numbers of the 4x4 matrix row by row, a flat list because netCDF stores no other; it maps
    the array index (z, y, x) of this array to RAS mm. xarray knows nothing of it: after `isel` or any
    other slicing it is still that of the full array. Crop the Volume instead, then export.

    Real values go to netCDF as they are; complex ones need the h5netcdf engine and
    `invalid_netcdf=True`, as netCDF-4 has no complex numbers.
    """
    import xarray

    if not isinstance(volume, Volume):
        raise type_error("volume", "be a Volume", type(volume).__name__)
    grid = volume.grid
    coordinates = {
        axis: (axis, np.arange(n) * step, {"units": "mm"})
        for axis, n, step in zip("zyx", grid.shape, grid.spacing, strict=True)
    }
    dims = ["z", "y", "x"]
    if grid.time is not None:
        times = grid.time.start + grid.time.step * np.arange(grid.time.count)
        coordinates["t"] = ("t", times, {"units": "s"})
        dims.insert(0, "t")
    attributes = {
        "units": volume.unit,
        "world": "RAS, mm",
        "space": volume.space,
        "affine": grid.affine.ravel().tolist(),
    }
    data = volume.data.detach().cpu().resolve_conj().resolve_neg().numpy().copy()
    return xarray.DataArray(data, coords=coordinates, dims=dims, name=name, attrs=attributes)
