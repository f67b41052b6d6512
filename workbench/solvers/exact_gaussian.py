"""Exact draws from a linear-Gaussian posterior: perturb the right-hand side, and solve.

    (M^H M + I) v = M^H (d + w1) + w2,    w1, w2 white    =>    v ~ N(E[v | y], (M^H M + I)^-1)

in the coordinates of `gaussian_system` (Papandreou and Yuille 2010). The only error is that of the
solve, which ends where it is below `accuracy` standard deviations.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import dots
from operators.cg import CGState, cg_start, cg_step
from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.base import Info, Solver
from workbench.solvers.gaussian_system import GaussianSystem

__all__ = ["ExactGaussian", "ExactGaussianState"]


@dataclass(frozen=True)
class ExactGaussianState:
    """Conjugate gradients under way, or v where it is known."""

    solve: CGState | None
    v: Tensor | None


@dataclass(frozen=True)
class ExactGaussian(Solver[ExactGaussianState]):
    """Exact samples of a Gaussian prior under a linear-Gaussian likelihood, or of the prior alone.

    `accuracy` bounds the root mean square error of the solve, in standard deviations of the whitened
    prior: 1e-3 is far below what any number of draws can show. `max_iterations` is a limit, not a cost.
    """

    accuracy: float = 1e-3
    max_iterations: int = 2000

    kind: ClassVar[Kind] = Kind.EXACT_SAMPLE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(
        likelihood=False, linear_gaussian=True, priors=(Gaussian,)
    )
    state_type: ClassVar[type[ExactGaussianState]] = ExactGaussianState

    def __post_init__(self) -> None:
        check_number(self.accuracy, "accuracy", positive=True)
        check_count(self.max_iterations, "max_iterations")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration; what is solved in closed form uses the first alone."""
        return SolverPlan.steps(1 if posterior.likelihood is None else self.max_iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> ExactGaussianState:
        """Return the perturbed system, not solved yet."""
        white = keys.normals(posterior.space.shape, "exact gaussian: prior", like=like)
        if posterior.likelihood is None:
            return ExactGaussianState(None, white)
        system = GaussianSystem.of(posterior, like)
        noise = keys.normals(system.matrix.codomain.shape, "exact gaussian: data", like=system.data)
        side = system.right_side(len(keys.draws), noise, white)
        if system.matrix.has_closed_form:
            return ExactGaussianState(None, system.matrix.normal_solve(side, 1.0))
        # Eigenvalues are >= 1, so |error| <= |residual|: the goal is a length, not a share of the side.
        goal = self.accuracy * posterior.space.size**0.5
        length = dots(side, side).sqrt()
        tolerance = goal / torch.where(length > 0, length, 1.0)
        return ExactGaussianState(cg_start(system.apply, side, tolerance=tolerance), None)

    def step(
        self, posterior: Posterior, state: ExactGaussianState, row: PlanRow, keys: Keys
    ) -> tuple[ExactGaussianState, Info]:
        """Do one iteration."""
        del keys
        if state.solve is None:
            return state, Info(finished=True)
        system = GaussianSystem.of(posterior, state.solve.x)
        solve = state.solve if state.solve.finished else cg_step(system.apply, state.solve)
        residual = solve.relative_residual
        if row.index + 1 == self.max_iterations and not solve.finished:
            warnings.warn(
                f"ExactGaussian stopped at a relative residual of {float(residual.max()):.1e} after "
                f"{self.max_iterations} iterations: its draws are not exact. Raise `max_iterations`.",
                ConvergenceWarning,
                stacklevel=2,
            )
        info = Info(lambda: system.to_u(solve.solution), {"relative_residual": residual}, solve.finished)
        return ExactGaussianState(solve, None), info

    def answer(self, posterior: Posterior, state: ExactGaussianState) -> Tensor:
        """Return u = mean + R v."""
        v = state.solve.solution if state.solve is not None else state.v
        prior = posterior.prior
        u: Tensor = prior.mean_like(v) + prior.root.apply(v)  # type: ignore[attr-defined]
        return u
