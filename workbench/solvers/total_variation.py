"""Total variation by a primal-dual method: argmin -log p(y | u) + weight * sum |grad u|.

    K = [B; D],  F(m, g) = f(m) + weight |g|_1,  G(u) = indicator of u >= lower
    p  = p + s K (2 u - u_before)     then  p  <- prox of s F*  =  p - s prox_{F / s}(p / s)
    u' = clip(u - t K^H p)

(Chambolle and Pock 2011.) f is |m - z|^2 / 2 of the whitened data where the likelihood is
linear-Gaussian, else -log p(y | m), through the noise's own prox in the space of the data. Steps are
s_B = rho / |B|, s_D = rho / |D|, t = 1 / (rho (|B| + |D|)), which converge for any rho; rho is moved
to balance the primal and the dual residual, ever less (after Goldstein et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from operators.differences import FiniteDifferences
from operators.linear import LinearOperator
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["TotalVariation", "TotalVariationState"]

#: How much the balance of steps moves at first, and what is left of that after each move.
MOVE, FADING = 0.5, 0.95


@dataclass(frozen=True)
class TotalVariationState:
    """u, its images under B and D, the dual variables of both, and the balance of the steps."""

    u: Tensor
    image: Tensor
    slope: Tensor
    image_before: Tensor
    slope_before: Tensor
    data_dual: Tensor
    slope_dual: Tensor
    rho: float
    move: float


@dataclass(frozen=True)
class TotalVariation(Solver[TotalVariationState]):
    """The image of least -log p(y | u) + weight * sum over voxels of |grad u|, per mm.

    `weight` is in mm / (unit of u): at 0 it is maximum likelihood. `lower` is a bound on the physical
    image, such as 0 for attenuation. It ends after `iterations`, or where both residuals are below
    `tolerance` of what they are made of. Isotropic; of a vector field each component by itself.
    """

    weight: float
    lower: float | None = None
    iterations: int = 1000
    tolerance: float = 1e-4

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear=True, priors=(Flat,))
    state_type: ClassVar[type[TotalVariationState]] = TotalVariationState
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.weight, "weight", non_negative=True)
        check_count(self.iterations, "iterations")
        check_number(self.tolerance, "tolerance", positive=True)
        if self.lower is not None:
            check_number(self.lower, "lower")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        del posterior
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> TotalVariationState:
        """Return u = 0, or the bound where 0 is below it."""
        model = _Model.of(posterior)
        u = self._bounded(posterior, like.new_zeros(len(keys.draws), *posterior.space.shape))
        image, slope = model.forward.apply(u), model.gradient.apply(u)
        data_dual = torch.zeros_like(image)
        # The balance that suits an image of the size that the first back-projection suggests.
        pull = model.forward.apply_adjoint(model.descent(image))
        size = float((pull / model.norms[0] ** 2).abs().max())
        return TotalVariationState(
            u=u,
            image=image,
            slope=slope,
            image_before=image,
            slope_before=slope,
            data_dual=data_dual,
            slope_dual=torch.zeros_like(slope),
            rho=1 / size if size > 0 else 1.0,
            move=MOVE,
        )

    def step(
        self, posterior: Posterior, state: TotalVariationState, row: PlanRow, keys: Keys
    ) -> tuple[TotalVariationState, Info]:
        """Do one primal-dual iteration."""
        del row, keys
        s, model = state, _Model.of(posterior)
        norm_b, norm_d = model.norms
        step_b, step_d, step_u = s.rho / norm_b, s.rho / norm_d, 1 / (s.rho * (norm_b + norm_d))

        # Dual steps.
        point = s.data_dual + step_b * (2 * s.image - s.image_before)
        data_dual = point - step_b * model.prox(point / step_b, 1 / step_b)
        slope_dual = self._projected(s.slope_dual + step_d * (2 * s.slope - s.slope_before))
        # Primal step.
        pull_b = model.forward.apply_adjoint(data_dual)
        u = self._bounded(posterior, s.u - step_u * (pull_b + model.gradient.apply_adjoint(slope_dual)))
        image, slope = model.forward.apply(u), model.gradient.apply(u)

        # What is missing from the optimality conditions 0 in dG(u) + K^H p, 0 in dF*(p) - K u.
        primal = _norm(s.u - u) / step_u
        dual_b = _norm((s.data_dual - data_dual) / step_b + 2 * s.image - s.image_before - image)
        dual_d = _norm((s.slope_dual - slope_dual) / step_d + 2 * s.slope - s.slope_before - slope)
        rho, move = s.rho, s.move
        costs = step_u * primal**2, step_b * dual_b**2 + step_d * dual_d**2
        if costs[0] > 4 * costs[1]:
            rho, move = rho * (1 - move), move * FADING
        elif costs[1] > 4 * costs[0]:
            rho, move = rho / (1 - move), move * FADING
        shares = (
            _share(primal, _norm(pull_b)),
            _share(dual_b, _norm(image)),
            _share(dual_d, _norm(slope)),
        )
        values = {
            "objective": model.misfit(image) + self.weight * _magnitude(slope).double().flatten(1).sum(1),
            "residual": image.real.new_tensor(max(shares)).expand(u.shape[0]),
        }
        moved = TotalVariationState(
            u=u,
            image=image,
            slope=slope,
            image_before=s.image,
            slope_before=s.slope,
            data_dual=data_dual,
            slope_dual=slope_dual,
            rho=rho,
            move=move,
        )
        return moved, Info(u, values, finished=max(shares) <= self.tolerance)

    def answer(self, posterior: Posterior, state: TotalVariationState) -> Tensor:
        """Return u as it stands."""
        del posterior
        return state.u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return A and its adjoint at the start and in the first step."""
        del posterior, plan
        return Cost(operator_calls=4)

    def _projected(self, dual: Tensor) -> Tensor:
        """Return the nearest dual field of magnitude at most `weight` in every voxel."""
        if self.weight == 0:
            return torch.zeros_like(dual)
        return dual / (_magnitude(dual) / self.weight).clamp(min=1).unsqueeze(1)

    def _bounded(self, posterior: Posterior, u: Tensor) -> Tensor:
        if self.lower is None:
            return u
        return u.clamp(min=float(posterior.from_physical(torch.tensor(self.lower, dtype=torch.float64))))


@dataclass(frozen=True, eq=False)
class _Model:
    """f, B and D of a posterior."""

    posterior: Posterior
    forward: LinearOperator
    gradient: FiniteDifferences
    norms: tuple[float, float]

    @classmethod
    def of(cls, posterior: Posterior) -> _Model:
        return posterior.kept("total variation", lambda: cls._made(posterior))

    @classmethod
    def _made(cls, posterior: Posterior) -> _Model:
        likelihood, gradient = posterior.measured, FiniteDifferences(posterior.space)
        forward = likelihood.whitened[0] if likelihood.is_linear_gaussian else likelihood.operator
        if not isinstance(forward, LinearOperator):  # the capabilities have seen to it
            raise TypeError("`operator` must be linear")
        return cls(posterior, forward, gradient, (forward.norm() or 1.0, gradient.norm()))

    def prox(self, point: Tensor, step: float) -> Tensor:
        """Return argmin_m f(m) + |m - point|^2 / (2 step)."""
        likelihood = self.posterior.measured
        if likelihood.is_linear_gaussian:
            z = likelihood.whitened[1].to(point.dtype)
            return (point + step * z) / (1 + step)
        shift = 0.0 if likelihood.offset is None else likelihood.offset.to(point.dtype)
        return likelihood.noise.prox(point + shift, likelihood.data.to(point.real.dtype), step) - shift

    def descent(self, image: Tensor) -> Tensor:
        """Return -f'(m)."""
        likelihood = self.posterior.measured
        if likelihood.is_linear_gaussian:
            return likelihood.whitened[1].to(image.dtype) - image
        shift = 0.0 if likelihood.offset is None else likelihood.offset.to(image.dtype)
        return likelihood.noise.score(image + shift, likelihood.data.to(image.real.dtype))

    def misfit(self, image: Tensor) -> Tensor:
        """Return f(m) per batch element, in double precision."""
        likelihood = self.posterior.measured
        if likelihood.is_linear_gaussian:
            apart = self.descent(image).abs().double()
            return 0.5 * apart.square().flatten(1).sum(1)
        shift = 0.0 if likelihood.offset is None else likelihood.offset.to(image.dtype)
        return -likelihood.noise.log_likelihood(image + shift, likelihood.data)


def _magnitude(slope: Tensor) -> Tensor:
    return torch.linalg.vector_norm(slope, dim=1)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else part
