"""DiffPIR: the data are met by a prox of the prior's estimate, and part of the noise is drawn anew.

    x = prox(D, sigma / sqrt(weight)) = argmin -log p(y | x) + weight |x - D|^2 / (2 sigma^2)
    z' = x + s' (sqrt(1 - zeta) (z - x) / sigma + sqrt(zeta) w),    D = denoise(z, sigma)

(Zhu et al. 2023; its lambda is `weight`, its rho weight times the noise's over the level's variance.) One
evaluation and one prox per step, no backward pass; any noise and any operator that a prox is known for.

What it is off by: the prox takes x given z for N(D, sigma^2 / weight) and its mode for a draw, and the noise
(z - x) / sigma that is kept is that of the prox, not of the path: the mean lags a few levels behind. The
variance is what `zeta` makes it, half of the posterior's at 1, eight or nine tenths at 0.3, and no number of
steps mends it. Above the prior's own spread, sigma / sqrt(weight) lets the data weigh too much.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning, value_error
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, ddim, denoiser

__all__ = ["DiffPIR"]

#: Newton steps of a prox that has no linear system: the next level corrects what they leave.
NEWTON_STEPS = 3


@dataclass(frozen=True)
class DiffPIR(Descent):
    """Approximate samples for any operator and any noise, without backward passes.

    `zeta` is the share of fresh noise in the variance of the next level's. `iterations` limits the prox:
    conjugate gradients of a linear-Gaussian likelihood without closed form, where None solves it and warns,
    once per run, if it could not; Newton steps of any other, 3 for None. A prox that is cut short by a number
    is a parameter of the method, and nothing to warn of. `tolerance` is the prox's, in its own standard
    deviations: 1e-4 in single, 1e-8 in double precision for None.
    """

    steps: int = 100
    weight: float = 1.0
    zeta: float = 0.3
    iterations: int | None = None
    tolerance: float | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = (
        "Take a larger weight, more iterations or float64 data, or check the prior's units."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.weight, "weight", positive=True)
        check_number(self.zeta, "zeta", non_negative=True)
        if self.zeta > 1:
            raise value_error(
                "zeta", "be between 0 and 1", self.zeta, "It is a share of the noise's variance."
            )
        if self.iterations is not None:
            check_count(self.iterations, "iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma, next_sigma and the r of the prox of every step."""
        plan = super().plan(posterior)
        return SolverPlan(
            {**plan.columns, "r": tuple(row.number("sigma") / self.weight**0.5 for row in plan)}
        )

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return the prox with old and fresh noise on it."""
        sigma = row.number("sigma")
        estimate = denoiser(posterior).denoise(z, sigma)
        x = self._prox(posterior, estimate, row.number("r"))
        return ddim(x, (z - x) / sigma, row, self.zeta**0.5, keys, "diffpir: step"), Info(x)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one A and one A^H per step."""
        del posterior
        return Cost(len(plan), 0, 2 * len(plan))

    def _prox(self, posterior: Posterior, c: Tensor, r: float) -> Tensor:
        likelihood = posterior.measured
        solved = self.iterations is None and likelihood.is_linear_gaussian
        limit = NEWTON_STEPS if self.iterations is None and not solved else self.iterations
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            x = likelihood.prox(c, r, tolerance=self.tolerance, max_iterations=limit)
        for warning in caught:
            if not issubclass(warning.category, ConvergenceWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            elif solved:
                text = str(warning.message)
                posterior.kept("diffpir: stopped short", lambda text=text: _warn(text))  # type: ignore[misc]
        return x


def _warn(text: str) -> bool:
    warnings.warn(f"DiffPIR, at one level or more: {text}", ConvergenceWarning, stacklevel=3)
    return True
