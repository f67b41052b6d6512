"""`workbench verify`: what it prints and writes, how it ends; the solvers of the table on small problems."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.verify.referee import run as runs
from pipelines.verify.referee.bands import Band
from pipelines.verify.referee.cells import Cell, Refused, cell
from pipelines.verify.referee.entries import Entry, entries, lawful, reference
from pipelines.verify.referee.metrics import Metrics
from pipelines.verify.referee.page import write_page
from pipelines.verify.referee.problem import PROBLEMS, problem
from pipelines.verify.referee.run import FAST, Result, chosen
from pipelines.verify.referee.table import report, rows
from workbench.kinds import Kind
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.descent import Descent
from workbench.solvers.ensembles.ensemble import Ensemble
from workbench.solvers.integrator import Integrator
from workbench.solvers.variational.red_diff import REDDiff

typer = pytest.importorskip("typer", reason="the command line is an extra: cli")

MINE = "tests.pipelines.referee_solvers"


def command(*arguments: str) -> int:
    from pipelines.cli.entry import main

    return main(["verify", *arguments])


def shortened(entry: Entry, name: str) -> Entry:
    """Return the same method in few steps, and its law: a law of its own holds at any number."""
    solver: Any = entry.solver
    if isinstance(solver, Descent):
        # The Bayes form of DPS asks for thirty steps or more on the vectors.
        solver = replace(solver, steps=40 if name in ("P1", "P2") else 10)
    elif isinstance(solver, AnnealedLangevin):
        solver = replace(solver, levels=8, steps_per_level=3)
    elif isinstance(solver, PnPDM):
        solver = replace(solver, rounds=8, inner_steps=5)
    elif isinstance(solver, REDDiff):
        solver = replace(solver, steps=40)
    elif isinstance(solver, Ensemble):
        solver = replace(solver, count=60, steps=20)
    elif isinstance(solver, Integrator):
        short = reference(problem(name), 15)
        assert short is not None
        return short
    else:
        return entry
    return lawful(replace(entry, solver=solver), problem(name))


#: Of each problem how many solvers have a verdict, and how many of them say that they cannot work on it.
COUNTS = {"P1": (29, 0), "P2": (29, 0), "coils8": (28, 4)}


@pytest.mark.parametrize("name", COUNTS)
def test_every_solver_of_the_table_has_its_law(name: str) -> None:
    held = problem(name)
    found = [cell(shortened(entry, name), held, 120) for entry in entries(held)]
    done = [result for result in found if isinstance(result, Cell)]
    assert {result.solver: result.fallen for result in done if not result.passed} == {}
    assert all(result.law != "none" for result in done)
    assert (len(done), len(found) - len(done)) == COUNTS[name]


def test_the_problems_are_those_that_were_asked_for() -> None:
    assert chosen((), fast=False) == tuple(PROBLEMS)
    assert chosen((), fast=True) == FAST
    assert set(FAST) < set(PROBLEMS)
    assert chosen(("ct8", "P1"), fast=True) == ("ct8", "P1")
    with pytest.raises(ValueError, match="`problem` must be one of P1, P2, .*, got 'p1'"):
        chosen(("P1", "p1"), fast=False)


def test_no_table_is_longer_than_its_places() -> None:
    assert max(len(entries(problem(name))) for name in ("P1", "ct8", "coils8", "blur64")) < runs.PLACES


def without_seconds(results: Sequence[Result]) -> list[dict[str, Any]]:
    records = [result.facts() for result in results if isinstance(result, Cell)]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_two_processes_find_what_one_does() -> None:
    told: list[Result] = []
    mine = (f"{MINE}:Wide", f"{MINE}:Broken")
    found = {jobs: runs.run(("P1",), fast=True, solvers=mine, jobs=jobs, told=told.append) for jobs in (1, 2)}
    assert [result.solver for result in found[2]] == list(mine)
    assert found[1][1] == found[2][1] == Refused(mine[1], "P1", "TypeError: unsupported operand", failed=True)
    assert without_seconds(found[1]) == without_seconds(found[2])
    assert told == found[1] + found[2]


def made(solver: str, name: str, **changes: Any) -> Cell:
    metrics = Metrics(0.123, 0.5, 0.8, None, 0.3, 0.77)
    bands = {"mean_error": Band(0.1, 0.2)}
    plain = Cell(
        solver, name, Kind.APPROXIMATE_SAMPLE, 100, metrics, "matrix recursion", bands, {"mean": 1.0}
    )
    return replace(plain, **changes)


RESULTS: list[Result] = [
    made("one & only", "P1"),
    made("one & only", "P2", bands={"mean_error": Band(0.2, 0.3)}),
    made("point", "P1", kind=Kind.POINT_ESTIMATE, metrics=Metrics(0.4), law="none", bands={}, off={}),
    Refused("picky", "P1", "Picky cannot work on this posterior:\n- `operator` must be < 3, got 4."),
    Refused("broken", "P2", "TypeError: no", failed=True),
]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Result]], None]:
    """Return what makes the command find these results."""

    def take(results: list[Result]) -> None:
        monkeypatch.setattr(runs, "run", lambda *arguments, **options: results)

    return take


def test_out_writes_page_picture_and_records(
    tmp_path: Path, known: Callable[[list[Result]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    known(RESULTS)
    folder = tmp_path / "new" / "verify"
    assert command("--out", str(folder)) == 1
    shown = capsys.readouterr()
    names = ["verify.png", "verify.json", "verify.html"]
    assert shown.err.splitlines() == [f"wrote {folder / name}" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    image = (folder / "verify.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n")
    records = json.loads((folder / "verify.json").read_text())
    assert [(record["solver"], record["problem"]) for record in records] == [
        ("one & only", "P1"),
        ("one & only", "P2"),
        ("point", "P1"),
        ("picky", "P1"),
        ("broken", "P2"),
    ]
    assert [record["passed"] for record in records] == [True, False, True, True, False]
    assert [record["kind"] for record in records[3:]] == ["refused", "failed"]
    assert all(record["mean_error"] is None and record["reason"] for record in records[3:])
    assert all(list(record) == list(records[0]) for record in records)
    page = (folder / "verify.html").read_text()
    assert base64.b64encode(image).decode() in page
    assert "http" not in page
    assert "3 cells, 2 of them with a law to hold them against; 1 fell. 1 more failed on the way." in page
    assert "one &amp; only" in page and "one & only" not in page
    assert "<td class='fell' title='0.2 to 0.3'>0.123</td>" in page
    assert "<td title='0.1 to 0.2'>0.123</td>" in page
    assert "refused: `operator` must be &lt; 3, got 4." in page
    assert "<tr class='fell'><td>broken</td>" in page


@pytest.mark.parametrize(("count", "status"), [(1, 0), (2, 1), (4, 1)])
def test_it_ends_with_1_where_a_cell_falls(
    count: int, status: int, known: Callable[[list[Result]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    known(RESULTS[:count])
    assert command("--json") == status
    assert len(json.loads(capsys.readouterr().out)) == count


@pytest.mark.parametrize(("index", "status"), [(2, 0), (3, 0), (4, 1)])
def test_no_verdict_is_no_failure(
    index: int, status: int, known: Callable[[list[Result]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    known(RESULTS[index : index + 1])
    assert command() == status
    assert RESULTS[index].solver in capsys.readouterr().out


def test_the_table_has_a_part_for_each_problem() -> None:
    lines = list(rows(RESULTS))
    heads = [line for line in lines if line.startswith("| solver |")]
    assert len(heads) == 2
    cells = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    assert {line.count("|") for line in cells} == {heads[0].count("|")}
    first = "| one & only | approximate sample | 0.123 | 0.500 | 0.800 |  | 0.300 | 0.770 | 0 | 0 | 0.0 |"
    assert f"{first} matrix recursion | PASS |" in lines
    assert f"{first} matrix recursion | FAIL: mean_error |" in lines
    assert "| point | point estimate | 0.400 |  |  |  |  |  | 0 | 0 | 0.0 | none | - |" in lines
    assert "picky: `operator` must be < 3, got 4." in lines
    assert any(line.startswith("| broken | failed |") for line in lines)


def test_the_report_says_what_intervals_hold() -> None:
    other = made("one & only", "P3", metrics=Metrics(0.1, 0.5, 0.8, None, 0.3, 0.97))
    text = "approximate sample; its 90 % intervals hold 77% to 97% of the posterior (77% at worst)"
    assert list(report([*RESULTS, other])) == [
        f"one & only: {text} over 3 problems.",
        "point: point estimate; no spread, so no intervals.",
    ]
    alone = "one & only: approximate sample; its 90 % intervals hold 77% of the posterior."
    assert list(report(RESULTS[:1])) == [alone]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a task was begun")

    monkeypatch.setattr(runs, "run", never)
    (tmp_path / "file").touch()
    assert command("--problem", "P1", "--out", str(tmp_path / "file" / "report")) == 3


def test_what_is_named_twice_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(names: Any, **options: Any) -> list[Result]:
        asked.extend([names, options["solvers"]])
        return []

    monkeypatch.setattr(runs, "run", run)
    assert command("--problem", "P1", "--problem", "P1", "--solver", "a:B", "--solver", "a:B") == 0
    assert asked == [("P1",), ("a:B",)]


def test_a_page_without_a_cell_can_be_written(tmp_path: Path) -> None:
    paths = write_page(RESULTS[3:], tmp_path)
    assert all(path.stat().st_size > 0 for path in paths)


def test_help_shows_the_table_and_the_integrators(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    shown = capsys.readouterr().out
    for word in ("--fast", "--json", "--problem", "--solver", "--out", "--jobs", "integrators"):
        assert word in shown
    assert command("integrators", "--help") == 0
    assert "orders measured" in capsys.readouterr().out
