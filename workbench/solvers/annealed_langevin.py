"""Annealed Langevin dynamics: from wide to narrow, each level a few steps of noisy ascent.

At level sigma the target is p_sigma(z) p(y | z)^b(sigma): the prior smoothed by sigma, whose score is
(denoise(z, sigma) - z) / sigma^2, times the likelihood tempered to what it could say of a z that is
sigma off,

    b = 1 / (1 + sigma^2 |B|^2),    h = fraction / (1 / sigma^2 + b |B|^2)
    z' = z + h (score_sigma(z) + b grad log p(y | z)) + sqrt(2 h) w

with |B| the norm of the whitened operator (Song and Ermon 2019; the tempering after Jalal et al. 2021).
What is left of bias: steps of finite length (a share of about fraction / 2 of the variance in the
stiffest direction), levels too far apart for `steps_per_level` steps, and sigma_min itself. It falls
with a smaller fraction and more steps; nothing corrects for it, so its draws are approximate.

Measured at the defaults from 3.0 down to 0.01, the exact law of the chain against the dense posterior of
small problems: CT and a wide blur have their mean off by 0.1 to 0.3 posterior sd (rms) and their sd 4 to
11 % high, a random matrix of 40 x 64 by 0.4 sd and 28 %: the worse the more ill-conditioned. A mask and
coils come within 0.05 sd and 2 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import value_error
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["AnnealedLangevin", "LangevinState"]


@dataclass(frozen=True)
class LangevinState:
    """Where the chains are."""

    z: Tensor


@dataclass(frozen=True)
class AnnealedLangevin(Solver[LangevinState]):
    """`levels` noise levels from `sigma_max` to `sigma_min`, evenly spaced in the logarithm, in units of u.

    `sigma_max` should be at least the spread of the prior, `sigma_min` far below that of the posterior.
    """

    sigma_max: float
    sigma_min: float
    levels: int = 40
    steps_per_level: int = 20
    fraction: float = 0.2

    kind: ClassVar[Kind] = Kind.APPROXIMATE_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        likelihood=False, linear_gaussian=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[LangevinState]] = LangevinState
    remedy: ClassVar[str] = "Lower `fraction`, or check the units of the prior."

    def __post_init__(self) -> None:
        low = check_number(self.sigma_min, "sigma_min", positive=True)
        if check_number(self.sigma_max, "sigma_max", positive=True) <= low:
            raise value_error("sigma_max", f"be larger than sigma_min = {low:g}", self.sigma_max)
        check_count(self.levels, "levels", minimum=2)
        check_count(self.steps_per_level, "steps_per_level")
        if not 0 < check_number(self.fraction, "fraction") < 1:
            raise value_error("fraction", "be between 0 and 1", self.fraction, "At 2 the steps diverge.")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return level, tempering and step length of every step."""
        square = 0.0
        if posterior.likelihood is not None:
            operator = posterior.measured.whitened[0]
            square = posterior.kept("norm of B", operator.norm) ** 2
        ratio = (self.sigma_min / self.sigma_max) ** (1 / (self.levels - 1))
        rows = []
        for level in range(self.levels):
            sigma = self.sigma_max * ratio**level
            tempering = 1 / (1 + sigma**2 * square)
            length = self.fraction / (1 / sigma**2 + tempering * square)
            rows += [(sigma, tempering, length)] * self.steps_per_level
        sigmas, temperings, lengths = zip(*rows, strict=True)
        return SolverPlan({"sigma": sigmas, "tempering": temperings, "step": lengths})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> LangevinState:
        """Return draws of sigma_max noise."""
        white = keys.normals(posterior.space.shape, "langevin: start", like=like)
        return LangevinState(self.sigma_max * white)

    def step(
        self, posterior: Posterior, state: LangevinState, row: PlanRow, keys: Keys
    ) -> tuple[LangevinState, Info]:
        """Do one step at the row's level."""
        z, sigma, length = state.z, row.number("sigma"), row.number("step")
        estimate = posterior.prior.denoise(z, sigma)  # type: ignore[attr-defined]
        drift = (estimate - z) / sigma**2
        if posterior.likelihood is not None:
            drift = drift + row.number("tempering") * posterior.measured.gradient(z)
        noise = keys.normals(posterior.space.shape, "langevin: step", like=z)
        return LangevinState(z + length * drift + (2 * length) ** 0.5 * noise), Info(estimate)

    def answer(self, posterior: Posterior, state: LangevinState) -> Tensor:
        """Return the last z."""
        del posterior
        return state.z

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation and one residual's way there and back per step."""
        return Cost(len(plan), 0, 0 if posterior.likelihood is None else 2 * len(plan))
