"""A run that is killed outright, at any step, ends as if nothing had happened: bit by bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("zarr")

# One process loads everything once and forks: each run is a process of its own, killed from within.
RUNS = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from tests.problems import posterior_of
from workbench.callbacks import Callback, Trajectory
from workbench.driver import sample
from workbench.io.zarr_store import ZarrStore
from workbench.solvers.annealed_langevin import AnnealedLangevin

class Kill(Callback):
    def __init__(self, after):
        self.left = after
    def step(self, event):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def run(folder, after, every):
    solver = AnnealedLangevin(2.0, 0.05, levels=4, steps_per_level=5)
    samples = sample(
        posterior_of("coils", dtype=torch.float32), solver, draws=7, seed=3, microbatch=3,
        store=ZarrStore(folder), checkpoint_seconds=every, callbacks=[Trajectory(), Kill(after)],
    )
    torch.save(samples.tensor(), folder + ".pt")

for job in sys.argv[1:]:
    folder, after, every = job.split("|")
    child = os.fork()
    if child == 0:
        run(folder, int(after), float(every))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def runs(*jobs: tuple[Path, int, float]) -> list[int]:
    """Run each (folder, killed after so many steps, seconds between checkpoints); return the exit codes."""
    command = [sys.executable, "-c", RUNS, *(f"{folder}|{after}|{every}" for folder, after, every in jobs)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return [int(code) for code in done.stdout.split()]


def result(folder: Path) -> torch.Tensor:
    values: torch.Tensor = torch.load(f"{folder}.pt", weights_only=True)
    return values


def test_killed_at_ten_random_steps_it_ends_bit_by_bit_the_same(tmp_path: Path) -> None:
    generator = random.Random(11)
    # Sixty steps; at most five between two kills, so that all ten fall into the run.
    kills = [(tmp_path / "killed", generator.randint(2, 5), 0.0) for _ in range(10)]
    codes = runs((tmp_path / "whole", 0, 1e9), *kills, (tmp_path / "killed", 0, 0.0))
    assert codes == [0] + [-signal.SIGKILL] * 10 + [0]
    assert torch.equal(result(tmp_path / "killed"), result(tmp_path / "whole"))


def test_killed_between_two_checkpoints_it_goes_back_and_ends_the_same(tmp_path: Path) -> None:
    # No checkpoint within a batch: what was done of the second is lost, and done again.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runs((whole, 0, 1e9), (killed, 33, 1e9), (killed, 0, 1e9)) == [0, -signal.SIGKILL, 0]
    assert torch.equal(result(killed), result(whole))
