"""Keyed randomness in space: drawn parameters, and smooth random fields that are functions of the point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from workbench.random import Keys

__all__ = ["Dice", "Texture", "Waves"]

_LIKE = torch.empty(0, dtype=torch.float64)


@lru_cache(maxsize=8192)
def _uniform(seed: int, purpose: str) -> float:
    return float(Keys(seed, (0,)).uniforms((1,), purpose, like=_LIKE)[0, 0])


@lru_cache(maxsize=8192)
def _normal(seed: int, purpose: str) -> float:
    return float(Keys(seed, (0,)).normals((1,), purpose, like=_LIKE)[0, 0])


@dataclass(frozen=True)
class Dice:
    """Numbers by name: each name has its own, whatever else is drawn and in whatever order."""

    seed: int
    purpose: str

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * _uniform(self.seed, f"{self.purpose}/{name}")

    def normal(self, name: str, mean: float = 0.0, sd: float = 1.0, *, reach: float = 2.5) -> float:
        """Return a normal number, held within `reach` standard deviations of its mean."""
        drawn = _normal(self.seed, f"{self.purpose}/{name}")
        return mean + sd * max(-reach, min(reach, drawn))

    def chance(self, name: str, probability: float) -> bool:
        """Return True with `probability`."""
        return self.uniform(name) < probability

    def table(self, name: str, *shape: int) -> Tensor:
        """Return uniforms in (0, 1) of `shape`, float64."""
        return Keys(self.seed, (0,)).uniforms(shape, f"{self.purpose}/{name}", like=_LIKE)[0]

    def normals(self, name: str, *shape: int) -> Tensor:
        """Return standard normals of `shape`, float64."""
        return Keys(self.seed, (0,)).normals(shape, f"{self.purpose}/{name}", like=_LIKE)[0]


class Waves:
    """Sums of plane waves: random fields (fields, n) of mean 0 and `sd`, smooth to all orders.

    f_j(p) = sum_i a_ij sin(k_i . p + phi_i), wavelengths between the two of `lengths` mm (log-uniform), and
    amplitudes in proportion to the wavelength, so that f bends alike at each scale. `stretch` multiplies the
    wavelengths along R, A and S.
    """

    def __init__(
        self,
        dice: Dice,
        name: str,
        *,
        fields: int,
        lengths: tuple[float, float],
        sd: float,
        count: int = 24,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        away = dice.normals(f"{name}/directions", count, 3)
        away = away / away.norm(dim=1, keepdim=True)
        share = dice.table(f"{name}/lengths", count)
        length = lengths[0] * (lengths[1] / lengths[0]) ** share
        self._waves = (2 * math.pi * away / length[:, None] / torch.tensor(stretch).double()).float()
        self._phases = (2 * math.pi * dice.table(f"{name}/phases", count, 1)).float()
        weights = dice.normals(f"{name}/weights", fields, count) * length
        weights = weights / (weights.square().sum(dim=1, keepdim=True) / 2).sqrt()
        self._weights = (sd * weights).float()

    def __call__(self, points: Tensor) -> Tensor:
        """Return the fields (fields, n) at points (3, n)."""
        return self._weights @ torch.addmm(self._phases, self._waves, points).sin_()


class Texture:
    """Value noise: a periodic lattice of keyed normals, smoothed and interpolated linearly; mean 0, sd 1.

    Lattice points are `cell` mm apart and turned against the axes of the world; `channels` independent fields
    repeat after `size` cells, which organs are too small to show.
    """

    def __init__(self, dice: Dice, name: str, *, channels: int, size: int = 48) -> None:
        table = dice.normals(name, channels, size, size, size)
        for axis in (1, 2, 3):
            # (1, 2, 1) / 4: interpolation between neighbours that agree shows no lattice.
            table = (2 * table + table.roll(1, axis) + table.roll(-1, axis)) / 4
        table = table / table.std()
        for axis in (1, 2, 3):
            table = torch.cat([table, table.narrow(axis, 0, 1)], dim=axis)  # the first again: it wraps
        self._table = table.float()[None]
        self._size = size
        turned, _ = torch.linalg.qr(dice.normals(f"{name}/turn", 3, 3))
        self._turn = turned.float()

    def __call__(self, points: Tensor, cell: float) -> Tensor:
        """Return the fields (channels, n) at points (3, n)."""
        place = (self._turn @ points) / (cell * self._size)
        place = (2 * (place - place.floor()) - 1).T.reshape(1, 1, 1, -1, 3)
        sampled = torch.nn.functional.grid_sample(self._table, place, align_corners=True)
        return sampled.reshape(self._table.shape[1], -1)
