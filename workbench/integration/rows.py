"""The rows of an integrator's plan: one evaluation of the prior each, and the step that follows it.

    time, next_time   from where to where, as times of the flow, t = sigma / (1 + sigma): 1 noise, 0 the image
    order             how many evaluations the step uses, 1 to 4
    nodes             which: "" the latest; else how many rows back each was made, such as "0 2"
    prediction        what is interpolated through them: "data" or "noise"
    variable          in what: "log_snr", "inv_sigma", "sigma", or "t", the time of the integrator's path
    shares            "" for those of the interpolation, exact; else numbers of sum 1, such as "3/2 -1/2"
    base              0: the step leaves from here; k: from where row k back was evaluated (Runge-Kutta)
    tau               strength of fresh noise: 0 none (a probability flow), 1 that of DDPM
    churn             noise added before the evaluation, from sigma to (1 + churn) sigma
    churn_noise       factor on that noise
    corrector         k > 0: with the evaluation at hand, first do the step that led here again, through its k
                      latest nodes, this one among them (UniC)

A plan holds every column, so that it is complete as data. How the numbers act stands in
workbench.integration.weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.integration.weights import PREDICTIONS, VARIABLES
from workbench.plan import SolverPlan

__all__ = ["MOST_NODES", "Row", "plan_of", "rows_of"]

#: Nodes that one step may use.
MOST_NODES = 4


@dataclass(frozen=True)
class Row:
    """One row; checked by itself here, beside the others by `workbench.integration.steps`."""

    time: float
    next_time: float
    order: int = 1
    nodes: str = ""
    prediction: str = "data"
    variable: str = "log_snr"
    shares: str = ""
    base: int = 0
    tau: float = 0.0
    churn: float = 0.0
    churn_noise: float = 1.0
    corrector: int = 0

    def __post_init__(self) -> None:
        numbers = ("time", "next_time", "tau", "churn", "churn_noise")
        for name in numbers:
            object.__setattr__(self, name, check_number(getattr(self, name), name, non_negative=True))
        for name, least in (("order", 1), ("base", 0), ("corrector", 0)):
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum=least))
        for name in ("nodes", "prediction", "variable", "shares"):
            if not isinstance(getattr(self, name), str):
                raise type_error(name, "be text", repr(getattr(self, name)))
        if not 0 < self.time <= 1:
            raise value_error("time", "be a time of the flow where there is noise, 0 < time <= 1", self.time)
        if not self.next_time < 1:
            raise value_error("next_time", "be a time of the flow, 0 <= next_time < 1", self.next_time)
        for name, known in (("prediction", PREDICTIONS), ("variable", VARIABLES)):
            if getattr(self, name) not in known:
                raise value_error(name, f"be one of {', '.join(known)}", repr(getattr(self, name)))
        for name in ("order", "corrector"):
            if getattr(self, name) > MOST_NODES:
                raise value_error(name, f"be at most {MOST_NODES}", getattr(self, name))
        self._check_nodes()

    def _check_nodes(self) -> None:
        offsets, shares = self.offsets, self.explicit_shares
        if len(offsets) != self.order or len(set(offsets)) != self.order:
            raise value_error("nodes", f"name order = {self.order} different rows, or be empty", self.nodes)
        if shares is not None and len(shares) != self.order:
            raise value_error("shares", f"be order = {self.order} numbers, or be empty", self.shares)
        if shares is not None and abs(math.fsum(shares) - 1) > 1e-12:
            raise value_error("shares", "have sum 1", f"{self.shares!r}, sum {math.fsum(shares):.15g}")

    @property
    def offsets(self) -> tuple[int, ...]:
        """How many rows back each node was evaluated."""
        if not self.nodes:
            return tuple(range(self.order))
        try:
            found = tuple(int(word) for word in self.nodes.split())
        except ValueError as error:
            raise value_error("nodes", 'be numbers of rows back, such as "0 2"', repr(self.nodes)) from error
        if not found or min(found) < 0:
            raise value_error("nodes", "be numbers of rows back, >= 0", repr(self.nodes))
        return found

    @property
    def explicit_shares(self) -> tuple[float, ...] | None:
        """The shares where the row states them."""
        if not self.shares:
            return None
        try:
            return tuple(float(Fraction(word)) for word in self.shares.split())
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            wanted = 'be numbers or fractions, such as "3/2 -1/2"'
            raise value_error("shares", wanted, repr(self.shares)) from error

    @property
    def evaluated(self) -> float:
        """The time of the evaluation: later than `time` by the churn."""
        return (1 + self.churn) * self.time / (1 + self.churn * self.time)


COLUMNS = tuple(field.name for field in fields(Row))


def plan_of(rows: Sequence[Row]) -> SolverPlan:
    """Return the plan of these rows."""
    if not isinstance(rows, Sequence) or not all(isinstance(row, Row) for row in rows):
        raise type_error("rows", "be a sequence of Rows", repr(rows))
    if not rows:
        raise value_error("rows", "be one or more", "none")
    facts = [asdict(row) for row in rows]
    return SolverPlan({name: tuple(row[name] for row in facts) for name in COLUMNS})


def rows_of(plan: SolverPlan) -> tuple[Row, ...]:
    """Return the rows of an integrator's plan, each checked by itself."""
    if not isinstance(plan, SolverPlan):
        remedy = "Such as ddim(Karras().times(20)), out of workbench.integration."
        raise type_error("plan", "be a SolverPlan", type(plan).__name__, remedy)
    if set(plan.columns) != set(COLUMNS):
        missing, more = set(COLUMNS) - set(plan.columns), set(plan.columns) - set(COLUMNS)
        found = f"missing: {sorted(missing)}, unknown: {sorted(more)}"
        remedy = "Make it with plan_of([Row(...), ...]), which fills in what is usual."
        raise value_error("plan.columns", "be those of an integrator's Row", found, remedy)
    rows = []
    for row in plan:
        try:
            rows.append(Row(**row.values))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise type(error)(f"Row {row.index} of the plan: {error}") from error
    return tuple(rows)
