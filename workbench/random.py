"""Randomness without a state: numbers are a function of (seed, draw, step, purpose, voxel index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """The keys of several draws at one step of a run.

    `draws` are numbers of draws: the same draw has the same numbers whoever its neighbours are.
    """

    seed: int
    draws: tuple[int, ...]
    step: int = 0

    def at(self, step: int) -> Keys:
        """Return the keys of the same draws at another step."""
        raise NotImplementedError

    def normals(self, shape: Sequence[int], purpose: str, *, like: Tensor) -> Tensor:
        """Return standard normals (len(draws), *shape); complex ones have sd 1 per component."""
        raise NotImplementedError

    def uniforms(self, shape: Sequence[int], purpose: str, *, like: Tensor) -> Tensor:
        """Return uniforms in (0, 1), (len(draws), *shape)."""
        raise NotImplementedError

    def poisson(self, mean: Tensor, purpose: str) -> Tensor:
        """Return Poisson counts of `mean` (len(draws), *shape), in its dtype."""
        raise NotImplementedError
