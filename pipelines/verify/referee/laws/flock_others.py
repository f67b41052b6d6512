"""TDS and MCGdiff once more, from their equations.

    TDS        psi = N(y; B D, I + r^2 B B^T),    z' ~ N(m + min(s^2, r^2) J^T grad log N, s^2)
               of any other likelihood psi and the step are those of climbs.py
    MCGdiff    of each coefficient y of sd t:    psi = N(y; z, sigma^2 - t^2) while t < sigma, then nothing

m, s^2 are those of the ancestral step, that to t of the step that passes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.verify.referee.laws.climbs import bend, climbed, fit, trust
from pipelines.verify.referee.laws.flock import Flock, Noise, Step, flock
from pipelines.verify.referee.laws.model import Model, double_like
from pipelines.verify.referee.truth import reals
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.ensembles.mcgdiff import MCGdiff
from workbench.solvers.ensembles.tds import TDS

__all__ = ["mcgdiff", "tds"]


def tds(solver: TDS, posterior: Posterior) -> Flock:
    """Return the particles of TDS."""
    known: list[float] = [] if solver.spread is None else [solver.spread]

    def spread(model: Model) -> float:
        if not known:
            known.append(_seen(model, posterior))
        return known[0]

    def begin(model: Model, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
        z = step[0] * noise("tds: start", False)
        return z, twist(model, model.denoise(z, step[0]), radius(model, step[0]), step[2])[0]

    def move(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
        sigma, after, a, b = step
        d = model.denoise(z, sigma)
        here, force = twist(model, d, radius(model, sigma), a)
        if after == 0:
            return d, fit(model, d) - here
        k, r = (after / sigma) ** 2, radius(model, sigma)
        s = after * math.sqrt(1 - k)
        share = model.spread**2 / (model.spread**2 + sigma**2)
        pull = share * force if solver.jacobian == "detached" else model.pull(z, sigma, force)
        m, way = d + k * (z - d), min(s, r) ** 2 * pull
        moved = m + way + s * noise("tds: step", False)
        ratio = ((moved - m - way).square().sum(1) - (moved - m).square().sum(1)) / (2 * s**2)
        there, _ = twist(model, model.denoise(moved, after), radius(model, after), b)
        return moved, ratio + there - here

    def twist(model: Model, d: Tensor, r: float, a: float) -> tuple[Tensor, Tensor]:
        if model.convex:
            return _twist(model, d, r)
        way = climbed(model, d, r, a, solver.iterations)
        return a * (fit(model, d) + (model.force(d) * way).sum(1) / 2), way / r**2

    def powers(model: Model, sigmas: Sequence[float]) -> Sequence[float]:
        """Return how far a step is trusted."""
        if model.convex:
            return [1.0] * len(sigmas)
        return trust(model, sigmas, spread(model), solver.iterations)

    def radius(model: Model, sigma: float) -> float:
        return sigma * spread(model) / math.hypot(sigma, spread(model))

    return flock(solver, begin, move, powers=powers)


def _seen(model: Model, posterior: Posterior) -> float:
    """Return the spread of the prior along K J K noise, as TDS documents it: from differences at 10 s0."""
    like, shape, keys = double_like(posterior), posterior.space.shape, Keys(0, tuple(range(8)))
    away = reals(Keys(0, (0,)).normals(shape, "guidance: point like the prior's", like=like))
    point = model.denoise(0 * away, 100 * model.spread) + model.spread * away
    sigma = 10 * model.spread
    z = sigma * reals(keys.normals(shape, "guidance: noise", like=like))
    slope, share = reals(keys.normals(shape, "guidance: directions", like=like)), 0.0
    for _ in range(2):
        w = bend(model, point, slope)
        way = sigma * w / w.norm(dim=1, keepdim=True)
        slope = (model.denoise(z + way, sigma) - model.denoise(z - way, sigma)) / 2
        share = float((slope * way).sum(1).mean()) / sigma**2
    return float(f"{sigma * math.sqrt(share / (1 - share)):.3g}")


def _twist(model: Model, d: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """Return log psi and its gradient in D."""
    force = (model.closest(d, r) - d) / r**2
    # e^T (I + r^2 B B^T)^-1 e = |e|^2 - r^2 |B^T e|^2 seen through the same inverse.
    e = model.residual(d)
    square = e.square().sum(1) - r**2 * (model.back(e) * force).sum(1)
    values = model.singular[0].square()
    return -square / 2 - torch.log1p(r**2 * values).sum() / 2, force


def mcgdiff(solver: MCGdiff) -> Flock:
    """Return the particles of MCGdiff."""

    # A function that looks at the particles it belongs to: at their first level.
    def known(model: Model) -> tuple[Tensor, Tensor]:
        """Return y and t of the coefficients that the first level sees, t infinite of the others."""
        s, y = model.singular
        first = particles.steps(model)[0][0]
        seen = s * first > 1
        t = torch.where(seen, 1 / torch.where(seen, s, 1.0), torch.inf)
        return torch.where(seen, y / torch.where(seen, s, 1.0), 0.0), t

    def begin(model: Model, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
        y, t = known(model)
        white = model.to_singular(noise("mcgdiff: start", False))
        u, logs = _product(torch.zeros_like(white), step[0] ** 2, y, step[0] ** 2 - t**2, white)
        return model.from_singular(u), logs

    def move(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
        sigma, after = step[:2]
        y, t = known(model)
        d, u = model.to_singular(model.denoise(z, sigma)), model.to_singular(z)
        white = model.to_singular(noise("mcgdiff: step", False))
        k = (after / sigma) ** 2
        moved, gained = _product(d + k * (u - d), after**2 * (1 - k), y, after**2 - t**2, white)
        gained = gained - _logs(y, u, sigma**2 - t**2)
        passed = torch.nonzero((t < sigma) & (t >= after)).flatten()
        for i in passed.tolist():
            own = float(t[i])
            there = d[:, i] + (own / sigma) ** 2 * (u[:, i] - d[:, i])
            variance = own**2 * (1 - (own / sigma) ** 2)
            gained = gained - (y[i] - there) ** 2 / (2 * variance) - math.log(2 * math.pi * variance) / 2
            on = (after / own) ** 2
            moved[:, i] = d[:, i] + on * (y[i] - d[:, i]) + after * math.sqrt(1 - on) * white[:, i]
        if after == 0:
            s, data = model.singular
            rest = (data - s * d)[:, torch.isinf(t) & (s > 0)]
            return model.from_singular(d), gained - rest.square().sum(1) / 2
        return model.from_singular(moved), gained

    particles = flock(solver, begin, move)
    return particles


def _product(m: Tensor, v: float, y: Tensor, w: Tensor, white: Tensor) -> tuple[Tensor, Tensor]:
    """Return draws of N(m, v) N(y; z, w) where w > 0, of N(m, v) elsewhere, and the log of the integrals."""
    met = w > 0
    safe = torch.where(met, w, 1.0)
    precision = 1 / v + torch.where(met, 1 / safe, 0.0) if v > 0 else torch.full_like(safe, math.inf)
    mean = torch.where(met, (m / v + y / safe) / precision, m) if v > 0 else m
    logs = torch.where(met, -((y - m) ** 2) / (2 * (v + safe)) - torch.log(2 * math.pi * (v + safe)) / 2, 0.0)
    return mean + white / precision.sqrt(), logs.sum(1)


def _logs(y: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Return the sum of log N(y; z, w) where w > 0."""
    met = w > 0
    safe = torch.where(met, w, 1.0)
    return torch.where(met, -((y - z) ** 2) / (2 * safe) - torch.log(2 * math.pi * safe) / 2, 0.0).sum(1)
