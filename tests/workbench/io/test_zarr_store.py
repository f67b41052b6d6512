import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray

from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.workbench.test_store import StoreContract, draws_of, header
from workbench.io.samples import load_samples
from workbench.store import Progress, StoreFull

pytest.importorskip("zarr", reason="zarr needs [io]")

from workbench.io.zarr_store import ZarrStore

ROOT = Path(__file__).resolve().parents[3]
#: A draw is three chunks of at most 1 MiB.
LARGE = Grid.from_spacing((10, 128, 512), 1.0)


class TestZarrStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore(tmp_path / "run.zarr")

    def again(self, store: Any) -> ZarrStore:
        return ZarrStore(store.path)


def run(store: ZarrStore, head: Any) -> None:
    """Do what a driver does."""
    x = draws_of(head)
    progress = store.begin(head)
    for k in range(0 if progress is None else progress.facts["first"], head.count):
        store.write(k, x[k : k + 1])
        store.save(Progress({"first": k + 1}, {"u": x[k]}))
    store.finish(torch.arange(head.count), {"draws": head.count})


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more into a file, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def in_a_new_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


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


# -- what is refused -----------------------------------------------------------------------------------


def test_foreign_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for name in ("photos", "file"):
        with pytest.raises(ValueError, match="`path` must be a new folder or one that holds this run"):
            ZarrStore(tmp_path / name).begin(header())
    with pytest.raises(ValueError, match="`path` must be an undamaged folder of draws, got .*zarr"):
        ZarrStore(tmp_path / "zarr").begin(header())
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist. Make it first"):
        ZarrStore(tmp_path / "nowhere" / "run").begin(header())
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        ZarrStore(3)  # type: ignore[arg-type]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "photos", "zarr"]
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_damaged_progress_is_reported(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    store.begin(header())
    store.save(Progress({}, {}))
    file = tmp_path / "run" / "draws" / "progress.pt"
    for content in (b"", b"abc", file.read_bytes()[:200]):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match="hold the progress of a run, got .*progress.pt.*Remove that file"
        ):
            ZarrStore(tmp_path / "run").begin(header())
    file.unlink()
    assert ZarrStore(tmp_path / "run").begin(header()) is None


def test_a_missing_chunk_is_reported(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    run(store, header())
    chunk = next(file for file in (store.path / "draws" / "c" / "2").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(ValueError, match="`path` must be an undamaged folder of draws"):
            load_samples(store.path)
        with pytest.raises(ValueError, match="`path` must be an undamaged folder of draws"):
            store.draws().read(slice(2, 3))
        chunk.unlink(missing_ok=True)


# -- a full disk ---------------------------------------------------------------------------------------


def test_a_full_disk_stops_clearly_and_the_run_goes_on(tmp_path: Path) -> None:
    head = header(5, space=Space.field(LARGE))
    x = draws_of(head)
    store = ZarrStore(tmp_path / "run")
    store.begin(head)
    store.write(0, x[:2])
    store.save(Progress({"first": 2}, {"u": x[0]}))
    message = (
        r"run takes no more \(File too large\): 2 of 5 draws are complete, [0-9.]+ MiB are free, a draw "
        "takes 2.5 MiB. Make room, then make the same call again"
    )
    with files_of_at_most(2**19):
        with pytest.raises(StoreFull, match=message) as caught:
            store.write(2, x[2:4])
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(StoreFull, match=message):  # where torch says RuntimeError
            store.save(Progress({"first": 2, "later": True}, {"u": x}))
        progress = ZarrStore(tmp_path / "run").begin(head)
        assert progress is not None
        assert progress.facts == {"first": 2}
        assert torch.equal(progress.tensors["u"], x[0])
    run(ZarrStore(tmp_path / "run"), head)
    assert torch.equal(load_samples(tmp_path / "run").tensor(), x)
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("at", ["begin", "write", "save", "finish"])
def test_it_may_be_full_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    store = ZarrStore(tmp_path / "run")
    x = draws_of(header())
    acts = {
        "begin": lambda: store.begin(header()),
        "write": lambda: store.write(0, x),
        "save": lambda: store.save(Progress({"first": 6}, {})),
        "finish": lambda: store.finish(torch.zeros(6), {}),
    }

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, act in acts.items():
        if name == at:
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", full)
                patch.setattr("zarr.storage._local._put", full)
                with pytest.raises(StoreFull, match="No space left on device.*draws are complete"):
                    act()
            if name == "begin":
                assert list(tmp_path.iterdir()) == []
        act()
    assert torch.equal(load_samples(tmp_path / "run").tensor(), x)


def test_other_errors_are_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ZarrStore(tmp_path / "run")
    store.begin(header())

    def broken(*arguments: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="broken") as caught:
        store.save(Progress({}, {}))
    assert not isinstance(caught.value, StoreFull)


# -- killed, and larger than memory --------------------------------------------------------------------

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import zarr
from tests.workbench.io.test_zarr_store import LARGE, run
from tests.workbench.test_store import draws_of, header
from operators.space import Space
from workbench.io.zarr_store import ZarrStore

path, kills = Path(sys.argv[1]), 0
head = header(20, space=Space.field(LARGE))
times = random.Random(0)
while True:
    child = os.fork()
    if not child:
        run(ZarrStore(path), head)
        os._exit(0)
    time.sleep(times.uniform(0.01, 0.8))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
print(kills)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    kills = int(in_a_new_process(KILLED, tmp_path / "run"))
    assert kills >= 3
    x = draws_of(header(20, space=Space.field(LARGE)))
    assert torch.equal(load_samples(tmp_path / "run").tensor(), x)
    assert not list((tmp_path / "run").rglob("*partial*"))


MEMORY = """
import sys, time
from pathlib import Path
import numpy as np, torch
from operators.grid import Grid
from operators.space import Space
from workbench.io.samples import load_samples
from workbench.io.zarr_store import ZarrStore
from workbench.kinds import Kind
from workbench.store import Header, Progress

def report(what):
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(what, round(time.monotonic() - start, 1), int(peak.split()[1]) / 1024)

start = time.monotonic()
torch.set_num_threads(1)
report("import")
store = ZarrStore(sys.argv[1])
space = Space.field(Grid.from_spacing((64, 256, 256), 1.0))
store.begin(Header(space, 64, torch.float32, Kind.EXACT_SAMPLE, fingerprint="a"))
random = np.random.Generator(np.random.Philox(key=1))
for k in range(64):
    draw = random.standard_normal((1, *space.shape), dtype=np.float32)
    draw += np.float32(k)
    store.write(k, torch.from_numpy(draw))
    if k % 8 == 7:
        store.save(Progress({"first": k + 1}, {"u": torch.from_numpy(draw)}))
store.finish(None, {})
report("write")
samples = load_samples(sys.argv[1])
results = []
for name, ask in {"mean": samples.mean, "sd": samples.sd, "median": lambda: samples.quantile(0.5)}.items():
    results.append(ask().data.double().mean())
    report(name)
low, high = samples.quantile([0.05, 0.95])
report("quantiles")
print("values", *(float(value) for value in results), float((high.data - low.data).mean()))
"""


@pytest.mark.slow
def test_an_ensemble_of_a_gigabyte_is_summarised_within_one_of_memory(tmp_path: Path) -> None:
    lines = [line.split() for line in in_a_new_process(MEMORY, tmp_path / "run").splitlines()]
    seconds, peak = float(lines[-2][1]), float(lines[-2][2])
    assert peak < 1024, lines
    assert seconds < 240, lines  # alone on one core: a tenth of it
    mean, sd, median, width = (float(value) for value in lines[-1][1:])
    # Draw k is k + noise of sd 1: mean 31.5, variance 64 * 65 / 12 + 1.
    assert mean == pytest.approx(31.5, abs=1e-3)
    assert sd == pytest.approx((64 * 65 / 12 + 1) ** 0.5, rel=2e-3)
    assert median == pytest.approx(31.5, abs=1e-2)
    assert width == pytest.approx(0.9 * 63, rel=1e-2)
