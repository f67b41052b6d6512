"""Weighted particles: what they know of themselves, and how they are drawn anew.

    effective number    (sum w)^2 / sum w^2: as many draws of equal weight say as much
    log evidence        the sum over resamplings of log mean w, and that of the last weights
    resampling          systematic: particle j is the one at (j + u) / J of the cumulated weights, one u

Log-weights are in double precision. `ancestors` holds for each particle which of the first ones it descends
from: however many there are, those that share one agree in what the first steps decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.random import Keys

__all__ = ["Particles", "effective_number", "log_mean_exp", "resampled", "systematic"]


@dataclass(frozen=True)
class Particles:
    """Particles z (J, ...) and the log-weights that they have gathered since they were last drawn anew.

    `carried` is what the next step needs beside z, rows as z; `gathered` the log evidence up to the last
    resampling; `least` the smallest effective number so far.
    """

    z: Tensor
    carried: dict[str, Tensor]
    log_weights: Tensor
    ancestors: Tensor
    gathered: float
    least: float
    resamplings: int

    @classmethod
    def begun(cls, z: Tensor, carried: dict[str, Tensor], log_weights: Tensor) -> Particles:
        """Return particles before their first step."""
        weights = log_weights.double()
        ancestors = torch.arange(len(z), device=z.device)
        return cls(z, carried, weights, ancestors, 0.0, effective_number(weights), 0)

    @property
    def log_evidence(self) -> float:
        """The logarithm of what the weights add up to, over all steps."""
        return self.gathered + log_mean_exp(self.log_weights)

    @property
    def families(self) -> int:
        """How many of the first particles have descendants."""
        return len(torch.unique(self.ancestors))

    @property
    def effective_families(self) -> float:
        """How many families of equal weight say as much: evidence is off by about one over their root."""
        shares = torch.softmax(self.log_weights, 0)
        family = torch.zeros_like(shares).index_add_(0, self.ancestors, shares)
        return 1 / float(family.square().sum())


def effective_number(log_weights: Tensor) -> float:
    """Return (sum w)^2 / sum w^2; all weights zero is an error."""
    largest = float(log_weights.max())
    if not math.isfinite(largest):
        none = "every particle has weight zero: none of these states can have given the data"
        raise FloatingPointError(none if largest == -math.inf else "a weight is no number")
    w = (log_weights - largest).exp()
    return float(w.sum() ** 2 / w.square().sum())


def log_mean_exp(log_weights: Tensor) -> float:
    """Return log mean w."""
    return float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))


def systematic(log_weights: Tensor, u: float) -> Tensor:
    """Return the indices of the particles drawn anew, in order; `u` is uniform in (0, 1)."""
    shares = torch.softmax(log_weights, 0).cumsum(0)
    count = len(log_weights)
    places = (torch.arange(count, dtype=torch.float64, device=shares.device) + u) / count
    # The last sum is 1 but for rounding.
    return torch.searchsorted(shares / shares[-1], places).clamp(max=count - 1)


def resampled(particles: Particles, keys: Keys) -> Particles:
    """Return as many particles of equal weight, the heavy ones several times."""
    like = torch.empty(0, dtype=torch.float64)
    u = float(keys.part(slice(0, 1)).uniforms((1,), "ensemble: resampling", like=like))
    chosen = systematic(particles.log_weights, u)
    return Particles(
        particles.z[chosen],
        {name: value[chosen] for name, value in particles.carried.items()},
        torch.zeros_like(particles.log_weights),
        particles.ancestors[chosen],
        particles.log_evidence,
        particles.least,
        particles.resamplings + 1,
    )
