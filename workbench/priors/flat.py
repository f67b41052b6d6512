"""No preference: p(u) = 1 everywhere. Improper, so that the measurement alone must decide.

denoise(z, sigma) = z,      score = 0,      log p = 0
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.errors import type_error
from operators.space import Space
from workbench.priors.base import Denoiser
from workbench.random import Keys
from workbench.units import Units

__all__ = ["Flat", "require_field"]


class Flat(Denoiser):
    """The flat prior on fields: real, complex or vector fields, with any components."""

    exact = True
    calibrated_score = True
    proper = False

    def __init__(self, space: Space, units: Units | None = None) -> None:
        super().__init__(require_field(space), units)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        del sigma
        return z.clone()

    def log_density(self, u: Tensor) -> Tensor:
        """Return 0 per batch element, with the gradient 0."""
        self.space.check(u, "u")
        entries = u.real if u.is_complex() else u
        return (0 * entries).sum(dim=tuple(range(-self.space.ndim, 0)), dtype=torch.float64)

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Raise: a flat prior has no draws."""
        del keys, like
        remedy = "Draw from SpectralGaussian.smooth(space, sd=..., length=...), or from a posterior."
        raise type_error("prior", "be proper to be drawn from", "Flat", remedy)


def require_field(space: Space, argument: str = "space") -> Space:
    """Return `space` if its elements are numbers to which noise can be added."""
    if Space.require(space, argument).classes is not None:
        raise type_error(
            argument, "be of real, complex or vector fields", space, "Labels need a prior over tokens."
        )
    return space
