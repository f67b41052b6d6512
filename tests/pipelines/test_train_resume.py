"""`workbench train` goes on where it was stopped, by whatever, with the losses it would have had."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipelines.train import run
from pipelines.training import made
from tests.pipelines.train_cases import (
    GENERATED,
    blobs,
    command,
    config,
    entry,
    environment,
    folder,
    manifest,
    one_thread,
    quietly,
)
from workbench.io.tensor_file import open_tensors
from workbench.io.weights import read_card
from workbench.training.averaging import Average

__all__ = ["folder", "one_thread"]  # fixtures

#: Holds the lock of a folder until it is killed.
HOLD = """
import sys
from pathlib import Path
from workbench.io.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take("here")
print(flush=True)
sys.stdin.read()
"""


def test_a_run_that_was_stopped_goes_on_with_the_losses_it_would_have_had(folder: Path) -> None:
    run(config(folder), folder, folder / "whole", say=quietly)
    # Steps and what is reported may change from call to call.
    run(config(folder, "optimiser.steps=7", "report.keep=3"), folder, folder / "parts", say=quietly)
    run(config(folder), folder, folder / "parts", say=quietly)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "parts")]
    assert same[0] == same[1]
    states = [open_tensors(folder / name / "state.safetensors").tensors() for name in ("whole", "parts")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_with_identical_losses(folder: Path, how: signal.Signals) -> None:
    longer = config(folder, "optimiser.steps=40")
    run(longer, folder, folder / "whole", say=quietly)

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        command(folder, "killed", "--set", "optimiser.steps=40"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )
    state = folder / "killed" / "state.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    code = process.wait(timeout=60)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    kept = int(open_tensors(state).tensors()["step"])
    assert 4 <= kept < 40
    run(longer, folder, folder / "killed", say=quietly)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "killed")]
    assert same[0] == same[1]


def test_two_ranks_have_the_losses_of_one(folder: Path) -> None:
    run(config(folder), folder, folder / "one", say=quietly)
    program = command(folder, "two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *program[1:]], env=environment(), check=True, capture_output=True, timeout=200)
    values = [
        [float(line.split(",")[1]) for line in (folder / name / "losses.csv").read_text().splitlines()[1:]]
        for name in ("one", "two")
    ]
    assert values[1] == pytest.approx(values[0], rel=2e-3)  # bfloat16 rounds parts of a batch otherwise
    assert len(values[1]) == 12


def test_a_run_that_makes_its_subjects_goes_on_with_the_same_losses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "made", lambda entry, seed: blobs(seed))
    manifest(folder, entry(), GENERATED)
    mixed = ("data.procedural=0.5", "report.keep=3")
    run(config(folder, *mixed), folder, folder / "whole", say=quietly)
    run(config(folder, *mixed, "optimiser.steps=7"), folder, folder / "parts", say=quietly)
    said: list[str] = []
    run(config(folder, *mixed), folder, folder / "parts", say=said.append)
    assert not any("making" in line for line in said)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "parts")]
    assert same[0] == same[1]
    notes = read_card(folder / "parts" / "prior.safetensors").provenance.notes
    assert notes["generated_share"] == 0.5


def test_an_interrupt_within_a_step_waits_for_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(folder), folder, folder / "whole", say=quietly)
    plain = Average.update

    def interrupted(self: Average, module: torch.nn.Module, steps: int) -> None:
        if steps == 7:
            signal.raise_signal(signal.SIGINT)
        plain(self, module, steps)

    monkeypatch.setattr(Average, "update", interrupted)
    said: list[str] = []
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with pytest.raises(KeyboardInterrupt):
        run(config(folder), folder, folder / "parts", say=said.append)
    signal.signal(signal.SIGINT, usual)
    assert "stopped after step 7, which is kept" in said[-1]
    monkeypatch.undo()
    run(config(folder), folder, folder / "parts", say=quietly)
    same = [(folder / name / "losses.csv").read_text() for name in ("whole", "parts")]
    assert same[0] == same[1]
    states = [open_tensors(folder / name / "state.safetensors").tensors() for name in ("whole", "parts")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_full_disk_leaves_the_state_before(folder: Path) -> None:
    run(config(folder, "optimiser.steps=4"), folder, folder / "run", say=quietly)
    state = folder / "run" / "state.safetensors"
    before = state.read_bytes()

    def little_room() -> None:
        # As a full disk does it: the system refuses to let any file grow, here beyond half a state.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    failed = subprocess.run(
        command(folder, "run"), env=environment(), capture_output=True, text=True, preexec_fn=little_room
    )
    assert failed.returncode == 3
    assert f"{str(state)!r}: File too large" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert state.read_bytes() == before
    assert not list((folder / "run").glob(".partial*"))
    run(config(folder), folder, folder / "run", say=quietly)
    run(config(folder), folder, folder / "whole", say=quietly)
    assert (folder / "run" / "losses.csv").read_text() == (folder / "whole" / "losses.csv").read_text()


def test_what_was_measured_before_a_run_went_on_is_kept_with_its_step(folder: Path) -> None:
    run(config(folder, "optimiser.steps=6"), folder, folder / "run", say=quietly)
    six = read_card(folder / "run" / "prior.safetensors").provenance.metrics
    more = ("optimiser.steps=20", "report.pictures=50")
    plain, interrupted = Average.update, 9

    def stop(self: Average, module: torch.nn.Module, steps: int) -> None:
        plain(self, module, steps)
        if steps == interrupted:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Average, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config(folder, *more), folder, folder / "run", say=quietly)
    told = read_card(folder / "run" / "prior.safetensors").provenance
    assert told.metrics == six
    assert told.notes["metrics_measured"]["step"] == 6


def test_one_process_at_a_time_trains_in_a_folder(folder: Path) -> None:
    run(config(folder, "optimiser.steps=2"), folder, folder / "run", say=quietly)
    program = [sys.executable, "-c", HOLD, str(folder / "run" / ".lock")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RuntimeError, match=f"process {other.pid} is running in"):
            run(config(folder), folder, folder / "run", say=quietly)
        other.kill()
