"""What the integrator refuses before a run, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.problems import posterior_of
from tests.workbench.integration.modes import FLOW, PLANE, Modes
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.integration import Churn, Karras, LogUniform, Row, ddim, dpm_solver_plus_plus, heun, plan_of
from workbench.paths import AffinePath, StudentT
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.flat import Flat
from workbench.solvers.integrator import Integrator

TIMES = LogUniform(20.0, 0.05).times(8)


class Narrow(Denoiser):
    """Knows levels between 0.1 and 10."""

    exact = True
    calibrated_score = True

    def __init__(self) -> None:
        super().__init__(PLANE)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z / (1 + sigma**2)

    @property
    def noise_range(self) -> tuple[float, float]:
        return 0.1, 10.0


def run(prior: Any, plan: SolverPlan, path: AffinePath = FLOW) -> Tensor:
    return sample(Posterior(prior), Integrator(plan, path), draws=2).tensor()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ddim(Karras(20.0, 0.2).times(5)), r"stay inside .* 0.1 to 10, got sigma = 20 in row 0"),
        (ddim(Karras(9.0, 0.05).times(5)), r"stay inside .* 0.1 to 10, got sigma = 0.05 in row 4"),
        (ddim(Karras(9.0, 0.05).times(5)), r"sigma_max <= 10 and sigma_min >= 0.1"),
        (heun(Karras(9.9, 0.2).times(5), churn=Churn(1.0)), r"got sigma = 11.\d+ in row 0"),
        (ddim((1.0, 0.5, 0.0)), "begin at a finite level for a Narrow"),
    ],
)
def test_levels_that_the_prior_does_not_know_are_refused_before_the_run(
    plan: SolverPlan, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(Narrow(), plan)


def test_levels_at_the_ends_of_the_range_are_taken() -> None:
    plan = dpm_solver_plus_plus(Karras(10.0, 0.1).times(5))
    for dtype in (torch.float32, torch.float64):
        sample(Posterior(Narrow()), Integrator(plan), draws=1, dtype=dtype)


def test_another_law_of_noise_than_the_priors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`path.law` must be that of the prior.*under\("):
        run(Modes(), ddim(TIMES), AffinePath.flow().under(StudentT(8.0)))


def test_paths_without_noise_at_their_end_are_refused() -> None:
    for path in (AffinePath.interpolant(), AffinePath.residual(0.0), AffinePath.mean_reverting(sd=0.0)):
        with pytest.raises(ValueError, match="`path` must have noise at its far end"):
            Integrator(ddim(TIMES), path)


def test_posteriors_it_would_get_wrong_are_refused() -> None:
    with pytest.raises(CapabilityError, match="would be ignored"):
        sample(posterior_of("ct"), Integrator(ddim(TIMES)), draws=1)
    with pytest.raises(CapabilityError, match="law that can be drawn from"):
        run(Flat(PLANE), ddim(TIMES))


class Guess(Narrow):
    """A denoiser that is no posterior mean."""

    calibrated_score = False


def test_denoisers_that_are_no_posterior_mean_are_refused() -> None:
    with pytest.raises(CapabilityError, match="must give posterior means"):
        run(Guess(), ddim(TIMES))


A, B, C = 0.9, 0.5, 0.2
STUDENT = FLOW.under(StudentT(8.0))


@pytest.mark.parametrize(
    ("rows", "path", "message"),
    [
        ([Row(A, B), Row(0.4, C)], FLOW, r"Row 1 of the plan: `time` must be where the row before led, 0.5"),
        ([Row(A, B), Row(B, 0.6)], FLOW, "Row 1 of the plan: `next_time` must be below 0.5"),
        ([Row(A, A)], FLOW, "Row 0 of the plan: `next_time` must be below 0.9"),
        ([Row(A, B), Row(B, 0.7, base=1)], FLOW, "`next_time` must be below 0.9.*and at most 0.5"),
        ([Row(A, 0.0), Row(B, C)], FLOW, "Row 0 of the plan: `next_time` must be > 0 where another"),
        ([Row(A, B, 2)], FLOW, "Row 0 of the plan: `nodes` must be evaluated before: at most 0 rows"),
        ([Row(A, B), Row(B, C, base=2)], FLOW, "`base` must be at most 1"),
        ([Row(1.0, B, prediction="noise")], FLOW, "`prediction` must be data where the step leaves from no"),
        ([Row(A, B), Row(B, 0.0, 2)], FLOW, "Row 1 of the plan: `order` must be 1 where a step in data"),
        ([Row(A, B), Row(B, 0.0, 2, variable="inv_sigma", prediction="noise")], FLOW, "`order` must be 1"),
        (
            [Row(1.0, B), Row(B, B, 2, "0 1", base=1, variable="inv_sigma"), Row(B, C)],
            FLOW,
            None,
        ),
        (
            [Row(1.0, B), Row(B, C), Row(C, 0.1, 2, "0 1", variable="sigma", base=2)],
            FLOW,
            "Row 2 of the plan: `variable` must be finite where the step leaves from",
        ),
        ([Row(A, B), Row(B, B, base=1), Row(B, C, 2)], FLOW, "`nodes` must be at different levels"),
        ([Row(A, B), Row(B, C, corrector=3)], FLOW, "`corrector` must be at most 2"),
        ([Row(A, B, corrector=1), Row(B, C)], FLOW, "`corrector` must be 0 in the first row"),
        ([Row(A, B, tau=1.0), Row(B, C, corrector=2)], FLOW, "`corrector` must be 0 after a step"),
        ([Row(A, B), Row(B, C, corrector=2, churn=0.1)], FLOW, "`corrector` must be 0 where there is churn"),
        ([Row(A, B), Row(B, C, base=1, tau=1.0)], FLOW, "`tau` must be 0 in a step from another row"),
        ([Row(A, B, tau=1.0)], STUDENT, "`tau` must be 0 under noise that is not normal"),
        ([Row(A, B, churn=0.1)], STUDENT, "`churn` must be 0 under noise that is not normal"),
        ([Row(1.0, B, churn=0.1)], FLOW, "`churn` must be 0 where there is noise alone"),
        (
            [Row(0.999, A), Row(A, B, 2, variable="t")],
            AffinePath.vp(),
            "`plan` must have its levels on the path.*got sigma = 999",
        ),
        ([Row(0.999, A), Row(A, B, 2, variable="t")], FLOW, None),
    ],
)
def test_plans_that_make_no_sense_are_refused(rows: list[Row], path: AffinePath, message: str | None) -> None:
    if message is None:
        Integrator(plan_of(rows), path)
        return
    with pytest.raises(ValueError, match=message):
        Integrator(plan_of(rows), path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": (0.0,)}, "Row 0 of the plan: `time` must be a time of the flow where there is noise"),
        ({"time": ("0.9",)}, "Row 0 of the plan: `time` must be a finite number"),
        ({"next_time": (1.0,)}, "`next_time` must be a time of the flow"),
        ({"order": (5,)}, "`order` must be at most 4"),
        ({"order": (1.0,)}, "`order` must be an integer >= 1"),
        ({"order": (2,), "nodes": ("0 0",)}, "`nodes` must name order = 2 different rows"),
        ({"nodes": ("0 1",)}, "`nodes` must name order = 1 different rows"),
        ({"nodes": ("x",)}, "`nodes` must be numbers of rows back"),
        ({"nodes": ("-1",)}, "`nodes` must be numbers of rows back, >= 0"),
        ({"nodes": (0,)}, "`nodes` must be text"),
        ({"shares": ("1/2",)}, "`shares` must have sum 1"),
        ({"shares": ("1/2 1/2",)}, "`shares` must be order = 1 numbers"),
        ({"shares": ("1/0",)}, "`shares` must be numbers or fractions"),
        ({"prediction": ("v",)}, "`prediction` must be one of data, noise"),
        ({"variable": ("lambda",)}, "`variable` must be one of log_snr, inv_sigma, sigma, t"),
        ({"base": (-1,)}, "`base` must be an integer >= 0"),
        ({"tau": (-0.1,)}, "`tau` must be a finite number >= 0"),
        ({"churn": (True,)}, "`churn` must be a finite number >= 0"),
        (
            {"extra": (1,)},
            r"columns of .*unknown: \['extra'\]|be those of an integrator.*unknown: \['extra'\]",
        ),
    ],
)
def test_columns_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    columns = {**plan_of([Row(0.9, 0.5)]).columns, **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        Integrator(SolverPlan(columns))


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: \['base', 'churn'"):
        Integrator(SolverPlan({"time": (0.9,), "next_time": (0.5,)}))
    with pytest.raises(TypeError, match="`plan` must be a SolverPlan, got tuple"):
        Integrator(TIMES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`path` must be an AffinePath"):
        Integrator(ddim(TIMES), "vp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`rows` must be a sequence of Rows"):
        plan_of([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="`rows` must be one or more"):
        plan_of([])
