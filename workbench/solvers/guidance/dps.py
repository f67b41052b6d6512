"""Diffusion posterior sampling: ancestral steps, pulled towards the data through the prior's derivative.

    e = W (y - A D),    g = J^H A^H W^H e,    D = denoise(z, sigma),    J = dD / dz
    norm    z' = ancestral(z, D) + zeta g / |e|,              zeta = scale * sd / |B|
    bayes   z' = ancestral(z, D) + h g,    h = scale (sigma^2 - s'^2), at most 1 / |B|^2

(Chung et al. 2023.) W whitens the noise, |e| is that of each draw alone, sd is the prior's spread and |B|
the norm of W A, so that `scale` has no unit: the paper's 0.3 to 1 for images in [-1, 1] is about 0.6 to 2.
The second form is the step that Bayes' rule asks for if y were A D + noise, as long as it does not overshoot:
h |B|^2 <= 1 contracts what is off along every direction of any Gaussian prior, and bites where steps are few,
the signal to noise high or the prior far wider in some directions than in the mean.

What it is off by: both take p(y | z) for N(y; A D, noise) and neglect the spread of x given z, so that data
are over-trusted at high noise. The norm form besides pulls equally hard however well the data fit, and
ignores how noisy they are: near the end it jitters by zeta along the measured directions. Where 1 / |B|^2
limits the Bayes form, what is measured far worse than the best direction stays near the prior: with singular
values from 1 to 0.05, draws of 1000 steps miss the data by 3 of their standard deviations at sd |B| = 80, by
14 at 800. `workbench verify` holds it against closed forms and prints how far it is off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import column
from operators.checks import check_number
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, ancestral, data_sd
from workbench.solvers.pull import (
    Jacobian,
    check_choice,
    curvature_norm,
    guided,
    pulled_residual,
    require_differentiable,
)

__all__ = ["DPS"]

Form = Literal["norm", "bayes"]

#: Scale of each form where none is given.
SCALES: dict[str, float] = {"norm": 0.3, "bayes": 1.0}


@dataclass(frozen=True)
class DPS(Descent):
    """Approximate samples for any differentiable operator and, in the form "bayes", any noise.

    One evaluation and one backward pass of the prior, one A and one A^H per step. `scale` None is 0.3
    ("norm") or 1 ("bayes"). `jacobian` "detached" goes without the backward pass, see solvers/pull.py.
    """

    steps: int = 1000
    form: Form = "norm"
    scale: float | None = None
    jacobian: Jacobian = "exact"

    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    state_type: ClassVar[type[DescentState]] = DescentState

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.form, "form", ("norm", "bayes"))
        check_choice(self.jacobian, "jacobian", ("exact", "detached"))
        if self.scale is not None:
            check_number(self.scale, "scale", positive=True)

    @property
    def factor(self) -> float:
        """The scale that is used."""
        return SCALES[self.form] if self.scale is None else self.scale

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma, next_sigma and the multiple of g (of g / |e|) of every step."""
        if self.jacobian == "exact":
            require_differentiable(posterior)
        plan, sd = super().plan(posterior), posterior.prior.data_sd
        # Where the prior knows no spread, only a linear-Gaussian measurement knows its norm.
        known = self.form == "norm" or posterior.measured.is_linear_gaussian or sd is not None
        norm = curvature_norm(posterior) if known else 0.0
        if self.form == "bayes":
            most = 1 / norm**2 if norm > 0 else math.inf
            pulls = tuple(min(self.factor * (sigma**2 - after**2), most) for sigma, after in pairs(plan))
            return SolverPlan({**plan.columns, "pull": pulls})
        zeta = self.factor * data_sd(posterior, "form") / norm if norm > 0 else 0.0
        return SolverPlan({**plan.columns, "pull": (zeta,) * len(plan)})

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return the ancestral step plus the pull."""
        told: dict[str, Tensor] = {}

        def drive(estimate: Tensor) -> Tensor:
            if self.form == "bayes":
                return posterior.measured.gradient(estimate)
            misfit, pull = pulled_residual(posterior, estimate)
            told["misfit"] = misfit
            # Where the data are met there is nothing to pull by.
            return pull / column(torch.where(misfit > 0, misfit, 1.0), pull)

        estimate, pull = guided(posterior, z, row.number("sigma"), drive, self.jacobian)
        moved = ancestral(z, estimate, row, keys, "dps: step") + row.number("pull") * pull
        return moved, Info(estimate, told)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one backward pass, one A and one A^H per step."""
        del posterior
        steps = len(plan)
        return Cost(steps, steps if self.jacobian == "exact" else 0, 2 * steps)


def pairs(plan: SolverPlan) -> list[tuple[float, float]]:
    """Return sigma and next_sigma of every row."""
    return [(row.number("sigma"), row.number("next_sigma")) for row in plan]
