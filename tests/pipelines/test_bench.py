"""The bench: paired timings, memory, tables, ellipses, the command."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.bench import machine
from pipelines.bench.__main__ import main
from pipelines.bench.cases import CASES
from pipelines.bench.ellipses import integrals, rasterised
from pipelines.bench.environment import Environment
from pipelines.bench.serving import peak_of
from pipelines.bench.session import Session
from pipelines.bench.table import Absent, Quality, Timing, Wanted, plain, printed
from pipelines.bench.timing import Compared, LocalTask, Paired, Plan, compared, paired, threads


@dataclasses.dataclass
class Scripted:
    """A task whose calls take the seconds that it is told, one after the other."""

    times: list[float]
    log: list[str]
    name: str
    units: int = 1

    def seconds(self, least: float) -> float:
        self.log.append(self.name if least else f"{self.name} warms up")
        return self.times.pop(0) if least else 0.0

    def peak(self) -> int | None:
        return None

    def threads(self, number: int) -> None:
        self.log.append(f"{self.name} on {number}")


def test_pairs_run_in_turn_and_the_ratio_is_the_median_of_the_pairs_per_unit() -> None:
    log: list[str] = []
    # A machine that becomes ten times slower in the last pair: the ratio of that pair does not notice.
    ours = Scripted([4.0, 4.0, 40.0], log, "ours", units=4)
    theirs = Scripted([6.0, 10.0, 60.0], log, "theirs", units=2)
    found = paired(ours, theirs, pairs=3)
    assert log == ["ours warms up", "theirs warms up", *["ours", "theirs"] * 3]
    assert found == Paired(ours=1.0, theirs=5.0, ratio=3.0, low=3.0, high=5.0, pairs=3)


def test_one_thread_is_asked_of_both_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    log: list[str] = []
    ours, theirs = Scripted([1.0] * 2, log, "ours"), Scripted([3.0, 2.0], log, "theirs")
    found = compared(ours, theirs, Plan(pairs=1, alone=1))
    assert (found.together.ratio, found.alone.ratio) == (3.0, 2.0)
    assert [entry for entry in log if " on " in entry] == [
        "ours on 1",
        "theirs on 1",
        "ours on 2",
        "theirs on 2",
    ]


def test_threads_are_given_back_after_an_error() -> None:
    pytest.importorskip("numba")  # whose own threads, started late, must not change those of torch
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(1, LocalTask(lambda: None)):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted by Linux only")
def test_the_peak_counts_what_is_freed_before_the_end() -> None:
    def work() -> float:
        return float(np.ones(2**23).sum())  # 64 MiB

    assert 60 * 2**20 < peak_of(work) < 80 * 2**20


def result(ours: float, theirs: float) -> Compared:
    ratio = theirs / ours
    return Compared(Paired(ours, theirs, ratio, ratio, ratio, 3), None, (2**20, None), (1, 1))


def test_bounds_are_judged_as_they_are_written() -> None:
    timing = Timing("c", "w", "p", result(0.010, 0.050), (Wanted(5.0), Wanted(0.020, "ours at most")))
    assert timing.held is True
    assert dataclasses.replace(timing, wanted=(Wanted(5.1),)).held is False
    assert dataclasses.replace(timing, wanted=(Wanted(4.0, "ratio at most"),)).held is False
    assert dataclasses.replace(timing, wanted=()).held is None
    assert Quality("c", "w", "p", "error", 1e-7, 1e-6).held is True
    assert Quality("c", "w", "p", "error", 1e-5, 1e-6).held is False


def test_tables_hold_every_row_and_judge_only_when_asked() -> None:
    rows = [
        Timing("c", "forward", "ASTRA", result(0.010, 0.5), (Wanted(60.0),), (1.5, None), "8 slices"),
        Quality("c", "forward", "ours", "adjointness", 2e-9, 1e-6),
        Absent("c", "forward", "deepinv", "not installed: make bench"),
    ]
    text = printed(rows)
    for part in (
        "10 ms",
        "500 ms",
        "50x (50x-50x)",
        ">= 60x MISSED",
        "1.50 s; -",
        "1 MiB; -",
        "3 pairs; 8 slices",
    ):
        assert f" {part} " in text
    assert " <= 1e-06 held " in text
    assert "| deepinv | not installed: make bench |" in text
    assert "MISSED" not in printed(rows, judged=False)
    values = json.loads(json.dumps([plain(row) for row in rows]))
    assert [(value["kind"], value["held"]) for value in values] == [
        ("timing", False),
        ("quality", True),
        ("absent", None),
    ]
    assert values[0]["compared"]["together"]["ratio"] == 50.0


def test_the_integrals_of_ellipses_are_those_of_their_image() -> None:
    """Columns of voxel means are integrals over X, averaged over the width of a voxel; rows likewise."""
    n, parts = 64, 16
    image = rasterised(n, parts).astype(np.float64)
    at = (np.arange(n * parts) + 0.5) / parts - n / 2
    one, zero = np.ones_like(at), np.zeros_like(at)
    for axis, lines in ((0, (one, zero, at)), (1, (zero, one, at))):
        exact = integrals(n, lines).reshape(n, parts).mean(axis=1)
        assert np.abs(image.sum(axis=axis) - exact).max() < 2e-3 * exact.max()
    # A turned line, sampled: the values at places along it, in steps of an eighth of a voxel.
    angle = 0.7
    a, b = np.cos(angle), np.sin(angle)
    c = np.array([-11.3, 0.4, 9.0])
    fine = rasterised(8 * n, 1)
    along = np.arange(-n, n, 0.125)
    x, y = (p[:, None] + along * q for p, q in ((a * c, -b), (b * c, a)))
    index = [np.clip(np.round(8 * (v + n / 2) - 0.5).astype(int), 0, 8 * n - 1) for v in (y, x)]
    inside = (np.abs(x) < n / 2) & (np.abs(y) < n / 2)
    sampled = (fine[index[0], index[1]] * inside).sum(axis=1) * 0.125
    exact = integrals(n, (np.array(a), np.array(b), c))
    np.testing.assert_allclose(sampled, exact, rtol=0.03)  # ends of chords: an eighth of a voxel of 20


def test_a_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(100.0, 1000.0), (150.0, 1100.0), (250.0, 1300.0)])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    load = machine.Load(seconds=0.0)
    assert load.busy == 0.5
    assert "not idle" in "\n".join(machine.lines_of(machine.described(), load))
    # Of the 200 ticks since, 100 were busy; hardly any were ours.
    assert load.others() == pytest.approx(0.5, abs=0.1)
    load.busy = 0.0
    assert load.warning == ""


def test_one_case_runs_alone_and_leaves_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cartesian", "--quick", "--folder", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "its bare FFTs" in text
    record = json.loads((tmp_path / "figures.json").read_text())
    assert [row["case"] for row in record["rows"]] == ["cartesian"] * 2
    assert {"machine", "load_before", "others_during", "plan", "peers"} <= set(record)
    assert "its bare FFTs" in (tmp_path / "figures.md").read_text()


def test_without_a_gpu_its_case_says_so_and_how_much_must_pass_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session = Session(Plan(), Environment(tmp_path), lambda _: None)
    (row,) = CASES["cone-cuda"].rows(session, "cone-cuda")
    # 4 bytes of 512^3 voxels and of 720 x 512 x 768 rays.
    assert row.reason == "no GPU is visible to torch; 1.67 GB must pass the memory once"


def test_the_help_names_every_case_and_a_wrong_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in CASES)
    for arguments, message in ((["cone-65"], "there is no case 'cone-65'"), (["--pairs", "0"], "at least 1")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
