"""A plan made ready: every row with its coefficients, which tensors it needs and which may go.

All that can be said against a plan before the run is said here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from operators.errors import value_error
from workbench.integration.levels import sigma_of
from workbench.integration.rows import Row, rows_of
from workbench.integration.weights import lagrange_shares, node_positions, transfer
from workbench.paths.affine import AffinePath
from workbench.paths.noise_law import GaussianLaw
from workbench.plan import SolverPlan

__all__ = ["Move", "Step", "steps_of"]


@dataclass(frozen=True)
class Move:
    """x' = keep x_base + sum_j weight_j v_j + fresh w; rows are named by their index in the plan."""

    base: int
    prediction: str
    nodes: tuple[tuple[int, float], ...]
    keep: float
    fresh: float


@dataclass(frozen=True)
class Step:
    """One row: evaluate at `time` after the churn, correct the arrival here, move on.

    Before the evaluation x is multiplied by `dilution` and noise is added, `churn_sd` of it. `wants_noise`
    tells whether eps of this row is ever used; `data`, `noise` and `states` name the rows whose D, eps and
    state are needed later.
    """

    time: float
    dilution: float
    churn_sd: float
    correction: Move | None
    move: Move
    wants_noise: bool
    data: frozenset[int]
    noise: frozenset[int]
    states: frozenset[int]


def steps_of(plan: SolverPlan, path: AffinePath) -> tuple[Step, ...]:
    """Return the steps of a plan, or say what is wrong with it."""
    rows = rows_of(plan)
    moves: list[tuple[Move | None, Move]] = []
    for index in range(len(rows)):
        try:
            _check_order(rows, index)
            _check_noise(rows, index, path)
            moves.append((_correction(rows, index, path), _move(rows, index, path)))
        except ValueError as error:
            raise ValueError(f"Row {index} of the plan: {error}") from error
    needed: dict[str, set[int]] = {"data": set(), "noise": set(), "states": set()}
    steps: list[Step] = []
    for index in reversed(range(len(rows))):
        correction, move = moves[index]
        row = rows[index]
        kept = {name: frozenset(i for i in found if i <= index) for name, found in needed.items()}
        dilution = (1 - row.evaluated) / (1 - row.time) if row.churn else 1.0
        churn_sd = row.churn_noise * row.evaluated * math.sqrt(1 - (1 + row.churn) ** -2)
        for each in (correction, move):
            if each is not None:
                needed[each.prediction].update(node for node, _ in each.nodes)
                needed["states"].add(each.base)
        wants = index in needed["noise"]
        steps.append(Step(row.evaluated, dilution, churn_sd, correction, move, wants, **kept))
    return tuple(reversed(steps))


def _move(rows: Sequence[Row], index: int, path: AffinePath) -> Move:
    """Return the step that follows the evaluation of row `index`."""
    row = rows[index]
    nodes = [index - offset for offset in row.offsets]
    return _made(rows, row, index - row.base, nodes, row.explicit_shares, path)


def _correction(rows: Sequence[Row], index: int, path: AffinePath) -> Move | None:
    """Return the step that led to row `index`, done again with its evaluation."""
    count, last = rows[index].corrector, rows[index - 1]
    if count == 0:
        return None
    if index == 0:
        raise value_error("corrector", "be 0 in the first row, which no step has led to", count)
    if count > index + 1:
        raise value_error("corrector", f"be at most {index + 1}, the evaluations there are", count)
    if last.base or last.shares or last.tau:
        wanted = "be 0 after a step from another row, with shares of its own or with fresh noise"
        raise value_error("corrector", wanted, count)
    if rows[index].churn:
        raise value_error("corrector", "be 0 where there is churn", count)
    return _made(rows, last, index - 1, [index - i for i in range(count)], None, path)


def _made(
    rows: Sequence[Row],
    row: Row,
    base: int,
    nodes: Sequence[int],
    shares: tuple[float, ...] | None,
    path: AffinePath,
) -> Move:
    """Return the step of `row` from the evaluation of row `base`, through `nodes`."""
    start, end, kind = rows[base].evaluated, row.next_time, row.prediction
    if kind == "noise" and start == 1:
        wanted = "be data where the step leaves from noise alone, time = 1"
        raise value_error("prediction", wanted, "noise", "The builders of workbench.integration begin so.")
    if shares is None:
        shares = _shares(row, [rows[node].evaluated for node in nodes], start, path)
    whole = transfer(start, end, kind, row.tau)
    weights = tuple(
        (node, whole.gain * share) for node, share in zip(nodes, shares, strict=True) if share != 0
    )
    return Move(base, kind, weights, whole.keep, whole.fresh)


def _shares(row: Row, nodes: Sequence[float], start: float, path: AffinePath) -> tuple[float, ...]:
    """Return the shares of the interpolation, which has to be possible."""
    if len(nodes) == 1:
        return (1.0,)
    variable, kind, end = row.variable, row.prediction, row.next_time
    if variable == "t":
        # Noise alone is no node on a path that does not reach it.
        _check_on_path(path, [start, end, *(node for node in nodes if node < 1)])
    if end == 0 and (kind == "data" or variable == "inv_sigma"):
        wanted = f"be 1 where a step in {kind} over {variable} ends at the image, next_time = 0"
        raise value_error("order", wanted, len(nodes), "Or let the plan end at a sigma_min.")
    if start == 1 and variable == "sigma":
        remedy = "Use inv_sigma, which is finite there."
        raise value_error("variable", "be finite where the step leaves from, time = 1", variable, remedy)
    positions = node_positions(nodes, start, end, variable=variable, prediction=kind, path=path)
    finite = sorted(position for position in positions if math.isfinite(position))
    if any(low == high for low, high in pairwise(finite)):
        wanted = "be at different levels where they are interpolated"
        raise value_error("nodes", wanted, [f"sigma = {sigma_of(t):g}" for t in nodes], "Or give `shares`.")
    return lagrange_shares(nodes, start, end, variable=variable, prediction=kind, tau=row.tau, path=path)


def _check_on_path(path: AffinePath, times: Sequence[float]) -> None:
    low, high = path.sigma_range
    for time in times:
        sigma = sigma_of(time)
        if not low * (1 - 1e-9) <= sigma <= high * (1 + 1e-9):
            wanted = f"have its levels on the path whose time is the variable, {low:g} to {high:g}"
            remedy = "Use another variable, or the path the plan is made for: Integrator(plan, path)."
            raise value_error("plan", wanted, f"sigma = {sigma:g}", remedy)


def _check_order(rows: Sequence[Row], index: int) -> None:
    """Raise unless row `index` follows the row before it, and points at rows that there are."""
    row = rows[index]
    if index > 0 and row.time != rows[index - 1].next_time:
        raise value_error(
            "time", f"be where the row before led, {rows[index - 1].next_time!r}", repr(row.time)
        )
    if row.base > index:
        raise value_error("base", f"be at most {index}, the rows before", row.base)
    if max(row.offsets) > index:
        wanted = f"be evaluated before: at most {index} rows back"
        raise value_error("nodes", wanted, max(row.offsets), "Begin with a lower order.")
    start = rows[index - row.base].evaluated
    if not row.next_time < start or (row.base and row.next_time > row.time):
        wanted = f"be below {start:g}, where the step leaves from"
        wanted += f", and at most {row.time:g}" if row.base else ""
        raise value_error("next_time", wanted, row.next_time)
    if row.next_time == 0 and index < len(rows) - 1:
        raise value_error("next_time", "be > 0 where another evaluation follows", 0.0)


def _check_noise(rows: Sequence[Row], index: int, path: AffinePath) -> None:
    """Raise where fresh noise has no meaning."""
    row = rows[index]
    for name in ("tau", "churn"):
        value = getattr(row, name)
        if value and not isinstance(path.law, GaussianLaw):
            raise value_error(name, f"be 0 under noise that is not normal, {path.law}", value)
        if value and row.base:
            raise value_error(name, "be 0 in a step from another row, base > 0", value)
    if row.churn and row.time == 1:
        raise value_error("churn", "be 0 where there is noise alone, time = 1", row.churn)
