import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from workbench.export import to_xarray
from workbench.kinds import Kind
from workbench.volume import Volume


def test_axes_units_and_frame_are_labelled() -> None:
    grid = Grid.from_spacing((2, 3, 4), (5.0, 2.0, 1.0), centre=(7, 8, 9)).with_time(TimeAxis(2, 0.5, 1.0))
    data = torch.rand(grid.array_shape, generator=torch.Generator().manual_seed(0)) * (1 + 1j)
    exported = to_xarray(Volume(data, grid, "1/mm"), name="mu")
    assert exported.dims == ("t", "z", "y", "x")
    assert exported.name == "mu"
    assert exported.attrs["units"] == "1/mm"
    assert exported.attrs["space"] == "scanner"
    assert np.array_equal(np.reshape(exported.attrs["affine"], (4, 4)), grid.affine)
    assert exported.z.values.tolist() == [0.0, 5.0]
    assert exported.x.attrs["units"] == "mm"
    assert exported.t.values.tolist() == [1.0, 1.5]
    assert exported.t.attrs["units"] == "s"
    assert np.array_equal(exported.values, data.numpy())


def test_components_are_an_axis_with_names() -> None:
    grid = Grid.from_spacing((2, 3, 4), 1.0).with_time(TimeAxis(5))
    volume = Volume(torch.zeros(3, *grid.array_shape), grid, "mm", components=("R", "A", "S"))
    exported = to_xarray(volume)
    assert exported.dims == ("component", "t", "z", "y", "x")
    assert exported.sel(component="A").shape == (5, 2, 3, 4)
    assert exported.component.values.tolist() == ["R", "A", "S"]


def test_it_is_a_copy_also_of_lazy_views() -> None:
    grid = Grid.from_spacing((2, 3, 4), 1.0)
    data = torch.ones(grid.shape)
    exported = to_xarray(Volume(data, grid))
    exported[:] = 5
    assert (data == 1).all()
    negative = (torch.ones(grid.shape) * 1j).conj().imag  # negated lazily
    assert negative.is_neg()
    assert (to_xarray(Volume(negative, grid)).values == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.complex64])
def test_it_goes_through_netcdf(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("h5netcdf", reason="netCDF needs [io]")
    import xarray

    grid = Grid.from_spacing((2, 3, 4), (5.0, 2.0, 1.0)).flip(1).with_time(TimeAxis(2, 0.5, 1.0))
    data = torch.arange(48).reshape(grid.array_shape).to(dtype)
    exported = to_xarray(
        Volume(data * (1 - 2j) if dtype.is_complex else data, grid, "1/mm", "mni"), name="mu"
    )
    exported.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xarray.open_dataarray(tmp_path / "a.nc", engine="h5netcdf") as back:
        xarray.testing.assert_equal(back, exported)
        assert back.values.dtype == exported.values.dtype
        assert np.array_equal(np.reshape(back.attrs["affine"], (4, 4)), grid.affine)
        assert (back.name, back.attrs["units"], back.attrs["space"]) == ("mu", "1/mm", "mni")


def test_xarray_is_imported_only_when_a_result_is_exported() -> None:
    code = "import sys, workbench, workbench.export; raise SystemExit('xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_a_volume_is_exported() -> None:
    with pytest.raises(TypeError, match="`volume` must be a Volume, got Tensor"):
        to_xarray(torch.zeros(2, 3, 4))  # type: ignore[arg-type]


def test_bfloat16_becomes_single_precision_and_says_so() -> None:
    data = torch.tensor([1.0, 2.5, -3.0], dtype=torch.bfloat16).reshape(1, 1, 3)
    array = to_xarray(Volume(data, Grid.from_spacing((1, 1, 3), 1.0)))
    assert array.dtype == np.float32
    assert array.attrs["converted_from"] == "bfloat16"
    assert array.values.ravel().tolist() == [1.0, 2.5, -3.0]


def test_the_kind_of_an_answer_is_shown() -> None:
    grid = Grid.from_spacing((1, 2, 2), 1.0)
    volume = Volume(torch.zeros(1, 2, 2), grid, kind=Kind.EXACT_SAMPLE, statistic="mean")
    attributes = to_xarray(volume).attrs
    assert (attributes["kind"], attributes["statistic"]) == ("exact sample", "mean")
    assert "kind" not in to_xarray(Volume(torch.zeros(1, 2, 2), grid)).attrs
