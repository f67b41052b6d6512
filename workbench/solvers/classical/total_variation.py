"""Total variation by a primal-dual method: argmin -log p(y | u) + weight * sum |grad u|.

    K = [A; D],  F(m, g) = f(m) + weight |g|_1,  G(u) = indicator of u >= lower
    p  = p + s K (2 u - u_before)     then  p  <- prox of s F*  =  p - s prox_{F / s}(p / s)
    u' = clip(u - t K^H p)

(Chambolle and Pock 2011.) f is -log p(y | m), through the noise's own prox in the space of the data:
what a datum weighs stays out of K, whose condition it would spoil. Steps are s_A = rho / |A|,
s_D = rho c / |D|, t = 1 / (rho (|A| + c |D|)), which converge for any rho and c: rho begins as the way that
the dual of the data has to go over that of u, rho c as that of the slopes does, so that the unit of u
plays no part. A law that is not log-concave is replaced by one above it that touches it at A u, anew at
each step. rho is moved where the residuals differ too much, ever less (after Goldstein et al. 2013).
u begins at least squares, stopped after `warm` iterations or where the data are fitted as well as their
noise lets the truth fit them (Morozov's principle).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import components, dots
from operators.cg import cg_start, cg_step
from operators.checks import check_count, check_number
from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning, type_error
from operators.linear import LinearOperator
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.noise.base import Noise
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver

__all__ = ["TotalVariation", "TotalVariationState"]

#: How far a start from least squares is away, as a share of u: the length that steps are balanced for.
AWAY = 0.1
#: How much the balance moves at first, what is left of that after each move, and how lopsided it may be.
MOVE, FADING, LOPSIDED = 0.3, 0.95, 25.0


@dataclass(frozen=True)
class TotalVariationState:
    """u, its images under A and D, the dual variables of both, and the balance of steps: rho, c, move.

    `target` are the data of the law that stands in for one that is not log-concave, None for none; `noise` is
    the length of a u that the data's noise would hide.
    """

    u: Tensor
    image: Tensor
    slope: Tensor
    image_before: Tensor
    slope_before: Tensor
    data_dual: Tensor
    slope_dual: Tensor
    target: Tensor | None
    noise: float
    rho: float
    share: float
    move: float


@dataclass(frozen=True)
class TotalVariation(Solver[TotalVariationState]):
    """The image of least -log p(y | u) + weight * sum over voxels of |grad u|, per mm.

    `weight` is in mm / (unit of u): at 0 it is maximum likelihood. `lower` is a bound on the physical
    image, such as 0 for attenuation. It begins with at most `warm` iterations of least squares and ends after
    `iterations`, or where the residuals of the optimality conditions are below `tolerance` of their terms:
    |A| |p| + |D| |q|, and |K| times what of u varies or is noise. The record says how far it came.
    Isotropic; of a vector field each component by itself. With Rician noise, which is not log-concave, it
    ends where no small change helps: at a local minimum.
    """

    weight: float
    lower: float | None = None
    iterations: int = 1000
    tolerance: float = 1e-4
    warm: int = 20

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(linear=True, priors=(Flat,))
    state_type: ClassVar[type[TotalVariationState]] = TotalVariationState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.weight, "weight", non_negative=True)
        check_count(self.iterations, "iterations")
        check_count(self.warm, "warm")
        check_number(self.tolerance, "tolerance", positive=True)
        if self.lower is not None:
            check_number(self.lower, "lower")

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return one row per iteration."""
        if self.lower is not None and posterior.space.is_complex:
            raise type_error("lower", "be None on a complex field, which has no order", self.lower)
        return SolverPlan.steps(self.iterations)

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> TotalVariationState:
        """Return a start that fits the data as far as `warm` iterations of least squares take it."""
        model = _Model.of(posterior)
        zero = like.new_zeros(len(keys.draws), *posterior.space.shape)
        u = self._bounded(posterior, model.fitted(zero, self.warm))
        image, slope = model.forward.apply(u), model.gradient.apply(u)
        # A score of the true image has the variance of the curvature.
        scores = float(model.curvature(image).clamp(min=0).double().sum().sqrt())
        size = AWAY * (_norm(_varying(u)) or _norm(u)) / (scores or 1.0)
        return TotalVariationState(
            u=u,
            image=image,
            slope=slope,
            image_before=image,
            slope_before=slope,
            # At the solution the dual of the data is f'(A u).
            data_dual=model.slope(image),
            target=model.first_target(image),
            noise=components(image) / scores / model.norms[0] if scores > 0 else 0.0,
            slope_dual=torch.zeros_like(slope),
            rho=1 / size if size > 0 else 1.0,
            share=self.weight * posterior.space.size**0.5 / scores if scores > 0 and self.weight > 0 else 1.0,
            move=MOVE,
        )

    def step(
        self, posterior: Posterior, state: TotalVariationState, row: PlanRow, keys: Keys
    ) -> tuple[TotalVariationState, Info]:
        """Do one primal-dual iteration."""
        del keys
        s, model = state, _Model.of(posterior)
        norm_a, norm_d = model.norms
        step_a, step_d = s.rho / norm_a, s.rho * s.share / norm_d
        step_u = 1 / (s.rho * (norm_a + s.share * norm_d))

        # Dual steps.
        point = s.data_dual + step_a * (2 * s.image - s.image_before)
        data_dual = point - step_a * model.prox(point / step_a, 1 / step_a, s.target)
        slope_dual = self._projected(s.slope_dual + step_d * (2 * s.slope - s.slope_before))
        # Primal step.
        pull_a = model.forward.apply_adjoint(data_dual)
        u = self._bounded(posterior, s.u - step_u * (pull_a + model.gradient.apply_adjoint(slope_dual)))
        image, slope = model.forward.apply(u), model.gradient.apply(u)

        # What is missing from the optimality conditions 0 in dG(u) + K^H p, 0 in dF*(p) - K u.
        primal = _norm(s.u - u) / step_u
        dual_a = _norm((s.data_dual - data_dual) / step_a + 2 * s.image - s.image_before - image)
        dual_d = _norm((s.slope_dual - slope_dual) / step_d + 2 * s.slope - s.slope_before - slope)
        rho, move = s.rho, s.move
        costs = step_u * primal**2, step_a * dual_a**2 + step_d * dual_d**2
        if costs[0] > LOPSIDED * costs[1]:
            rho, move = rho * (1 - move), move * FADING
        elif costs[1] > LOPSIDED * costs[0]:
            rho, move = rho / (1 - move), move * FADING
        target = model.target(image)
        penalty = self.weight * _magnitude(slope).double().flatten(1).sum(1)
        if target is not None and s.target is not None:
            primal += norm_a * model.moved(target, s.target)
        pull = norm_a * _norm(data_dual) + norm_d * _norm(slope_dual)
        # Of a level of u, which no slope sees, nothing can be told by how large it is.
        size = max(_norm(_varying(u)), s.noise)
        residual = max(_share(primal, pull), _share(dual_a, norm_a * size), _share(dual_d, norm_d * size))
        values = {
            "objective": model.misfit(image) + penalty,
            "residual": image.real.new_tensor(residual).expand(u.shape[0]),
        }
        moved = TotalVariationState(
            u=u,
            image=image,
            slope=slope,
            image_before=s.image,
            slope_before=s.slope,
            data_dual=data_dual,
            slope_dual=slope_dual,
            target=target,
            noise=s.noise,
            rho=rho,
            share=s.share,
            move=move,
        )
        if row.index + 1 == self.iterations and residual > self.tolerance:
            warnings.warn(
                f"TotalVariation stopped at a residual of {residual:.1e}, not {self.tolerance:g}, after "
                f"{self.iterations} iterations. Raise `iterations` or `tolerance`.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return moved, Info(u, values, finished=residual <= self.tolerance)

    def answer(self, posterior: Posterior, state: TotalVariationState) -> Tensor:
        """Return u as it stands."""
        del posterior
        return state.u

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return A and its adjoint at the start, once around in least squares, and in the first step."""
        del posterior, plan
        return Cost(operator_calls=6)

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
    """f, A and D of a posterior."""

    likelihood: Likelihood
    forward: LinearOperator
    gradient: FiniteDifferences
    norms: tuple[float, float]
    majorant: Noise | None

    @classmethod
    def of(cls, posterior: Posterior) -> _Model:
        return posterior.kept("total variation", lambda: cls._made(posterior))

    @classmethod
    def _made(cls, posterior: Posterior) -> _Model:
        likelihood, gradient = posterior.measured, FiniteDifferences(posterior.space)
        forward = likelihood.operator
        if not isinstance(forward, LinearOperator):  # the capabilities have seen to it
            raise type_error("operator", "be linear", repr(forward))
        # Lanczos approaches from below: steps need a bound from above.
        norm = 1.02 * forward.norm(tolerance=1e-2) or 1.0
        # |D|^2 <= sum over axes of (2 / spacing)^2.
        bound = sum((2 / step) ** 2 for step in gradient.spacing) ** 0.5
        return cls(likelihood, forward, gradient, (norm, bound), likelihood.noise.majorant)

    def prox(self, point: Tensor, step: float, target: Tensor | None = None) -> Tensor:
        """Return argmin_m f(m) + |m - point|^2 / (2 step), f the law of `target` that stands in for f."""
        noise, data = self.likelihood.noise, self._data(point)
        if self.majorant is not None and target is not None:
            noise, data = self.majorant, target[0]
        moved = noise.prox(self._predicted(point), data, step)
        return moved if self.likelihood.offset is None else moved - self._predicted(torch.zeros_like(point))

    def fitted(self, zero: Tensor, iterations: int) -> Tensor:
        """Return the u of weighted least squares on the data's own estimate of m, stopped early.

        Beyond the misfit of the truth, one per real datum, it would fit noise: far away where A is ill-posed.
        """
        image = self.forward.apply(zero)
        weights = self.curvature(image).clamp(min=0)
        typical = float(weights.double().mean()) or 1.0
        # A prox that hardly holds on to zero is what the data alone would predict.
        wanted = self.prox(image, 1e3 / typical) - image
        weights = self.curvature(image + wanted).clamp(min=0)
        side = self.forward.apply_adjoint(weights * wanted)

        def normal(v: Tensor) -> Tensor:
            return self.forward.apply_adjoint(weights * self.forward.apply(v))

        size = (weights * wanted.abs().square()).double().flatten(1).sum(1)
        noise = components(wanted)
        state = cg_start(normal, side)
        # |A x - m|^2 = |m|^2 - <x, A^H m> in the weighted norm, at every iterate from 0.
        while not state.finished and state.iteration < iterations:
            if bool((size - dots(state.solution, side).double() <= noise).all()):
                break
            state = cg_step(normal, state)
        return state.solution

    def target(self, image: Tensor) -> Tensor | None:
        """Return the data of the law that stands in at `image`, None where none has to."""
        if self.majorant is None:
            return None
        return self.likelihood.noise.majorised(self._predicted(image), self._data(image))

    def first_target(self, image: Tensor) -> Tensor | None:
        """Return the same at a start, off the points where the slope is 0 at no minimum."""
        way = self.likelihood.noise.escape(self._predicted(image), self._data(image))
        return self.target(image if way is None else image + way)

    def moved(self, target: Tensor, before: Tensor) -> float:
        """Return how far the slope of the law that stands in has moved with its data."""
        return 0.0 if self.majorant is None else _norm(self.majorant.score(before, target[0]))

    def slope(self, image: Tensor) -> Tensor:
        """Return f'(m)."""
        return -self.likelihood.noise.score(self._predicted(image), self._data(image))

    def curvature(self, image: Tensor) -> Tensor:
        """Return f'' along each datum."""
        noise, ones = self.likelihood.noise, torch.ones_like(image)
        return noise.curvature(self._predicted(image), self._data(image), ones).real

    def misfit(self, image: Tensor) -> Tensor:
        """Return f(m) per batch element, in double precision."""
        return -self.likelihood.noise.log_likelihood(self._predicted(image), self.likelihood.data)

    def _predicted(self, image: Tensor) -> Tensor:
        offset = self.likelihood.offset
        return image if offset is None else image + offset.to(image.dtype)

    def _data(self, image: Tensor) -> Tensor:
        data = self.likelihood.data
        return data.to(image.dtype if data.is_complex() else image.real.dtype)


def _magnitude(slope: Tensor) -> Tensor:
    # torch's own norm along an axis that is not the last walks memory the wrong way: fifty times slower.
    return slope.abs().square().sum(dim=1).sqrt()


def _varying(u: Tensor) -> Tensor:
    """Return u without the level that D does not see."""
    return u - u.mean(dim=(-3, -2, -1), keepdim=True)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else part
