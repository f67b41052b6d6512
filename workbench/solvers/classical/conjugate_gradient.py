"""Conjugate gradients: the least-squares image, or the posterior mean of a Gaussian prior.

    flat prior       argmin |B u - z|^2, from u = 0: iterations go from the well to the badly measured
    Gaussian prior   argmin |B u - z|^2 + |S^-1/2 (u - mean)|^2: mean and mode of the posterior

With a flat prior an early stop is the only regularisation there is: the number of iterations is
then a parameter of the answer, as it is in iterative SENSE. With a Gaussian prior it is a limit: the
answer is known to a share of the posterior's standard deviation, in double precision (`white_solve`).
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
from workbench.solvers.gaussian_system import GaussianSystem, SystemSolve, warn_if_short, wide_like

__all__ = ["ConjugateGradient", "ConjugateGradientState"]

#: Iterations with a flat prior, where they regularise, and at most with a Gaussian one; its accuracy in sd.
FLAT_ITERATIONS, GAUSSIAN_ITERATIONS, ACCURACY = 30, 5000, 1e-5


@dataclass(frozen=True)
class ConjugateGradientState:
    """The iteration on u with a flat prior, or on v = R^-1 (u - mean) with a Gaussian one."""

    solve: CGState | SystemSolve


@dataclass(frozen=True)
class ConjugateGradient(Solver[ConjugateGradientState]):
    """At most `iterations` of conjugate gradients, fewer where `tolerance` is met.

    With a flat prior: 30 of them unless told otherwise, and `tolerance` is the relative residual; None asks
    for what the precision can hold. With a Gaussian prior: a limit of 5000, and `tolerance` bounds the error
    in posterior standard deviations, root mean square, 1e-5 for None; a warning says where it is not met.
    """

    iterations: int | None = None
    tolerance: float | None = None

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear_gaussian=True, priors=(Flat, Gaussian))
    state_type: ClassVar[type[ConjugateGradientState]] = ConjugateGradientState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.iterations is not None:
            check_count(self.iterations, "iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        return SolverPlan.steps(self._most(posterior))

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> ConjugateGradientState:
        """Return u = 0, or the mean of the prior."""
        batch = len(keys.draws)
        if isinstance(posterior.prior, Gaussian):
            system = GaussianSystem.of(posterior, wide_like(posterior, like))
            return ConjugateGradientState(system.started(system.right_side(batch)))
        system = GaussianSystem.of(posterior, like)
        return ConjugateGradientState(
            cg_start(system.apply, system.right_side(batch), tolerance=self.tolerance)
        )

    def step(
        self, posterior: Posterior, state: ConjugateGradientState, row: PlanRow, keys: Keys
    ) -> tuple[ConjugateGradientState, Info]:
        """Do one iteration."""
        del keys
        if isinstance(state.solve, CGState):
            system = GaussianSystem.of(posterior, state.solve.x)
            flat = state.solve if state.solve.finished else cg_step(system.apply, state.solve)
            values = {"relative_residual": flat.relative_residual}
            return ConjugateGradientState(flat), Info(lambda: flat.solution, values, flat.finished)
        accuracy = ACCURACY if self.tolerance is None else self.tolerance
        solve = self._system(posterior).stepped(state.solve, accuracy)
        if solve.finished or row.index + 1 == self._most(posterior):
            consequence = "its answer is not the posterior mean"
            warn_if_short(solve, accuracy, type(self).__name__, consequence, "Raise `iterations`.")
        moved = ConjugateGradientState(solve)
        return moved, Info(lambda: self.answer(posterior, moved), solve.values, solve.finished)

    def answer(self, posterior: Posterior, state: ConjugateGradientState) -> Tensor:
        """Return u as it stands."""
        solve = state.solve
        if isinstance(solve, CGState):
            return solve.solution
        return self._system(posterior).to_u(solve.solution).to(posterior.like().dtype)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the one back-projection that no data can spare."""
        del posterior, plan
        return Cost(operator_calls=1)

    def _most(self, posterior: Posterior) -> int:
        if self.iterations is not None:
            return self.iterations
        return GAUSSIAN_ITERATIONS if isinstance(posterior.prior, Gaussian) else FLAT_ITERATIONS

    @staticmethod
    def _system(posterior: Posterior) -> GaussianSystem:
        return GaussianSystem.of(posterior, wide_like(posterior, posterior.like()))
