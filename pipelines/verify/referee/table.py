"""Cells as Markdown tables, one per problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.verify.referee.cells import Cell, Refused
from pipelines.verify.referee.problem import problem

__all__ = ["FIGURES", "reason_of", "records", "report", "rows", "verdict"]

#: Metrics and their heads, in the order of the table.
FIGURES = {
    "mean_error": "mean error",
    "covariance_error": "cov. error",
    "variance_ratio": "var. ratio",
    "mode_error": "mode error",
    "sliced_wasserstein": "sliced W2",
    "coverage": "90 % holds",
}
HEADS = ("solver", "kind", *FIGURES.values(), "NFE", "backward", "s", "law", "")


def rows(results: Sequence[Cell | Refused]) -> Iterator[str]:
    """Yield the lines of a table for each problem."""
    for number, name in enumerate(dict.fromkeys(result.problem for result in results)):
        mine = [result for result in results if result.problem == name]
        done = [result for result in mine if isinstance(result, Cell)]
        if number:
            yield ""
        draws = max((cell.draws for cell in done), default=0)
        yield f"{name}: {problem(name).note}" + (f"; {draws} draws" if draws else "")
        yield ""
        yield f"| {' | '.join(HEADS)} |"
        yield "|---" * len(HEADS) + "|"
        for cell in done:
            figures = [_figure(getattr(cell.metrics, figure)) for figure in FIGURES]
            counts = [f"{cell.network_evaluations:.0f}", f"{cell.backward_passes:.0f}", f"{cell.seconds:.1f}"]
            texts = [cell.solver, str(cell.kind), *figures, *counts, cell.law, verdict(cell)]
            yield f"| {' | '.join(texts)} |"
        refused = [result for result in mine if isinstance(result, Refused)]
        for one in refused:
            word = "failed" if one.failed else "refused"
            yield f"| {one.solver} | {word} | {' | '.join([''] * (len(HEADS) - 2))} |"
        if refused:
            yield ""
        for one in refused:
            yield f"{one.solver}: {reason_of(one)}"


def reason_of(refused: Refused) -> str:
    """Return why it did not run, in one line."""
    return " ".join((refused.reason.partition("\n- ")[2] or refused.reason).split())


def records(results: Sequence[Cell | Refused]) -> list[dict[str, Any]]:
    """Return a record per cell of the table; all have the same keys, None where there is nothing to say."""
    found = [result.facts() for result in results]
    keys = dict.fromkeys(key for facts in found for key in facts)
    return [dict.fromkeys(keys) | facts for facts in found]


def verdict(cell: Cell | Refused) -> str:
    """Return PASS, what fell, why it did not run, or nothing where there is no law to hold it against."""
    if isinstance(cell, Refused):
        return f"FAIL: {reason_of(cell)}" if cell.failed else f"refused: {reason_of(cell)}"
    if cell.law == "none":
        return "-"
    return "PASS" if cell.passed else f"FAIL: {', '.join(cell.fallen)}"


def report(results: Sequence[Cell | Refused]) -> Iterator[str]:
    """Yield a sentence per solver: what kind of answer it gives, and what its intervals hold."""
    for name in dict.fromkeys(result.solver for result in results):
        mine = [result for result in results if isinstance(result, Cell) and result.solver == name]
        if not mine:
            continue
        held = [cell.metrics.coverage for cell in mine if cell.metrics.coverage is not None]
        if not held:
            yield f"{name}: {mine[0].kind}; no spread, so no intervals."
            continue
        whose = "its 90 % intervals" if mine[0].kind.has_spread else "90 % intervals of several answers"
        worst = min(held, key=lambda share: -abs(share - 0.9))
        if len(held) == 1:
            yield f"{name}: {mine[0].kind}; {whose} hold {worst:.0%} of the posterior."
            continue
        yield (
            f"{name}: {mine[0].kind}; {whose} hold {min(held):.0%} to {max(held):.0%} of the "
            f"posterior ({worst:.0%} at worst) over {len(held)} problems."
        )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
