"""Cells and orders as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.verify.integrators import ORDER_STEPS, Cell, Order

__all__ = ["order_table", "tables"]


def tables(cells: Sequence[Cell], evaluations: Sequence[int]) -> Iterator[str]:
    """Yield the lines of one table per kind: integrator x evaluations -> error."""
    for number, kind in enumerate(dict.fromkeys(cell.kind for cell in cells)):
        chosen = [cell for cell in cells if cell.kind == kind]
        if number:
            yield ""
        floor = f"; exact draws: {chosen[0].floor:.3f}" if chosen[0].floor else ""
        yield f"{kind}: {chosen[0].metric} at so many evaluations{floor}"
        yield ""
        yield f"| integrator | {' | '.join(map(str, evaluations))} |"
        yield "|---" * (len(evaluations) + 1) + "|"
        for name in dict.fromkeys(cell.solver for cell in chosen):
            row = [cell for cell in chosen if cell.solver == name]
            yield f"| {name} | {' | '.join(_at(row, number) for number in evaluations)} |"


def _at(row: Sequence[Cell], evaluations: int) -> str:
    """Return the error of the cell that takes most of these evaluations, its own number where it is less."""
    within = [cell for cell in row if evaluations / 2 < cell.evaluations <= evaluations]
    if not within:
        return "-"
    cell = max(within, key=lambda cell: cell.evaluations)
    return f"{cell.error:.2g}" + ("" if cell.evaluations == evaluations else f" ({cell.evaluations})")


def order_table(orders: Sequence[Order]) -> Iterator[str]:
    """Yield the lines of the table of orders."""
    steps = ", ".join(map(str, ORDER_STEPS))
    yield f"orders: slope of the endpoint error over {steps} steps, evenly spaced in log sigma"
    yield ""
    yield "| integrator | claimed | measured | errors | |"
    yield "|---|---|---|---|---|"
    for order in orders:
        errors = ", ".join(f"{error:.1e}" for error in order.errors)
        verdict = "PASS" if order.passed else "FAIL"
        yield f"| {order.solver} | {order.claimed} | {order.slope:.2f} | {errors} | {verdict} |"
