"""Plug-and-play ADMM: a denoiser in the place where the prior's prox would be.

    x = prox(v - w, r),    v = denoise(x + w, sigma),    w' = w + x - v,    r = sigma / weight^1/2

(Venkatakrishnan, Bouman and Wohlberg 2013), f = -log p(y | x), prox(c, r) = argmin f + |x - c|^2 / (2 r^2).
At a fixed point x = v and grad f(x) = -w / r^2, w what the denoiser takes off x + w. What that is:

    denoise = prox of sigma^2 g           argmin f + weight g, whatever sigma is
    denoise z = m + G (z - m)             (B^H B + weight (G^-1 - I) / sigma^2) (x - m) = B^H (z - B m)
    posterior mean of the prior N(m, S)   G = S (S + sigma^2)^-1: the same with weight S^-1, whatever sigma is

so that with weight 1 the last is the posterior mean. Of any other denoiser it is a balance of the two, and no
mode nor mean of a known law; a network is heard at one level alone. That is its bias.

A sigma that nobody chose is the white noise that would tell as much as the measurement tells on average,
s = (curvature of f per entry)^-1/2, at most the spread of the prior: what denoisers without a law shrink
goes by it. With a law, whose fixed point hardly moves with sigma, it is (s spread)^1/2, where what is
measured and what is not settle equally fast.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.batch import components, dots
from operators.checks import check_count, check_finite, check_number
from operators.errors import ConvergenceWarning, value_error
from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.descent import denoiser

__all__ = ["PlugAndPlay", "PlugAndPlayState"]

#: Random directions that the curvature is looked at along.
PROBES = 4
#: The error that a prox may have, as a share of what the steps may still move by.
SHARE = 0.1


@dataclass(frozen=True)
class PlugAndPlayState:
    """x, which fits the data, v, which the denoiser made, and w, the sum of their differences."""

    x: Tensor
    v: Tensor
    w: Tensor


@dataclass(frozen=True)
class PlugAndPlay(Solver[PlugAndPlayState]):
    """Where likelihood and denoiser agree, for any law of the noise, linear or not, and any denoiser.

    `sigma` is the level that the denoiser is told, in units of the prior; None takes it from the measurement
    and the prior's spread, and the plan tells it. `weight` is how much the prior counts against the data. It
    ends after `iterations`, or where x - v and the last move of v are below `tolerance` * sigma, root mean
    square per component; the record tells the larger of the two, in units of sigma.
    """

    sigma: float | None = None
    weight: float = 1.0
    iterations: int = 200
    tolerance: float = 1e-3

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[PlugAndPlayState]] = PlugAndPlayState
    deterministic: ClassVar[bool] = True
    plan_is_limit: ClassVar[bool] = True
    remedy: ClassVar[str] = "Lower `sigma`, use float64 data, or check the prior's units."

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_number(self.sigma, "sigma", positive=True)
        check_number(self.weight, "weight", positive=True)
        check_count(self.iterations, "iterations")
        check_number(self.tolerance, "tolerance", positive=True)

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return the denoiser's level of each iteration."""
        sigma = (
            posterior.kept("plug and play", lambda: _level(posterior)) if self.sigma is None else self.sigma
        )
        denoiser(posterior).require_levels(sigma)
        return SolverPlan({"sigma": (sigma,) * self.iterations})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> PlugAndPlayState:
        """Return u = 0."""
        zero = like.new_zeros(len(keys.draws), *posterior.space.shape)
        return PlugAndPlayState(zero, zero, zero)

    def step(
        self, posterior: Posterior, state: PlugAndPlayState, row: PlanRow, keys: Keys
    ) -> tuple[PlugAndPlayState, Info]:
        """Do one iteration."""
        del keys
        sigma = row.number("sigma")
        accuracy = min(SHARE * self.tolerance, 1e-4)
        x = posterior.measured.prox(state.v - state.w, sigma / math.sqrt(self.weight), tolerance=accuracy)
        v = denoiser(posterior).denoise(x + state.w, sigma)
        moved = PlugAndPlayState(x, v, state.w + x - v)
        residual = torch.maximum(_size(x - v), _size(v - state.v)) / sigma
        finished = bool((residual <= self.tolerance).all())
        if row.index + 1 == self.iterations and not finished:
            warnings.warn(
                f"PlugAndPlay stopped where it still moved by {float(residual.max()):.1e} sigma, not "
                f"{self.tolerance:g}, after {self.iterations} iterations. Raise `iterations`, `tolerance` or "
                "`sigma`; not every denoiser has a fixed point.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return moved, Info(v, {"residual": residual}, finished)

    def answer(self, posterior: Posterior, state: PlugAndPlayState) -> Tensor:
        """Return what the denoiser made."""
        del posterior
        return state.v

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return the first step's denoising, prediction and adjoint."""
        del posterior, plan
        return Cost(network_evaluations=1, operator_calls=2)


def _level(posterior: Posterior) -> float:
    """Return the default of sigma."""
    likelihood, prior = posterior.measured, denoiser(posterior)
    white = Keys(0, tuple(range(PROBES))).normals(
        posterior.space.shape, "plug and play: curvature", like=posterior.like()
    )
    curved = likelihood.curvature(0 * white, white)
    check_finite(curved, "curvature of the likelihood")
    precision = float(dots(white, curved).double().sum() / dots(white, white).double().sum())
    spread = prior.data_sd
    if not precision > 0:
        if spread is None:
            expected = "be given where the likelihood is not convex at u = 0 and the prior knows no spread"
            raise value_error("sigma", expected, None, "In units of the prior, such as 0.05 of its range.")
        return _within(spread, prior.noise_range)
    level = precision**-0.5
    if spread is not None and spread > 0:
        level = min(level, spread)
        if prior.calibrated_score:
            level = math.sqrt(level * spread)
    return _within(level, prior.noise_range)


def _within(level: float, limits: tuple[float, float]) -> float:
    return min(max(level, limits[0]), limits[1])


def _size(a: Tensor) -> Tensor:
    """Return the root mean square per component of each sample."""
    return (dots(a, a).double() / components(a)).sqrt()
