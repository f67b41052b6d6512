"""`workbench verify --solver`: solvers of somebody's own, right and wrong, and what is said of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.verify.referee import run as runs
from pipelines.verify.referee.entries import loaded
from tests.pipelines.referee_solvers import Right

typer = pytest.importorskip("typer", reason="the command line is an extra: cli")

MINE = "tests.pipelines.referee_solvers"


def command(*arguments: str) -> int:
    from pipelines.cli.entry import main

    return main(["verify", *arguments])


def test_a_solver_of_ones_own_that_is_right_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--problem", "P1", "--fast", "--solver", f"{MINE}:Right", "--jobs", "1", "--json") == 0
    shown = capsys.readouterr()
    (record,) = json.loads(shown.out)
    assert (record["solver"], record["problem"], record["draws"]) == (f"{MINE}:Right", "P1", 1000)
    assert record["kind"] == "exact sample"
    assert record["passed"] is True
    assert shown.err.split() == ["P1", f"{MINE}:Right", "PASS"]


def test_a_wrong_one_beside_it_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--solver", f"{MINE}:instance", "--solver", f"{MINE}:Wide")
    assert command("--problem", "P1", "--fast", *both, "--jobs", "1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "P1: 8 unknowns, 3 data, prior N(0, I); 1000 draws"
    right, wide = (next(line for line in lines if line.startswith(f"| {MINE}:{n}")) for n in ("inst", "Wide"))
    assert right.endswith("| posterior | PASS |")
    assert "| FAIL: " in wide
    assert "own variance" in wide
    assert any(line.startswith(f"{MINE}:Wide: exact sample; its 90 % intervals hold 9") for line in lines)


@pytest.mark.parametrize(
    ("name", "status", "verdict"),
    [
        ("Undecided", 0, "-"),
        ("Demanding", 0, "refused: `posterior` must be another one. Such as mine."),
        ("Broken", 1, "FAIL: TypeError: unsupported operand"),
        ("Shapeless", 1, "FAIL: RuntimeError: mat1 and mat2"),
        ("Diverging", 1, "FAIL: DivergedError: Diverging met a NaN"),
    ],
)
def test_what_has_no_verdict_and_what_fails(
    name: str, status: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command("--problem", "P1", "--fast", "--solver", f"{MINE}:{name}", "--jobs", "1", "--json") == status
    )
    shown = capsys.readouterr()
    assert verdict in shown.err
    (record,) = json.loads(shown.out)
    kinds = {"Undecided": "approximate sample", "Demanding": "refused"}
    assert record["kind"] == kinds.get(name, "failed")
    assert record["passed"] is (status == 0)
    reason = verdict.partition(": ")[2]
    assert reason in " ".join((record.get("reason") or "").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--problem", "P9"), "`problem` must be one of P1, P2, P3"),
        (("--solver", "mylab"), "`solver` must be module:Class, got 'mylab'. Such as --solver"),
        (("--solver", "mylab.samplers:Mine"), "`solver` must name a module that can be imported, got 'mylab"),
        (("--solver", f"{MINE}:Absent"), f"`solver` must name a member of {MINE}, got 'Absent'."),
        (("--solver", f"{MINE}:NOT_A_SOLVER"), "`solver` must be a Solver, got int."),
        (("--solver", f"{MINE}:Parametrised"), "`solver` must be made without arguments, got "),
        (("--jobs", "0"), "'--jobs'"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(
    arguments: Sequence[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("a task was begun")

    monkeypatch.setattr(runs, "_done", never)
    assert command("--problem", "P1", *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def f(:\n",
            "`solver` must name a module that can be imported, got 'referee_odd': SyntaxError: inv",
        ),
        ("1 / 0\n", "got 'referee_odd': ZeroDivisionError: division by zero"),
        (
            "class Mine:\n    def __init__(self): raise ValueError('no')\n",
            "`solver` must be made without an error, got referee_odd:Mine: ValueError: no",
        ),
        (
            "from workbench.solvers.base import Solver\n"
            "class Mine(Solver):\n    plan = init = step = answer = cost = lambda self, *arguments: None\n",
            "`solver` must declare its `kind`, got referee_odd:Mine. A class variable",
        ),
    ],
)
def test_what_is_wrong_in_a_module_of_ones_own_is_said(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "referee_odd.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "referee_odd", raising=False)
    with pytest.raises(ValueError, match=re.escape(message)):
        loaded("referee_odd:Mine")
    sys.modules.pop("referee_odd", None)


def test_a_subclass_of_ours_is_held_against_the_law_of_what_it_extends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = ("--solver", f"{MINE}:Same", "--solver", f"{MINE}:Hasty")
    assert command("--problem", "P2", "--fast", *both, "--jobs", "1", "--json") == 1
    same, hasty = json.loads(capsys.readouterr().out)
    assert (same["law"], same["passed"]) == ("matrix recursion", True)
    assert (hasty["law"], hasty["passed"]) == ("matrix recursion", False)


def test_a_module_that_lacks_another_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "referee_lacking.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="got 'referee_lacking', which needs 'a_module_that_is_nowhere'"):
        loaded("referee_lacking:Mine")


def test_a_solver_is_found_in_the_folder_that_the_command_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "referee_mine.py").write_text("Mine = 3\n")
    monkeypatch.chdir(tmp_path)
    # As a console script has it: without the folder that one is in.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert command("--problem", "P1", "--solver", "referee_mine:Mine") == 2
    assert "`solver` must be a Solver, got int." in capsys.readouterr().err


def test_an_instance_is_run_as_it_is() -> None:
    assert loaded(f"{MINE}:instance").solver == Right(1e-6)
    assert loaded(f"{MINE}:Right").solver == Right()
