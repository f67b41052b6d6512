"""Random smooth fields as functions of the world point, and the numbers they are drawn with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.random import Keys

__all__ = ["Chance", "Texture", "Warp", "Waves"]

LIKE = torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class Chance:
    """Numbers of a seed by their names: what is drawn for one purpose leaves all others as they are."""

    seed: int

    def uniform(self, name: str, low: float, high: float) -> float:
        """Return a number in (low, high)."""
        return low + (high - low) * self.uniforms(name, 1)[0]

    def uniforms(self, name: str, count: int) -> list[float]:
        """Return `count` numbers in (0, 1)."""
        drawn: list[float] = Keys(self.seed, (0,)).uniforms((count,), f"brain {name}", like=LIKE)[0].tolist()
        return drawn

    def normal(self, name: str, mean: float, sd: float) -> float:
        """Return a normal number, cut at two and a half standard deviations: a head has no outliers."""
        return mean + sd * min(2.5, max(-2.5, self.normals(name, 1)[0]))

    def normals(self, name: str, count: int) -> list[float]:
        """Return `count` standard normals."""
        drawn: list[float] = Keys(self.seed, (0,)).normals((count,), f"brain {name}", like=LIKE)[0].tolist()
        return drawn

    def choice(self, name: str, count: int) -> int:
        """Return a number in 0..count - 1."""
        return min(count - 1, int(count * self.uniform(name, 0.0, 1.0)))


@dataclass(frozen=True)
class Waves:
    """sqrt(2 / m) sum_j sin(k_j . r + phi_j): nearly Gaussian, of variance 1, smooth, without a grid.

    Summed wave by wave and not as a matrix product, whose rounding depends on the number of points.
    """

    vectors: tuple[tuple[float, float, float], ...]
    phases: tuple[float, ...]

    @classmethod
    def draw(cls, chance: Chance, name: str, count: int, shortest: float, longest: float) -> Waves:
        """Return `count` waves in all directions, of wavelengths in mm from `shortest` to `longest`."""
        turns, sizes = chance.uniforms(f"{name} phases", count), chance.uniforms(f"{name} lengths", count)
        start = chance.uniforms(f"{name} start", 2)
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
        """Return the values (n,) at `points` (3, n)."""
        x, y, z = points
        total = torch.zeros_like(x)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += (x * kx).add_(y, alpha=ky).add_(z, alpha=kz).add_(phase).sin_()
        return total.mul_(self.gain)

    def with_slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (n,) and their gradient (3, n) at `points` (3, n)."""
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

    waves: Waves
    pushes: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(
        cls, chance: Chance, name: str, *, size: float, count: int, shortest: float, longest: float
    ) -> Warp:
        """Return a warp by `count` waves between `shortest` and `longest` mm."""
        waves = Waves.draw(chance, name, count, shortest, longest)
        drawn = chance.normals(f"{name} pushes", 3 * count)
        scale = size * waves.gain / math.sqrt(3)
        return cls(waves, tuple((scale * a, scale * b, scale * c) for a, b, c in _threes(drawn)))

    def __call__(self, points: Tensor) -> Tensor:
        """Return the moved `points` (3, n)."""
        x, y, z = points
        moved = points.clone()
        for (kx, ky, kz), phase, push in zip(self.waves.vectors, self.waves.phases, self.pushes, strict=True):
            wave = (x * kx).add_(y, alpha=ky).add_(z, alpha=kz).add_(phase).sin_()
            for row, by in zip(moved, push, strict=True):
                row.add_(wave, alpha=by)
        return moved


@dataclass(frozen=True)
class Texture:
    """Fine noise of variance about 1: normals on the points of a periodic cubic lattice, interpolated.

    Waves would need hundreds of terms to look this fine. The lattice is turned out of the axes of the
    world, so that no slice shows it.
    """

    lattice: Tensor
    frame: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, chance: Chance, name: str, *, step: float, size: int = 64) -> Texture:
        """Return noise whose lattice has `size`^3 points, `step` mm apart."""
        lattice = Keys(chance.seed, (0,)).normals((size,) * 3, f"brain {name}", like=torch.empty(0))[0]
        turn = torch.linalg.qr(torch.tensor(chance.normals(f"{name} frame", 9)).reshape(3, 3))[0] / step
        return cls(lattice.flatten(), tuple(_threes(turn.flatten().tolist())))

    def __call__(self, points: Tensor) -> Tensor:
        """Return the values (n,) at `points` (3, n)."""
        size = round(len(self.lattice) ** (1 / 3))
        x, y, z = points
        index, low, high = torch.zeros_like(x, dtype=torch.int64), [], []
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


def _threes(numbers: list[float]) -> list[tuple[float, float, float]]:
    return [(numbers[j], numbers[j + 1], numbers[j + 2]) for j in range(0, len(numbers), 3)]
