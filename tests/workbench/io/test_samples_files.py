import errno
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
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
from workbench.kinds import Kind
from workbench.samples import Samples
from workbench.store import Draws, TensorDraws
from workbench.volume import SPACES, Volume

pytest.importorskip("zarr", reason="zarr needs [io]")
pytest.importorskip("h5netcdf", reason="netCDF needs [io]")

from workbench.io.nifti import write_nifti
from workbench.io.samples import load_samples, save_samples

GRID = Grid.from_spacing((3, 4, 5), (5.0, 2.0, 1.0), centre=(1.0, 2.0, 3.0)).flip(1)
MOVIE = GRID.with_time(TimeAxis(2, 0.1, 1.0))
EVERY = [
    (Space.field(GRID), torch.float32),
    (Space.field(GRID), torch.float64),
    (Space.field(MOVIE), torch.float32),
    (Space.field(GRID, is_complex=True), torch.complex64),
    (Space.field(MOVIE, is_complex=True), torch.complex128),
    (Space.vectors(GRID), torch.float32),
    (Space.vectors(MOVIE), torch.float64),
    (Space.tokens(GRID, 4), torch.int64),
    (Space.tokens(MOVIE, 300), torch.int64),
    (Space.field(GRID, components=(2,)), torch.float32),
    (Space.field(GRID, is_complex=True, components=(2, 3)), torch.complex64),
    (Space((7,)), torch.float64),
    (Space((2, 3), is_complex=True), torch.complex64),
    (Space((2,), classes=4), torch.int64),
]
FORMATS = ["nc", "zarr"]


def samples_of(space: Space, dtype: torch.dtype, count: int = 3, *, weighted: bool = True) -> Samples:
    generator = torch.Generator().manual_seed(0)
    shape = (count, *space.shape)
    if space.classes is not None:
        x = torch.randint(0, space.classes, shape, generator=generator)
    else:
        x = torch.randn(shape, dtype=dtype, generator=generator)
        # Numbers that a comparison of values would let pass, and a mask of what is not known.
        x.flatten()[:3] = torch.tensor([-0.0, torch.nan, torch.inf])
        x[1:2] = torch.nan
    weights = torch.randn(count, dtype=torch.float64, generator=generator) if weighted else None
    kind = Kind.WEIGHTED_ENSEMBLE if weighted else Kind.EXACT_SAMPLE
    return Samples(x, space, kind, log_weights=weights, unit="1/mm", frame="mni", record={"a": [1, None]})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def assert_same(found: Samples, samples: Samples) -> None:
    assert found.dtype == samples.dtype
    assert bits(found.tensor()) == bits(samples.tensor())
    assert found.space == samples.space
    for name in ("kind", "unit", "frame", "record"):
        assert getattr(found, name) == getattr(samples, name)
    assert (found.log_weights is None) == (samples.log_weights is None)
    if samples.log_weights is not None and found.log_weights is not None:
        assert bits(found.log_weights) == bits(samples.log_weights)


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


class Watched(Draws):
    """Draws that say how much of them was read at once."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.inner, self.largest = TensorDraws(tensor), 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> torch.Tensor:
        found = self.inner.read(draws, region)
        self.largest = max(self.largest, found.nbytes)
        return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_few_draws_are_written_at_a_time_and_lazily_computed_ones_too(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space.field(Grid.from_spacing((4, 32, 32), 1.0), is_complex=True)
    draws = Watched(samples_of(space, torch.complex64, 9).tensor())
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


# -- whole or not at all -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_write_that_fails_leaves_nothing_and_what_was_there(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(*EVERY[0])
    before = save_samples(samples, tmp_path / "before.nc").read_bytes()

    def fails(samples: Samples) -> Any:
        yield 0, samples.tensor()[0].numpy()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.io.samples._in_turn", fails)
    name = "before.nc" if suffix == "nc" else "a.zarr"
    with pytest.raises(OSError, match="No space left on device"):
        save_samples(samples, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["before.nc"]
    assert (tmp_path / "before.nc").read_bytes() == before


def test_a_file_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    samples = samples_of(*EVERY[0])
    for _ in range(2):
        save_samples(samples, tmp_path / "a.nc")
    save_samples(samples, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="`path` must be new, got .*a.zarr, which is there. Remove it"):
        save_samples(samples, tmp_path / "a.zarr")
    # Also what is read from the very file that it is written to.
    save_samples(load_samples(tmp_path / "a.nc"), tmp_path / "a.nc")
    assert_same(load_samples(tmp_path / "a.nc"), samples)


# -- what is refused -----------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def changed_by_xarray(change: Callable[[xarray.Dataset], xarray.Dataset]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with xarray.open_dataset(path) as dataset:
            changed = change(dataset.load())
        changed.to_netcdf(path, engine="h5netcdf")

    return act


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "truncated file"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_text("hello"), ""),
        (changed_by_xarray(lambda d: d.drop_vars("draws")), "draws"),
        (changed_by_xarray(lambda d: d.drop_attrs()), "not marked as inverse-workbench samples"),
        (
            changed_by_xarray(lambda d: d.isel(x=slice(2, None))),
            "coordinates along x are not those of its af",
        ),
        (changed_by_xarray(lambda d: d.isel(z=slice(None, None, -1))), "coordinates along z are not those"),
        (changed_by_xarray(lambda d: d.transpose("draw", "x", "y", "z")), "its axes are"),
        (changed_by_xarray(lambda d: d.assign_attrs(format_version=2)), "version 2 is newer than this workb"),
        (changed_by_xarray(lambda d: d.assign_attrs(kind="guess")), "guess"),
        (changed_by_xarray(lambda d: d.assign_attrs(element="blob")), "the element 'blob' is not known"),
        (changed_by_xarray(lambda d: d.assign_attrs(affine=[1.0, 2.0])), "reshape"),
        (changed_by_xarray(lambda d: d.assign_attrs(record="{")), ""),
        (changed_by_xarray(lambda d: d.astype("float16")), "float16"),
    ],
)
def test_damaged_and_foreign_files_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    target = save_samples(samples_of(*EVERY[0], weighted=False), tmp_path / "a.nc")
    damage(target)
    expected = (
        f"`path` must be an undamaged file of samples, got .*a.nc: .*{message}.*written by save_samples"
    )
    with pytest.raises(ValueError, match=expected):
        load_samples(target)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "zarr.json").unlink(),
        lambda folder: (folder / "zarr.json").write_text("{"),
        lambda folder: (folder / "draws" / "zarr.json").unlink(),
        lambda folder: (folder / "z" / "zarr.json").unlink(),
        lambda folder: (folder / "draws" / "c" / "1" / "0" / "0" / "0").unlink(),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    target = save_samples(samples_of(*EVERY[0]), tmp_path / "a.zarr")
    damage(target)
    with pytest.raises(ValueError, match="`path` must be an undamaged folder of draws, got .*a.zarr: "):
        load_samples(target)


def test_wrong_arguments(tmp_path: Path) -> None:
    samples = samples_of(*EVERY[0])
    with pytest.raises(ValueError, match=r"`path` must end in \.nc or \.zarr, got '.*a\.npz'"):
        save_samples(samples, tmp_path / "a.npz")
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        save_samples(samples, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`samples` must be Samples, got Tensor"):
        save_samples(samples.tensor(), tmp_path / "a.nc")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_samples(tmp_path / "a.nc")
    for suffix in FORMATS:
        with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist. Make it first"):
            save_samples(samples, tmp_path / "nowhere" / f"a.{suffix}")


def test_nifti_has_no_components(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="NIfTI needs [io]")
    volume = samples_of(Space.vectors(GRID), torch.float32)[0]
    assert isinstance(volume, Volume)
    with pytest.raises(
        ValueError, match=r"one number per voxel for NIfTI, got components R, A, S\..*components=\(\)"
    ):
        write_nifti(tmp_path / "a.nii", volume)
    write_nifti(tmp_path / "a.nii", volume.with_data(volume.data[0], components=()))


def test_the_extras_are_imported_only_where_they_are_used() -> None:
    extras = {"zarr", "h5py", "h5netcdf", "xarray"}
    code = "import sys, workbench.io.samples, workbench.io.zarr_store; "
    code += f"raise SystemExit(bool({extras} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
