"""Exact draws from a linear-Gaussian posterior: draw from the prior, then correct it by a solve.

    v = w2 + (M^H M + I)^-1 M^H (d + w1 - M w2),    w1, w2 white    =>    v ~ p(v | y)

in the coordinates of `gaussian_system` (Matheron's rule; Hoffman and Ribak 1991). What was not measured
keeps the draw of the prior, digit by digit. The only error is that of the solve, in double precision
whatever the data come in: single precision would lose the spread at a high signal to noise. It is
measured in posterior standard deviations, by a bound from above (`white_solve`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from operators.checks import check_count, check_number
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.gaussian_system import GaussianSystem, SystemSolve, warn_if_short, wide_like

__all__ = ["ExactGaussian", "ExactGaussianState"]


@dataclass(frozen=True)
class ExactGaussianState:
    """The draw from the prior, and its correction; none without a measurement."""

    white: Tensor
    correction: SystemSolve | None


@dataclass(frozen=True)
class ExactGaussian(Solver[ExactGaussianState]):
    """Exact samples of a Gaussian prior under a linear-Gaussian likelihood, or of the prior alone.

    `accuracy` bounds the root mean square error of the solve, in posterior standard deviations: small
    enough for draws to be the same in any company to 1e-5. Where it is not reached, a warning says so.
    `max_iterations` is a limit, not a cost.
    """

    accuracy: float = 1e-5
    max_iterations: int = 5000

    kind: ClassVar[Kind] = Kind.EXACT_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        likelihood=False, linear_gaussian=True, priors=(Gaussian,)
    )
    state_type: ClassVar[type[ExactGaussianState]] = ExactGaussianState
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.accuracy, "accuracy", positive=True)
        check_count(self.max_iterations, "max_iterations")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration; what is solved in closed form uses the first alone."""
        return SolverPlan.steps(1 if posterior.likelihood is None else self.max_iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> ExactGaussianState:
        """Return a draw from the prior and the system of its correction, not solved yet."""
        wide = wide_like(posterior, like)
        white = keys.normals(posterior.space.shape, "exact gaussian: prior", like=wide)
        if posterior.likelihood is None:
            return ExactGaussianState(white, None)
        system = GaussianSystem.of(posterior, wide)
        noise = keys.normals(system.matrix.codomain.shape, "exact gaussian: data", like=system.data)
        return ExactGaussianState(white, system.started(system.perturbed_side(noise, white)))

    def step(
        self, posterior: Posterior, state: ExactGaussianState, row: PlanRow, keys: Keys
    ) -> tuple[ExactGaussianState, Info]:
        """Do one iteration."""
        del keys
        if state.correction is None:
            return state, Info(finished=True)
        system = GaussianSystem.of(posterior, state.white)
        solve = system.stepped(state.correction, self.accuracy)
        if solve.finished or row.index + 1 == self.max_iterations:
            consequence = "its draws are not exact"
            warn_if_short(solve, self.accuracy, type(self).__name__, consequence, "Raise `max_iterations`.")
        moved = ExactGaussianState(state.white, solve)
        return moved, Info(lambda: self.answer(posterior, moved), solve.values, solve.finished)

    def answer(self, posterior: Posterior, state: ExactGaussianState) -> Tensor:
        """Return u = mean + R v."""
        v = state.white if state.correction is None else state.white + state.correction.solution
        prior = posterior.prior
        u: Tensor = prior.mean_like(v) + prior.root.apply(v)  # type: ignore[attr-defined]
        return u.to(posterior.like().dtype) if posterior.likelihood is not None else u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return what the right-hand side takes: A and its adjoint."""
        del plan
        return Cost(operator_calls=0 if posterior.likelihood is None else 2)
