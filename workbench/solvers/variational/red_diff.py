"""RED-Diff: images moved by gradients, of -log p(y | m) and of what a denoiser leaves of m under noise.

    z = m + sigma w,    D = denoise(z, sigma),    e = (z - D) / sigma,    e - w = (m - D) / sigma
    normalised   L = -log p(y | m) + weight f(t) / c <e - w, m> / s,      t = sigma / s
    paper        L = mean |y - A m|^2 / 2 + weight f(sigma) mean (e - w) m

(Mardani et al. 2023.) In each step the optimiser moves m / s by s dL/dm, e - w held constant: no backward
pass through the prior, whose spread is s. Sums and means are over real components, a complex number being
two; c is the mean over the levels of f(t) t / (1 + t^2). The paper's means make its weight another one for
each shape and unit of the data, and do not look at their noise; the normalised weight has no unit.

Levels that descend are seen once, as published: there is no objective that is minimised, and the last and
lowest ones hardly pull. Random ones make it stochastic optimisation. For a prior N(mu, S) and
-log p = |B m - z|^2 / 2 it then comes to rest at

    (B^H B + R) m = B^H z + R mu,      R = mean over the levels of pull sigma (S + sigma^2)^-1 / s

s dL/dm holding pull (e - w). S = s^2 has R = weight / s^2 for any f and levels: at weight 1 the posterior
mean. Along directions whose variance is 0.01, 0.1, 10 and 100 s^2 this R is 0.013, 0.12, 8 and 58 times the
precision of the prior where f is linear, 0.07, 0.27, 3.7 and 13 times where it is constant (default levels).

What it is off by: m is no mean and no mode. Where f is linear, fine structure of small variance is hardly
held and fits the noise: images of 8 x 8 end 0.2 to 1.6 posterior sd from the mean, 0.1 where f is constant,
and 8 correlated unknowns at rest are 0.29 and 0.15 from mean and mode. Draws are starts, and their spread is
what steps leave of noise, not the posterior's. Of two modes each start seeks one, in shares that nothing
ties to the posterior's; the draws around each have 0.06 of its variance, 0.2 as published, at a rate that
does not fade. With random levels and f linear the high levels speak loudest, and all starts meet at one
point between the modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from operators.batch import column
from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.capabilities import Capabilities
from workbench.integration.levels import Levels
from workbench.kinds import Kind
from workbench.noise.gaussian import Gaussian
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost, Info, Solver
from workbench.solvers.descent import ESCAPED, check_levels, denoiser, descending
from workbench.solvers.pull import check_choice, curvature_norm
from workbench.solvers.variational.first_order import Adam, FirstOrder, Moments, averaged

__all__ = ["REDDiff", "REDDiffState"]

Scaling = Literal["normalised", "paper"]
Weighting = Literal["linear", "sqrt", "square", "log", "min", "two thirds", "constant"]

#: Weight, weighting and optimiser of each scaling where none is given.
WEIGHTS: Mapping[str, float] = MappingProxyType({"normalised": 1.0, "paper": 0.25})
USUAL: Mapping[str, Weighting] = MappingProxyType({"normalised": "constant", "paper": "linear"})
OPTIMISERS: Mapping[str, FirstOrder] = MappingProxyType({"normalised": Adam(decay=1.0), "paper": Adam()})
#: f of each weighting.
WEIGHTINGS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "linear": lambda t: t,
        "sqrt": math.sqrt,
        "square": lambda t: t * t,
        "log": math.log1p,
        "min": lambda t: min(t, 1.0),
        "two thirds": lambda t: t ** (2 / 3),
        "constant": lambda _: 1.0,
    }
)
#: Accuracy of a start that fits the data, in its own standard deviations.
NEAR = 1e-2


@dataclass(frozen=True)
class REDDiffState:
    """m, the mean of the last ones, None where that is m itself, and what the optimiser remembers."""

    m: Tensor
    mean: Tensor | None
    moments: Moments | None


@dataclass(frozen=True)
class REDDiff(Solver[REDDiffState]):
    """One image per draw for any differentiable operator; any noise, except in the scaling "paper".

    One evaluation, one A and one A^H per step. None stands for the usual of each scaling: `weight` 1 and
    `weighting` "constant" ("normalised"), 0.25 and "linear" ("paper"), `optimiser` Adam at rate 0.1, which
    "normalised" lets fade: a rate that does not leaves twice the error. `order` "random" draws one of the
    `steps` levels for each draw in each step, with GradientDescent() to the stationary point. `spread`, in
    units of the prior, is what the rate and the normalised weight count in: None is the prior's own, 1 for
    images between -1 and 1 the paper's.

    The start is g = denoise(0) at the highest level ("prior"), g with noise of the spread ("noise": draws
    differ from the beginning), or argmin -log p(y | m) + |m - g|^2 / (2 s^2) ("data", near the published
    pseudo-inverse; where the problem is not convex a minimum near g). A thousand steps of Adam forget it, a
    hundred do not.
    """

    steps: int = 1000
    levels: Levels | None = None
    scaling: Scaling = "normalised"
    weight: float | None = None
    weighting: Weighting | None = None
    order: Literal["descending", "random"] = "descending"
    optimiser: FirstOrder | None = None
    start: Literal["data", "prior", "noise"] = "noise"
    spread: float | None = None

    kind: ClassVar[Kind] = Kind.POINT_ESTIMATE  # type: ignore[misc]
    capabilities: ClassVar[Capabilities] = Capabilities(calibrated_score=True, priors=(Denoiser,))
    state_type: ClassVar[type[REDDiffState]] = REDDiffState
    remedy: ClassVar[str] = "Lower the optimiser's rate or the weight, or check the prior's units."

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_count(self.steps, "steps"))
        check_levels(self.levels)
        check_choice(self.scaling, "scaling", tuple(WEIGHTS))
        if self.weighting is not None:
            check_choice(self.weighting, "weighting", tuple(WEIGHTINGS))
        check_choice(self.order, "order", ("descending", "random"))
        check_choice(self.start, "start", ("data", "prior", "noise"))
        for name in ("weight", "spread"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, positive=True)
        if self.optimiser is not None and not isinstance(self.optimiser, FirstOrder):
            remedy = "Such as Adam(0.1) or GradientDescent()."
            raise type_error("optimiser", "be a FirstOrder or None", repr(self.optimiser), remedy)

    @property
    def factor(self) -> float:
        """The weight that is used."""
        return WEIGHTS[self.scaling] if self.weight is None else self.weight

    @property
    def heard(self) -> Weighting:
        """The weighting that is used."""
        return USUAL[self.scaling] if self.weighting is None else self.weighting

    @property
    def chosen(self) -> FirstOrder:
        """The optimiser that is used."""
        return OPTIMISERS[self.scaling] if self.optimiser is None else self.optimiser

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and pull of every level, length of every step and its iterate's share in the mean.

        With random levels, each draw in each step takes sigma and pull of a row of its own.
        """
        posed, spread = self._posed(posterior), self._spread(posterior)
        sigmas = tuple(row.number("sigma") for row in descending(posterior, self.levels, self.steps))
        pulls = self._pulls(sigmas, spread, posterior.space)

        def curvature() -> float:
            if not posed.measured.is_linear_gaussian and posterior.prior.data_sd is None:
                wanted = "be Adam where neither a linear-Gaussian measurement nor the prior tell a curvature"
                raise value_error("optimiser", wanted, repr(self.chosen), "Adam(0.1) needs none.")
            # d (m - D) / dm = I - Cov[x | z] / sigma^2 is at most I.
            most = max(pull / sigma for pull, sigma in zip(pulls, sigmas, strict=True))
            return (spread * curvature_norm(posed)) ** 2 + spread * most

        return SolverPlan({"sigma": sigmas, "pull": pulls, **self.chosen.columns(self.steps, curvature)})

    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> REDDiffState:
        """Return the start."""
        shape, spread = posterior.space.shape, self._spread(posterior)
        first = descending(posterior, self.levels, self.steps).row(0).number("sigma")
        # One for all: what is not drawn is the same in each.
        m = denoiser(posterior).denoise(like.new_zeros(1, *shape), first)
        if self.start == "data":
            m = posterior.measured.prox(m, spread, tolerance=NEAR)
        m = m.expand(len(keys.draws), *shape)
        if self.start == "noise":
            m = m + spread * keys.normals(shape, "red_diff: start", like=like)
        return REDDiffState(m, None, self.chosen.begin(m))

    def step(
        self, posterior: Posterior, state: REDDiffState, row: PlanRow, keys: Keys
    ) -> tuple[REDDiffState, Info]:
        """Do one step of the optimiser; tell -log p(y | m) before it."""
        m, spread = state.m, self._spread(posterior)
        sigma, pull = self._level(posterior, row, keys, m)
        w = keys.normals(m.shape[1:], "red_diff: noise", like=m)
        estimate = denoiser(posterior).denoise(m + _wide(sigma, m) * w, sigma)
        upwards, misfit = self._ascent(posterior, m)
        gradient = _wide(pull / sigma, m) * (m - estimate) - spread * upwards
        direction, moments = self.chosen.direction(gradient, state.moments, row.index)
        step = row.number("length") * direction
        require_steady(step)
        moved = m - spread * step
        mean = averaged(state.mean, m, moved, row.number("share"))
        return REDDiffState(moved, mean, moments), Info(moved, {"misfit": misfit})

    def whereabouts(self, row: PlanRow) -> str:
        """Return the noise level, unless each draw has its own."""
        return f"sigma = {row.number('sigma'):.3g}" if self.order == "descending" else ""

    def answer(self, posterior: Posterior, state: REDDiffState) -> Tensor:
        """Return the mean of the last m, or the last."""
        del posterior
        return state.m if state.mean is None else state.mean

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation, one A and one A^H per step."""
        del posterior
        return Cost(len(plan), 0, 2 * len(plan))

    def _spread(self, posterior: Posterior) -> float:
        spread = self.spread
        if spread is None:
            spread = posterior.kept("red_diff: data_sd", lambda: posterior.prior.data_sd)
        if spread is None or not spread > 0:
            wanted = f"be given for a {type(posterior.prior).__name__} without a data_sd"
            remedy = "In units of the prior, such as 0.5 for images between -1 and 1."
            raise value_error("spread", wanted, None, remedy)
        return spread

    def _pulls(self, sigmas: tuple[float, ...], spread: float, space: Space) -> tuple[float, ...]:
        """Return what multiplies e - w in s dL/dm at each level."""
        f = WEIGHTINGS[self.heard]
        if self.scaling == "paper":
            return tuple(self.factor * spread * f(sigma) / components(space) for sigma in sigmas)
        times = [sigma / spread for sigma in sigmas]
        c = sum(f(t) * t / (1 + t * t) for t in times) / len(times)
        return tuple(self.factor * f(t) / c for t in times)

    def _level(
        self, posterior: Posterior, row: PlanRow, keys: Keys, m: Tensor
    ) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return sigma and pull of the row, or for each draw those of a row of its own."""
        if self.order == "descending":
            return row.number("sigma"), row.number("pull")
        pool = posterior.kept(f"red_diff: levels of {self!r}", lambda: self._pool(posterior))
        place = keys.uniforms((1,), "red_diff: level", like=pool).flatten() * pool.shape[1]
        sigma, pull = pool[:, place.long().clamp(max=pool.shape[1] - 1)].to(m.real.dtype)
        return sigma, pull

    def _pool(self, posterior: Posterior) -> Tensor:
        columns, device = self.plan(posterior).columns, posterior.measured.device
        return torch.tensor([columns["sigma"], columns["pull"]], dtype=torch.float64, device=device)

    def _posed(self, posterior: Posterior) -> Posterior:
        """Return the posterior whose -log p(y | m) the loss holds, up to a constant."""
        if self.scaling == "normalised":
            return posterior
        return posterior.kept("red_diff: mean square", lambda: mean_square(posterior))

    def _ascent(self, posterior: Posterior, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of the data's part of -L and -log p(y | m), with one A and one A^H."""
        likelihood, posed = posterior.measured, self._posed(posterior).measured
        predicted = likelihood.predicted(m)
        data = posed.data.to(predicted.dtype if posed.data.is_complex() else predicted.real.dtype)
        upwards = likelihood.operator.apply_vjp(m, posed.noise.score(predicted, data))
        return upwards, -likelihood.noise.log_likelihood(predicted, likelihood.data)


def mean_square(posterior: Posterior) -> Posterior:
    """Return the posterior whose -log p(y | u) is mean |y - A u|^2 / 2 and a constant."""
    likelihood, codomain = posterior.measured, posterior.measured.operator.codomain
    form = likelihood.noise.gaussian_form(likelihood.data, codomain)
    if form is None:
        remedy = "Use scaling='normalised', which takes any law."
        raise type_error("noise", "be Gaussian for the mean of a residual", repr(likelihood.noise), remedy)
    law = Gaussian(math.sqrt(components(codomain)))
    return posterior.replaced(posterior.prior, replace(likelihood, noise=law, data=form.data))


def components(space: Space) -> int:
    """Return the number of real components of an element."""
    return space.size * (2 if space.is_complex else 1)


def require_steady(step: Tensor) -> None:
    """Raise FloatingPointError if a `step`, in units of the prior's spread, is of no use to anybody."""
    size = float(torch.linalg.vector_norm(step.flatten(1), dim=1).max()) / math.sqrt(step[0].numel())
    if size > ESCAPED:
        raise FloatingPointError(f"diverged: a step of {size:.1e} times the prior's spread")


def _wide(value: float | Tensor, like: Tensor) -> float | Tensor:
    return column(value, like) if isinstance(value, Tensor) else value
