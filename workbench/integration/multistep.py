"""Plans that use each evaluation for several steps: DDIM, DPM-Solver++, DEIS, UniPC, PNDM.

All take the ends of their steps as times of the flow, out of `Levels.times`, and return a SolverPlan with as
many evaluations as steps (PNDM: nine more, S-PNDM: one more). They begin with order 1 and rise; a step that
ends at the image has order 1 where an interpolation would have to reach beyond every level. From noise alone,
times[0] = 1, the first step is in data form.

The first step, of order 1, would leave an error of second order whatever follows, seen where the first level
is not far above the spread of the data. The evaluation after it, which is needed anyway, corrects it where
that is lower than the order of the method, and always from noise alone (`corrector` of the second row): then
it is of third order. A step with fresh noise is not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.integration.levels import time_of
from workbench.integration.rows import MOST_NODES, Row, plan_of
from workbench.integration.weights import log_ratio
from workbench.paths.affine import AffinePath
from workbench.plan import SolverPlan

__all__ = [
    "ancestral",
    "checked_times",
    "ddim",
    "deis",
    "dpm_solver_plus_plus",
    "multistep",
    "pndm",
    "s_pndm",
    "unipc",
]


def ddim(times: Sequence[float], *, eta: float = 0.0) -> SolverPlan:
    """Return DDIM (Song et al. 2021), the exponential Euler step: 0 the flow, 1 DDPM's noise.

    With r = sigma' / sigma its fresh noise is the part f = eta sqrt(1 - r^2) of the noise at sigma'. A step
    of strength tau has f = sqrt(1 - r^(2 tau^2)), and so tau^2 = log(1 - f^2) / (2 log r). From noise alone,
    and to the image, any tau gives the same law; it is 0 there.
    """
    if not 0 <= check_number(eta, "eta") <= 1:
        raise value_error("eta", "lie between 0 and 1", eta)
    rows = []
    for time, after in pairwise(checked_times(times)):
        log_r = log_ratio(time, after)
        square = 0.0
        if eta and math.isfinite(log_r):
            # eta = 1 is tau = 1 to the last bit; the quotient of near logarithms is not.
            square = math.log1p(eta**2 * math.expm1(2 * log_r)) / (2 * log_r) if eta < 1 else 1.0
        rows.append(Row(time, after, tau=math.sqrt(square)))
    return plan_of(rows)


def ancestral(times: Sequence[float]) -> SolverPlan:
    """Return DDPM's steps: from z at sigma exact draws at sigma', if D were the image itself."""
    return multistep(times, order=1, tau=1.0)


def multistep(
    times: Sequence[float],
    *,
    order: int = 2,
    prediction: str = "data",
    variable: str = "log_snr",
    tau: float = 0.0,
) -> SolverPlan:
    """Return the exponential Adams-Bashforth method of this order, the common form of most others.

    In noise over log_snr it is DPM-Solver in several steps, in data DPM-Solver++; in noise over sigma or t,
    DEIS.
    """
    count = _order(order)
    rows: list[Row] = []
    for time, after in pairwise(checked_times(times)):
        first = time == 1
        kind = "data" if first else prediction
        through = min(count, len(rows) + 1)
        if after == 0 and not (kind == "noise" and variable == "sigma"):
            through = 1
        # The node at noise alone is finite in inv_sigma only: a corrector may want it.
        over = "inv_sigma" if first else variable
        rows.append(Row(time, after, through, prediction=kind, variable=over, tau=0.0 if first else tau))
    if len(rows) > 1 and rows[0].tau == 0 and (count > 2 or (count == 2 and rows[0].time == 1)):
        rows[1] = replace(rows[1], corrector=2)
    return plan_of(rows)


def dpm_solver_plus_plus(times: Sequence[float], *, order: int = 2, tau: float = 0.0) -> SolverPlan:
    """Return DPM-Solver++ 2M or 3M (Lu et al. 2022): data form over log_snr; tau = 1 is its SDE form."""
    return multistep(times, order=order, tau=tau)


def deis(times: Sequence[float], *, order: int = 3, variable: str = "t") -> SolverPlan:
    """Return DEIS (Zhang and Chen 2023): noise over the path's time (tAB) or over sigma (rhoAB).

    Of tAB the path belongs to the integrator: Integrator(plan, path). rhoAB is Adams-Bashforth in sigma.
    """
    if variable not in ("t", "sigma"):
        raise value_error("variable", "be t or sigma", repr(variable), "Over log_snr: multistep(...).")
    return multistep(times, order=order, prediction="noise", variable=variable)


def unipc(
    times: Sequence[float], *, order: int = 2, prediction: str = "data", corrector: bool = True
) -> SolverPlan:
    """Return UniPC (Zhao et al. 2023): a predictor of `order`, each arrival corrected with one node more.

    The correction reuses the evaluation of the next step; the last arrival has none. Shares are those of the
    exact interpolation, which do not depend on the B(h) of the paper. `order` is the predictor's, the whole
    has order + 1.
    """
    if not isinstance(corrector, bool):
        raise type_error("corrector", "be True or False", repr(corrector))
    if check_count(order, "order") >= MOST_NODES and corrector:
        raise value_error("order", f"be at most {MOST_NODES - 1} with a corrector", order)
    plan = multistep(times, order=order, prediction=prediction)
    if not corrector:
        return plan
    rows = [Row(**row.values) for row in plan]  # type: ignore[arg-type]
    pairs = pairwise(rows)
    return plan_of([rows[0], *(replace(row, corrector=before.order + 1) for before, row in pairs)])


def pndm(times: Sequence[float], path: AffinePath) -> SolverPlan:
    """Return PNDM (Liu et al. 2022): Adams-Bashforth of four evenly spaced steps, each DDIM's transfer.

    For checkpoints of discrete time: `times` are to be evenly spaced in the time of `path`. The first three
    steps are pseudo Runge-Kutta of four evaluations each. A last step to the image that is off the path is
    one of DDIM. Order four is not reached: near t = 0 the noise is not smooth in the path's time.
    """
    spaced, own = _evenly(times, path)
    rows: list[Row] = []
    at: list[int] = []
    for step, (time, after) in enumerate(pairwise(spaced)):
        at.append(len(rows))
        if step < 3 and after > 0:
            middle = _flow_time(path, (own[step] + own[step + 1]) / 2)
            rows += _runge_kutta(time, middle, after)
        elif step < 3:
            rows.append(Row(time, after, prediction="noise"))
        else:
            offsets = " ".join(str(at[-1] - row) for row in at[:-5:-1])
            adams = "55/24 -59/24 37/24 -9/24"
            rows.append(Row(time, after, 4, offsets, "noise", shares=adams))
    return plan_of(_ended(rows, times, spaced))


def s_pndm(times: Sequence[float], path: AffinePath) -> SolverPlan:
    """Return S-PNDM: Adams-Bashforth of two evenly spaced steps, one more evaluation in the first."""
    spaced, _ = _evenly(times, path)
    rows: list[Row] = []
    for step, (time, after) in enumerate(pairwise(spaced)):
        if step > 0:
            nodes = "0 2" if step == 1 else "0 1"
            rows.append(Row(time, after, 2, nodes, "noise", shares="3/2 -1/2"))
            continue
        rows.append(Row(time, after, prediction="noise"))
        if after > 0:
            rows.append(Row(after, after, 2, "0 1", "noise", shares="1/2 1/2", base=1))
    return plan_of(_ended(rows, times, spaced))


def _runge_kutta(time: float, middle: float, after: float) -> list[Row]:
    """Return the four evaluations of a classical Runge-Kutta step of the noise."""
    return [
        Row(time, middle, prediction="noise"),
        Row(middle, middle, prediction="noise", base=1),
        Row(middle, after, prediction="noise", base=2),
        Row(after, after, 4, "0 1 2 3", "noise", shares="1/6 1/3 1/3 1/6", base=3),
    ]


def _ended(rows: list[Row], times: Sequence[float], spaced: Sequence[float]) -> list[Row]:
    """Return the rows with DDIM's step to the image where the even spacing ends before it."""
    return rows if len(spaced) == len(times) else [*rows, Row(spaced[-1], 0.0, prediction="noise")]


def _evenly(times: Sequence[float], path: AffinePath) -> tuple[tuple[float, ...], list[float]]:
    """Return the times that are evenly spaced in the path's own, and these."""
    checked = checked_times(times)
    AffinePath.require(path)
    if checked[0] == 1:
        remedy = "A checkpoint of discrete time begins at its largest level."
        raise value_error("times", "begin below 1 for a method in noise form", 1.0, remedy)
    low = time_of(path.sigma_range[0])
    inside = [time for time in checked if time >= low * (1 - 1e-9)]
    inverse = torch.tensor([(1 - t) / t if t > 0 else math.inf for t in inside], dtype=torch.float64)
    own = [float(path.time_of_inverse(value)) if math.isfinite(value) else 0.0 for value in inverse]
    gaps = [first - second for first, second in pairwise(own)]
    if checked[-1] == 0 and inside[-1] == 0 and not _even(gaps) and _even(gaps[:-1]):
        inside, own, gaps = inside[:-1], own[:-1], gaps[:-1]
    if len(inside) < len(checked) - 1 or len(inside) < 2 or not _even(gaps):
        remedy = "Such as PathUniform(path).times(steps)."
        found = f"steps of {min(gaps, default=0):.4g} to {max(gaps, default=0):.4g}"
        raise value_error("times", f"be evenly spaced in the time of {path.schedule}", found, remedy)
    return tuple(inside), own


def _even(gaps: Sequence[float]) -> bool:
    # Whole numbers of a discrete time, rounded, are even enough.
    return bool(gaps) and max(gaps) <= min(gaps) + max(0.1 * min(gaps), 1e-9)


def _flow_time(path: AffinePath, own: float) -> float:
    at = path.at(own)
    return float(at.c / (at.a + at.c))


def checked_times(times: Sequence[float]) -> tuple[float, ...]:
    """Return times that fall from at most 1 to at least 0."""
    if isinstance(times, str) or not isinstance(times, Sequence):
        remedy = "Such as Karras().times(20)."
        raise type_error("times", "be a sequence of times of the flow", type(times).__name__, remedy)
    values = tuple(check_number(time, f"times[{i}]", non_negative=True) for i, time in enumerate(times))
    if len(values) < 2 or values[0] > 1 or not all(high > low for high, low in pairwise(values)):
        raise value_error("times", "be two or more, falling from at most 1 to at least 0", values)
    return values


def _order(order: object) -> int:
    count = check_count(order, "order")
    if count > MOST_NODES:
        raise value_error("order", f"be at most {MOST_NODES}", order)
    return count
