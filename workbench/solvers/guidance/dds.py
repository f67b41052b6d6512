"""Decomposed diffusion sampling: a few conjugate gradients from the prior's estimate towards the data.

    x = D + delta,    delta after n iterations from 0 on  (I + gamma B^H B) delta = gamma B^H (z_y - B D)
    z' = x + s' (sqrt(1 - eta^2) (z - D) / sigma + eta w),    D = denoise(z, sigma)

for -log p(y | u) = |B u - z_y|^2 / 2 (Chung, Lee and Ye 2024). delta lies in the span of B^H e, B^H B B^H e,
...: what nothing was measured of stays as the prior left it. The noise that is kept is the network's, not
found anew from x.

What it is off by: with gamma = r^2, r the spread of x given z for an isotropic Gaussian prior, and iterations
enough, x is the mean of x given z and y, a mean that is taken for a draw: the variance is half to two thirds
of the posterior's and stays too small at any number of steps. The noise that is kept knows of no data and
holds the mean back. Few iterations fit the best measured directions alone: of 20 views of real slices the
paper's 5 leave a chi-square of four per datum and cost up to 4 dB, 20 meet the data. A gamma that does not
know sigma trusts the data too much at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.cg import cg_start, cg_step
from operators.checks import check_count, check_number
from operators.errors import value_error
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, ddim, denoiser, measured_norm, spread_left

__all__ = ["DDS"]


@dataclass(frozen=True)
class DDS(Descent):
    """Approximate samples for linear operators with Gaussian noise, by products with B and B^H alone.

    `gamma` "posterior" is r^2, from the prior's data_sd; a number is a multiple of 1 / |B|^2, the same at all
    levels: 1 is the paper's where |A| = 1. `eta` is the share of fresh noise. One evaluation, one A, one A^H
    and `iterations` of A^H A per step, no backward pass.
    """

    steps: int = 50
    eta: float = 0.85
    iterations: int = 20
    gamma: float | Literal["posterior"] = "posterior"

    capabilities: ClassVar[Capabilities] = Capabilities(
        linear_gaussian=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[DescentState]] = DescentState

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.eta, "eta", non_negative=True)
        if self.eta > 1:
            raise value_error("eta", "be between 0 and 1", self.eta, "It is the share of fresh noise.")
        object.__setattr__(self, "iterations", check_count(self.iterations, "iterations"))
        if isinstance(self.gamma, str):
            if self.gamma != "posterior":
                raise value_error("gamma", "be 'posterior' or a number > 0", repr(self.gamma))
        else:
            check_number(self.gamma, "gamma", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma, next_sigma and the gamma of every step."""
        plan = super().plan(posterior)
        if not isinstance(self.gamma, str):
            norm = measured_norm(posterior)
            fixed = self.gamma / norm**2 if norm > 0 else 0.0
            return SolverPlan({**plan.columns, "gamma": (fixed,) * len(plan)})
        spread = posterior.prior.data_sd
        if spread is None or not spread > 0:
            wanted = f"be a number for a {type(posterior.prior).__name__} without a data_sd"
            raise value_error("gamma", wanted, repr(self.gamma), "Such as gamma=1.0.")
        gammas = tuple(spread_left(row.number("sigma"), spread) ** 2 for row in plan)
        return SolverPlan({**plan.columns, "gamma": gammas})

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return the estimate after its iterations, with the network's noise and fresh noise on it."""
        sigma = row.number("sigma")
        estimate = denoiser(posterior).denoise(z, sigma)
        x = estimate + self._correction(posterior, estimate, row.number("gamma"))
        return ddim(x, (z - estimate) / sigma, row, self.eta, keys, "dds: step"), Info(x)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one A and one A^H per step; where the data are met, no iteration follows."""
        del posterior
        return Cost(len(plan), 0, 2 * len(plan))

    def _correction(self, posterior: Posterior, estimate: Tensor, gamma: float) -> Tensor:
        """Return delta, each sample's iterations for itself."""
        b, data = posterior.measured.whitened
        apart = data.to(b.codomain.dtype_like(estimate)) - b.apply(estimate)

        def system(v: Tensor) -> Tensor:
            return v + gamma * b.gram.apply(v)

        # Its own stop is for what is solved to the last digit before.
        stop = 4 * torch.finfo(estimate.dtype).eps
        solve = cg_start(system, gamma * b.apply_adjoint(apart), tolerance=stop)
        while not solve.finished and solve.iteration < self.iterations:
            solve = cg_step(system, solve)
        return solve.solution
