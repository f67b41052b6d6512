"""The spine: vertebrae with their processes, discs, the canal; and what bone is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas, Part
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import oval, smooth_min, step
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.habitus import SPINE
from workbench.anatomy.torso.tissues import LABELS

__all__ = ["LEVELS", "Bone", "Spine"]

#: Heights of the middles of the vertebrae, from L5 up to C3.
LEVELS = np.array(
    [18 + 36 * i for i in range(5)] + [194 + 24 * i for i in range(12)] + [476, 493, 510, 527, 544]
)


@dataclass(frozen=True)
class Bone:
    """What bones are painted with: a hard shell of changing density, and marrow with trabeculae."""

    tissues: dict[str, float]
    dice: Dice

    @cached_property
    def grain(self) -> SmoothTexture:
        """The texture of the trabeculae."""
        return SmoothTexture.draw(self.dice, "trabeculae", channels=2)

    def paint(
        self,
        canvas: Canvas,
        part: Part,
        distance: Tensor,
        shell: Tensor | float,
        label: Tensor | int,
        *,
        soft: Tensor | float = 0.0,
        yellow: Tensor | bool = False,
    ) -> None:
        """Paint cortex, and marrow deeper than `shell`; where `soft` is 1, cartilage."""
        t = self.tissues
        near = distance < 2 * canvas.edge
        if not near.any():
            return
        grain = self.grain(part.q, 2.1)
        marrow = t["marrow"] + 26 * grain[0] + 20 * grain[1]
        if isinstance(yellow, Tensor):
            deep = ((-distance - 8) / 6).clamp(0, 1) * yellow
            marrow = torch.lerp(marrow, torch.full_like(marrow, t["yellow marrow"]), deep)
        # Cortex is dense in places and thin in others.
        hard = t["cortex"] * (1 + 0.3 * self.grain(part.q, 7.0)[0]).clamp(0.35, 1.9)
        value = hard + canvas.cover(distance + shell) * (marrow - hard)
        value = value + soft * (t["cartilage"] + 25 * grain[0] - value)
        canvas.paint(part, canvas.cover(distance), value, label)


@dataclass(frozen=True)
class Spine:
    """The spine of one subject in the body's coordinates."""

    tissues: dict[str, float]
    bone: Bone

    def paint(self, canvas: Canvas) -> None:
        """Paint the vertebrae, what is between them, and the canal."""
        part = canvas.part((-52, -135, -2), (52, 25, 556))
        if part is None:
            return
        x, y, z = part.q
        middle, half, deep = SPINE(z)
        edges = torch.from_numpy((LEVELS[1:] + LEVELS[:-1]) / 2).float()
        level = torch.bucketize(z, edges)
        centres = torch.from_numpy(LEVELS).float()
        gaps = torch.cat([torch.tensor([36.0]), edges.diff(), torch.tensor([17.0])])
        up, tall = z - centres[level], gaps[level] / 2
        back = y - middle
        lumbar = 1 - step(z, 165, 215)
        side = x.abs()
        waist = 1.6 * (1 - (up / tall).square())
        ring, _ = oval(x, back, half - waist, deep - waist, 2.4)
        disc = 4.6 * lumbar + 2.4 * (1 - lumbar)
        body = torch.maximum(ring, up.abs() - (tall - disc))
        gap = torch.maximum(ring + 1.0, (up.abs() - tall).abs() - disc - 1)
        # The canal lies behind the body; pedicles, laminae, processes around it.
        hole = back + deep + 7.5
        canal, _ = oval(x, hole, 10.5, 7.5 + 0 * x, 2.2)
        arch, _ = oval(x, hole + 1.5, 16.0, 13.5, 2.2)
        arch = torch.maximum(torch.maximum(arch, -canal + 0.8), up.abs() + 0.1 * hole - 0.72 * tall)
        slant = up + (0.35 * lumbar + 0.9 * (1 - lumbar)) * (-hole - 8).clamp(min=0) + 4
        long = 26 * lumbar + 22 * (1 - lumbar)
        thorn = torch.maximum(
            torch.maximum(side - 3.6, slant.abs() - 4.5 - 5.5 * lumbar),
            (hole + long / 2 + 8).abs() - long / 2,
        )
        wing = torch.maximum(side - (43 * lumbar + 31 * (1 - lumbar)), -side + 12)
        sweep = back + deep + 7 + 0.25 * (side - 12) * (1 + 1.2 * (1 - lumbar))
        wing = torch.maximum(wing, ((up + 1).square() + sweep.square()).sqrt() - 4.8)
        # Facets: a lump on each side that joins neighbours.
        facet = ((side - 15).square() + (hole + 6).square()).sqrt() - 6.2
        arch = smooth_min(smooth_min(arch, thorn, 3), smooth_min(wing, facet, 3), 3)
        t = self.tissues
        canvas.paint(part, canvas.cover(gap), t["disc"], LABELS["disc"])
        self.bone.paint(canvas, part, arch, 1.9, LABELS["vertebra"])
        self.bone.paint(canvas, part, body, 1.1, LABELS["vertebra"])
        canvas.paint(part, canvas.cover(canal), t["visceral fat"] / 2, LABELS["spinal canal"])
        cord, _ = oval(x, hole, 8.0, 5.6 + 0 * x, 2.0)
        canvas.paint(part, canvas.cover(cord), t["canal"], LABELS["spinal canal"])
