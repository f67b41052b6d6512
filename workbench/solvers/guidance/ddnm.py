"""DDNM: the measured part of each estimate is replaced by the data, as far as their noise leaves room.

    D = denoise(z, sigma),    q = U^H (z_data - B D),    z' = x + k (z - x) + eta V g V^H w
    spectral   x = D + V r q,                   r = min(1 / s, s'), 0 where not measured,   g^2 = s'^2 - r^2
    scalar     x = D + l B^+ (z_data - B D),    l = min(1, s' |B|),             g^2 = s'^2 - (l / |B|)^2
    none       x = D + B^+ (z_data - B D),                                      g = s'

(Wang, Yu and Zhang 2023.) k = sqrt(1 - eta^2) s' / sigma, s' is the next level, -log p(y | u) is
|B u - z_data|^2 / 2, B = U S V^H, w white noise. The paper's lambda is r s. The noise of the data is the same
in every step, and what steps add of it adds up to r; fresh noise g fills the rest of the level.
"scalar" takes all that is measured for as good as the best, which amplifies the noise of what is measured
badly. "none" is DDNM, for data without noise: B x = z_data on what is measured, exactly; the noise of data
that have some goes into every draw unchanged.

At the last step, s' = 0, no noise has room: lambda = 0, and the answer is D except for "none". `travel` has
each step done again from `travel` levels further up, to which z is lifted by fresh noise, as rows of the
plan: more evaluations, in which the measured and the other part come to agree.

What it is off by: lambda depends on the level alone and not on what the prior knows; what is measured badly
gets the noise of the data, the same for every draw, in place of its own. So draws are too much alike, and
all carry that noise where singular values are small but not zero: below s = 0.7 / data_sd, data_sd the
prior's spread, or up to `cutoff`, coefficients count as not measured. If all do, draws are the prior's. On
8 x 8 problems at 5 % noise and the defaults, 0.63 of the posterior's variance for a mask and 0.72 for a wide
blur ("scalar" 0.22 and 0.36), with means 0.3 posterior standard deviations off; 0.45 and 0.4 for a k-space
measured little better than the prior knows it. `workbench verify` holds it against closed forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import dots
from operators.checks import check_count
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, denoiser, measured_norm
from workbench.solvers.pull import check_choice
from workbench.solvers.singular import (
    check_cutoff,
    check_share,
    pseudo_inverse,
    require_pseudo_inverse,
    require_singular_values,
    residual,
    singular,
    unmeasured_share,
)

__all__ = ["DDNM"]

Weights = Literal["spectral", "scalar", "none"]
#: What counts as measured ends at the data: these should tell half, s^2 data_sd^2, of what the prior knows.
WORTH = 0.7


@dataclass(frozen=True)
class DDNM(Descent):
    """Approximate samples for linear operators with singular values or a pseudo-inverse in closed form.

    One evaluation and one A per row of the plan; besides products with U^H, V^H and V ("spectral"), or one
    B^+. `eta` is the share of fresh noise. Singular values up to `cutoff` times the largest count as zero;
    None is 0.7 of the prior's 1 / data_sd: what it knows better than the data is left to it.
    """

    steps: int = 100
    weights: Weights = "spectral"
    eta: float = 0.85
    travel: int = 0
    cutoff: float | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(
        linear_gaussian=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = (
        "Raise `cutoff`, use weights='spectral' or float64 data, or check the prior's units."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.weights, "weights", ("spectral", "scalar", "none"))
        check_share(self.eta, "eta")
        object.__setattr__(self, "travel", check_count(self.travel, "travel", minimum=0))
        check_cutoff(self.cutoff)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma, next_sigma and the sd of the noise that lifts z to sigma before, of every step."""
        if self.weights == "spectral":
            require_singular_values(posterior, type(self).__name__)
        else:
            require_pseudo_inverse(posterior, type(self).__name__)
        plan = super().plan(posterior)
        sigmas = [row.number("sigma") for row in plan] + [0.0]
        rows = []
        for index in range(len(plan)):
            first = max(0, index - self.travel)
            lift = math.sqrt(sigmas[first] ** 2 - sigmas[index] ** 2)
            for again in range(first, index + 1):
                rows.append((sigmas[again], sigmas[again + 1], lift if again == first else 0.0))
        levels, after, lifts = zip(*rows, strict=True)
        return SolverPlan({"sigma": levels, "next_sigma": after, "lift": lifts})

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return the step from z, lifted where the row says so."""
        if (lift := row.number("lift")) > 0:
            z = z + lift * keys.normals(posterior.space.shape, "ddnm: lift", like=z)
        estimate = denoiser(posterior).denoise(z, row.number("sigma"))
        difference = residual(posterior, estimate)
        info = Info(estimate, {"misfit": dots(difference, difference).sqrt()})
        after = row.number("next_sigma")
        if after == 0 and self.weights != "none":
            return estimate, info
        white = keys.normals(posterior.space.shape, "ddnm: step", like=z)
        kept = math.sqrt(1 - self.eta**2) * after / row.number("sigma")
        if self.weights == "spectral":
            parts = singular(posterior, self.cutoff, WORTH)
            # min(1 / s, s') of what is measured.
            taken = torch.where(after * parts.s >= 1, parts.inverse(1 / after), after).where(parts.s > 0, 0.0)
            noise = (after**2 - taken**2).clamp(min=0).sqrt()
            change = parts.image(
                ((1 - kept) * taken, parts.misfit(difference)), (self.eta * noise, parts.turned(white))
            )
            return estimate + kept * (z - estimate) + change, info
        weight, room = 1.0, after
        share = unmeasured_share(posterior, self.cutoff, WORTH, difference)
        if self.weights == "scalar":
            norm = measured_norm(posterior) if share < 1 else 0.0
            known = min(1 / norm, after) if norm > 0 else 0.0
            weight, room = known * norm, math.sqrt(after**2 - known**2)
        x = estimate + weight * pseudo_inverse(posterior, difference, share)
        return x + kept * (z - x) + self.eta * room * white, info

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation per step with one A, and one A^H in each pseudo-inverse."""
        del posterior
        inverses = {"spectral": 0, "scalar": len(plan) - 1, "none": len(plan)}[self.weights]
        return Cost(len(plan), 0, len(plan) + inverses)
