"""Conjugate gradients: the least-squares image, or the posterior mean of a Gaussian prior.

    flat prior       argmin |B u - z|^2, from u = 0: iterations go from the well to the badly measured
    Gaussian prior   argmin |B u - z|^2 + |S^-1/2 (u - mean)|^2: mean and mode of the posterior

With a flat prior an early stop is the only regularisation there is: the number of iterations is
then a parameter of the answer, as it is in iterative SENSE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from operators.cg import CGState, cg_start, cg_step
from operators.checks import check_count, check_number
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.gaussian_system import GaussianSystem

__all__ = ["ConjugateGradient"]


@dataclass(frozen=True)
class ConjugateGradient(Solver[CGState]):
    """At most `iterations` of conjugate gradients, fewer where the relative residual is below `tolerance`.

    `tolerance` None asks for what the precision can hold.
    """

    iterations: int = 30
    tolerance: float | None = None

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear_gaussian=True, priors=(Flat, Gaussian))
    state_type: ClassVar[type[CGState]] = CGState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.iterations, "iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        del posterior
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> CGState:
        """Return v = 0: u = 0, or the mean of the prior."""
        system = GaussianSystem.of(posterior, like)
        return cg_start(system.apply, system.right_side(len(keys.draws)), tolerance=self.tolerance)

    def step(self, posterior: Posterior, state: CGState, row: PlanRow, keys: Keys) -> tuple[CGState, Info]:
        """Do one iteration."""
        del row, keys
        system = GaussianSystem.of(posterior, state.x)
        moved = state if state.finished else cg_step(system.apply, state)
        values = {"relative_residual": moved.relative_residual}
        return moved, Info(lambda: system.to_u(moved.solution), values, moved.finished)

    def answer(self, posterior: Posterior, state: CGState) -> Tensor:
        """Return u as it stands."""
        return GaussianSystem.of(posterior, state.x).to_u(state.solution)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the one back-projection that no data can spare."""
        del posterior, plan
        return Cost(operator_calls=1)
