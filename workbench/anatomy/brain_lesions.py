"""Lesions of the brain: strokes, white-matter lesions as of multiple sclerosis, tumours in their oedema."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.anatomy.brain_canvas import Canvas
from workbench.anatomy.brain_noise import Chance, Waves
from workbench.anatomy.brain_tissues import Tissue

__all__ = ["KINDS", "Focus"]

KINDS = ("stroke", "ms", "tumour")
LABELS = {"stroke": Tissue.STROKE, "ms": Tissue.MS, "tumour": Tissue.TUMOUR_CORE}
RADII = {"stroke": (8.0, 24.0), "ms": (2.5, 6.0), "tumour": (8.0, 18.0)}
FLUIDS = (Tissue.CSF, Tissue.VENTRICLE, Tissue.BLOOD, Tissue.DURA, Tissue.OUTSIDE)
WHITE = (Tissue.WHITE, Tissue.STEM, Tissue.CEREBELLAR_WHITE)
WHITE_OR_NUCLEI = (*WHITE, Tissue.THALAMUS, Tissue.PUTAMEN, Tissue.PALLIDUM, Tissue.CAUDATE)


@dataclass(frozen=True)
class Focus:
    """One lesion: where it lies in RAS mm, how large it is and how its outline wanders."""

    kind: str
    centre: tuple[float, float, float]
    radius: float
    outline: Waves
    long: tuple[float, float, float]

    @classmethod
    def draw(cls, chance: Chance, number: int, kind: str) -> Focus:
        """Return lesion `number` of a subject, which has no place yet: its centre is the origin."""
        radius = chance.uniform(f"lesion {number} radius", *RADII[kind])
        outline = Waves.draw(chance, f"lesion {number} outline", 12, 0.9 * radius, 2.2 * radius)
        a, b, c = (0.8 + 0.5 * u for u in chance.uniforms(f"lesion {number} axes", 3))
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

    def paint(self, canvas: Canvas, world: Tensor) -> None:
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
            canvas.paint(Tissue.MS, rough - self.radius, edge=1.8, within=solid)
        elif self.kind == "stroke":
            canvas.paint(Tissue.STROKE, rough - self.radius, edge=2.5, within=solid)
        else:
            # Oedema runs along white matter and spares the cortex: fingers.
            swelling = rho * (1 + 0.28 * self.outline(world * 0.6)) - 1.75 * self.radius
            canvas.paint(Tissue.OEDEMA, swelling, edge=5.0, within=white)
            canvas.paint(Tissue.TUMOUR_RIM, rough - self.radius, edge=1.5)
            canvas.paint(Tissue.TUMOUR_CORE, rough * 1.05 - 0.8 * self.radius, edge=2.0)
