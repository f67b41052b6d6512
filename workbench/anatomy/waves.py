"""Smooth random fields as sums of plane waves: functions of the point, without a grid.

`ScaledWaves` spread their wavelengths over scales, and several fields share the waves. `EvenWaves` are one
field of alike waves, with its gradient. Points are (3, n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.anatomy.dice import Dice

__all__ = ["EvenWaves", "ScaledWaves", "Warp"]

Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ScaledWaves:
    """Fields f_j(p) = sum_i a_ij sin(k_i . p + phi_i), (fields, n), smooth to all orders.

    A matrix product: fast, and rounded by how many points it is asked for.
    """

    vectors: Tensor
    phases: Tensor
    weights: Tensor

    @classmethod
    def draw(
        cls,
        dice: Dice,
        name: str,
        *,
        fields: int,
        lengths: tuple[float, float],
        sd: float,
        count: int = 24,
        stretch: Vector = (1.0, 1.0, 1.0),
    ) -> ScaledWaves:
        """Return fields of mean 0 and `sd`, of `count` waves in random directions.

        Wavelengths lie between the two of `lengths` mm, log-uniform; amplitudes are in proportion to them,
        so that a field bends alike at each scale. `stretch` multiplies the wavelengths along R, A and S.
        """
        away = dice.normals(f"{name}/directions", count, 3)
        away = away / away.norm(dim=1, keepdim=True)
        share = dice.uniforms(f"{name}/lengths", count)
        length = lengths[0] * (lengths[1] / lengths[0]) ** share
        vectors = 2 * math.pi * away / length[:, None] / torch.tensor(stretch).double()
        phases = 2 * math.pi * dice.uniforms(f"{name}/phases", count, 1)
        weights = dice.normals(f"{name}/weights", fields, count) * length
        weights = weights / (weights.square().sum(dim=1, keepdim=True) / 2).sqrt()
        return cls(vectors.float(), phases.float(), (sd * weights).float())

    def __call__(self, points: Tensor) -> Tensor:
        """Return the fields (fields, n) at `points`."""
        return self.weights @ torch.addmm(self.phases, self.vectors, points).sin_()


@dataclass(frozen=True)
class EvenWaves:
    """sqrt(2 / m) sum_j sin(k_j . r + phi_j): nearly Gaussian, of variance 1, smooth.

    Summed wave by wave and not as a matrix product, whose rounding depends on the number of points.
    """

    vectors: tuple[Vector, ...]
    phases: tuple[float, ...]

    @classmethod
    def draw(cls, dice: Dice, name: str, *, count: int, lengths: tuple[float, float]) -> EvenWaves:
        """Return `count` waves in all directions, of wavelengths between the two of `lengths` mm."""
        shortest, longest = lengths
        turns: list[float] = dice.uniforms(f"{name} phases", count).tolist()
        sizes: list[float] = dice.uniforms(f"{name} lengths", count).tolist()
        start: list[float] = dice.uniforms(f"{name} start", 2).tolist()
        vectors = []
        for j in range(count):
            # Fibonacci points of the half sphere, turned at random: no two waves run alike.
            z = 1 - (j + start[0]) / count
            angle = 2 * math.pi * (start[1] + j * (math.sqrt(5) - 1) / 2)
            flat, k = math.sqrt(1 - z * z), 2 * math.pi / (shortest + (longest - shortest) * sizes[j])
            vectors.append((k * flat * math.cos(angle), k * flat * math.sin(angle), k * z))
        return cls(tuple(vectors), tuple(2 * math.pi * turn for turn in turns))

    @property
    def gain(self) -> float:
        """The factor that makes the variance 1."""
        return math.sqrt(2 / len(self.phases))

    def __call__(self, points: Tensor) -> Tensor:
        """Return the values (n,) at `points`."""
        x, y, z = points
        total = torch.zeros_like(x)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += (x * kx).add_(y, alpha=ky).add_(z, alpha=kz).add_(phase).sin_()
        return total.mul_(self.gain)

    def with_slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (n,) and their gradient (3, n) at `points`."""
        x, y, z = points
        total, slope = torch.zeros_like(x), torch.zeros_like(points)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            turn = (x * kx).add_(y, alpha=ky).add_(z, alpha=kz).add_(phase)
            total += turn.sin()
            cosine = turn.cos_()
            for row, k in zip(slope, (kx, ky, kz), strict=True):
                row.add_(cosine, alpha=k)
        return total.mul_(self.gain), slope.mul_(self.gain)


@dataclass(frozen=True)
class Warp:
    """r -> r + u(r), u a sum of waves with a random displacement each, of root mean square `size` mm."""

    waves: EvenWaves
    pushes: tuple[Vector, ...]

    @classmethod
    def draw(cls, dice: Dice, name: str, *, size: float, count: int, lengths: tuple[float, float]) -> Warp:
        """Return a warp by `count` waves, of wavelengths between the two of `lengths` mm."""
        waves = EvenWaves.draw(dice, name, count=count, lengths=lengths)
        scale = size * waves.gain / math.sqrt(3)
        drawn: list[Vector] = dice.normals(f"{name} pushes", count, 3).tolist()
        return cls(waves, tuple((scale * a, scale * b, scale * c) for a, b, c in drawn))

    def __call__(self, points: Tensor) -> Tensor:
        """Return the moved `points` (3, n)."""
        x, y, z = points
        moved = points.clone()
        for (kx, ky, kz), phase, push in zip(self.waves.vectors, self.waves.phases, self.pushes, strict=True):
            wave = (x * kx).add_(y, alpha=ky).add_(z, alpha=kz).add_(phase).sin_()
            for row, by in zip(moved, push, strict=True):
                row.add_(wave, alpha=by)
        return moved
