"""Priors over tokens: label maps, known materials, codes.

    conditional(tokens, mask) = p(token_i = k | the tokens where mask is False), for every i and k

This is all there is to learn of an absorbing diffusion, and it has no time in it. Samplers unmask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.space import Space
from workbench.priors.base import Prior
from workbench.units import Units

__all__ = ["TokenPrior"]


class TokenPrior(Prior, ABC):
    """A prior that gives the law of each token, some others known."""

    def __init__(self, space: Space, units: Units | None = None) -> None:
        if Space.require(space, "space").classes is None:
            raise type_error("space", "be one of tokens", space, "Space.tokens(grid, classes).")
        super().__init__(space, units)

    @property
    def classes(self) -> int:
        """How many values a token has."""
        return self.space.classes or 0

    @abstractmethod
    def _conditional(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return probabilities (batch, *shape, classes), float64, for tokens and mask (batch, *shape)."""

    def conditional(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return p(token_i = k | those not masked), (..., *space.shape, classes), in double precision.

        `mask` is True where the token is unknown; which of the tokens stands there does not matter. The law
        of one that is not masked is certainty.
        """
        self.space.check(tokens, "tokens")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != tokens.shape:
            found = (mask.dtype, tuple(mask.shape)) if isinstance(mask, Tensor) else type(mask).__name__
            raise value_error("mask", f"be a bool tensor of shape {tuple(tokens.shape)}, as tokens", found)
        flat, unknown = (v.reshape(-1, *self.space.shape) for v in (tokens, mask))
        if self._counter is not None:
            self._counter.count("network_evaluations", flat.shape[0])
        certain = torch.nn.functional.one_hot(flat, self.classes).to(torch.float64)
        chances = torch.where(unknown[..., None], self._conditional(flat, unknown), certain)
        return chances.reshape(*tokens.shape, self.classes)
