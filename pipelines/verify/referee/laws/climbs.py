"""Steps of a Gaussian guess towards data of any law, and how far they are trusted, from their equations.

(a H + 1 / r^2) d = a g by conjugate gradients,    log psi = a log p(y | m) + a g^T d / 2
a = 1, 1/2, 1/4, ... the first for which a (log p(y | m + d) - log p(y | m)) is within a nat, on average,
of a (g^T d - d^T H d / 2), at eight points; it falls with the level
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.verify.referee.laws.chains import iterated
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.laws.phase import PhaseModel
from workbench.random import Keys

__all__ = ["bend", "climbed", "fit", "trust"]


def fit(model: Model, x: Tensor) -> Tensor:
    """Return log p(y | x), but for a constant."""
    return -model.residual(x).square().sum(1) / 2


def bend(model: Model, x: Tensor, v: Tensor) -> Tensor:
    """Return the curvature of -log p(y | x) times v; of intensities that of their squares alone."""
    if not isinstance(model, PhaseModel):
        return model.back(model.forward(v))
    slope = 2 * (x @ model.matrix.T) / model.noise
    return (slope**2 * (v @ model.matrix.T)) @ model.matrix


def climbed(model: Model, m: Tensor, r: float, a: float, iterations: int) -> Tensor:
    """Return d."""
    slope = a * r**2 * model.force(m)
    return iterated(lambda v: v + a * r**2 * bend(model, m, v), slope, iterations)


def trust(model: Model, sigmas: Sequence[float], seen: float, iterations: int) -> list[float]:
    """Return a at falling levels, the last of which is 0, for a prior whose spread is `seen` by the data."""
    spread = model.spread
    like = torch.empty(0, dtype=torch.float64)
    white = Keys(0, tuple(range(8))).normals((1, 1, model.size), "climb: points", like=like).reshape(8, -1)
    middle = model.denoise(torch.zeros(1, model.size, dtype=torch.float64), 100 * spread)
    a, asked = 1.0, {}
    for i in sorted({round(j) for j in np.linspace(0, len(sigmas) - 2, 9)}, reverse=True):
        s = sigmas[i]
        r = s * seen / math.hypot(s, seen)
        x = model.denoise(middle + math.hypot(spread, s) * white, s)
        for _ in range(30):
            d = climbed(model, x, r, a, iterations)
            told = (model.force(x) * d).sum(1) - (d * bend(model, x, d)).sum(1) / 2
            # Half-done conjugate gradients leave d a minimum along itself alike.
            if float((a * (told - (fit(model, x + d) - fit(model, x)))).abs().mean()) <= 1:
                break
            a /= 2
        asked[math.log(s)] = math.log(a)
    return [*(math.exp(np.interp(math.log(s), list(asked), list(asked.values()))) for s in sigmas[:-1]), 1.0]
