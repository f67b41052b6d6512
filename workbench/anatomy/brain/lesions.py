"""Lesions of the brain: strokes, white-matter lesions as of multiple sclerosis, tumours in their oedema."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.errors import value_error
from workbench.anatomy.brain.canvas import HeadCanvas
from workbench.anatomy.brain.tissues import Tissue
from workbench.anatomy.dice import Dice
from workbench.anatomy.subject import Look, Point
from workbench.anatomy.waves import EvenWaves

__all__ = ["KINDS", "Focus", "placed"]

KINDS = ("stroke", "ms", "tumour")
LABELS = {"stroke": Tissue.STROKE, "ms": Tissue.MS, "tumour": Tissue.TUMOUR_CORE}
RADII = {"stroke": (8.0, 24.0), "ms": (2.5, 6.0), "tumour": (8.0, 18.0)}
FLUIDS = (Tissue.CSF, Tissue.VENTRICLE, Tissue.BLOOD, Tissue.DURA, Tissue.OUTSIDE)
WHITE = (Tissue.WHITE, Tissue.STEM, Tissue.CEREBELLAR_WHITE)
#: Where lesions are put: their tissues, in a box of the world.
HOSTS = (*WHITE, Tissue.THALAMUS, Tissue.PUTAMEN, Tissue.PALLIDUM, Tissue.CAUDATE)
BOX: tuple[Point, Point] = ((-62.0, -95.0, -30.0), (62.0, 62.0, 70.0))


@dataclass(frozen=True)
class Focus:
    """One lesion: where it lies in RAS mm, how large it is and how its outline wanders."""

    kind: str
    centre: Point
    radius: float
    outline: EvenWaves
    long: Point

    @classmethod
    def draw(cls, dice: Dice, number: int, kind: str) -> Focus:
        """Return lesion `number` of a subject, which has no place yet: its centre is the origin."""
        radius = dice.uniform(f"lesion {number} radius", *RADII[kind])
        lengths = (0.9 * radius, 2.2 * radius)
        outline = EvenWaves.draw(dice, f"lesion {number} outline", count=12, lengths=lengths)
        a, b, c = (0.8 + 0.5 * u for u in dice.uniforms(f"lesion {number} axes", 3).tolist())
        mean = (a * b * c) ** (1 / 3)
        return cls(kind, (0.0, 0.0, 0.0), radius, outline, (a / mean, b / mean, c / mean))

    @property
    def label(self) -> Tissue:
        """The label at the centre."""
        return LABELS[self.kind]

    @property
    def reach(self) -> float:
        """How far the lesion can reach from its centre, in mm."""
        return 3.2 * self.radius

    def paint(self, canvas: HeadCanvas, world: Tensor) -> None:
        """Paint the lesion over the brain; `world` holds the points (3, n) in RAS mm."""
        off = [row - c for row, c in zip(world, self.centre, strict=True)]
        near = sum((o * o for o in off), torch.zeros_like(world[0])) < self.reach**2
        if not bool(near.any()):
            return
        rho = sum((((o / a) ** 2) for o, a in zip(off, self.long, strict=True)), torch.zeros_like(off[0]))
        rho = rho.sqrt()
        # The outline wanders by a share of the distance from the centre, which therefore stays inside.
        rough = rho * (1 + 0.16 * self.outline(world))
        solid = (~canvas.is_any(*FLUIDS)).float()
        white = canvas.is_any(*WHITE).float()
        if self.kind == "ms":
            canvas.fill(Tissue.MS, rough - self.radius, edge=1.8, within=solid)
        elif self.kind == "stroke":
            canvas.fill(Tissue.STROKE, rough - self.radius, edge=2.5, within=solid)
        else:
            # Oedema runs along white matter and spares the cortex: fingers.
            swelling = rho * (1 + 0.28 * self.outline(world * 0.6)) - 1.75 * self.radius
            canvas.fill(Tissue.OEDEMA, swelling, edge=5.0, within=white)
            canvas.fill(Tissue.TUMOUR_RIM, rough - self.radius, edge=1.5)
            canvas.fill(Tissue.TUMOUR_CORE, rough * 1.05 - 0.8 * self.radius, edge=2.0)


def placed(dice: Dice, count: int, kinds: tuple[str, ...], look: Look) -> tuple[Focus, ...]:
    """Return `count` lesions at points of white matter and deep nuclei, away from one another.

    `look` gives the values and labels of the subject without lesions at world points (n, 3). Where no room is
    left, a ValueError says so.
    """
    tries = 200 + 60 * count
    columns = [
        dice.uniforms(f"lesion {axis}", tries).float() * (high - low) + low
        for axis, low, high in zip("xyz", *BOX, strict=True)
    ]
    tried = torch.stack(columns, dim=1)
    labels = look(tried)[1]
    places = iter(tried[torch.isin(labels, torch.tensor(HOSTS, dtype=labels.dtype))].tolist())
    foci: list[Focus] = []
    for number in range(count):
        drawn = Focus.draw(dice, number, dice.choice(f"lesion {number} kind", kinds))
        for x, y, z in places:
            apart = [1.6 * (drawn.radius + other.radius) for other in foci]
            if all(math.dist((x, y, z), o.centre) > d for o, d in zip(foci, apart, strict=True)):
                foci.append(replace(drawn, centre=(x, y, z)))
                break
        else:
            raise value_error(
                "lesions", f"be few enough to lie apart, here {len(foci)}", count, "Ask for fewer."
            )
    return tuple(foci)
