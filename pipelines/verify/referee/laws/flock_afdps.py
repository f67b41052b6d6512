"""AFDPS once more, from its equations.

    exact    psi = p(y | z)^a,    z' ~ N(m, s^2) psi'(z') / Z,    w' = w Z / psi
    drift    psi = p(y | z)^a,    z' ~ N(m + d, s^2),    d by conjugate gradients
    flow     Euler steps with guidance 2 sigma a g, and the weights of the continuous equation
    ODE      psi = p(y | z)^a,    z' = D + sigma' / sigma (z - D)

m, s^2 are those of the ancestral step.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from operators.errors import type_error
from pipelines.verify.referee.laws.climbs import climbed, fit
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.laws.flock import Flock, Move, Noise, Step, ancestor, flock, last, tempering
from pipelines.verify.referee.laws.model import Model
from workbench.posterior import Posterior
from workbench.solvers.ensembles.afdps import AFDPS

__all__ = ["afdps"]


def afdps(solver: AFDPS, posterior: Posterior) -> Flock | None:
    """Return the particles of AFDPS, None where random probes are part of its weights."""
    linear = posterior.measured.is_linear_gaussian
    operator = posterior.measured.whitened[0] if linear else None
    start = _tilted_start if linear else _plain_start
    powers = partial(tempering, spread=solver.spread) if solver.tempered else None
    if solver.variant == "ode":
        move: Move = _ode if solver.weights == "kernel" else _ode_flow
        return flock(solver, start, move, powers=powers, threshold=0.0)
    if solver.weights == "continuous":
        if operator is None:
            return None
        move = _stiff_flow if operator.has_svd else _flow
    else:
        closed = operator is not None and operator.has_closed_form
        exact = solver.proposal == "exact" or (solver.proposal is None and closed)
        move = _exact if exact else _drift(solver.iterations)
    return flock(solver, start, move, powers=powers)


def _gram(model: Model) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of B^T B."""
    if not isinstance(model, DenseModel):
        raise type_error("model", "be written out as matrices", type(model).__name__)
    return model.gram


def _product(model: Model, m: Tensor, s: float, a: float, data: Tensor) -> Tensor:
    """Return argmin a |B x - data|^2 / 2 + |x - m|^2 / (2 s^2), data one row each."""
    values, basis = _gram(model)
    side = (a * model.back(data) + m / s**2) @ basis
    solved: Tensor = (side / (a * values + 1 / s**2)) @ basis.T
    return solved


def _integral(model: Model, m: Tensor, s: float, a: float) -> Tensor:
    """Return log of the integral of N(x; m, s^2) p(y | x)^a, but for the constant of p."""
    x = _product(model, m, s, a, model.data.expand(len(m), -1))
    value = a * fit(model, x) - (x - m).square().sum(1) / (2 * s**2)
    return value - torch.log1p(a * s**2 * _gram(model)[0]).sum() / 2


def _plain_start(model: Model, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    z = step[0] * noise("afdps: start", False)
    return z, step[2] * fit(model, z)


def _tilted_start(model: Model, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    sigma, a = step[0], step[2]
    white, data = noise("afdps: start: point", False), noise("afdps: start: data", True)
    z = _product(model, sigma * white, sigma, a, model.data + data / math.sqrt(a))
    return z, _integral(model, torch.zeros_like(white), sigma, a)


def _exact(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    _, after, a, b = step
    d, m, s = ancestor(model, z, step)
    if after == 0:
        return last(model, z, d, a)
    white, data = noise("afdps: step: point", False), noise("afdps: step: data", True)
    moved = _product(model, m + s * white, s, b, model.data + data / math.sqrt(b))
    return moved, _integral(model, m, s, b) - a * fit(model, z)


def _drift(iterations: int) -> Move:
    def move(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
        _, after, a, b = step
        d, m, s = ancestor(model, z, step)
        if after == 0:
            return last(model, z, d, a)
        way = climbed(model, m, s, b, iterations)
        moved = m + way + s * noise("afdps: step", False)
        ratio = ((moved - m - way).square().sum(1) - (moved - m).square().sum(1)) / (2 * s**2)
        return moved, ratio + b * fit(model, moved) - a * fit(model, z)

    return move


def _ode(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    del noise
    sigma, after, a, b = step
    d = model.denoise(z, sigma)
    moved = d + after / sigma * (z - d)
    return moved, b * fit(model, moved) - a * fit(model, z)


def _ode_flow(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    del noise
    sigma, after, a, b = step
    d = model.denoise(z, sigma)
    if after == 0:
        return last(model, z, d, a)
    way = (sigma - after) / sigma * (d - z)
    return z + way, a * (way * model.force(z)).sum(1) + (b - a) * fit(model, z)


def _flow(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return an Euler step of the guided equation, and the weight of its partial differential equation."""
    sigma, after, a, b = step
    d = model.denoise(z, sigma)
    if after == 0:
        return last(model, z, d, a)
    h, g, own = sigma - after, model.force(z), 2 * (d - z) / sigma
    laplacian = -float(_gram(model)[0].sum())
    gained = h * (sigma * (a**2 * g.square().sum(1) + a * laplacian) + a * (own * g).sum(1))
    white = noise("afdps: step", False)
    return (
        z + h * (own + 2 * sigma * a * g) + math.sqrt(2 * sigma * h) * white,
        gained + (b - a) * fit(model, z),
    )


def _stiff_flow(model: Model, z: Tensor, step: Step, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return the same with du / dtau = 2 sigma a s (y - s u) solved for each coefficient over the step."""
    sigma, after, a, b = step
    d = model.denoise(z, sigma)
    if after == 0:
        return last(model, z, d, a)
    h, (s, y) = sigma - after, model.singular
    u = model.to_singular(z)
    rate = 2 * sigma * a * s**2
    way = torch.where(s > 0, (1 - torch.exp(-rate * h)) * (y / torch.where(s > 0, s, 1.0) - u), 0.0)
    # The integrals of sigma a^2 |g|^2 and of a <b, g> along the way, g = s (y - s u).
    gone = (a / 4 * (y - s * u) ** 2 * (s > 0) * (1 - torch.exp(-2 * rate * h))).sum(1)
    along = ((model.to_singular(d) - u) * way).sum(1) / sigma**2
    gained = gone + along - h * sigma * a * float((s**2).sum()) + (b - a) * fit(model, z)
    white = math.sqrt(2 * sigma * h) * noise("afdps: step", False)
    return z + model.from_singular(way) + 2 * h / sigma * (d - z) + white, gained
