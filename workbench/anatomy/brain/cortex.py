"""The folded cortex: how far below the nearest pial surface a point lies, sulci counted as surface.

A random field f with a narrow band of wavelengths is constant along the way from the hull of a hemisphere
to its core. Its zero set is a labyrinth of sheets that run inwards: the sulci. With the depth d below the
hull, the distance s = |f| / |grad f| from a sheet, the sulcus' depth D and half its width w, the distance
from a sulcus is sqrt(s^2 + max(0, d - D)^2) - w: round at its bottom. Grey matter is what is nearer than the
cortex' thickness to the hull or to a sulcus, white matter what is deeper: the same thickness everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from workbench.anatomy.brain.solids import join, meet, superellipsoid
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import step
from workbench.anatomy.waves import EvenWaves, Warp

__all__ = ["Cortex", "cerebrum", "cranium"]


def cranium(points: Tensor) -> Tensor:
    """Return the distance to the inner table of the skull, negative inside."""
    x, y, z = points
    wide = torch.stack([x * _narrowing(y), y, z])
    vault = superellipsoid(wide, (0, -17, 7), (70, 89, 71), power=2.25)
    vault = meet(vault, -(z + _sloped(y, ((-75, 40), (-45, 30), (-25, 24), (10, 26), (30, 29), (60, 26)))), 8)
    side = torch.stack([x.abs(), y, z])
    temporal = superellipsoid(side, (43, -18, -22), (26.5, 49, 28))
    fossa = superellipsoid(points, (0, -63, -33), (54, 41, 30), power=2.2)
    stem = _rod(points, 15.0)
    return join(join(join(vault, temporal, 9), fossa, 9), stem, 10)


def cerebrum(points: Tensor, gap: Tensor) -> Tensor:
    """Return the distance to the hull of the cerebrum, `gap` mm from the skull, negative inside."""
    x, y, z = points
    wide = torch.stack([x * _narrowing(y), y, z])
    main = superellipsoid(wide, (0, -17, 7), (69.6, 88.6, 70.6), power=2.25) + gap
    side = x.abs()
    # Below: orbital surface in front, hypothalamus in the middle, tentorium behind, falling to the sides.
    tent = step(y, -28, -44)
    base = -_sloped(y, ((-100, 14), (-44, 2), (-30, 8), (12, 15), (22, 25), (60, 23)))
    base = base - tent * (side * 0.30)
    main = meet(main, base - z, 5)
    mirrored = torch.stack([side, y, z])
    temporal = superellipsoid(mirrored, (43.3, -19, -21.5), (26.2, 48.7, 27.7)) + gap * 0.7
    return join(main, temporal, 5)


def _narrowing(y: Tensor) -> Tensor:
    """Return the factor on x that makes a head narrower in front than behind the ears."""
    front = (y + 20).clamp(min=0)
    return 1 + 2.6e-5 * front * front


def _sloped(y: Tensor, knots: tuple[tuple[float, float], ...]) -> Tensor:
    """Return the polygon through `knots` (y, value), constant beyond them."""
    total = torch.full_like(y, knots[0][1])
    for (y0, v0), (y1, v1) in pairwise(knots):
        total += step(y, y0, y1) * (v1 - v0)
    return total


def _rod(points: Tensor, radius: float) -> Tensor:
    """Return the distance to the canal of the brain stem and cord."""
    x, y, z = points
    back = y + 28 + 0.28 * (-25 - z).clamp(min=0)
    reach = (z + 15).clamp(min=0)
    distance: Tensor = (x * x + back * back + reach * reach).sqrt() - radius
    return distance


@dataclass(frozen=True)
class Cortex:
    """How one subject's cerebrum is folded; lengths in mm."""

    first: EvenWaves
    second: EvenWaves
    depth: EvenWaves
    bend: Warp
    thickness: float
    primary_depth: float
    secondary_depth: float
    width: float
    fissure: float

    @classmethod
    def draw(cls, dice: Dice, atrophy: float) -> Cortex:
        """Return a folding; `atrophy` from 0 to 1 opens the sulci and thins the cortex."""
        longer = dice.uniform("fold length", 22, 28)
        return cls(
            first=EvenWaves.draw(dice, "folds", count=26, lengths=(longer * 0.9, longer * 1.2)),
            second=EvenWaves.draw(dice, "small folds", count=26, lengths=(longer * 0.56, longer * 0.8)),
            depth=EvenWaves.draw(dice, "fold depth", count=10, lengths=(35, 70)),
            bend=Warp.draw(dice, "fold bend", size=4.2, count=16, lengths=(18, 46)),
            thickness=dice.uniform("cortical thickness", 2.5, 3.1) - 0.3 * atrophy,
            primary_depth=dice.uniform("sulcal depth", 17, 22),
            secondary_depth=dice.uniform("small sulcal depth", 7, 12),
            width=dice.uniform("sulcal width", 0.10, 0.40) + 0.65 * atrophy,
            fissure=dice.uniform("fissure", 0.25, 0.6) + 0.8 * atrophy,
        )

    def pial_depth(self, points: Tensor, hull: Tensor) -> Tensor:
        """Return the distance in mm below the pial surface, negative in sulci and outside.

        `hull` is the distance to the cerebrum's hull, negative inside.
        """
        x, y, z = points
        mirrored = torch.stack([x.abs(), y, z])
        # The longitudinal fissure ends above the corpus callosum and what lies under its arch.
        arch = self.arch(points)
        medial = (x * x + (-arch).clamp(min=0) ** 2).sqrt() - self.fissure
        # The thalami and what is about them have no cortex below: there the hull leads to the brain stem.
        inner = step(superellipsoid(mirrored, (0, -8, -6), (33, 36, 32)), 3, -7)
        outer = -hull + 16 * inner * step(-hull, 0, 7)
        surface = torch.minimum(outer, medial)
        deep = surface.clamp(min=0, max=40)
        lower = step(z + 10 - 0.42 * (24 - y).clamp(min=-10, max=66), 8, -10)
        core = torch.stack([(27 + 16 * lower) * x.sign(), y.clamp(-58, 26) - 8 * lower, 8 - 28 * lower])
        out = points - core
        far = (out * out).sum(dim=0).sqrt().clamp(min=8)
        out = out / far
        # On the medial face sulci run at right angles to it, elsewhere away from the core.
        facing = step(outer - medial, -5, 7)
        out = out * (1 - 0.8 * facing)
        out[0] -= x.sign() * facing
        # Bent by what lies half way to the surface: sulci curve along it and on their way in.
        halfway = points + out * (0.5 * deep)
        landing = self.bend(halfway) + out * (0.5 * deep)
        landing[0] += 120.0 * (x > 0)  # the hemispheres are folded each in its way
        stretch = 1 + (1 - facing) * deep / far
        deeper = torch.sigmoid(1.4 * self.depth(points) + 0.6)
        shallow = 1 - 0.4 * facing
        half = self.width * (1 + 1.2 * torch.exp(-deep / 3))
        nearest = torch.full_like(x, 1e3)
        for waves, reach in (
            (self.first, self.primary_depth * (0.60 + 0.60 * deeper) * shallow),
            (self.second, self.secondary_depth * (1.45 - 1.05 * deeper) * (1 - 0.75 * facing)),
        ):
            level, slope = waves.with_slope(landing)
            steep = (slope * slope).sum(dim=0).add_(2e-3).sqrt_()
            across = (level.abs() / (steep * stretch)).clamp(max=12)
            below = (surface - reach).clamp(min=0)
            nearest = torch.minimum(nearest, (across * across + below * below).sqrt() - half)
        # The cingulate sulcus keeps its distance from the corpus callosum.
        aside = (arch - 12 - 2.5 * self.depth(points)).square() + (surface - 9).clamp(min=0).square()
        nearest = torch.minimum(nearest, aside.sqrt() - half + 12 * (1 - facing))
        # Crowns are round: the smaller depth, less where hull and sulcus are both near.
        depth = join(surface, nearest + 12 * inner, 3.5)
        return join(depth, self._sylvian(points), 3.0)

    def arch(self, points: Tensor) -> Tensor:
        """Return the distance, in the sagittal plane, above the outer contour of the corpus callosum."""
        _, y, z = points
        u, v = (y + 5) / 40, (z - 3) / 26
        level = (u * u + v * v).sqrt()
        slope = (u / 40).square().add((v / 26).square()).sqrt() / level.clamp(min=1e-3)
        above: Tensor = ((level - 1) / slope.clamp(min=1e-3)).clamp(min=-26)
        return above

    def _sylvian(self, points: Tensor) -> Tensor:
        """Return the distance from the Sylvian fissure and the cistern over the insula."""
        x, y, z = points
        side = x.abs()
        rise = z + 10 - 0.42 * (24 - y).clamp(min=-10, max=66) + 2.5 * self.depth(points)
        out = rise / 1.08
        beyond = torch.stack([36 - side, y - 27, -44 - y]).clamp(min=0).square().sum(dim=0)
        lid = (out * out + beyond).sqrt() - (self.width + 0.2)
        wall = (side - 37).square() + ((rise - 1).abs() - 9).clamp(min=0).square()
        wall = wall + ((y - 1).abs() - 19).clamp(min=0).square()
        return torch.minimum(lid, wall.sqrt() - (self.width + 0.2))
