"""What a Gaussian guess of the image makes of any likelihood: a step towards the data, and its integral.

    x given N(m, r^2), p(y | x)^a:    (a H + 1 / r^2) d = a g,    g and H gradient and curvature at m
    log integral                      a log p(y | m) + a g^H d / 2, but for a determinant

Gauss-Newton's step, and Laplace's method around m: exact where p is Gaussian, at full convergence of the
conjugate gradients that find d. Fewer of them make d and the integral smaller, both as one.

Elsewhere a is as large as the quadratic model of log p can be trusted: at points like the prior's, what it
says of d and what d gains differ by NATS at most, on average. At sigma = 0 a is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.batch import column, dots
from workbench.likelihood import Likelihood
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.descent import denoiser, middle

__all__ = ["climb", "trusted"]

#: How far the model may be off, points that are asked and levels at which they are, and the least a.
NATS, POINTS, ASKED, LEAST = 1.0, 8, 9, 2.0**-30


def climb(
    likelihood: Likelihood, centre: Tensor, r: float, *, power: float = 1.0, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return d and a g^H d / 2, row by row, after `iterations` from d = 0."""
    operator, noise = likelihood.operator, likelihood.noise
    predicted = likelihood.predicted(centre)
    data = likelihood.data.to(predicted.dtype if likelihood.data.is_complex() else predicted.real.dtype)
    scale = power * r**2

    def system(v: Tensor) -> Tensor:
        bent = noise.positive_curvature(predicted, data, operator.apply_jvp(centre, v))
        return v + scale * operator.apply_vjp(centre, bent)

    d = torch.zeros_like(centre)
    start = residual = scale * operator.apply_vjp(centre, noise.score(predicted, data))
    p, energy = residual, dots(residual, residual)
    for _ in range(iterations):
        image = system(p)
        # Where nothing is left to solve, nothing moves.
        length = torch.where(energy > 0, energy / torch.where(energy > 0, dots(p, image), 1.0), 0.0)
        d, residual = d + column(length, p) * p, residual - column(length, p) * image
        left = dots(residual, residual)
        back = torch.where(energy > 0, left / torch.where(energy > 0, energy, 1.0), 0.0)
        p, energy = residual + column(back, p) * p, left
    return d, dots(start, d).double() / (2 * r**2)


def trusted(
    posterior: Posterior, sigmas: Sequence[float], radii: Sequence[float], spread: float, iterations: int
) -> tuple[float, ...]:
    """Return a at each of `sigmas`, which fall and end at 0, for guesses of sd `radii`."""
    name = f"trust in climbs of {iterations} from {sigmas[0]} to {sigmas[-2]}, spread {spread}"
    levels, logs = posterior.kept(name, lambda: _asked(posterior, sigmas, radii, spread, iterations))
    between = np.exp(np.interp(np.log(sigmas[:-1]), levels, logs))
    return (*(float(a) for a in between), 1.0)


def _asked(
    posterior: Posterior, sigmas: Sequence[float], radii: Sequence[float], spread: float, iterations: int
) -> tuple[list[float], list[float]]:
    """Return log sigma, rising, and log a there: from the lowest level up, where a can only fall."""
    likelihood, prior, like = posterior.measured, denoiser(posterior), posterior.like()
    white = Keys(0, tuple(range(POINTS))).normals(posterior.space.shape, "climb: points", like=like)
    centre = middle(posterior, spread)
    chosen = sorted({round(i) for i in np.linspace(len(sigmas) - 2, 0, ASKED)}, reverse=True)
    a, powers = 1.0, []
    for i in chosen:
        x = prior.denoise(centre + math.hypot(spread, sigmas[i]) * white, sigmas[i])
        here = likelihood.log_likelihood(x)
        while a > LEAST:
            d, half = climb(likelihood, x, radii[i], power=a, iterations=iterations)
            foretold = half + dots(d, d).double() / (2 * radii[i] ** 2)
            off = float((foretold - a * (likelihood.log_likelihood(x + d) - here)).abs().mean())
            if off <= NATS:
                break
            a /= 2
        powers.append(a)
    return [math.log(sigmas[i]) for i in chosen], [math.log(a) for a in powers]
