"""Liver, spleen, kidneys, stomach, bowel and what else lies below the diaphragm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ball, ellipsoid, length, rotation, smooth_max, smooth_min, step
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.bowel import Bowel
from workbench.anatomy.torso.chest import Chest
from workbench.anatomy.torso.habitus import SPINE, Habitus, rib_cage
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import grow, mirrored, points_in, strung
from workbench.anatomy.tubes import Tubes
from workbench.anatomy.waves import ScaledWaves

__all__ = ["Abdomen"]

LIVER = ((-100.0, -100.0, 70.0), (135.0, 110.0, 290.0))


@dataclass(frozen=True)
class Abdomen:
    """The organs below the diaphragm, in the body's coordinates."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice
    chest: Chest

    def paint(self, canvas: Canvas, cavity: Tensor) -> None:
        """Paint the organs from back to front."""
        self._muscles(canvas)
        self._kidneys(canvas)
        self.bowel.paint(canvas, cavity)
        self._pancreas(canvas)
        self._spleen(canvas)
        self.bowel.paint_stomach(canvas)
        self._liver(canvas)
        self._pelvis(canvas)

    @cached_property
    def bowel(self) -> Bowel:
        """The gut, which is drawn apart."""
        return Bowel(self.habitus, self.tissues, Dice(self.dice.seed, "bowel/"), self.chest)

    @cached_property
    def _grain(self) -> SmoothTexture:
        return SmoothTexture.draw(self.dice, "parenchyma", channels=2)

    @cached_property
    def _bumps(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "bumps", fields=2, lengths=(22, 90), sd=1.0, count=24)

    def _muscles(self, canvas: Canvas) -> None:
        """Paint the muscles that lie inside: psoas, crura."""
        part = canvas.part((-125, -70, -190), (125, 50, 215))
        if part is None:
            return
        found = self._psoas.nearest(part.q, 6.0)
        if found is not None:
            streaks = self._grain(part.q, 3.0)[0] * (5 + 4 * self.habitus.marbling)
            rough = found[0] + 1.2 * self._bumps(part.q)[0]
            canvas.paint(part, canvas.cover(rough), self.tissues["muscle"] + streaks, LABELS["muscle"])

    @cached_property
    def _psoas(self) -> Tubes:
        m = self.habitus.muscle
        high, low = SPINE.at(175)[0] + 2, SPINE.at(140)[0] + 17
        psoas = [(24, high, 175, 5 * m), (35, -26, 120, 12 * m), (42, -22, 60, 19 * m), (52, -14, 10, 21 * m)]
        groin = [(66, 2, -35, 19 * m), (80, 22, -75, 15 * m), (104, 0, -135, 12 * m)]
        iliac = [(92, -16, 40, 7 * m), (98, 6, 0, 15 * m), (84, 18, -60, 13 * m)]
        square = [(62, -54, 170, 9 * m), (72, -52, 110, 12 * m), (80, -48, 60, 12 * m)]
        crus = [(12, SPINE.at(190)[0] + 17, 205, 5), (12, low, 140, 4)]
        paths = [path for one in ([*psoas, *groin], iliac, square, crus) for path in mirrored(one)]
        return strung([(0.0, path) for path in paths])

    # -- solid organs --------------------------------------------------------------------------

    @cached_property
    def _liver_draws(self) -> dict[str, float]:
        d = self.dice
        return {
            "low": d.normal("liver/low", 106, 12) + 0.5 * self.habitus.dome,
            "left": d.normal("liver/left", -74, 18),
            "slope": d.normal("liver/slope", 0.86, 0.1),
            "tail": d.normal("liver/tail", 0.25, 0.1),
        }

    def liver(self, q: Tensor) -> Tensor:
        """Return the distance to the liver."""
        x, y, z = q
        cage, radius = rib_cage(q)
        d = self._liver_draws
        top = (z - self.chest.diaphragm(q, radius) + 3.5) * 0.8
        # The lower side rises from the right flank to the left tip, and from the back to the front.
        floor = (
            d["low"]
            + d["slope"] * (100 - x).clamp(0, 92)
            + d["tail"] * (y - 10)
            - 22 * step(y, -20, -70) * step(x, 20, 80)
        )
        low = (floor - z) * 0.72
        shape = smooth_max(smooth_max(cage + 8.5, top, 8), low, 14)
        shape = smooth_max(shape, (d["left"] - x) * 0.9, 24)
        # Left of the middle it lies in front: the spine, the gullet and the stomach are behind.
        behind = (-20 + 0.6 * (20 - x).clamp(min=0) - y) * 0.8
        shape = smooth_max(shape, behind - 44 * step(x, 28, 62), 12)
        fissure = smooth_max((x - 2 - 0.25 * (y - 30)).abs() - 2.2, (z - 196) * 0.8, 4)
        hilum = ellipsoid(q, (30.0, 16.0, 166.0), (24.0, 15.0, 17.0))
        away = smooth_min(fissure, hilum, 6)
        return smooth_max(shape, -away, 5) + 1.5 * self._bumps(q)[0]

    @cached_property
    def _liver_vessels(self) -> Tubes:
        box = (np.array(LIVER[0]), np.array(LIVER[1]))
        rows = []
        for name, trunk, count in (
            ("portal", [[30, 8, 184], [54, 4, 192], [70, -2, 194]], 90),
            ("hepatic", [[20, -8, 224], [30, -4, 222], [44, 2, 216]], 70),
            ("left", [[20, -4, 222], [6, 20, 212], [-6, 34, 206]], 30),
        ):
            tips = points_in(self.dice, name, count, box, lambda q: self.liver(q) < -9)
            if name == "left":
                tips = tips[tips[:, 0] < 20]
            rows.append(grow(self.dice, name, np.array(trunk, dtype=float), tips, finest=0.8, widest=5.5))
        a, b, r, s = (np.concatenate(table) for table in zip(*rows, strict=True))
        return Tubes(a, b, r, s)

    def _liver(self, canvas: Canvas) -> None:
        part = canvas.part(*LIVER)
        if part is None:
            return
        distance = self.liver(part.q)
        inside = distance < canvas.edge
        held = part.where(inside)
        if held is None:
            return
        t, distance = self.tissues, distance[inside]
        grain = self._grain(held.q, 3.4)
        value = t["liver"] + 2.2 * grain[0] + 1.5 * grain[1] + 2.0 * self._bumps(held.q)[1]
        canvas.paint(held, canvas.cover(distance), value, LABELS["liver"])
        found = self._liver_vessels.nearest(held.q, canvas.edge)
        if found is not None:
            vessels = torch.maximum(found[0], distance + 2)
            canvas.paint(held, canvas.cover(vessels), 0.85 * t["portal"] + 0.15 * t["liver"], LABELS["liver"])
        if not self.dice.chance("gallbladder gone", 0.15):
            full = self.dice.uniform("gallbladder", 0.7, 1.3)
            bag = ellipsoid(held.q, (48.0, 38.0, 138.0), (14 * full, 26 * full, 15 * full), rotation(0, 0.5))
            canvas.paint(held, canvas.cover(bag), t["gut wall"], LABELS["gallbladder"])
            canvas.paint(held, canvas.cover(bag + 1.6), t["gallbladder"], LABELS["gallbladder"])

    def _spleen(self, canvas: Canvas) -> None:
        part = canvas.part((-135, -105, 120), (-40, 40, 270))
        if part is None:
            return
        x, _, z = part.q
        cage, radius = rib_cage(part.q)
        size = self.dice.normal("spleen", 1.06, 0.13)
        body = ellipsoid(part.q, (-95.0, -40.0, 196.0), (30 * size, 46 * size, 50 * size), rotation(0, -0.5))
        dent = ellipsoid(part.q, (-56.0, -16.0, 200.0), (26.0, 34.0, 44.0))
        shape = smooth_max(
            smooth_max(body, cage + 8.5, 6), (z - self.chest.diaphragm(part.q, radius) + 3.5) * 0.8, 6
        )
        shape = smooth_max(shape, -dent, 8) + 1.2 * self._bumps(part.q)[0]
        grain = self._grain(part.q, 3.4)[0]
        value = self.tissues["spleen"] + 2.5 * grain
        if self.tissues["aorta"] > 200:
            # The first minute: red and white pulp fill one after the other, in stripes.
            value = value + 16 * torch.sin(self._bumps(part.q)[1] * 2.6 + x * 0.35)
        canvas.paint(part, canvas.cover(shape), value, LABELS["spleen"])

    def kidney(self, q: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return the distance to a kidney and its coordinates, in mm along its own axes."""
        d, name = self.dice, f"kidney/{side}"
        centre = (
            side * d.normal(f"{name}/x", 60, 3),
            d.normal(f"{name}/y", -30, 3),
            d.normal(f"{name}/z", 120 if side > 0 else 134, 8),
        )
        turn = rotation(1, -side * 0.22) @ rotation(2, -side * 0.55)
        local = turn @ (q - torch.tensor(centre)[:, None])
        size = d.normal(f"{name}/size", 1.0, 0.07)
        shape = ellipsoid(local, (0.0, 0.0, 0.0), (23.5 * size, 27 * size, 53 * size))
        return shape, local * torch.tensor([[side / size], [1 / size], [1 / size]])

    def _kidneys(self, canvas: Canvas) -> None:
        t = self.tissues
        for side, name in ((1, "kidney right"), (-1, "kidney left")):
            low, high = (20, 115) if side > 0 else (-115, -20)
            part = canvas.part((low, -90, 40), (high, 20, 215))
            if part is None:
                continue
            shape, local = self.kidney(part.q, side)
            a, b, c = local
            shape = shape + 0.9 * self._bumps(part.q)[0]
            # The sinus opens to the middle: fat around the pelvis and its calyces.
            sinus = ellipsoid(local, (-17.0, 3.0, 0.0), (17.0, 9.5, 23.0)) + 1.5 * self._bumps(part.q)[1]
            pelvis = ellipsoid(local, (-15.0, 3.0, -2.0), (10.0, 5.0, 10.0))
            cups = (
                ((c / 15.0 - torch.round(c / 15.0)) * 15.0).square()
                + (a - 1).square()
                + (b.abs() - 8).square()
            )
            pyramid = smooth_max(cups.sqrt() - 7.5, shape + 6.5, 2)
            canvas.paint(
                part, canvas.cover(shape), t["kidney cortex"] + 2 * self._grain(part.q, 3.0)[0], LABELS[name]
            )
            canvas.paint(part, canvas.cover(pyramid), t["kidney medulla"], LABELS[name])
            canvas.paint(
                part, canvas.cover(torch.maximum(sinus, -(a + 34))), t["visceral fat"], LABELS["visceral fat"]
            )
            canvas.paint(part, canvas.cover(pelvis), t["renal pelvis"], LABELS[name])
            if self.dice.chance(f"cyst/{side}", 0.25):
                height = self.dice.uniform(f"cyst/{side}/z", -40, 40)
                radius = self.dice.uniform(f"cyst/{side}/r", 4, 17)
                cyst = ball(local, (18.0, -8.0, height), radius)
                canvas.paint(part, canvas.cover(cyst), 8.0, LABELS[name])

    def _pancreas(self, canvas: Canvas) -> None:
        part = canvas.part((-105, -50, 90), (60, 60, 210))
        if part is None:
            return
        t = self.tissues
        lobes = self._bumps(part.q * 2.4)[0]
        found = self._pancreas_tubes.nearest(part.q, 6.0)
        if found is not None:
            canvas.paint(
                part, canvas.cover(found[0] + 2.2 * lobes), t["pancreas"] + 4 * lobes, LABELS["pancreas"]
            )
        for side in (1, -1):
            x, y, z = part.q
            p = torch.stack([(x - side * (34 if side > 0 else 38)), y + 26, z - 176])
            limb = torch.maximum(
                torch.minimum((p[0] - 0.5 * p[1]).abs(), (p[0] + 0.45 * p[1]).abs()) * 0.9 - 2.2,
                length(p) - 15,
            )
            canvas.paint(part, canvas.cover(limb), t["adrenal"], LABELS["adrenal"])

    @cached_property
    def _pancreas_tubes(self) -> Tubes:
        d, size = self.dice, self.dice.normal("pancreas", 1.0, 0.15)
        up = d.normal("pancreas/up", 0, 8)
        head = [(30, 8, 118, 10), (24, 16, 138, 12), (2, 26, 148 + up / 2, 8.5)]
        tail = [(-30, 12, 160 + up, 9), (-62, -12, 174 + up, 9), (-82, -26, 182 + up, 7)]
        return strung([(0.0, [(x, y, z, size * r) for x, y, z, r in (*head, *tail)])])

    def _pelvis(self, canvas: Canvas) -> None:
        part = canvas.part((-70, -75, -165), (70, 75, -15))
        if part is None:
            return
        t, d, q = self.tissues, self.dice, part.q
        rough = 1.2 * self._bumps(q)[0]
        full = d.uniform("bladder", 0.55, 1.25)
        if self.habitus.female:
            tilt = rotation(0, d.normal("uterus/tilt", 0.5, 0.3))
            womb = ellipsoid(q, (d.normal("uterus/x", 0, 6), 0.0, -62.0), (26.0, 36.0, 22.0), tilt) + rough
            canvas.paint(part, canvas.cover(womb), t["prostate or uterus"], LABELS["prostate or uterus"])
            canvas.paint(
                part, canvas.cover(womb + 16), t["prostate or uterus"] - 25, LABELS["prostate or uterus"]
            )
        else:
            size = d.normal("prostate", 1.0, 0.15)
            gland = ellipsoid(q, (0.0, 12.0, -122.0), (23 * size, 18 * size, 18 * size)) + rough
            canvas.paint(part, canvas.cover(gland), t["prostate or uterus"], LABELS["prostate or uterus"])
            horns = [ellipsoid(q, (s * 18.0, -16.0, -102.0), (18.0, 6.0, 7.0)) for s in (1, -1)]
            canvas.paint(
                part,
                canvas.cover(smooth_min(horns[0], horns[1], 3) + rough),
                t["prostate or uterus"],
                LABELS["prostate or uterus"],
            )
        bag = ellipsoid(q, (0.0, 26.0, -92 + 14 * full), (40 * full, 30 * full, 26 * full)) + 0.6 * rough
        bag = smooth_max(bag, -(q[2] + 122), 6)
        canvas.paint(part, canvas.cover(bag), t["muscle"], LABELS["bladder"])
        canvas.paint(part, canvas.cover(bag + 4.5 - 2.2 * full), t["bladder"], LABELS["bladder"])
