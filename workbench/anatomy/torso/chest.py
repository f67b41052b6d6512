"""Lungs with their vessels and airways, the diaphragm under them, the heart between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas, Part
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ellipsoid, smooth_max, smooth_min, step
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.habitus import SPINE, Habitus, rib_cage
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import grow, points_in
from workbench.anatomy.tubes import Tubes
from workbench.anatomy.waves import ScaledWaves

__all__ = ["Chest"]

#: Where the trees of the right lung begin; those of the left are their mirror images.
ROOTS = {
    "artery": ((26.0, -4.0, 346.0), (44.0, -12.0, 338.0), (50.0, -18.0, 318.0)),
    "vein": ((16.0, -10.0, 306.0), (40.0, -10.0, 304.0)),
    "airway": ((18.0, -16.0, 350.0), (38.0, -17.0, 336.0), (46.0, -20.0, 318.0)),
}
LUNGS = ((-140.0, -110.0, 120.0), (140.0, 110.0, 480.0))


@dataclass(frozen=True)
class Chest:
    """The organs above the diaphragm, and the vessels that pass it."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice

    # -- surfaces ------------------------------------------------------------------------------

    def diaphragm(self, q: Tensor, radius: Tensor) -> Tensor:
        """Return the height of the domes above points whose radius in the rib cage is given."""
        x, y, _ = q
        left = step(-x, -25, 35)
        top = 240 + self.habitus.dome - self._lower_left * left - 13 * torch.exp(-((x / 30) ** 2))
        # The rim falls from the sternum to the back.
        rim = 163 + 62 * step(y, -40, 95)
        share = radius.clamp(0, 1.2)
        dome = 1 - share**3
        peak = torch.exp(-(((x.abs() - 66) / 110) ** 2) - ((y - 12) / 120) ** 2)
        return rim + (top - rim) * dome * (0.55 + 0.45 * peak)

    @cached_property
    def _lower_left(self) -> float:
        return self.dice.normal("lower left dome", 12, 5)

    @cached_property
    def _heart_turn(self) -> Tensor:
        """Rows: towards the apex (left, front, down), across, and through."""
        lift = math.radians(self.dice.normal("heart/lift", 38, 8))
        out = math.radians(self.dice.normal("heart/out", 48, 7))
        apex = np.array([-math.cos(lift) * math.sin(out), math.cos(lift) * math.cos(out), -math.sin(lift)])
        across = np.cross(apex, [0, 0, 1])
        across /= np.linalg.norm(across)
        return torch.from_numpy(np.stack([apex, across, np.cross(apex, across)])).float()

    @cached_property
    def heart_centre(self) -> tuple[float, float, float]:
        """Where the heart's middle lies in the body's coordinates."""
        d, down = self.dice, 0.8 * self.habitus.dome
        return (d.normal("heart/x", -22, 5), d.normal("heart/y", 24, 4), d.normal("heart/z", 272, 4) + down)

    def heart(self, q: Tensor, grown: float = 0.0) -> Tensor:
        """Return the distance to the heart, `grown` by its sac and the fat in it."""
        axes = [self.habitus.heart * a + grown for a in (60.0, 46.0, 44.0)]
        return ellipsoid(q, self.heart_centre, axes, self._heart_turn)

    def lungs(self, q: Tensor) -> Tensor:
        """Return the distance to both lungs."""
        x, y, z = q
        cage, radius = rib_cage(q)
        inner = smooth_max(cage + 5.5, (z - self.diaphragm(q, radius)) * -0.75, 5)
        # What lies between the lungs: a column that is wide at the hilum, and the spine behind it.
        wide = 26 + 10 * torch.exp(-(((z - 335) / 40) ** 2)) + 7 * step(z, 360, 420) + 3 * self._edge(q)[0]
        front = 1 - 0.72 * step(y, 45, 78) * step(z, 250, 340)
        front = front * (1 - 0.85 * step(y, -14, 12) * step(-z, -285, -255))
        behind = 1 - 0.35 * step(-y, 8, 35)
        column = (x + 3).abs() - wide * front * behind
        middle, half, deep = SPINE(z)
        spine = ((x / (half + 8)).square() + ((y - middle + 4) / (deep + 14)).square()).sqrt() * 24 - 24
        lungs = smooth_max(inner, -smooth_min(smooth_min(column, spine, 10), self.heart(q, 9.0), 8), 7)
        return lungs

    def fluid(self, q: Tensor) -> Tensor:
        """Return the distance to where the fluid of an effusion lies: behind, below, on one side."""
        x, y, z = q
        level = y + 80 - self._effusion + 0.22 * (z - 240)
        return smooth_max(level, -x * self._wet_side, 4)

    @cached_property
    def _effusion(self) -> float:
        return self.dice.uniform("effusion/depth", 4, 40) if self.dice.chance("effusion", 0.12) else 0.0

    @cached_property
    def _wet_side(self) -> float:
        return 1.0 if self.dice.chance("effusion/right", 0.5) else -1.0

    @cached_property
    def _edge(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "hilum", fields=1, lengths=(25, 80), sd=1.0, count=16)

    @cached_property
    def _texture(self) -> SmoothTexture:
        return SmoothTexture.draw(self.dice, "lung", channels=2)

    @cached_property
    def _patches(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "patches", fields=2, lengths=(40, 200), sd=1.0, count=20)

    # -- trees ---------------------------------------------------------------------------------

    @cached_property
    def _vessels(self) -> tuple[Tubes, Tubes]:
        """Arteries and veins in the lungs, and the airways."""
        low, high = (np.array(corner) for corner in LUNGS)
        parts: list[tuple[np.ndarray, ...]] = []
        airways: list[tuple[np.ndarray, ...]] = []
        richness = self.dice.uniform("vessels", 0.7, 1.25)
        for side, name in ((1, "right"), (-1, "left")):
            box = (
                np.array([min(0, side * high[0]), low[1], low[2]]),
                np.array([max(0, side * high[0]), high[1], high[2]]),
            )
            for kind, count, finest, widest in (("artery", 430, 0.62, 8.0), ("vein", 300, 0.66, 6.5)):
                label, start = f"{kind}/{name}", np.array(ROOTS[kind]) * (side, 1, 1)
                tips = points_in(self.dice, label, int(richness * count), box, lambda q: self.lungs(q) < -3.5)
                parts.append(grow(self.dice, label, start, tips, finest=finest, widest=widest))
            label, start = f"airway/{name}", np.array(ROOTS["airway"]) * (side, 1, 1)
            tips = points_in(self.dice, label, 60, box, lambda q: self.lungs(q) < -16)
            airways.append(grow(self.dice, label, start, tips, finest=0.75, power=2.6, widest=5.0))
        a, b, r, s = (np.concatenate(table) for table in zip(*parts, strict=True))
        c, d, u, v = (np.concatenate(table) for table in zip(*airways, strict=True))
        return Tubes(a, b, r, s), Tubes(c, d, u, v)

    # -- painting ------------------------------------------------------------------------------

    def paint(self, canvas: Canvas) -> None:
        """Paint what lies above the diaphragm, and the lungs with all in them."""
        self._paint_heart(canvas)
        part = canvas.part(*LUNGS)
        if part is None:
            return
        distance = self.lungs(part.q)
        near = distance < 3 * canvas.edge
        held = part.where(near)
        if held is not None:
            self._paint_lungs(canvas, held, distance[near])

    def _paint_lungs(self, canvas: Canvas, part: Part, distance: Tensor) -> None:
        t, q = self.tissues, part.q
        x, y, _ = q
        patch = self._patches(q)
        grain = self._texture(q, 3.0)
        # Blood sinks to the back of a lung; air stays in front. Some lungs are diseased in places.
        damage = self.dice.uniform("damage") ** 4 * 220
        value = t["lung"] - 0.45 * (y + 5) * self._sink + 13 * patch[0] + 14 * grain[0] + 11 * grain[1]
        value = value + damage * (patch[1] - 0.9).clamp(0, 1.2) * (1 + 0.4 * grain[0])
        side = torch.where(x > -3, LABELS["lung right"], LABELS["lung left"]).to(torch.int16)
        canvas.paint(part, canvas.cover(distance), value.clamp(-985, -200), side)
        if self._effusion:
            wet = self.fluid(q)
            canvas.paint(
                part, canvas.cover(torch.maximum(wet, distance)), t["pleural fluid"], LABELS["pleural fluid"]
            )
            distance = torch.maximum(distance, -wet)
        vessels, airways = self._vessels
        deep = part.where(distance < 1.0)
        if deep is None:
            return
        found = vessels.nearest(deep.q, 1.5 * canvas.edge)
        if found is not None:
            # A vessel thinner than the edge is wide covers what its section does.
            canvas.paint(deep, canvas.cover(found[0]), t["lung vessel"], LABELS["lung vessel"])
        found = airways.nearest(deep.q, 3.0)
        if found is not None:
            canvas.paint(deep, 0.75 * canvas.cover(found[0] - 1.1), t["muscle"], LABELS["airway"])
            canvas.paint(deep, canvas.cover(found[0]), t["air"] + 40, LABELS["airway"])

    @cached_property
    def _sink(self) -> float:
        return self.dice.uniform("sink", 0.3, 1.3)

    def _paint_heart(self, canvas: Canvas) -> None:
        t, size = self.tissues, self.habitus.heart
        cx, cy, cz = self.heart_centre
        part = canvas.part((cx - 75, cy - 70, cz - 72), (cx + 75, cy + 70, cz + 75))
        if part is None:
            return
        local = self._heart_turn @ (part.q - torch.tensor(self.heart_centre)[:, None]) / size
        grain = self._texture(part.q, 3.2)[0]
        _, radius = rib_cage(part.q)
        floor = (self.diaphragm(part.q, radius) + 2 - part.q[2]) * 0.8
        # Fat fills the grooves under the sac.
        groove = 5 * torch.exp(-(((local[0] + 14) / 6) ** 2)) + 3 * (grain.abs() - 0.9).clamp(min=0)
        muscle = smooth_max(self.heart(part.q) + groove, floor, 6)
        canvas.paint(part, canvas.cover(muscle), t["heart muscle"] + 3 * grain, LABELS["heart muscle"])
        rough = 1.6 * grain
        ventricle = ellipsoid(local, (8.0, 22.0, 14.0), (40.0, 13.0, 25.0))
        atrium = ellipsoid(local, (-32.0, 22.0, 8.0), (20.0, 19.0, 24.0))
        right = torch.maximum(smooth_min(ventricle, atrium, 6) + rough, muscle + 3)
        canvas.paint(part, canvas.cover(right), t["right"], LABELS["heart chamber right"])
        ventricle = ellipsoid(local, (14.0, -14.0, -2.0), (34.0, 19.0, 20.0))
        atrium = ellipsoid(local, (-36.0, -14.0, -12.0), (17.0, 25.0, 20.0))
        left = torch.maximum(smooth_min(ventricle + rough, atrium, 4), muscle + 2)
        canvas.paint(part, canvas.cover(left), t["left"], LABELS["heart chamber left"])
