"""Draws of x ~ N(c, r^2) x likelihood: what a solver that alternates between prior and data has of the data.

    exact       x = prox(c + r w, r) for data with noise added to them, of a linear-Gaussian likelihood
    Langevin    x' = x + h (grad log p(y | x) - (x - c) / r^2) + sqrt(2 h) w,   h = fraction / (1 / r^2 + L)

The chain begins at c and takes any noise and any differentiable operator. For -log p = |B x - z|^2 / 2,
L = |B|^2. Else L is what each draw has met so far,

    L = max(L_0, 2 |J^H H J v|),    v a unit vector that J^H H J at x has turned,

L_0 being the curvature at a point like those of the prior, where that knows its spread. v is turned ten times
at c, once at each of the first ten steps and once at every tenth after these. The 2 is for a v that is not
there yet, and for what J^H H J leaves out: half as much again, for intensities. L never falls: a length that
followed x would be short where the curvature is large, and make such x likelier by 1 / h.

What it is off by: the steps have a length, and nothing corrects for it. Along a direction of precision p the
variance comes to 1 / (p (1 - h p / 2)), at most 11 % too large at fraction 0.2; after k steps (1 - h p)^k of
the way from c to the mean is left, (1 - h p)^2k of the variance is missing. Within DAPS and PnP-DM 100 steps
add 2 to 8 % to the variance where the prior's spread times |B| is 3 to 5; at 100 they leave means 0.7 to 0.8
posterior sd off, where the exact draw leaves 0.04, or the 0.13 of DAPS as published. Of two minima that r
spans a chain finds the one that c leans to, whatever they weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.batch import column, components, dots
from operators.checks import check_count, check_number
from operators.errors import type_error
from workbench.likelihood import Likelihood
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.pull import curvature_norm

__all__ = ["Langevin", "check_inner", "draw_calls", "draw_near"]

#: The curvature that a length follows from, as a multiple of the one found.
SAFETY = 2.0
#: Turns of v at c; steps at each of which, and between which later on, there is one more.
TURNS, OFTEN = 10, 10
#: A chain so many times farther from c than r, and than r^2 times its first slope, has left its target.
ESCAPED = 1e4


@dataclass(frozen=True)
class Langevin:
    """`steps` steps, a `fraction` of 1 / (1 / r^2 + L) long: 2 diverges where L is what it stands for."""

    steps: int = 100
    fraction: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_count(self.steps, "steps"))
        check_number(self.fraction, "fraction", positive=True)

    def draw(self, posterior: Posterior, c: Tensor, r: float, keys: Keys, purpose: str) -> Tensor:
        """Return the last x (draws, *shape) of chains begun at `c`, or say at which step one left its target.

        White noise of step k, from 0, is `purpose` and k; the first v is of the purpose "... curvature".
        """
        likelihood = posterior.measured
        fixed = likelihood.is_linear_gaussian
        known = fixed or bool(posterior.prior.data_sd)
        least = curvature_norm(posterior) ** 2 if known else 0.0
        stiff = torch.full((len(c),), least, dtype=c.real.dtype, device=c.device)
        way = c if fixed else keys.normals(c.shape[1:], f"{purpose}: curvature", like=c)
        x, reach = c, torch.full_like(stiff, torch.inf)
        for k in range(self.steps):
            if not fixed and _turns(k) > 0:
                found, way = _stiffest(likelihood, x, way, _turns(k))
                stiff = torch.maximum(stiff, SAFETY * found)
            length = self.fraction / (1 / r**2 + stiff)
            slope = likelihood.gradient(x)
            if k == 0:
                # What a log-concave likelihood pulls by is at most r^2 times its slope at c.
                reach = ESCAPED * (r + r**2 * _sizes(slope))
            white = keys.normals(c.shape[1:], f"{purpose} {k}", like=c)
            drift = slope - (x - c) / r**2
            x = x + column(length, x) * drift + column((2 * length).sqrt(), x) * white
            away = _sizes(x - c)
            inside = away <= reach  # which no NaN is
            if not bool(inside.all()):
                row = int((~inside).nonzero()[0])
                raise FloatingPointError(
                    f"the inner chain left its target at step {k + 1} of {self.steps}, of length "
                    f"{float(length[row]):.1e}: it came {float(away[row]):.1e} far, r = {r:.3g}"
                )
        return x


def check_inner(inner: object, tolerance: object) -> None:
    """Raise unless `inner` is a Langevin or None, and `tolerance` a number > 0 or None."""
    if inner is not None and not isinstance(inner, Langevin):
        raise type_error("inner", "be a Langevin or None", repr(inner), "Such as Langevin(100, 0.2).")
    if tolerance is not None:
        check_number(tolerance, "tolerance", positive=True)


def draw_near(
    posterior: Posterior,
    c: Tensor,
    r: float,
    keys: Keys,
    purpose: str,
    *,
    inner: Langevin | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """Return x ~ N(c, r^2) x likelihood for `c` (draws, *shape): by `inner`, None for the exact draw.

    Where there is none, None is Langevin(). `tolerance` is the exact draw's, in its own standard deviations.
    """
    likelihood = posterior.measured
    if _is_exact(posterior, inner):
        return likelihood.prox_draw(c, r, keys, purpose, tolerance=tolerance)
    return (Langevin() if inner is None else inner).draw(posterior, c, r, keys, purpose)


def draw_calls(posterior: Posterior, inner: Langevin | None) -> int:
    """Return how often one such draw calls A or A^H at least."""
    if _is_exact(posterior, inner):
        return 2
    steps = (Langevin() if inner is None else inner).steps
    calls = 2 * steps
    if posterior.measured.is_linear_gaussian:
        return calls
    # At a turned point A itself, for each turn J and J^H.
    turns = [_turns(k) for k in range(steps) if _turns(k) > 0]
    return calls + len(turns) + 2 * sum(turns)


def _is_exact(posterior: Posterior, inner: Langevin | None) -> bool:
    return inner is None and posterior.measured.is_linear_gaussian


def _turns(k: int) -> int:
    """Return how often v is turned at step k."""
    return TURNS if k == 0 else int(k < OFTEN or k % OFTEN == 0)


def _stiffest(likelihood: Likelihood, x: Tensor, way: Tensor, turns: int) -> tuple[Tensor, Tensor]:
    """Return |J^H H J v| at `x` for the last of the unit vectors v, and where it points to, per draw."""
    operator, noise, data = likelihood.operator, likelihood.noise, likelihood.data
    predicted = likelihood.predicted(x)
    data = data.to(predicted.dtype if data.is_complex() else predicted.real.dtype)
    found = x.new_zeros(len(x), dtype=x.real.dtype)
    for _ in range(turns):
        way = way / column(dots(way, way).sqrt(), way)
        image = noise.positive_curvature(predicted, data, operator.apply_jvp(x, way))
        turned = operator.apply_vjp(x, image)
        found = dots(turned, turned).sqrt()
        # Where nothing is curved, v stays: there is no way to turn to.
        way = torch.where(column(found > 0, way), turned, way)
    return found, way


def _sizes(values: Tensor) -> Tensor:
    """Return the root mean square of each draw's components."""
    return (dots(values, values) / components(values)).sqrt()
