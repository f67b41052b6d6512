"""Pseudo-inverse guidance: ancestral steps, pulled by data whose misfit knows how uncertain D is.

    e = z_y - B D,    v = B^H (I + B C B^H)^-1 e,    D = denoise(z, sigma),    J = dD / dz
    isotropic   C = r^2 I,  r^2 = sigma^2 s0^2 / (sigma^2 + s0^2):    v = (prox(D, r) - D) / r^2 (Woodbury)
    exact       C = sigma^2 J^H:    (C^-1 + B^H B) d = B^H e,  d = C v, by conjugate gradients on C
    bayes       z' = ancestral(z, D) + w J^H v,    w = sigma^2 - s'^2, isotropic at most r^2
    paper       z' = ddim(D, (z - D) / sigma, eta = 0.2) + r^2 J^H v

for -log p(y | u) = |B u - z_y|^2 / 2 (Song, Vahdat, Mardani and Kautz 2023; C from the Jacobian: Boys et al.
2023). s0 is the prior's spread. Where a direction of the prior is far wider than s0, J^H v is as much too
large at high noise: w <= r^2 keeps every step between D and z of a Gaussian prior, and bites less the more
steps there are. With the residual q of the solve, <q, C q> / n bounds the mean square error of D + d in
standard deviations of N(D, C) x likelihood over the n real numbers of u: that stops it. No inverse of C is
formed: what C was applied to is carried along.

What it is off by: x given z is taken for Gaussian. For an isotropic Gaussian prior of spread s0 the isotropic
form, for any Gaussian prior the exact one goes to the posterior as steps become many; few of them leave the
spread too small. Else the isotropic one trusts the data too much where the prior is wider than s0, too little
where it is narrower, and either is wrong about the weights of a mixture's modes. "paper" pulls by r^2 however
many steps there are: its spread is that of no posterior.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import column, components, dots, largest
from operators.cg import default_tolerance
from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning, value_error
from workbench.capabilities import Capabilities
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info
from workbench.solvers.descent import Descent, DescentState, ancestral, ddim, denoiser, spread_left
from workbench.solvers.pull import Jacobian, check_choice, guided, require_differentiable

__all__ = ["PiGDM", "shifted"]

Covariance = Literal["isotropic", "exact"]
Form = Literal["bayes", "paper"]
Map = Callable[[Tensor], Tensor]

#: Share of fresh noise in a step of the form "paper".
PAPER_ETA = 0.2
#: Iterations of the solve with the exact covariance at most, and their accuracy in standard deviations.
ITERATIONS, ACCURACY = 100, 1e-3


@dataclass(frozen=True)
class PiGDM(Descent):
    """Approximate samples for linear operators with Gaussian noise.

    `spread` None is the prior's data_sd, s0. "isotropic" takes one evaluation, one backward pass and one prox
    per step; with `jacobian` "detached", J = r^2 / sigma^2 I, no backward pass. "exact" takes one evaluation
    and one backward pass more than it takes iterations. `iterations` and `tolerance`, in standard
    deviations, limit the prox (5000; 1e-4 in single, 1e-8 in double precision) or the solve of "exact" (100;
    1e-3); a warning says, once per run, where the latter stopped short.
    """

    steps: int = 200
    spread: float | None = None
    covariance: Covariance = "isotropic"
    jacobian: Jacobian = "exact"
    form: Form = "bayes"
    iterations: int | None = None
    tolerance: float | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(
        linear_gaussian=True, calibrated_score=True, priors=(Denoiser,)
    )
    state_type: ClassVar[type[DescentState]] = DescentState
    remedy: ClassVar[str] = "Take more steps or float64 data, or check the prior's units and its spread."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread is not None:
            check_number(self.spread, "spread", positive=True)
        check_choice(self.covariance, "covariance", ("isotropic", "exact"))
        check_choice(self.jacobian, "jacobian", ("exact", "detached"))
        check_choice(self.form, "form", ("bayes", "paper"))
        if self.covariance == "exact" and self.jacobian == "detached":
            remedy = "Detached, the covariance is the isotropic one."
            raise value_error("jacobian", "be 'exact' for covariance='exact'", "'detached'", remedy)
        if self.iterations is not None:
            check_count(self.iterations, "iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma, next_sigma, r and the multiple w of J^H v of every step."""
        if self.jacobian == "exact":
            require_differentiable(posterior)
        spread = self._spread(posterior)
        plan = super().plan(posterior)
        left = tuple(spread_left(row.number("sigma"), spread) for row in plan)
        pulls = tuple(self._pull(row, r) for row, r in zip(plan, left, strict=True))
        return SolverPlan({**plan.columns, "r": left, "pull": pulls})

    def moved(self, posterior: Posterior, z: Tensor, row: PlanRow, keys: Keys) -> tuple[Tensor, Info]:
        """Return the step without data plus the pull."""
        sigma, r = row.number("sigma"), row.number("r")
        told: dict[str, Tensor] = {}
        if self.covariance == "exact":
            estimate, pull, told["accuracy"] = self._exact(posterior, z, sigma)
        else:
            estimate, pull = self._isotropic(posterior, z, sigma, r)
        if self.form == "paper":
            plain = ddim(estimate, (z - estimate) / sigma, row, PAPER_ETA, keys, "pigdm: step")
        else:
            plain = ancestral(z, estimate, row, keys, "pigdm: step")
        return plain + row.number("pull") * pull, Info(estimate, told)

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one A and one A^H per step, and the one backward pass no residual spares."""
        del posterior
        steps = len(plan)
        return Cost(steps, steps if self.jacobian == "exact" else 0, 2 * steps)

    def _spread(self, posterior: Posterior) -> float:
        spread = posterior.prior.data_sd if self.spread is None else self.spread
        if spread is None or not spread > 0:
            wanted = f"be given for a {type(posterior.prior).__name__} without a data_sd"
            remedy = "It is the standard deviation of u per entry, in units of the prior."
            raise value_error("spread", wanted, spread, remedy)
        return spread

    def _pull(self, row: PlanRow, r: float) -> float:
        if self.form == "paper":
            return r**2
        passed = row.number("sigma") ** 2 - row.number("next_sigma") ** 2
        # Detached or exact, D + sigma^2 J^H v never overshoots.
        return min(passed, r**2) if self.covariance == "isotropic" and self.jacobian == "exact" else passed

    def _isotropic(self, posterior: Posterior, z: Tensor, sigma: float, r: float) -> tuple[Tensor, Tensor]:
        """Return D and J^H v."""

        def drive(estimate: Tensor) -> Tensor:
            # What rounding leaves of the difference is multiplied by J sigma^2 / r^2, about 1.
            near = posterior.measured.prox(
                estimate, r, tolerance=self.tolerance, max_iterations=self.iterations
            )
            return (near - estimate) / r**2

        if self.jacobian == "detached":
            estimate = denoiser(posterior).denoise(z, sigma)
            return estimate, (r / sigma) ** 2 * drive(estimate)
        return guided(posterior, z, sigma, drive, "exact")

    def _exact(self, posterior: Posterior, z: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return D, J^H v and the bound on its error; one graph serves all products with J^H."""
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            graph = denoiser(posterior).denoise(point, sigma)
        estimate = graph.detach()
        b, data = posterior.measured.whitened

        def covariance(u: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(graph, point, u, retain_graph=True)
            return sigma**2 * product

        apart = data.to(b.codomain.dtype_like(z)) - b.apply(estimate)
        accuracy = ACCURACY if self.tolerance is None else self.tolerance
        limit = ITERATIONS if self.iterations is None else self.iterations
        shift, error, short = shifted(b.gram.apply, covariance, b.apply_adjoint(apart), accuracy, limit)
        if bool(short.any()):
            worst = float(error[short].max())
            posterior.kept("pigdm: stopped short", lambda: _warn(worst, limit))
        return estimate, shift / sigma**2, error


def shifted(
    gram: Map, covariance: Map, side: Tensor, accuracy: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the d of (C^-1 + B^H B) d = side, the bound on its error, and which samples miss `accuracy`.

    `covariance` is called once more than there are iterations. No more is asked for than precision holds.
    """
    unit = largest(side)
    unit = torch.where(unit > 0, unit, 1.0)
    rest = side / column(unit, side)
    way = preconditioned = covariance(rest)
    # way = C source throughout.
    source, shift = rest, torch.zeros_like(rest)
    energy = dots(rest, preconditioned)
    scale = unit / components(side) ** 0.5
    goal = torch.maximum((accuracy / scale) ** 2, default_tolerance(side.dtype) ** 2 * energy)
    active, iteration = energy > goal, 0
    while iteration < limit and bool(active.any()):
        iteration += 1
        image = source + gram(way)
        curvature = dots(way, image)
        energy = torch.where(curvature.isnan(), torch.nan, energy)
        # A Jacobian that is no covariance may have none in this direction.
        active = active & (curvature > 0)
        length = torch.where(active, energy / torch.where(active, curvature, 1.0), 0.0)
        shift = shift + column(length, way) * way
        rest = rest - column(length, image) * image
        preconditioned = covariance(rest)
        fresh = dots(rest, preconditioned)
        turn = column(torch.where(active, fresh / torch.where(active, energy, 1.0), 0.0), way)
        way, source = preconditioned + turn * way, rest + turn * source
        energy = torch.where(active, fresh, energy)
        active = active & (energy > goal)
    if not bool(torch.isfinite(energy).all()):
        raise FloatingPointError("the solve with the exact covariance met a NaN or an infinity")
    return column(unit, shift) * shift, scale * energy.abs().sqrt(), energy.abs() > goal


def _warn(worst: float, limit: int) -> bool:
    # Once per run: its other levels have more of the same.
    warnings.warn(
        f"PiGDM's solve stopped {worst:.1e} standard deviations from its answer, at one level or more, with "
        f"{limit} iterations allowed. Raise `iterations`, relax `tolerance` or use float64 data.",
        ConvergenceWarning,
        stacklevel=4,
    )
    return True
