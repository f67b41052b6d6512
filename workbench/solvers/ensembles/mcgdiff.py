"""MCGdiff: an ensemble that meets the data coefficient by coefficient, in the basis of B = U S V^H.

    y = U^H z_data / s,    t = 1 / s the sd of its noise,    m, s_k^2 mean and variance of the ancestral step

A datum y_i is x_i + t_i noise, just as z_i at the level t_i is: it is taken for that state. Above that level
it guides by how far z_i goes on from there, at it z_i is y_i, and below it there is nothing left to meet:

    t < sigma'             psi = N(y; z, sigma^2 - t^2),    z' ~ N(m, s_k^2) N(y; z', sigma'^2 - t^2) / Z
                           log w += log N(y; m, s_k^2 + sigma'^2 - t^2) - log N(y; z, sigma^2 - t^2)
    sigma' <= t < sigma    log w += log N(y; m_t, s_t^2) - log N(y; z, sigma^2 - t^2),    of the step to t
                           z' = D + k (y - D) + sigma' sqrt(1 - k) w,    k = (sigma' / t)^2
    t >= sigma             z' = m + s_k w

(Cardoso, Janati El Idrissi, Le Corff and Moulines 2024; their levels are snapped to those of the data, here
the step that passes t is split.) One evaluation per step and no derivative of the prior. Coefficients known
less well than the first level, and those of no singular value, are the prior's; the former are weighed at the
end.

What it is off by: see ensemble.py. On problems of a few dozen data the weights are more uneven than
those of AFDPS and TDS, which know the prior's spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.linalg import TraceEstimate
from workbench.capabilities import Capabilities
from workbench.noise.base import double
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.solvers.base import Cost
from workbench.solvers.descent import denoiser
from workbench.solvers.ensembles.ensemble import Ensemble, Moved
from workbench.solvers.singular import Singular, require_singular_values, singular

__all__ = ["MCGdiff"]


@dataclass(frozen=True, eq=False)
class _Coefficients:
    """The factors of B, the data y and their sd t where the first level is above it, else 0 and infinity."""

    parts: Singular
    y: Tensor
    t: Tensor
    #: Of a coefficient: real numbers in it.
    each: int
    #: s and U^H z_data of what is weighed at the end, 0 elsewhere.
    rest: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MCGdiff(Ensemble):
    """A weighted ensemble for linear operators that know their singular values, without backward passes."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        linear_gaussian=True, calibrated_score=True, priors=(Denoiser,)
    )

    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return sigma and next_sigma of every step."""
        require_singular_values(posterior, type(self).__name__)
        return super().plan(posterior)

    def begun(self, posterior: Posterior, row: PlanRow, keys: Keys, like: Tensor) -> Moved:
        """Return draws of N(0, sigma^2) psi, and the integral."""
        data, level = self._data(posterior), row.number("sigma")
        white = self._turned(data, keys.normals(posterior.space.shape, "mcgdiff: start", like=like))
        zero = torch.zeros_like(white)
        u, gained = _met(data, zero, level**2, level, white)
        return Moved(data.parts.image((torch.ones_like(data.t), u)).to(like.dtype), gained, {})

    def moved(
        self, posterior: Posterior, z: Tensor, carried: Mapping[str, Tensor], row: PlanRow, keys: Keys
    ) -> Moved:
        """Return the states at the next level, and what they gain."""
        del carried
        data = self._data(posterior)
        sigma, after = row.number("sigma"), row.number("next_sigma")
        estimate = denoiser(posterior).denoise(z, sigma)
        d, u = self._turned(data, estimate), self._turned(data, z)
        keep = (after / sigma) ** 2
        white = self._turned(data, keys.normals(z.shape[1:], "mcgdiff: step", like=z))
        moved, gained = _met(data, d + keep * (u - d), after**2 * (1 - keep), after, white)
        gained = gained - _logs(data, u, sigma**2 - data.t**2, data.t < sigma)
        # The step that passes t: first to y, then on.
        passes = (data.t < sigma) & (data.t >= after)
        t = torch.where(passes, data.t, sigma / 2)
        there = _times((t / sigma) ** 2, u - d) + d
        gained = gained + _logs(data, there, t**2 * (1 - (t / sigma) ** 2), passes)
        on = (after / t) ** 2
        passed = d + _times(on, data.y - d) + _times(after * (1 - on).clamp(min=0).sqrt(), white)
        moved = torch.where(passes, passed, moved)
        if after == 0:
            return Moved(estimate, gained + self._left(data, d), {}, estimate)
        return Moved(data.parts.image((torch.ones_like(data.t), moved)).to(z.dtype), gained, {}, estimate)

    def log_constant(self, posterior: Posterior) -> TraceEstimate:
        """Return log p(y | x) less that of the coefficients, the same for every x."""
        data, like = self._data(posterior), posterior.like()
        zero = torch.zeros((1, *posterior.space.shape), dtype=like.dtype, device=like.device)
        known = torch.isfinite(data.t)
        inside = (data.parts.s > 0) * data.parts.misfit(posterior.measured.whitened[1][None]).abs() ** 2
        widths = torch.where(known, torch.log(2 * math.pi * torch.where(known, data.t, 1.0) ** 2), 0.0)
        value = float(posterior.measured.log_likelihood(zero)) + float(inside.double().sum()) / 2
        return TraceEstimate(value + data.each / 2 * float(widths.expand(inside.shape[1:]).sum()))

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return one evaluation per step."""
        del posterior
        return Cost(len(plan))

    def _data(self, posterior: Posterior) -> _Coefficients:
        first = posterior.kept(
            f"mcgdiff: first level of {self!r}", lambda: self.plan(posterior).row(0).number("sigma")
        )

        def make() -> _Coefficients:
            parts = singular(posterior, 0.0, 0.0)
            q = parts.misfit(posterior.measured.whitened[1][None])[0]
            known = parts.s * first > 1
            inverse = torch.where(known, 1 / torch.where(known, parts.s, 1.0), 0.0)
            rest = torch.where(known, 0.0, parts.s)
            t = torch.where(known, inverse, math.inf)
            return _Coefficients(
                parts,
                inverse * q,
                t.expand(q.shape),
                2 if posterior.space.is_complex else 1,
                (rest, (rest > 0) * q),
            )

        return posterior.kept(f"mcgdiff: coefficients below {first}", make)

    @staticmethod
    def _turned(data: _Coefficients, x: Tensor) -> Tensor:
        """Return the coefficients in double precision: what is known to within t is a difference of such."""
        return data.parts.turned(double(x) if torch.float64 in data.parts.v.dtypes else x)

    def _left(self, data: _Coefficients, d: Tensor) -> Tensor:
        s, q = data.rest
        return -((s > 0) * (q - s * d).abs().double() ** 2).flatten(1).sum(1) / 2


def _met(
    data: _Coefficients, mean: Tensor, variance: float, level: float, white: Tensor
) -> tuple[Tensor, Tensor]:
    """Return draws of N(mean, variance) N(y; z, level^2 - t^2), t < level, and the log of the integral."""
    known = data.t < level
    width = torch.where(known, level**2 - torch.where(known, data.t, 0.0) ** 2, 1.0)
    total = variance + width
    share = torch.where(known, variance / total, 0.0)
    spread = torch.where(known, share * width, variance).sqrt()
    drawn = mean + _times(share, data.y - mean) + _times(spread, white)
    return drawn, _logs(data, mean, total, known)


def _logs(data: _Coefficients, at: Tensor, variance: Tensor, where: Tensor) -> Tensor:
    """Return the sum of log N(y; at, variance) over the coefficients `where`, per state."""
    safe = torch.where(where, variance, 1.0)
    each = -((data.y - at).abs().double() ** 2) / (2 * safe) - data.each / 2 * torch.log(2 * math.pi * safe)
    return torch.where(where, each, 0.0).flatten(1).sum(1)


def _times(weights: Tensor, values: Tensor) -> Tensor:
    """Return real weights in double precision times values, in the precision of these."""
    return weights.to(values.real.dtype) * values
