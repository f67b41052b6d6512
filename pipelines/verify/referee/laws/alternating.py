"""The chains that alternate between prior and data, DAPS and PnP-DM, from their equations alone.

    DAPS         z <- D + (s' / s) (z - D) down from each sigma, then x ~ N(z, r^2) x likelihood,
                 then z = x + sigma' w
    PnP-DM       z ~ N(z, rho^2) x likelihood, then z <- D + k (z - D) + n w down from rho,   k = (s' / s)^2,
                 n^2 = s'^2 (1 - k) + (1 - k)^2 v^2,   v^2 = 1 / (1 / s^2 + 1 / s0^2),   n = 0 where s' = 0
    exact draw   x = argmin |B x - data - w1|^2 / 2 + |x - c - r w2|^2 / (2 r^2) ~ N(c, r^2) x likelihood
    Langevin     x <- x + h (force(x) - (x - c) / r^2) + sqrt(2 h) w  from c,   h = fraction / (1 / r^2 + L),
                 L = |B|^2, or the largest so far of |J^T J v| twice over, v turned by J^T J at x

Levels inside are Karras' down to a tenth of the last outer one. All is affine in z and w where prior and
measurement are linear-Gaussian: the argmin is `closest` to c + r w2 + r^2 B^T w1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.verify.referee.laws.chain import Chain, Noise, Row
from pipelines.verify.referee.laws.levels import karras, levels_of
from pipelines.verify.referee.laws.model import Model
from workbench.integration import Karras
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM

__all__ = ["daps", "pnp_dm"]

#: x near c from (model, c, r, white noise of it alone).
Near = Callable[[Model, Tensor, float, Tensor], Tensor]


def daps(solver: DAPS) -> Chain:
    """Return the chain of DAPS (Zhang et al. 2024): rows s, s', and in the last of a level r and sigma'."""
    outer = levels_of(solver)

    def rows(model: Model) -> list[Row]:
        levels, found = outer(model), list[Row]()
        end = 0.1 * levels[-1][0]
        for sigma, after in levels:
            r = sigma
            if solver.radius == "matched":
                r = 1 / math.sqrt(1 / sigma**2 + 1 / model.spread**2)
            *before, last = inside(sigma, end, solver.ode_steps)
            found += [(*pair, 0.0, 0.0) for pair in before] + [(*last, r, after)]
        return found

    def noises(model: Model, row: Row) -> list[Noise]:
        _, _, r, fresh = row
        found = noises_near(model, solver.inner, "daps: draw") if r > 0 else []
        return [*found, ("daps: noise", "image")] if fresh > 0 else found

    near = near_by(solver.inner)

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        s, after, r, fresh = row
        d = model.denoise(z, s)
        z = d + after / s * (z - d)
        if r == 0:
            return z
        if fresh == 0:
            return near(model, z, r, white)
        x = near(model, z, r, white[:, : -model.size])
        return x + fresh * white[:, -model.size :]

    return Chain(rows, step, ("descent: start", noises))


def pnp_dm(solver: PnPDM) -> Chain:
    """Return the chain of PnP-DM (Wu et al. 2024): rows s, s', n, and in the first of a round rho, else 0."""

    def rows(model: Model) -> list[Row]:
        spread = model.spread if solver.spread is None else solver.spread
        first = 10 * model.spread if solver.first is None else solver.first
        last = min(0.1 * model.spread, 0.3 / model.norm) if solver.last is None else solver.last
        decay = solver.decay
        if decay is None:
            decay = (last / first) ** (1 / max(1, math.floor(0.75 * solver.rounds)))
        found: list[Row] = []
        for n in range(solver.rounds):
            rho = max(last, decay**n * first)
            for i, (s, after) in enumerate(inside(rho, 0.1 * last, solver.inner_steps)):
                fade, left = 1 - (after / s) ** 2, s * spread / math.hypot(s, spread)
                noise = math.sqrt(after**2 * fade + (fade * left) ** 2) if after > 0 else 0.0
                found.append((s, after, noise, rho if i == 0 else 0.0))
        return found

    def noises(model: Model, row: Row) -> list[Noise]:
        _, _, noise, rho = row
        found = noises_near(model, solver.inner, "pnp_dm: draw") if rho > 0 else []
        return [*found, ("pnp_dm: noise", "image")] if noise > 0 else found

    near = near_by(solver.inner)

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        s, after, noise, rho = row
        fresh = white.shape[1] - (model.size if noise > 0 else 0)
        if rho > 0:
            z = near(model, z, rho, white[:, :fresh])
        d = model.denoise(z, s)
        z = d + (after / s) ** 2 * (z - d)
        return z + noise * white[:, fresh:] if noise > 0 else z

    return Chain(rows, step, ("pnp_dm: start", noises))


def inside(sigma: float, end: float, steps: int) -> list[Row]:
    """Return (s, s') of the evaluations from sigma to 0; one where sigma is the end already."""
    return karras(Karras(sigma, end), steps) if sigma > end * (1 + 1e-6) else [(sigma, 0.0)]


def noises_near(model: Model, inner: Langevin | None, purpose: str) -> list[Noise]:
    """Return the noises of one draw of x near c."""
    if inner is None and model.convex:
        return [(f"{purpose}: data", "data"), (f"{purpose}: point", "image")]
    count = (inner or Langevin()).steps
    start: list[Noise] = [] if model.convex else [(f"{purpose}: curvature", "image")]
    steps: list[Noise] = [(f"{purpose} {k}", "image") for k in range(count)]
    return start + steps


def near_by(inner: Langevin | None) -> Near:
    """Return how x is drawn from N(c, r^2) x likelihood."""

    def near(model: Model, c: Tensor, r: float, white: Tensor) -> Tensor:
        if inner is None and model.convex:
            of_data, of_point = white[:, : -model.size], white[:, -model.size :]
            return model.closest(c + r * of_point + r**2 * model.back(of_data), r)
        return chained(model, c, r, white, inner or Langevin())

    return near


def chained(model: Model, c: Tensor, r: float, white: Tensor, inner: Langevin) -> Tensor:
    """Return the last x of Langevin dynamics from c."""
    whites = list(white.reshape(len(white), -1, model.size).unbind(1))
    v = c if model.convex else whites.pop(0)
    x, stiff = c, torch.full_like(c[:, :1], model.norm**2)
    for k, w in enumerate(whites):
        if not model.convex and turns(k) > 0:
            for _ in range(turns(k)):
                v = model.curve(x, v / v.norm(dim=1, keepdim=True))
            stiff = stiff.maximum(2 * v.norm(dim=1, keepdim=True))
        h = inner.fraction / (1 / r**2 + stiff)
        x = x + h * (model.force(x) - (x - c) / r**2) + (2 * h).sqrt() * w
    return x


def turns(k: int) -> int:
    """Return how often v is turned before step k: ten times at c, once until step 9, then at every tenth."""
    if k == 0:
        return 10
    return 1 if k < 10 or k % 10 == 0 else 0
