"""Exact draws from a linear-Gaussian posterior: draw from the prior, then correct it by a solve.

    v = w2 + (M^H M + I)^-1 M^H (d + w1 - M w2),    w1, w2 white    =>    v ~ p(v | y)

in the coordinates of `gaussian_system` (Matheron's rule; Hoffman and Ribak 1991). What was not measured
keeps the draw of the prior, digit by digit. The only error is that of the solve, in double precision
whatever the data come in: single precision would lose the spread at a high signal to noise. It is
measured in posterior standard deviations, by a bound from above (`white_solve`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.gaussian_system import GaussianSystem
from workbench.white_solve import WhiteState, white_start, white_step

__all__ = ["ExactGaussian", "ExactGaussianState"]


@dataclass(frozen=True)
class ExactGaussianState:
    """The draw from the prior, and its correction: under way, or known, or none without a measurement."""

    white: Tensor
    solve: WhiteState | None
    correction: Tensor | None


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
        wide = _wide(posterior, like)
        white = keys.normals(posterior.space.shape, "exact gaussian: prior", like=wide)
        if posterior.likelihood is None:
            return ExactGaussianState(white, None, None)
        system = GaussianSystem.of(posterior, wide)
        noise = keys.normals(system.matrix.codomain.shape, "exact gaussian: data", like=system.data)
        side = system.perturbed_side(noise, white)
        if system.matrix.has_closed_form:
            return ExactGaussianState(white, None, system.matrix.normal_solve(side, 1.0))
        return ExactGaussianState(white, white_start(system.apply, side), None)

    def step(
        self, posterior: Posterior, state: ExactGaussianState, row: PlanRow, keys: Keys
    ) -> tuple[ExactGaussianState, Info]:
        """Do one iteration."""
        del keys
        if state.solve is None:
            return state, Info(finished=True)
        system = GaussianSystem.of(posterior, state.white)
        solve = white_step(system.apply, state.solve, self.accuracy)
        error, finished = solve.error, solve.solve.finished
        if row.index + 1 == self.max_iterations and not finished:
            warnings.warn(
                f"ExactGaussian reached an accuracy of {float(error.max()):.1e} sd in "
                f"{solve.solve.iteration} iterations, not {self.accuracy:g}: its draws are not exact. "
                "Raise `max_iterations`.",
                ConvergenceWarning,
                stacklevel=2,
            )
        moved = ExactGaussianState(state.white, solve, None)
        return moved, Info(lambda: self.answer(posterior, moved), {"accuracy": error}, finished)

    def answer(self, posterior: Posterior, state: ExactGaussianState) -> Tensor:
        """Return u = mean + R v."""
        v = state.white
        if state.solve is not None:
            v = v + state.solve.solution
        elif state.correction is not None:
            v = v + state.correction
        prior = posterior.prior
        u: Tensor = prior.mean_like(v) + prior.root.apply(v)  # type: ignore[attr-defined]
        return u.to(posterior.like().dtype) if posterior.likelihood is not None else u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return what the right-hand side takes: A and its adjoint."""
        del plan
        return Cost(operator_calls=0 if posterior.likelihood is None else 2)


def _wide(posterior: Posterior, like: Tensor) -> Tensor:
    """Return `like` in double precision, if the physics can compute in it."""
    likelihood = posterior.likelihood
    if likelihood is None or torch.float64 not in likelihood.operator.dtypes:
        return like
    return like.to(torch.complex128 if like.is_complex() else torch.float64)
