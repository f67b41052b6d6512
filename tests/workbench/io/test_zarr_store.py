import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray

from operators.grid import TimeAxis
from operators.space import Space
from tests.workbench.test_store import StoreContract, draws_of, header
from tests.zarr_store_cases import LARGE, run
from workbench.io.samples import load_samples
from workbench.store import Progress

pytest.importorskip("zarr", reason="zarr needs [io]")

from workbench.io.zarr_store import ZarrStore


class TestZarrStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore(tmp_path / "run.zarr")

    def again(self, store: Any) -> ZarrStore:
        return ZarrStore(store.path)


# -- the folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("consolidated", [None, False])
def test_xarray_reads_it_alone(tmp_path: Path, consolidated: bool | None) -> None:
    head = header(space=Space.vectors(LARGE.crop(0, (2, 3, 4)).with_time(TimeAxis(2, 0.5, 1.0))))
    run(ZarrStore(tmp_path / "run"), head)
    with xarray.open_zarr(tmp_path / "run", consolidated=consolidated, chunks=None) as dataset:
        assert dataset.draws.dims == ("draw", "component", "t", "z", "y", "x")
        assert np.array_equal(dataset.draws.values, draws_of(head).numpy())
        assert dataset.component.values.tolist() == ["R", "A", "S"]
        assert dataset.t.values.tolist() == [1.0, 1.5]
        assert dataset.log_weight.values.tolist() == list(range(6))
        assert np.array_equal(np.reshape(dataset.attrs["affine"], (4, 4)), head.space.grid.affine)
        assert dataset.attrs["world"] == "RAS, mm"
        assert (dataset.attrs["kind"], dataset.attrs["unit"]) == ("exact sample", "1/mm")
        assert (dataset.attrs["frame"], dataset.attrs["fingerprint"]) == ("mni", "a1")
        assert json.loads(dataset.attrs["record"]) == {"draws": 6}
        assert dataset.draws.attrs["units"] == "1/mm"


@pytest.mark.parametrize("consolidated", [None, False])
@pytest.mark.parametrize(
    "space", [Space.field(LARGE), Space.tokens(LARGE, 3), Space.field(LARGE, is_complex=True)]
)
def test_xarray_reads_a_run_under_way(tmp_path: Path, consolidated: bool | None, space: Space) -> None:
    dtype = torch.int64 if space.classes else torch.complex64 if space.is_complex else torch.float32
    head = header(2, space=space, dtype=dtype)
    store = ZarrStore(tmp_path / "run")
    store.begin(head)
    store.write(0, draws_of(head)[:1])
    store.save(Progress({"first": 1}, {}))
    with xarray.open_zarr(tmp_path / "run", consolidated=consolidated, chunks=None) as dataset:
        assert np.array_equal(dataset.draws[0], draws_of(head)[0])
        rest = dataset.draws[1].values
        assert bool((rest == -1).all() if space.classes else np.isnan(rest).all())
        assert dataset.attrs["state"] == "running"
    with pytest.raises(ValueError, match="hold a finished run, got .*under way. Make the call that began it"):
        load_samples(tmp_path / "run")


def test_a_chunk_is_a_slab_of_one_draw_of_at_most_a_mebibyte(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    run(store, header(2, space=Space.field(LARGE)))
    chunks = sorted(file.stat().st_size for file in (store.path / "draws" / "c").rglob("*") if file.is_file())
    assert chunks == [2**20] * 6
    x = draws_of(header(2, space=Space.field(LARGE)))
    region = (slice(3, 9), slice(5, 100), slice(7, 300))
    assert torch.equal(store.draws().read(slice(None), region), x[(slice(None), *region)])


def test_tokens_are_compressed(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    head = header(1, space=Space.tokens(LARGE, 4), dtype=torch.int64)
    run(store, head)
    size = sum(file.stat().st_size for file in (store.path / "draws" / "c").rglob("*") if file.is_file())
    assert size < LARGE.shape[0] * 128 * 512
    assert store.room() > size


def test_it_finds_its_folder_wherever_the_process_goes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    store = ZarrStore("run")
    run(store, header())
    draws = store.draws()
    monkeypatch.chdir("/")
    assert torch.equal(draws.read(slice(None)), draws_of(header()))
    assert repr(store) == f"ZarrStore('{tmp_path}/run')"


def test_a_finished_run_keeps_weights_record_and_what_to_go_on_from(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    run(store, header(4))
    samples = load_samples(tmp_path / "run")
    assert samples.record == {"draws": 4}
    assert samples.log_weights is not None
    assert samples.log_weights.tolist() == [0.0, 1.0, 2.0, 3.0]
    shorter = ZarrStore(tmp_path / "run")
    shorter.begin(header(2))
    shorter.finish(None, {"draws": 2})
    assert load_samples(tmp_path / "run").record == {"draws": 4}
    run(ZarrStore(tmp_path / "run"), header(7))
    longer = load_samples(tmp_path / "run")
    assert (len(longer), longer.record) == (7, {"draws": 7})
    assert torch.equal(longer.tensor(), draws_of(header(7)))
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "draws",
        "log_weight",
        "x",
        "y",
        "z",
        "zarr.json",
    }
    with xarray.open_zarr(tmp_path / "run", chunks=None) as dataset:
        assert dataset.sizes["draw"] == 7


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run(ZarrStore(tmp_path / "run"), header())
    assert torch.equal(load_samples(tmp_path / "run").tensor(), draws_of(header()))
