"""Results as xarray: labelled axes in mm, the frame in the attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.volume import Volume

if TYPE_CHECKING:
    import xarray

__all__ = ["to_xarray"]


def to_xarray(volume: Volume, *, name: str = "image") -> xarray.DataArray:
    """Return a DataArray with axes ('z', 'y', 'x'), a 't' axis in front where there is time.

    Coordinates are distances in mm along each array axis, from index 0; the true world position of a
    voxel follows from the 4x4 `affine` in the attributes, RAS mm, and from nothing else.
    """
    import xarray

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
    attributes = {"units": volume.unit, "space": "RAS", "affine": grid.affine.tolist()}
    data = volume.data.detach().cpu().resolve_conj().numpy()
    return xarray.DataArray(data, coords=coordinates, dims=dims, name=name, attrs=attributes)
