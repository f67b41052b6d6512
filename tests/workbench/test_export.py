import numpy as np
import torch

from operators.grid import Grid, TimeAxis
from workbench.export import to_xarray
from workbench.volume import Volume


def test_axes_units_and_frame_are_labelled() -> None:
    grid = Grid.from_spacing((2, 3, 4), (5.0, 2.0, 1.0), centre=(7, 8, 9)).with_time(TimeAxis(2, 0.5, 1.0))
    data = torch.rand(grid.array_shape, generator=torch.Generator().manual_seed(0)) * (1 + 1j)
    exported = to_xarray(Volume(data, grid, "1/mm"), name="mu")
    assert exported.dims == ("t", "z", "y", "x")
    assert exported.name == "mu"
    assert exported.attrs["units"] == "1/mm"
    assert exported.attrs["space"] == "RAS"
    assert np.array_equal(exported.attrs["affine"], grid.affine)
    assert exported.z.values.tolist() == [0.0, 5.0]
    assert exported.x.attrs["units"] == "mm"
    assert exported.t.values.tolist() == [1.0, 1.5]
    assert np.array_equal(exported.values, data.numpy())
