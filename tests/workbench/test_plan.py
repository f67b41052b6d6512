"""Plans are data: rows, text, a hash."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.plan import SolverPlan


def plan() -> SolverPlan:
    return SolverPlan({"sigma": (3.0, 1.0, 0.1), "order": (1, 2, 2), "last": (False, False, True)})


def test_rows_hold_what_the_columns_say() -> None:
    assert len(plan()) == 3
    assert [row.number("sigma") for row in plan()] == [3.0, 1.0, 0.1]
    assert plan().row(1)["order"] == 2
    assert [row.index for row in plan()] == [0, 1, 2]


def test_text_and_back() -> None:
    again = SolverPlan.from_json(plan().to_json())
    assert again == plan()
    assert again.hash == plan().hash
    assert {k: type(v) for k, v in again.row(2).values.items()} == {
        "sigma": float,
        "order": int,
        "last": bool,
    }


def test_the_hash_names_the_numbers_and_not_their_order() -> None:
    columns = dict(reversed(plan().columns.items()))
    assert SolverPlan(columns).hash == plan().hash
    assert SolverPlan({**columns, "sigma": (3.0, 1.0, 0.1000001)}).hash != plan().hash
    assert SolverPlan.steps(3).hash != SolverPlan.steps(4).hash


def test_a_plan_is_a_value_and_a_record_replays_it() -> None:
    assert {plan(): 1}[SolverPlan.from_json(plan().to_json())] == 1
    facts = plan().facts()
    assert SolverPlan.from_json(facts["text"]) == plan()
    assert (facts["sha256"], facts["steps"]) == (plan().hash, 3)
    long = SolverPlan({"sigma": tuple(1 / (1 + i) for i in range(5000))}).facts()
    assert long["text"] is None
    assert long["steps"] == 5000


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from workbench.plan import SolverPlan; print(SolverPlan({'a': (0.1, 1e-9), 'b': ('x', 'y')}).hash)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SolverPlan({"a": (0.1, 1e-9), "b": ("x", "y")}).hash


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SolverPlan({"a": (1.0,), "b": (1.0, 2.0)}), "one common length"),
        (lambda: SolverPlan({}), "one common length"),
        (lambda: SolverPlan({"a": ()}), "one or more values"),
        (lambda: SolverPlan({"a": (float("nan"),)}), "finite"),
        (lambda: SolverPlan({"a": (object(),)}), "numbers or text"),
        (lambda: SolverPlan({1: (1.0,)}), "names that are text"),
        (lambda: SolverPlan((1.0, 2.0)), "map names"),
        (lambda: SolverPlan({"a": "abc"}), "sequence"),
        (lambda: SolverPlan.steps(0), "integer >= 1"),
        (lambda: SolverPlan.from_json("{}"), "to_json"),
        (lambda: SolverPlan.from_json("no"), "to_json"),
        (lambda: plan().row(3), "0 <= index < 3"),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]


def test_a_part_of_a_plan() -> None:
    plan = SolverPlan({"sigma": (3.0, 2.0, 1.0)})
    assert plan.part(1, 3) == SolverPlan({"sigma": (2.0, 1.0)})
    assert len(SolverPlan.steps(5).part(0, 2)) == 2
    for bad in ((1, 1), (-1, 2), (0, 4)):
        with pytest.raises(ValueError, match="`start, stop` must be 0 <= start < stop <= 3"):
            plan.part(*bad)
