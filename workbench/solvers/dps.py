"""Diffusion posterior sampling: ancestral steps, pulled towards the data through the prior's derivative.

    e = W (y - A D),    g = J^H A^H W^H e,    D = denoise(z, sigma),    J = dD / dz
    norm    z' = ancestral(z, D) + zeta g / |e|,              zeta = scale * sd / |B|
    bayes   z' = ancestral(z, D) + scale (sigma^2 - s'^2) g

(Chung et al. 2023.) W whitens the noise, |e| is that of each draw alone, sd is the prior's spread and |B|
the norm of W A, so that `scale` has no unit: the paper's 0.3 to 1 for images in [-1, 1] is about 0.6 to 2.
The second form is the step that Bayes' rule asks for if y were A D + noise.

What it is off by: both take p(y | z) for N(y; A D, noise) and neglect the spread of x given z, so that data
are over-trusted at high noise. The norm form besides pulls equally hard however well the data fit, and
ignores how noisy they are: near the end it jitters by zeta along the measured directions. `workbench verify`
holds it against closed forms and prints how far its mean, spread and coverage are off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import column
from operators.checks import check_number
from operators.errors import value_error
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, ancestral, data_sd, measured_norm
from workbench.solvers.guidance import (
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
#: By how much steps may blow up a deviation of the best measured direction on the way.
GROWTH = 10.0
#: Beyond so many steps none are proposed.
MOST_STEPS = 10**5


@dataclass(frozen=True)
class DPS(Descent):
    """Approximate samples for any differentiable operator and, in the form "bayes", any noise.

    One evaluation and one backward pass of the prior, one A and one A^H per step. `scale` None is 0.3
    ("norm") or 1 ("bayes"). `jacobian` "detached" goes without the backward pass, see solvers/guidance.py.
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
        plan = super().plan(posterior)
        if self.form == "bayes":
            self._refuse_unstable(posterior, plan)
            pulls = tuple(self.factor * (sigma**2 - after**2) for sigma, after in pairs(plan))
            return SolverPlan({**plan.columns, "pull": pulls})
        norm = curvature_norm(posterior)
        zeta = self.factor * data_sd(posterior, "scale") / norm if norm > 0 else 0.0
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

    def _refuse_unstable(self, posterior: Posterior, plan: SolverPlan) -> None:
        """Raise where explicit steps along the best measured direction overshoot again and again."""
        spread = posterior.prior.data_sd
        if spread is None or not posterior.measured.is_linear_gaussian:
            return
        pull, limit = self.factor * measured_norm(posterior) ** 2, math.log(GROWTH)
        if largest_growth(pairs(plan), spread, pull) <= limit:
            return
        last = max(row.number("sigma") for row in plan if row.number("next_sigma") == 0)
        if pull * last**2 > 2:
            # No number of steps shortens the last one.
            wanted = f"end below sigma = {(2 / pull) ** 0.5:.2g}, the last level, at this signal to noise"
            raise value_error(
                "levels", wanted, f"{last:.3g}", "Or take form='norm', whose steps have a bound."
            )
        enough = self.steps
        while enough < MOST_STEPS and largest_growth(self._levels(posterior, enough), spread, pull) > limit:
            enough *= 2
        remedy = "Take so many, a smaller scale, or form='norm', whose steps have a bound."
        wanted = f"be enough for steps that do not overshoot at this signal to noise, about {enough}"
        raise value_error("steps", wanted, self.steps, remedy)

    def _levels(self, posterior: Posterior, steps: int) -> list[tuple[float, float]]:
        return pairs(Descent.plan(replace(self, steps=steps), posterior))


def pairs(plan: SolverPlan) -> list[tuple[float, float]]:
    """Return sigma and next_sigma of every row."""
    return [(row.number("sigma"), row.number("next_sigma")) for row in plan]


def largest_growth(levels: list[tuple[float, float]], spread: float, pull: float) -> float:
    """Return the logarithm of the largest factor by which consecutive steps multiply a deviation.

    For an isotropic Gaussian prior a step multiplies that of the best measured direction by
    j + k (1 - j) - (sigma^2 - s'^2) scale |B|^2 j^2, j = sd^2 / (sd^2 + sigma^2); `pull` is scale |B|^2.
    """
    largest = running = 0.0
    for sigma, after in levels:
        j, keep = spread**2 / (spread**2 + sigma**2), (after / sigma) ** 2
        factor = abs(j + keep * (1 - j) - (sigma**2 - after**2) * pull * j**2)
        running = max(0.0, running + math.log(max(factor, 1e-300)))
        largest = max(largest, running)
    return largest
