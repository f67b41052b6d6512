"""DDRM: every coefficient of the image in the basis of B = U S V^H is drawn by how well it is measured.

    D = denoise(z, sigma),    e = V^H (z - D) / sigma,    q = U^H (z_data - B D),    w = V^H noise
    not measured          V^H z' = V^H D + s' (sqrt(1 - eta^2) e + eta w)
    measured, s s' < 1    V^H z' = V^H D + s' (sqrt(1 - eta^2) q + eta w)
    measured, s s' >= 1   V^H z' = V^H D + eta_b q / s + sqrt(s'^2 - (eta_b / s)^2) w

(Kawar et al. 2022.) Here -log p(y | u) is |B u - z_data|^2 / 2, so that V^H u is measured with sd 1 / s, and
s' is the next level; at s' = 0 all is D. The start at the first level s' is
U^H z_data / s + sqrt(s'^2 - 1 / s^2) w where s s' > 1, else noise.

What it is off by: coefficients are drawn one by one, each from the data or from D, where Bayes' rule weighs
the two; one that is known less well from the data than z is noisy gets q, the noise of the data and the
same for every draw, in place of its own. So draws are too much alike, most where singular values are small
but not zero: below s = 1 / (3 data_sd), data_sd the prior's spread, or up to `cutoff`, coefficients count as
not measured. On 8 x 8 problems at 5 % noise and the defaults, 0.56 of the posterior's variance for a mask
and for a wide blur (0.27 were all of it measured), 0.4 for an ill-measured k-space, with means 0.1 to 0.2
posterior standard deviations off. `workbench verify` holds it against closed forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import dots
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, denoiser
from workbench.solvers.singular import (
    check_cutoff,
    check_share,
    require_singular_values,
    residual,
    singular,
    whitened_data,
)

__all__ = ["DDRM"]

#: Data pull by s' s only what they measure badly: a tenth, s^2 data_sd^2, of what the prior knows will do.
WORTH = 1 / 3


@dataclass(frozen=True)
class DDRM(Descent):
    """Approximate samples for linear operators that know their singular values, in few steps.

    One evaluation and one A per step, and the products with U^H, V^H and V. `eta` is the share of fresh
    noise, `eta_b` that of the data in a coefficient known better than z. Singular values up to `cutoff`
    times the largest count as zero; None is 1 / 3 of the prior's 1 / data_sd.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    cutoff: float | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(
        linear_gaussian=True, svd=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = "Raise `cutoff`, use float64 data, or check the prior's units."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.eta, "eta")
        check_share(self.eta_b, "eta_b")
        check_cutoff(self.cutoff)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step."""
        require_singular_values(posterior, type(self).__name__)
        return super().plan(posterior)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> DescentState:
        """Return the data and noise up to the first level where the data are better than it, else noise."""
        parts = singular(posterior, self.cutoff, WORTH)
        level = self.plan(posterior).row(0).number("sigma")
        white = keys.normals(posterior.space.shape, "ddrm: start", like=like)
        inverse = parts.inverse(1 / level)
        noise = (level**2 - inverse**2).clamp(min=0).sqrt()
        data = parts.misfit(whitened_data(posterior, white)[None])
        return DescentState(parts.image((noise, parts.turned(white)), (inverse, data)))

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return what the three rules make of every coefficient."""
        parts = singular(posterior, self.cutoff, WORTH)
        level, after = row.number("sigma"), row.number("next_sigma")
        estimate = denoiser(posterior).denoise(z, level)
        difference = residual(posterior, estimate)
        info = Info(estimate, {"misfit": dots(difference, difference).sqrt()})
        if after == 0:
            return estimate, info
        keep = after * math.sqrt(1 - self.eta**2)
        inverse = parts.inverse(1 / after)
        sharp = inverse > 0
        from_data = torch.where(sharp, self.eta_b * inverse, keep).where(parts.s > 0, 0.0)
        fresh = torch.where(
            sharp, (after**2 - (self.eta_b * inverse) ** 2).clamp(min=0).sqrt(), self.eta * after
        )
        old = torch.full_like(parts.s, keep / level).where(parts.s == 0, 0.0)
        white = keys.normals(posterior.space.shape, "ddrm: step", like=z)
        change = parts.image(
            (from_data, parts.misfit(difference)),
            (old, parts.turned(z - estimate)),
            (fresh, parts.turned(white)),
        )
        return estimate + change, info

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation and one A per step."""
        del posterior
        return Cost(len(plan), 0, len(plan))
