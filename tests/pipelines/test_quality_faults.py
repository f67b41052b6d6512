"""The comparison where something breaks: a process, a file, one slice, the weights under it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.quality import bench as bench_module
from pipelines.quality import subjects
from pipelines.quality.__main__ import main
from pipelines.quality.bench import Bench, Folder
from pipelines.quality.cells import Cell
from pipelines.quality.queue import _spread
from pipelines.quality.subjects import stand_in
from workbench.engine.guards import DivergedError

pytest.importorskip("astra", reason="data come from ASTRA's projector: [ct]")
pytest.importorskip("skimage", reason="SSIM is scikit-image's: [image]")
pytest.importorskip("scipy", reason="slices are interpolated by scipy: [io]")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "FINE", 64)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Path("no-such-folder"), Folder(tmp_path / "quality"))


CELL = Cell("ct20", "CG", (stand_in("ct", 0), stand_in("ct", 1)), 2)


def test_pictures_keep_values_of_every_size(bench: Bench) -> None:
    pictures = {"mean": torch.tensor([[0.019, 1e-6], [168.6, 4000.0]])}
    path = bench.folder.pictures("some/cell")
    bench.folder.write_pictures(path, pictures)
    assert torch.equal(bench.folder.read_pictures(path)["mean"], pictures["mean"])
    path.write_bytes(path.read_bytes()[:40])
    assert bench.folder.read_pictures(path) == {}


@pytest.mark.parametrize("content", ["", '{"key": "', "[1, 2]"])
def test_a_file_that_was_cut_short_is_no_record(bench: Bench, content: str) -> None:
    path = bench.folder.cell(CELL.name)
    bench.computed(CELL)
    path.write_text(content)
    assert bench.done(CELL) is None
    assert bench.computed(CELL)["status"] == "done"


def fails_on(number: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_module.evaluated

    def evaluated(case: Any, place: Any, *rest: Any) -> Any:
        if place.number == number:
            raise error
        return real(case, place, *rest)

    monkeypatch.setattr(bench_module, "evaluated", evaluated)


def test_a_slice_that_diverges_is_lost_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_on(CELL.places[1].number, DivergedError("not finite at step 3"), monkeypatch)
    record = bench.computed(CELL)
    assert record["status"] == "done"
    assert len(record["slices"]) == 1
    assert "not finite at step 3" in record["lost"][0]


def test_what_failed_is_tried_again_and_what_diverged_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        fails_on(CELL.places[0].number, MemoryError("no room"), patched)
        assert bench.computed(CELL)["reason"] == "MemoryError: no room"
    assert not bench.settled(CELL)
    assert bench.computed(CELL)["status"] == "done"
    one = Cell("ct20", "CG", CELL.places[:1], 2)
    with monkeypatch.context() as patched:
        fails_on(one.places[0].number, DivergedError("not finite"), patched)
        assert bench.computed(one)["status"] == "diverged"
    assert bench.settled(one)


def test_a_killed_process_fails_its_own_cell_alone() -> None:
    told: list[tuple[Any, Any]] = []
    # A cell is the signal that its process gets; none has number 0.
    bench: Any = SimpleNamespace(computed=signal.raise_signal, recorded=lambda cell, record: record)
    cells: Any = [int(signal.SIGKILL), 0]
    _spread(bench, cells, 2, lambda: False, lambda cell, record: told.append((cell, record)))
    failed = [record["status"] for cell, record in told if cell]
    assert failed == ["failed"]
    assert sum(cell == 0 for cell, _ in told) == 1


def test_parts_of_the_comparison_are_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.quality.__main__.DOCS", tmp_path / "docs")
    arguments = ["--fast", "--jobs", "1", "--only", "ct20", "--solvers", "CG", "--publish"]
    assert main([*arguments, "--folder", str(tmp_path / "work"), "--data", str(tmp_path)]) == 1
    assert "nothing is published" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


#: Starts a process as the queue does, says which, and waits.
PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from pipelines.quality.queue import _begin

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=(1,))
    print(pool.submit(getpid).result(), flush=True)
    pool.submit(time.sleep, 100)
    time.sleep(100)
"""


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.05)
    pytest.fail(f"process {child} goes on for nobody")
