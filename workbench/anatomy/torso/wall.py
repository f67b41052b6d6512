"""The body's surface and wall: skin, fat, muscles and the fat between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ellipsoid, oval, smooth_max, smooth_min, step
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.habitus import CAVITY, MUSCLE, Habitus
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import mirrored, strung
from workbench.anatomy.tubes import Tubes
from workbench.anatomy.waves import ScaledWaves

__all__ = ["Wall"]

SKIN = 1.8  # mm


@dataclass(frozen=True)
class Wall:
    """The surfaces of the body without and with its fat, and the muscles between."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice

    @cached_property
    def _arms(self) -> Tubes | None:
        h = self.habitus
        if h.arms == "absent":
            return None
        raised = ((138, -22, 438, 50), (156, -10, 470, 44), (172, 12, 600, 38))
        out = max(0.0, 0.9 * h.fat - 6)
        hanging = (
            (146, -24, 420, 48),
            (176, -26, 380, 45),
            (199 + out, -30, 215, 36),
            (208 + out, -8, 60, 31),
            (204 + out, 24, -70, 24),
        )
        path = [(x, y, z, h.muscle * r) for x, y, z, r in (raised if h.arms == "up" else hanging)]
        return strung([(0.0, side) for side in mirrored(path)])

    @cached_property
    def _lumps(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "fat", fields=1, lengths=(70, 260), sd=0.16, count=20)

    @cached_property
    def _septa(self) -> ScaledWaves:
        return ScaledWaves.draw(
            self.dice, "septa", fields=4, lengths=(45, 150), sd=1.0, count=26, stretch=(1, 1, 2.2)
        )

    @cached_property
    def _grain(self) -> SmoothTexture:
        return SmoothTexture.draw(self.dice, "wall", channels=2)

    def muscle(self, q: Tensor) -> Tensor:
        """Return the distance to the surface under the fat."""
        x, y, z = q
        a, b, middle = MUSCLE(z)
        chest = 1 + (self.habitus.muscle - 1) * step(z, 230, 330)
        trunk, _ = oval(x, y - middle, a * chest, b * chest, 2.5)
        trunk = smooth_max(trunk, -118 - z, 30)
        # Thighs lean inwards towards the knee.
        lean = 88 + 0.04 * (z + 150)
        thigh, _ = oval(x.abs() - lean, y + 2, 70 * self.habitus.muscle, 76 * self.habitus.muscle, 2.0)
        body = smooth_min(trunk, smooth_max(thigh, z + 20, 40), 26)
        shoulder = ellipsoid(torch.stack([x.abs(), y, z]), (118.0, -28.0, 425.0), (66.0, 48.0, 46.0))
        if self._arms is not None:
            found = self._arms.nearest(q, 100.0)
            if found is not None:
                shoulder = smooth_min(shoulder, found[0], 12)
        return smooth_min(body, shoulder, 3 + 17 * step(z, 330, 420))

    def skin(self, q: Tensor, muscle: Tensor) -> Tensor:
        """Return the distance to the skin, by the distance to what lies under the fat."""
        x, y, z = q
        h = self.habitus
        low = step(z, -200, -60) * 0.55 + 0.45
        trunk = low * (1 - 0.45 * step(z, 130, 330)) * (1 - 0.35 * step(z, 400, 470))
        around = (
            1 + 0.3 * step(y, 20, 90) * (1 - step(z, 180, 300)) - 0.25 * step(-y, 40, 100) * step(z, 100, 250)
        )
        seat = 1 + 0.25 * step(-y, 20, 90) * (1 - step(z, -40, 60))
        arm = 1 - 0.5 * step(x.abs(), 165, 190) * step(z, -120, 60)
        thick = 1.5 + h.fat * trunk * around * seat * arm * (1 + self._lumps(q)[0])
        skin = muscle - thick
        if h.breast:
            front = MUSCLE.at(300.0)[1] + 0.55 * h.fat
            side = ellipsoid(
                torch.stack([x.abs(), y, z]), (84.0, front - 20, 294.0), (60.0, 0.85 * h.breast + 16, 60.0)
            )
            skin = smooth_min(skin, side, 22)
        return skin

    def cavity(self, q: Tensor, muscle: Tensor) -> Tensor:
        """Return the distance to the surface around the organs of chest and belly."""
        x, y, z = q
        a, b, middle = CAVITY(z)
        belly, _ = oval(x, y - middle, a, b, 2.3)
        return smooth_max(belly, muscle + 11.0, 6)

    def paint(self, canvas: Canvas, skin: Tensor, muscle: Tensor, cavity: Tensor) -> None:
        """Paint fat, skin, muscles and the fat inside."""
        t, q = self.tissues, canvas.q
        fine, broad = self._grain(q, 2.6)
        # Fat is crossed by thin strands; its mean is lower between them.
        strands = (1.6 - (fine.abs() + broad.abs())).clamp(0, 1.6).square()
        canvas.paint(canvas.whole, torch.ones_like(skin), t["fat"] + 5 * fine + 9 * strands, LABELS["fat"])
        canvas.paint(canvas.whole, canvas.cover(-(skin + SKIN)), t["skin"], LABELS["skin"])
        if self.habitus.breast:
            self._gland(canvas, skin)
        inside = canvas.where(muscle < canvas.edge)
        if inside is None:
            return
        lean, grain = inside.at(muscle), inside.at(fine)
        w = self._septa(inside.q)
        # Sheets of muscle lie over one another: between sheets, and between neighbours in a sheet, is fat
        # where a field changes sign. Its width is another field's: many septa are too thin to be seen.
        thick = (0.5 + 0.5 * self.habitus.marbling) * (1.5 + 1.8 * w[3]).clamp(0, 5)
        sheet = (((lean + 5 * w[0]) / 19 + 0.5 * w[1]) % 1 - 0.5).abs() * 17 - thick / 2
        beside = w[2].abs() * 15 - thick / 2
        meat = torch.maximum(lean, -torch.minimum(sheet, beside))
        streaks = grain * 7 - self.habitus.marbling * 26 * (inside.at(broad) - 0.7).clamp(0, 1.5)
        canvas.paint(inside, canvas.cover(meat), t["muscle"] + streaks, LABELS["muscle"])
        x, y, z = inside.q
        armpit = ellipsoid(torch.stack([x.abs(), y, z]), (128.0, 0.0, 372.0), (20.0, 30.0, 46.0))
        cleft = ellipsoid(inside.q, (0.0, -100.0, -110.0), (10.0, 40.0, 70.0))
        canvas.paint(inside, canvas.cover(torch.minimum(armpit, cleft)), t["fat"] + 6 * grain, LABELS["fat"])
        inner = canvas.where((cavity < canvas.edge) & (muscle < canvas.edge))
        if inner is not None:
            mottle = t["visceral fat"] + 6 * inner.at(fine) + 14 * inner.at(strands)
            canvas.paint(inner, canvas.cover(inner.at(cavity)), mottle, LABELS["visceral fat"])

    def _gland(self, canvas: Canvas, skin: Tensor) -> None:
        h = self.habitus
        front = MUSCLE.at(300.0)[1] + 0.55 * h.fat
        part = canvas.part((-130, front - 60, 235), (130, front + 60, 355))
        if part is None:
            return
        x, y, z = part.q
        lobe = ellipsoid(torch.stack([x.abs(), y, z]), (84.0, front - 2, 290.0), (38.0, 0.5 * h.breast, 36.0))
        wisps = self._grain(part.q, 9.0).sum(dim=0) * 9
        deep = torch.maximum(torch.maximum(lobe, 2 + wisps), part.at(skin) + 6)
        canvas.paint(part, canvas.cover(deep), self.tissues["breast gland"], LABELS["breast gland"])
