"""Peers of the bench: the protocol of workers, with a tiny peer; their environment, which no test makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.bench import environment
from pipelines.bench.cases import CASES
from pipelines.bench.environment import PINS, Environment
from pipelines.bench.session import PEERS, Session, attempted
from pipelines.bench.table import Absent, Quality, Timing
from pipelines.bench.timing import LocalTask, Plan, paired
from pipelines.bench.worker import PeerFailedError, RemoteTask, Worker

TINY = """
import os, time
import numpy as np
PACKAGES = ("numpy", "no-such-package")
def prepare(settings, arrays):
    print("a peer that prints", flush=True)
    def broken():
        raise ValueError("no such thing")
    return {
        "scaled": lambda: settings["factor"] * arrays["x"],
        "large": lambda: np.ones(2**23),
        "broken": broken,
        "gone": lambda: os._exit(3),
        "sleeping": lambda: time.sleep(30),
    }
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


def started(tiny: Path, **more: float) -> Worker:
    arrays = {"x": np.arange(3.0, dtype=np.float32)}
    return Worker(Path(sys.executable), tiny, {"factor": 2}, arrays, **more)


def test_a_worker_returns_results_times_and_versions(tiny: Path) -> None:
    with started(tiny) as worker:
        np.testing.assert_array_equal(worker.result("scaled"), [0.0, 2.0, 4.0])
        assert 0 < worker.seconds("scaled", least=0.001) < 1
        assert worker.versions == {"numpy": np.__version__, "no-such-package": ""}
        task = RemoteTask(worker, "large", units=4)
        task.threads(1)
        assert 60 * 2**20 < task.peak() < 80 * 2**20
        assert 0 < paired(LocalTask(lambda: None), task, pairs=1, least=0.001).theirs < 1


def test_an_operation_that_raises_is_named_and_the_worker_goes_on(tiny: Path) -> None:
    with started(tiny) as worker:
        with pytest.raises(PeerFailedError, match="ValueError: no such thing"):
            worker.result("broken")
        assert worker.result("scaled").shape == (3,)


def test_a_worker_that_dies_or_hangs_is_an_error_and_leaves_nothing(tiny: Path) -> None:
    with started(tiny) as worker, pytest.raises(PeerFailedError, match="stopped"):
        worker.result("gone")
    with started(tiny, patience=5.0) as worker:
        worker._patience = 0.2
        with pytest.raises(PeerFailedError, match="no answer within 0.2 s"):
            worker.result("sleeping")
    assert worker._process.poll() is not None


def test_a_peer_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    path = tmp_path / "missing.py"
    path.write_text("import no_such_package")
    with pytest.raises(PeerFailedError, match="ModuleNotFoundError: No module named 'no_such_package'"):
        Worker(Path(sys.executable), path, {}, {})


def test_a_peer_that_fails_becomes_a_row_after_the_rows_before_it() -> None:
    def rows():
        yield Quality("case", "work", "peer", "error", 0.1)
        raise PeerFailedError("it stopped")

    found = list(attempted(rows(), "case", "work", "peer"))
    assert found[1:] == [Absent("case", "work", "peer", "it stopped")]


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_that_is_not_there_is_named_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    session = Session(Plan(), Environment(tmp_path))
    command = "pip install 'inverse-workbench" if PEERS[name].extra else "make bench"
    with (
        pytest.raises(PeerFailedError, match=f"not installed: {command}"),
        session.worker(PEERS[name], {}, {}),
    ):
        pytest.fail("no worker can be there")
    assert PEERS[name].path.exists()


def test_the_pins_are_exact_and_name_the_pair_of_torch() -> None:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert {"torch", "torchvision", "deepinv", "torchkbnufft"} <= set(pins)
    assert not [version for version in pins.values() if "+" in version]


class Pip:
    """Stands for subprocess.run: notes commands, and fails those that name `broken`."""

    def __init__(self, broken: str) -> None:
        self.broken, self.commands = broken, []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        if "venv" in command:
            python = Path(command[-1], "bin", "python")
            python.parent.mkdir(parents=True)
            python.touch()
        return subprocess.CompletedProcess(command, int(self.broken in command))


def test_the_environment_takes_plain_wheels_where_the_cpu_index_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip(broken="--index-url")
    monkeypatch.setattr(environment.subprocess, "run", pip)
    made = Environment(tmp_path / "bench")
    assert not made.is_made
    made.make()
    assert made.is_made
    _, near, plain_pair, rest = pip.commands
    assert environment.CPU_INDEX in near
    assert [part.partition("==")[0] for part in plain_pair[-2:]] == ["torch", "torchvision"]
    assert rest[-2:] == ["-r", str(PINS)]
    assert (tmp_path / "bench" / ".gitignore").read_text() == "*\n"
    # Moved, or at other pins, it is not the one that is wanted.
    other = tmp_path / "pins.txt"
    other.write_text("torch==1.0\n")
    assert not Environment(tmp_path / "bench", other).is_made


def test_an_environment_that_pip_could_not_make_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.subprocess, "run", Pip(broken="-r"))
    made = Environment(tmp_path)
    with pytest.raises(PeerFailedError, match=r"peers\.log"):
        made.make()
    assert not made.is_made
    assert "pip failed the last time" in made.command
    assert "failed" not in Environment(tmp_path / "never").command


def test_peers_look_along_the_lines_that_are_integrated(tmp_path: Path) -> None:
    """A convention that was mistaken, a flip or half a voxel, shows as an error many times that of ours."""
    pytest.importorskip("astra")
    pytest.importorskip("skimage")
    session = Session(Plan(pairs=1, alone=0, least=0.001), Environment(tmp_path), lambda _: None)
    rows = list(CASES["parallel-512"].measure(session, "small", 40, 24, 3))
    errors = {row.who: row.value for row in rows if isinstance(row, Quality) and "error" in row.what}
    assert set(errors) == {"ours", PEERS["astra"].name, PEERS["scikit-image"].name}
    assert max(errors.values()) < 1.5 * errors["ours"]
    assert [(row.peer, row.work.split(", ")[2]) for row in rows if isinstance(row, Timing)] == [
        (PEERS[name].name, way) for name in ("astra", "scikit-image") for way in ("forward", "adjoint")
    ]
    assert [row.peer for row in rows if isinstance(row, Absent)] == [PEERS["deepinv"].name]
