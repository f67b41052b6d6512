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

import pytest
import torch

from operators.space import Space
from tests.workbench.test_store import draws_of, header
from tests.zarr_store_cases import LARGE, run
from workbench.io.samples import load_samples
from workbench.store import Progress, StoreFull

pytest.importorskip("zarr", reason="zarr needs [io]")

from workbench.io.zarr_store import ZarrStore

ROOT = Path(__file__).resolve().parents[3]


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
import json, os, signal, sys, threading
from pathlib import Path
import torch, zarr
from operators.space import Space
from tests.workbench.test_store import draws_of, header
from tests.zarr_store_cases import LARGE, run
from workbench.io.zarr_store import ZarrStore

path = Path(sys.argv[1])
head = header(12, space=Space.field(LARGE))
progress, group = path / "draws" / "progress.pt", path / "zarr.json"
replace, fsync, one_at_a_time = os.replace, os.fsync, threading.Lock()
moment, left = "", 0  # where the process ends itself, and how often it still passes there

def passed(what):
    global left
    left -= what == moment
    if what == moment and not left:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

def known(target):
    named = {path: "folder", progress: "progress", group: "end"}
    if path / "draws" / "c" in target.parents:
        return "chunk"
    return named.get(target) or ("weights" if path / "log_weight" in target.parents else "")

def watched_replace(source, target, **options):
    what = known(Path(target))
    with one_at_a_time:  # zarr writes the chunks of a draw in threads
        passed(f"before {what}")
        replace(source, target, **options)
        passed(f"after {what}")

def watched_fsync(handle):
    file = Path(os.readlink(f"/proc/self/fd/{handle}"))
    if file.parent == progress.parent and file.name.startswith(".partial-") and moment == "half progress":
        if left == 1:
            os.truncate(file, file.stat().st_size // 2)
        passed("half progress")
    fsync(handle)

class Watched(ZarrStore):
    def begin(self, header):
        found = super().begin(header)
        first = found.facts["first"] if found else 0
        assert not found or torch.equal(found.tensors["u"], draws_of(header)[first - 1])
        print(json.dumps(first), flush=True)
        return found

    def write(self, first, draws):
        super().write(first, draws)
        passed("draw")

os.replace, os.fsync = watched_replace, watched_fsync
for moment, left in [*json.loads(sys.argv[2]), ["", 0]]:
    child = os.fork()
    if not child:
        run(Watched(path), head)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == (signal.SIGKILL if moment else 0), (moment, left, status)
"""

#: Where a process ends itself, at which of its passings there, and the draws that the next one finds done.
KILLS = [
    ("before folder", 1, 0),
    ("after folder", 1, 0),
    ("before chunk", 2, 0),  # a draw is three chunks: in the middle of the first draw
    ("draw", 1, 0),  # between a draw and its progress
    ("half progress", 1, 0),
    ("before progress", 1, 0),
    ("after progress", 1, 1),
    ("before chunk", 5, 2),
    ("after chunk", 3, 2),  # a whole draw that nobody knows of
    ("draw", 2, 3),
    ("half progress", 2, 4),
    ("before progress", 2, 5),
    ("after progress", 2, 7),
    ("after chunk", 4, 8),
    ("draw", 4, 11),
    ("before weights", 1, 12),
    ("before end", 1, 12),
    ("after end", 1, 12),
]


def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    moments = json.dumps([kill[:2] for kill in KILLS])
    found = in_a_new_process(KILLED, tmp_path / "run", moments).split()
    # The first two processes end while they make the folder, before they could say what they found.
    assert [int(first) for first in found] == [first for _, _, first in KILLS[1:]]
    samples = load_samples(tmp_path / "run")
    head = header(12, space=Space.field(LARGE))
    assert torch.equal(samples.tensor(), draws_of(head))
    assert samples.log_weights is not None
    assert samples.log_weights.tolist() == list(range(12))
    assert samples.record == {"draws": 12}
    assert not list((tmp_path / "run").rglob("*partial*"))


def test_what_a_kill_left_of_files_being_written_goes_with_the_next_begin(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    store.begin(header())
    store.write(0, draws_of(header()))
    store.leave()
    # Ours begin with .partial, those of zarr end with it, in whatever folder it was writing to.
    chunk = next(file for file in (tmp_path / "run" / "draws" / "c").rglob("*") if file.is_file())
    left = [
        tmp_path / "run" / ".partial-1-zarr.json",
        tmp_path / "run" / "zarr.b9f0a67a.partial",
        tmp_path / "run" / "z" / "zarr.b9f0a67a.partial",
        tmp_path / "run" / "draws" / "zarr.b9f0a67a.partial",
        tmp_path / "run" / "draws" / ".partial-1-progress.pt",
        chunk.with_suffix(".b9f0a67a.partial"),
    ]
    for file in left:
        file.touch()
    store.begin(header())
    assert not list((tmp_path / "run").rglob("*partial*"))
    assert chunk.is_file()


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
