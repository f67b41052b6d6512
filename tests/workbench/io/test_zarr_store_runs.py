"""Runs in a folder: finished ones are only read, damage is noticed, one process writes at a time."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from operators.grid import Grid
from operators.space import Space
from tests.problems import posterior_of
from tests.solver_contract import StopAfter
from tests.workbench.toys import ImportanceSampling, IndependentTokens, walk
from workbench.driver import sample
from workbench.io.samples import load_samples
from workbench.posterior import Posterior
from workbench.solvers.unmasking import Unmasking
from workbench.volume import Volume

pytest.importorskip("zarr", reason="zarr needs [io]")

from workbench.io.zarr_store import ZarrStore


def marks(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return when each file but the lock was written, and which one it is."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "run.lock")
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    """Its weights are never away, not even for a moment: nothing is written."""
    folder = tmp_path / "run"
    first = sample(posterior_of("mask"), ImportanceSampling(), store=ZarrStore(folder))
    before = {
        file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.rglob("*") if file.is_file()
    }
    again = sample(posterior_of("mask"), ImportanceSampling(), store=ZarrStore(folder))
    after = {
        file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.rglob("*") if file.is_file()
    }
    lock = folder / "draws" / "run.lock"
    assert {k: v for k, v in after.items() if k != lock} == {k: v for k, v in before.items() if k != lock}
    assert torch.equal(again.log_weights, first.log_weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["log_weight", "log_weight/c"])
def test_weights_that_are_lost_are_missed(tmp_path: Path, part: str) -> None:
    sample(posterior_of("mask"), ImportanceSampling(), store=ZarrStore(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / part)
    with pytest.raises(ValueError, match="be an undamaged folder of draws"):
        load_samples(tmp_path / "run")


@pytest.mark.parametrize("how", ["lost", "cut"])
def test_tokens_that_are_lost_are_missed(tmp_path: Path, how: str) -> None:
    space = Space.tokens(Grid.from_spacing((1, 8, 8), 1.0), 3)
    prior = IndependentTokens(space, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    sample(Posterior(prior), Unmasking(16), draws=3, store=ZarrStore(tmp_path / "run"))
    chunk = next(file for file in (tmp_path / "run" / "draws" / "c" / "1").rglob("*") if file.is_file())
    chunk.unlink() if how == "lost" else chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match="be an undamaged folder of draws"):
        load_samples(tmp_path / "run").frequencies()


def test_a_look_at_the_first_tokens_shows_the_first(tmp_path: Path) -> None:
    space = Space.tokens(Grid.from_spacing((1, 8, 8), 1.0), 3)
    prior = IndependentTokens(space, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    more = sample(Posterior(prior), Unmasking(16), draws=7, microbatch=2, store=ZarrStore(tmp_path / "run"))
    few = sample(Posterior(prior), Unmasking(16), draws=3, microbatch=2, store=ZarrStore(tmp_path / "run"))
    assert torch.equal(few.tensor(), more.tensor()[:3])
    assert isinstance(few.frequencies(), Volume)


def test_a_flipped_bit_in_the_progress_is_noticed(tmp_path: Path) -> None:
    store = ZarrStore(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        walk(store, draws=4, checkpoint_seconds=0.0, callbacks=[StopAfter(5)])  # type: ignore[arg-type]
    file = tmp_path / "run" / "draws" / "progress.pt"
    whole = file.read_bytes()
    for place in range(len(whole) // 8, len(whole), len(whole) // 8):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):  # a bit that pads the archive is in nobody's way
            resumed = walk(ZarrStore(tmp_path / "run"), draws=4, checkpoint_seconds=3600)  # type: ignore[arg-type]
            assert torch.equal(resumed.tensor(), walk(draws=4).tensor())
        file.write_bytes(whole)


LOCKED = """
import sys
from tests.workbench.toys import walk
from workbench.callbacks import Callback
from workbench.io.zarr_store import ZarrStore

class Wait(Callback):
    def step(self, event):
        print("running", flush=True)
        sys.stdin.readline()

walk(ZarrStore(sys.argv[1]), draws=2, callbacks=[Wait()])
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCKED, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "running\n"
        with pytest.raises(RuntimeError, match=f"process {other.pid} is running in .* Wait for its end"):
            walk(ZarrStore(tmp_path / "run"), draws=2)  # type: ignore[arg-type]
        other.kill()
    walk(ZarrStore(tmp_path / "run"), draws=2)  # type: ignore[arg-type]
