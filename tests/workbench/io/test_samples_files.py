import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.samples_cases import Counted
from tests.samples_files_cases import EVERY, FORMATS, assert_same, bits, samples_of
from workbench.kinds import Kind
from workbench.samples import Samples
from workbench.volume import SPACES

pytest.importorskip("zarr", reason="zarr needs [io]")
pytest.importorskip("h5netcdf", reason="netCDF needs [io]")

from workbench.io.samples import load_samples, save_samples


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("space", "dtype"), EVERY)
def test_nothing_is_lost(
    tmp_path: Path, space: Space, dtype: torch.dtype, weighted: bool, suffix: str
) -> None:
    samples = samples_of(space, dtype, weighted=weighted)
    target = save_samples(samples, tmp_path / f"a.{suffix}")
    assert target == tmp_path / f"a.{suffix}"
    found = load_samples(str(target))
    assert_same(found, samples)
    assert bits(found.draws.read(slice(1, 3), (slice(1, 2),))) == bits(samples.tensor()[1:3, 1:2])
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("space", "dtype"), EVERY)
def test_xarray_reads_it_alone(tmp_path: Path, space: Space, dtype: torch.dtype, suffix: str) -> None:
    samples = samples_of(space, dtype)
    target = save_samples(samples, tmp_path / f"a.{suffix}")
    opened = xarray.open_dataset(target) if suffix == "nc" else xarray.open_zarr(target, chunks=None)
    with opened as dataset:
        dataset.load()
    xarray.testing.assert_identical(dataset, samples.to_xarray())
    assert dataset.draws.dtype == np.dtype(str(dtype).removeprefix("torch."))
    assert json.loads(dataset.attrs["record"]) == samples.record
    if space.grid is not None:
        assert np.array_equal(np.reshape(dataset.attrs["affine"], (4, 4)), space.grid.affine)
        assert dataset.attrs["world"] == "RAS, mm"
        assert dataset.y.values.tolist() == [0.0, 2.0, 4.0, 6.0]
        assert dataset.y.attrs["units"] == "mm"


@pytest.mark.parametrize(("space", "dtype"), EVERY)
def test_what_xarray_wrote_of_it_loads(tmp_path: Path, space: Space, dtype: torch.dtype) -> None:
    samples = samples_of(space, dtype)
    samples.to_xarray().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert_same(load_samples(tmp_path / "a.nc"), samples)


record = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
small = st.floats(-1e3, 1e3)


@pytest.mark.parametrize("suffix", FORMATS)
@given(
    spacing=st.tuples(*[st.floats(1e-3, 1e3)] * 3),
    turn=st.tuples(*[small] * 4).filter(lambda q: math.hypot(*q) > 1e-3),
    origin=st.tuples(*[small] * 3),
    time=st.none() | st.builds(TimeAxis, st.integers(1, 3), st.floats(1e-6, 1e6), small),
    unit=st.text(max_size=8).filter(str.isprintable),
    frame=st.sampled_from(SPACES),
    kind=st.sampled_from(list(Kind)),
    weights=st.none() | st.lists(st.floats(allow_nan=False, max_value=1e300), min_size=2, max_size=2),
    notes=st.dictionaries(st.text(), record, max_size=3),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_is_lost_whatever_is_written_on_it(
    suffix: str,
    spacing: tuple[float, ...],
    turn: tuple[float, ...],
    origin: tuple[float, ...],
    time: TimeAxis | None,
    unit: str,
    frame: str,
    kind: Kind,
    weights: list[float] | None,
    notes: dict[str, Any],
) -> None:
    if weights is not None and max(weights) == -math.inf:
        weights = None
    w, x, y, z = np.array(turn) / math.hypot(*turn)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing, origin
    space = Space.field(Grid((1, 2, 3), affine, time))
    samples = Samples(
        torch.rand(2, *space.shape, generator=torch.Generator().manual_seed(0)),
        space,
        kind,
        log_weights=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        unit=unit,
        frame=frame,
        record=notes,
    )
    with tempfile.TemporaryDirectory() as folder:
        assert_same(load_samples(save_samples(samples, Path(folder) / f"a.{suffix}")), samples)


# -- larger than memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_few_draws_are_written_at_a_time_and_lazily_computed_ones_too(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space.field(Grid.from_spacing((4, 32, 32), 1.0), is_complex=True)
    draws = Counted(samples_of(space, torch.complex64, 9).tensor())
    samples = Samples(draws, space, Kind.EXACT_SAMPLE)
    monkeypatch.setattr("workbench.io.samples._AT_ONCE", 2**16)
    assert_same(load_samples(save_samples(samples, tmp_path / f"a.{suffix}")), samples[:])
    assert draws.largest == 9 * 2**15  # assert_same's own
    draws.largest = 0
    save_samples(samples.map(torch.abs)[2:8], tmp_path / f"b.{suffix}")
    assert draws.largest == 2**15
    magnitudes = load_samples(tmp_path / f"b.{suffix}")
    assert bits(magnitudes.tensor()) == bits(samples.tensor()[2:8].abs())
    expected = magnitudes.tensor().double()
    assert torch.allclose(magnitudes.sd().data.double(), expected.std(0), equal_nan=True)  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", FORMATS)
def test_loaded_samples_find_their_file_and_keep_none_open(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(*EVERY[0])
    monkeypatch.chdir(tmp_path)
    save_samples(samples, f"a.{suffix}")
    found = load_samples(f"a.{suffix}")
    monkeypatch.chdir("/")
    assert bits(found[1].data) == bits(samples[1].data)  # type: ignore[union-attr]
    opened = [Path(link).resolve() for link in Path("/proc/self/fd").iterdir()]
    assert not [link for link in opened if str(tmp_path) in str(link)]
