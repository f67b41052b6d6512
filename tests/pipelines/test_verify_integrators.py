"""`workbench verify integrators`: the table is what it says, and an order that is not there fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pipelines.verify import integrators
from pipelines.verify.methods import DIFFUSIONS, FLOWS, Method
from pipelines.verify.tables import order_table, tables
from workbench.integration import ddim

typer = pytest.importorskip("typer", reason="the command line is an extra: cli")

BY_NAME = {method.name: method for method in FLOWS}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the tables small: two flows, one diffusion, a shorter reference."""
    monkeypatch.setattr(integrators, "FLOWS", (BY_NAME["DDIM"], BY_NAME["DPM-Solver++ 2M"]))
    monkeypatch.setattr(integrators, "DIFFUSIONS", DIFFUSIONS[:1])
    monkeypatch.setattr(integrators, "REFERENCE_STEPS", 250)
    monkeypatch.setattr(integrators, "FLOW_DRAWS", 32)
    monkeypatch.setattr(integrators, "DIFFUSION_DRAWS", 1000)
    integrators.reference.cache_clear()
    yield
    integrators.reference.cache_clear()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from pipelines.cli.entry import main

    monkeypatch.setattr(integrators.orders, "__defaults__", ((40, 80),))
    return main(["verify", "integrators", *arguments])


def test_the_command_prints_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "| integrator | 5 | 10 | 20 | 40 |" in shown
    assert shown.count("PASS") == 2
    assert "FAIL" not in shown


def test_json_holds_every_cell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {(c["solver"], c["kind"]) for c in found["cells"]} == {
        ("DDIM", "flow"),
        ("DPM-Solver++ 2M", "flow"),
        ("ancestral (DDPM)", "law"),
    }
    assert {c["evaluations"] for c in found["cells"]} == {5, 10, 20, 40}
    errors = [c["error"] for c in found["cells"] if c["solver"] == "DPM-Solver++ 2M"]
    assert errors == sorted(errors, reverse=True)
    assert all(order["passed"] for order in found["orders"])


def test_an_order_that_is_not_there_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(integrators, "FLOWS", (Method("boaster", ddim, order=2),))
    assert command(monkeypatch) == 1
    assert "| boaster | 2 | 0.9" in capsys.readouterr().out


@pytest.mark.parametrize("method", FLOWS + DIFFUSIONS, ids=lambda method: method.name)
@pytest.mark.parametrize("number", integrators.EVALUATIONS)
def test_no_plan_takes_more_evaluations_than_it_may(method: Method, number: int) -> None:
    plan = method.plan(number)
    if plan is None:
        assert method.name == "PNDM"
        assert number <= 10
    else:
        assert number - method.per_step < len(plan) <= number


def test_tables_say_where_fewer_evaluations_were_taken() -> None:
    cell = integrators.Cell("Heun", "mixture", "flow", 9, "endpoint / sd", 0.5, 0.0, 0.1)
    assert "| Heun | - | 0.5 (9) | - |" in list(tables([cell], (5, 10, 20)))
    assert "FAIL" in list(order_table([integrators.Order("x", 2, 1.0, (0.1, 0.05))]))[-1]
