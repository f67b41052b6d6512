"""Random numbers come from workbench.random.Keys alone; what the linter cannot see is looked for here."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = ("operators", "workbench", "pipelines")
#: Methods of a tensor that draw from torch's own state.
DRAWS = {"normal_", "uniform_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_"}
DRAWS |= {"bernoulli", "bernoulli_", "multinomial"}


def draws(source: str) -> list[int]:
    """Return the lines that call one of them."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [node.lineno for node in calls if getattr(node.func, "attr", "") in DRAWS]


def test_nothing_is_drawn_from_a_state() -> None:
    sources = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    assert len(sources) > 50
    assert [f"{path}:{line}" for path in sources for line in draws(path.read_text())] == []


def test_a_draw_is_found() -> None:
    assert draws("x = torch.empty(3)\nx.normal_()") == [2]
