"""Numbers of a seed by their names: what is drawn for one leaves all others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from workbench.random import Keys

__all__ = ["Dice"]

T = TypeVar("T")

_LIKE = torch.empty(0, dtype=torch.float64)


@lru_cache(maxsize=8192)
def _uniform(seed: int, purpose: str) -> float:
    return float(Keys(seed, (0,)).uniforms((1,), purpose, like=_LIKE)[0, 0])


@lru_cache(maxsize=8192)
def _normal(seed: int, purpose: str) -> float:
    return float(Keys(seed, (0,)).normals((1,), purpose, like=_LIKE)[0, 0])


@dataclass(frozen=True)
class Dice:
    """Numbers by name, in whatever order they are asked for.

    `prefix` comes before each name in the purpose of its `Keys`: changing either draws other subjects.
    """

    seed: int
    prefix: str

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * _uniform(self.seed, f"{self.prefix}{name}")

    def normal(self, name: str, mean: float = 0.0, sd: float = 1.0, *, reach: float = 2.5) -> float:
        """Return a normal number, held within `reach` standard deviations of its mean: no outliers."""
        drawn = _normal(self.seed, f"{self.prefix}{name}")
        return mean + sd * max(-reach, min(reach, drawn))

    def chance(self, name: str, probability: float) -> bool:
        """Return True with `probability`."""
        return self.uniform(name) < probability

    def choice(self, name: str, options: Sequence[T]) -> T:
        """Return one of `options`, each as likely."""
        return options[min(len(options) - 1, int(len(options) * self.uniform(name)))]

    def uniforms(self, name: str, *shape: int) -> Tensor:
        """Return uniforms in (0, 1) of `shape`, float64."""
        return Keys(self.seed, (0,)).uniforms(shape, f"{self.prefix}{name}", like=_LIKE)[0]

    def normals(self, name: str, *shape: int) -> Tensor:
        """Return standard normals of `shape`, float64, without bounds."""
        return Keys(self.seed, (0,)).normals(shape, f"{self.prefix}{name}", like=_LIKE)[0]
