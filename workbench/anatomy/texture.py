"""Fine random fields: keyed normals on a periodic lattice, interpolated. Waves would need hundreds of terms.

The lattice is turned out of the axes of the world, so that no slice shows it. Points are (3, n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.anatomy.dice import Dice

__all__ = ["SharpTexture", "SmoothTexture"]


@dataclass(frozen=True, eq=False)
class SmoothTexture:
    """Fields (channels, n) of mean 0 and sd 1 from a smoothed lattice, of cells as large as one asks for."""

    table: Tensor
    turn: Tensor

    @classmethod
    def draw(cls, dice: Dice, name: str, *, channels: int, size: int = 48) -> SmoothTexture:
        """Return independent fields that repeat after `size` cells, which organs are too small to show."""
        table = dice.normals(name, channels, size, size, size)
        for axis in (1, 2, 3):
            # (1, 2, 1) / 4: interpolation between neighbours that agree shows no lattice.
            table = (2 * table + table.roll(1, axis) + table.roll(-1, axis)) / 4
        table = table / table.std()
        for axis in (1, 2, 3):
            table = torch.cat([table, table.narrow(axis, 0, 1)], dim=axis)  # the first again: it wraps
        turn, _ = torch.linalg.qr(dice.normals(f"{name}/turn", 3, 3))
        return cls(table.float()[None], turn.float())

    def __call__(self, points: Tensor, cell: float) -> Tensor:
        """Return the fields (channels, n) at `points`, of cells of `cell` mm."""
        _, channels, size, _, _ = self.table.shape
        place = (self.turn @ points) / (cell * (size - 1))
        place = (2 * (place - place.floor()) - 1).T.reshape(1, 1, 1, -1, 3)
        sampled = torch.nn.functional.grid_sample(self.table, place, align_corners=True)
        return sampled.reshape(channels, -1)


@dataclass(frozen=True)
class SharpTexture:
    """One field (n,) of variance about 1 everywhere: neighbours on the lattice are independent."""

    lattice: Tensor
    frame: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, dice: Dice, name: str, *, step: float, size: int = 64) -> SharpTexture:
        """Return noise whose lattice has `size`^3 points, `step` mm apart."""
        lattice = dice.normals(name, size, size, size).float().flatten()
        turn = torch.linalg.qr(dice.normals(f"{name} frame", 3, 3).float())[0] / step
        return cls(lattice, tuple((a, b, c) for a, b, c in turn.tolist()))

    def __call__(self, points: Tensor) -> Tensor:
        """Return the values (n,) at `points`."""
        size = round(len(self.lattice) ** (1 / 3))
        x, y, z = points
        low: list[Tensor] = []
        high: list[Tensor] = []
        for a, b, c in self.frame:
            at = (x * a).add_(y, alpha=b).add_(z, alpha=c)
            floor = at.floor()
            high.append(at - floor)
            low.append(floor.long() % size)
        corner = [(cell, (cell + 1) % size) for cell in low]
        total = torch.zeros_like(x)
        spread = torch.zeros_like(x)
        for bits in range(8):
            weight, index = torch.ones_like(x), torch.zeros_like(low[0])
            for axis in range(3):
                side = bits >> axis & 1
                weight = weight * (high[axis] if side else 1 - high[axis])
                index = index * size + corner[axis][side]
            total += weight * self.lattice[index]
            spread += weight * weight
        # A mean of independent normals is calmer between lattice points than on them: divided out.
        return total / spread.sqrt()
