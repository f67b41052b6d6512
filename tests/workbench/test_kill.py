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

RUN = """
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

folder, after, every = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
solver = AnnealedLangevin(2.0, 0.05, levels=4, steps_per_level=5)
samples = sample(
    posterior_of("ct", dtype=torch.float32), solver, draws=7, seed=3, microbatch=3,
    store=ZarrStore(folder), checkpoint_seconds=every, callbacks=[Trajectory(), Kill(after)],
)
torch.save(samples.tensor(), folder + ".pt")
"""
STEPS = 60  # three microbatches of twenty


def run(folder: Path, after: int, every: float) -> int:
    command = [sys.executable, "-c", RUN, str(folder), str(after), str(every)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=120).returncode


@pytest.mark.slow
def test_killed_at_ten_random_steps_it_ends_bit_by_bit_the_same(tmp_path: Path) -> None:
    assert run(tmp_path / "whole", 0, 1e9) == 0
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    generator = random.Random(11)
    folder, killed = tmp_path / "killed", 0
    while True:
        # At most a seventh of the steps are done between two kills, so that ten fall into the run.
        code = run(folder, generator.randint(2, 8) if killed < 10 else 0, 0.0)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed == 10
    assert torch.equal(torch.load(tmp_path / "killed.pt", weights_only=True), whole)


@pytest.mark.slow
def test_killed_between_two_checkpoints_it_goes_back_and_ends_the_same(tmp_path: Path) -> None:
    assert run(tmp_path / "whole", 0, 1e9) == 0
    # No checkpoint within a batch: what was done of the second is lost, and done again.
    assert run(tmp_path / "killed", 33, 1e9) == -signal.SIGKILL
    assert run(tmp_path / "killed", 0, 1e9) == 0
    assert torch.equal(
        torch.load(tmp_path / "killed.pt", weights_only=True),
        torch.load(tmp_path / "whole.pt", weights_only=True),
    )
