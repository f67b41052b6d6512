"""TDS: an ensemble guided by what the data say of the prior's estimate, weighted for what that leaves out.

    D = denoise(z, sigma),    e = z_data - B D,    r^2 = sigma^2 s^2 / (sigma^2 + s^2)
    twist           log psi = -e^H (I + r^2 B B^H)^-1 e / 2: y given z, were x given z N(D, r^2)
    step            z' = m + d + t w,    d = min(t^2, r^2) J^H B^H (I + r^2 B B^H)^-1 e
                    log w += log psi' - log psi - (|d|^2 + 2 t <d, w>) / (2 t^2)
    last step       z' = D,    log w += log p(y | D) - log psi

N(m, t^2) is the ancestral step, J = dD / dz (Wu, Trippe, Naesseth, Blei and Cunningham 2023). s is the
prior's spread in what the data see most of it: the plain one makes the twist too sure where a prior is
smooth and data are sums, and of 256 particles a few are left where 100 could be. Any other likelihood
is approximated around D, as far as that can be trusted, see climb.py: log psi is the integral there,
with J^H of its step in place of the gradient. One evaluation and one backward pass per step: the estimate at
z' that its twist needs is the next step's. The twist leaves out what is the same for all particles, which
cancels.

"detached" puts s0^2 / (s0^2 + sigma^2) in place of J, as it is for an isotropic Gaussian prior of spread s0:
no backward pass, and weights that hold as well. What it is off by: see ensemble.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import dots
from operators.checks import check_count, check_number
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost
from workbench.solvers.descent import spread_left
from workbench.solvers.ensembles.climb import climb, trusted
from workbench.solvers.ensembles.ensemble import Ensemble, Moved
from workbench.solvers.ensembles.tempering import reached
from workbench.solvers.pull import (
    Jacobian,
    check_choice,
    guided,
    require_differentiable,
    spread_seen,
)

__all__ = ["TDS"]


@dataclass(frozen=True)
class TDS(Ensemble):
    """A weighted ensemble for any differentiable operator and any noise, with a backward pass per step.

    `spread` is s, None for the prior's in what the data see most of it, see solvers/pull.py: four
    evaluations of eight states before the first step. `tolerance` is that of the inverse where it has no
    closed form, in standard deviations of N(D, r^2), `iterations` those of the step around D where the
    likelihood is not linear-Gaussian.
    """

    jacobian: Jacobian = "exact"
    spread: float | None = None
    tolerance: float = 1e-4
    iterations: int = 5

    held: ClassVar[int] = 12
    counsel: ClassVar[str] = "Take more particles, more steps, or a solver with independent draws."
    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.jacobian, "jacobian", ("exact", "detached"))
        if self.spread is not None:
            check_number(self.spread, "spread", positive=True)
        check_number(self.tolerance, "tolerance", positive=True)
        check_count(self.iterations, "iterations")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step, and at both r and the power of the likelihood."""
        if self.jacobian == "exact":
            require_differentiable(posterior)
        plan, sd = super().plan(posterior), spread_seen(posterior) if self.spread is None else self.spread
        sigmas = [row.number("sigma") for row in plan] + [0.0]
        radii = [spread_left(sigma, sd) for sigma in sigmas]
        a = (1.0,) * len(sigmas)
        if not posterior.measured.is_linear_gaussian:
            spread = posterior.prior.data_sd or sd
            a = trusted(posterior, sigmas, radii, spread, self.iterations)
        return SolverPlan(
            {**plan.columns, "r": tuple(radii[:-1]), "next_r": tuple(radii[1:])}
            | {"power": tuple(a[:-1]), "next_power": tuple(a[1:])}
        )

    def begun(self, posterior: Posterior, row: PlanRow, keys: Keys, like: Tensor) -> Moved:
        """Return noise of the first level, and its twist."""
        z = row.number("sigma") * keys.normals(posterior.space.shape, "tds: start", like=like)
        return self._looked(posterior, z, row.number("sigma"), row.number("r"), row.number("power"))

    def moved(
        self, posterior: Posterior, z: Tensor, carried: Mapping[str, Tensor], row: PlanRow, keys: Keys
    ) -> Moved:
        """Return the states at the next level with their estimates there, and what they gain."""
        estimate, pull, twist = carried["estimate"], carried["pull"], carried["twist"]
        sigma, after = row.number("sigma"), row.number("next_sigma")
        if after == 0:
            full = posterior.measured.log_likelihood(estimate)
            return Moved(estimate, full - twist, {**carried, "twist": full})
        keep = (after / sigma) ** 2
        sd = after * math.sqrt(1 - keep)
        white = keys.normals(z.shape[1:], "tds: step", like=z)
        d = min(sd, row.number("r")) ** 2 * pull
        wide, noise = (x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (d, white))
        gained = -(dots(wide, wide) + 2 * sd * dots(wide, noise)) / (2 * sd**2)
        moved = estimate + keep * (z - estimate) + d + sd * white
        looked = self._looked(posterior, moved, after, row.number("next_r"), row.number("next_power"))
        return Moved(moved, gained + looked.gained - twist, looked.carried)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one backward pass, and one A and one A^H or more per step."""
        steps = len(plan)
        calls = 2 if posterior.measured.is_linear_gaussian else 2 * self.iterations + 2
        return Cost(steps, steps if self.jacobian == "exact" else 0, calls * steps)

    def _looked(self, posterior: Posterior, z: Tensor, sigma: float, r: float, power: float) -> Moved:
        """Return the states with the prior's estimate, J^H of the step's d / r^2, and log psi."""
        likelihood = posterior.measured
        told: dict[str, Tensor] = {}

        def drive(estimate: Tensor) -> Tensor:
            if not likelihood.is_linear_gaussian:
                d, half = climb(likelihood, estimate, r, power=power, iterations=self.iterations)
                told["twist"] = power * reached(posterior, estimate) + half
                return d / r**2
            # (prox(D, r) - D) / r^2 is B^H (I + r^2 B B^H)^-1 e, and the value there is log psi.
            x, told["twist"] = likelihood.prox_value(estimate, r, tolerance=self.tolerance)
            return ((x - estimate) / r**2).to(estimate.dtype)

        estimate, pull = guided(posterior, z, sigma, drive, self.jacobian)
        twist = told["twist"]
        return Moved(z, twist, {"estimate": estimate, "pull": pull, "twist": twist})
