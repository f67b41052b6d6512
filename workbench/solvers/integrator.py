"""Draws from a prior by integrating its reverse equation: one engine, whose plan says which method it is.

In u = x / t = s x0 + noise, s = 1 / sigma, every affine path is the same, and its probability flow is

    du = D(u, s) ds,    D = E[x0 | u] = prior.denoise_scaled(u, s)

and with fresh noise of strength tau the reverse diffusion of the same marginals. The state is that of the
rectified flow, x = (1 - t) x0 + t noise with t = sigma / (1 + sigma): finite from noise alone, t = 1, to the
image, t = 0. Each row of the plan is one evaluation of the prior, D at (x, t), and one step

    x' = keep x + gain sum_j share_j v_j + fresh w

over evaluations v = D (data form) or v = eps = (x - (1 - t) D) / t (noise form), this one and earlier ones;
the coefficients are exact (workbench.integration.weights). One node is DDIM; more are DPM-Solver++, DEIS,
UniPC; a base further back makes Runge-Kutta methods, Heun's and DPM-Solver's (workbench.integration.rows).

The start is noise of the path's law. At t = 1 it is exact; at a largest level sigma_max it neglects
x0 / sigma_max, so let that be far above the spread of the data. A plan that ends at sigma_min > 0 gives
x0 + sigma_min noise. Draws are approximate by the length of the steps, and by what the prior is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

from torch import Tensor

from operators.errors import type_error, value_error
from workbench.capabilities import Capabilities
from workbench.integration.levels import sigma_of
from workbench.integration.steps import Move, Step, steps_of
from workbench.kinds import Kind
from workbench.paths.affine import AffinePath
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["Integrator", "IntegratorState"]

FLOW = AffinePath.flow()

#: Tensors by the row they come from.
Kept = tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True)
class IntegratorState:
    """The flow's state x at the next row's time; of earlier rows the D, eps and states still needed."""

    x: Tensor
    data: Kept = ()
    noise: Kept = ()
    states: Kept = ()


@dataclass(frozen=True)
class Integrator(Solver[IntegratorState]):
    """Carries out a plan of workbench.integration, such as Integrator(ddim(Karras().times(20))).

    Of `path` two things matter: the law of its noise, and its time where a row interpolates in it ("t"). Any
    path with noise at its far end will do, x_in or not: Resfusion's samples are those of the flow.
    """

    rows: SolverPlan
    path: AffinePath = FLOW

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        likelihood=False, prior_only=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[IntegratorState]] = IntegratorState
    remedy: ClassVar[str] = (
        "Check the noise levels that the prior knows, or take shorter steps of lower order."
    )

    def __post_init__(self) -> None:
        AffinePath.require(self.path)
        self.path.require_spread()
        _ = self.steps  # what is wrong with the plan is said now

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The rows with their coefficients."""
        return steps_of(self.rows, self.path)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return the plan, which the prior has to be fit for."""
        prior = posterior.prior
        if not isinstance(prior, Denoiser):
            raise type_error(
                "prior", "be a Denoiser", type(prior).__name__, "Tokens have solvers of their own."
            )
        if prior.law != self.path.law:
            remedy = f"Integrator(plan, path.under({prior.law}))."
            raise value_error("path.law", f"be that of the prior, {prior.law}", self.path.law, remedy)
        low, high = prior.noise_range
        for index, step in enumerate(self.steps):
            sigma = sigma_of(step.time)
            if step.time == 1 and not prior.knows_pure_noise:
                remedy = "Start at a level: levels with from_noise=False and a sigma_max."
                wanted = f"begin at a finite level for a {type(prior).__name__}"
                raise value_error("plan", wanted, "noise alone, time = 1", remedy)
            if not low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6):
                wanted = f"stay inside the levels that the prior knows, {low:g} to {high:g}"
                remedy = f"Make it of levels with sigma_max <= {high:g} and sigma_min >= {low:g}."
                raise value_error("plan", wanted, f"sigma = {sigma:g} in row {index}", remedy)
        return self.rows

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> IntegratorState:
        """Return noise of the path's law at the first time."""
        like = like.new_empty(0, dtype=posterior.space.dtype_like(like))
        noise = self.path.law.draw(keys, posterior.space.shape, "integrator: start", like=like)
        return IntegratorState(self.rows.row(0).number("time") * noise)

    def step(
        self, posterior: Posterior, state: IntegratorState, row: PlanRow, keys: Keys
    ) -> tuple[IntegratorState, Info]:
        """Evaluate the prior once and go on."""
        step, index, x = self.steps[row.index], row.index, state.x
        shape = posterior.space.shape
        if step.churn_sd > 0 or step.dilution != 1:
            x = step.dilution * x
            x = x + step.churn_sd * keys.normals(shape, "integrator: churn", like=x)
        estimate = self.estimate(posterior, x, step.time)
        data = {**dict(state.data), index: estimate}
        noise, states = dict(state.noise), {**dict(state.states), index: x}
        if step.wants_noise:
            noise[index] = (x - (1 - step.time) * estimate) / step.time
        if step.correction is not None:
            states[index] = _moved(step.correction, data, noise, states)
        after = _moved(step.move, data, noise, states)
        if step.move.fresh > 0:
            after = after + step.move.fresh * keys.normals(shape, "integrator: noise", like=x)
        kept = (_kept(data, step.data), _kept(noise, step.noise), _kept(states, step.states))
        return IntegratorState(after, *kept), Info(estimate)

    def estimate(self, posterior: Posterior, x: Tensor, time: float) -> Tensor:
        """Return D at the state `x` of `time`."""
        prior = cast(Denoiser, posterior.prior)
        if time > 0.5:
            return prior.denoise_scaled(x / time, (1 - time) / time)
        return prior.denoise(x / (1 - time), time / (1 - time))

    def answer(self, posterior: Posterior, state: IntegratorState) -> Tensor:
        """Return z, which is the image where the plan ends at t = 0."""
        del posterior
        return state.x / (1 - self.rows.row(len(self.rows) - 1).number("next_time"))

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation per row."""
        del posterior
        return Cost(len(plan))


def _moved(
    move: Move, data: Mapping[int, Tensor], noise: Mapping[int, Tensor], states: Mapping[int, Tensor]
) -> Tensor:
    """Return keep x + sum_j weight_j v_j."""
    values = data if move.prediction == "data" else noise
    total = move.keep * states[move.base]
    for index, weight in move.nodes:
        total.add_(values[index], alpha=weight)
    return total


def _kept(values: Mapping[int, Tensor], needed: frozenset[int]) -> Kept:
    """Return those that later rows need."""
    return tuple((index, value) for index, value in values.items() if index in needed)
