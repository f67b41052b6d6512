"""Plans whose steps stand alone, each with evaluations in between: Euler and Heun (EDM), DPM-Solver 1 to 3.

Times are as in workbench.integration.multistep. A step of order k takes k evaluations; one that ends at the
image takes one, DDIM's. From noise alone the first step is Heun's in data form over 1 / sigma, the trapezoid
rule in s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.integration.levels import sigma_of
from workbench.integration.multistep import checked_times
from workbench.integration.rows import Row, plan_of
from workbench.integration.weights import PREDICTIONS
from workbench.plan import SolverPlan

__all__ = ["Churn", "dpm_solver", "euler", "heun"]


@dataclass(frozen=True)
class Churn:
    """Noise that EDM adds before a step: S_churn, S_min, S_max, S_noise of Karras et al. (2022).

    At levels between `sigma_min` and `sigma_max` sigma grows by min(amount / steps, sqrt(2) - 1), with
    `noise` times the noise that this takes.
    """

    amount: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("amount", "sigma_min", "noise"):
            check_number(getattr(self, name), name, non_negative=True)
        if self.sigma_max != math.inf:
            check_number(self.sigma_max, "sigma_max", positive=True)
        if self.sigma_max < self.sigma_min:
            raise value_error("sigma_max", f"be at least sigma_min = {self.sigma_min:g}", self.sigma_max)

    def at(self, time: float, steps: int) -> float:
        """Return the growth of sigma at a time of the flow."""
        inside = time < 1 and self.sigma_min <= sigma_of(time) <= self.sigma_max
        return min(self.amount / steps, math.sqrt(2) - 1) if inside else 0.0


NONE = Churn()


def euler(times: Sequence[float], *, churn: Churn = NONE) -> SolverPlan:
    """Return Euler's method in sigma (EDM), which is DDIM, with churn."""
    return _edm(times, 1, churn)


def heun(times: Sequence[float], *, churn: Churn = NONE) -> SolverPlan:
    """Return Heun's method in sigma (EDM), with churn: two evaluations a step. It is DEIS's rhoRK-2."""
    return _edm(times, 2, churn)


def _edm(times: Sequence[float], order: int, churn: Churn) -> SolverPlan:
    if not isinstance(churn, Churn):
        raise type_error("churn", "be a Churn", type(churn).__name__, "Such as Churn(40, 0.05, 50, 1.003).")
    checked = checked_times(times)
    rows: list[Row] = []
    for time, after in pairwise(checked):
        if time == 1:
            rows += _from_noise(after, order)
            continue
        growth = churn.at(time, len(checked) - 1)
        rows.append(
            Row(time, after, prediction="noise", variable="sigma", churn=growth, churn_noise=churn.noise)
        )
        if order == 2 and after > 0:
            rows.append(Row(after, after, 2, "0 1", "noise", "sigma", base=1))
    return plan_of(rows)


def dpm_solver(times: Sequence[float], *, order: int = 2, prediction: str = "noise") -> SolverPlan:
    """Return DPM-Solver-1, -2 or -3 (Lu et al. 2022) in single steps over log_snr.

    Its inner evaluations lie at 1/2, or at 1/3 and 2/3, of each step in log_snr. In data form it is
    DPM-Solver++ in single steps.
    """
    if check_count(order, "order") > 3:
        raise value_error("order", "be 1, 2 or 3", order)
    if prediction not in PREDICTIONS:
        raise value_error("prediction", f"be one of {', '.join(PREDICTIONS)}", repr(prediction))
    rows: list[Row] = []
    for time, after in pairwise(checked_times(times)):
        if time == 1:
            rows += _from_noise(after, order)
        elif order == 1 or after == 0:
            rows.append(Row(time, after, prediction=prediction))
        elif order == 2:
            middle = _inner(time, after, 1 / 2)
            rows.append(Row(time, middle, prediction=prediction))
            rows.append(Row(middle, after, 1, "0", prediction, base=1))
        else:
            third, rest = _inner(time, after, 1 / 3), _inner(time, after, 2 / 3)
            rows.append(Row(time, third, prediction=prediction))
            rows.append(Row(third, rest, 2, "0 1", prediction, base=1))
            rows.append(Row(rest, after, 2, "0 2", prediction, base=2))
    return plan_of(rows)


def _from_noise(after: float, order: int) -> list[Row]:
    """Return a first step, from noise alone."""
    rows = [Row(1.0, after, variable="inv_sigma")]
    if order > 1 and after > 0:
        rows.append(Row(after, after, 2, "0 1", "data", "inv_sigma", base=1))
    return rows


def _inner(time: float, after: float, share: float) -> float:
    """Return the time at a share of the way in log_snr."""
    first, last = math.log(sigma_of(time)), math.log(sigma_of(after))
    return 1 / (1 + math.exp(-(first + share * (last - first))))
