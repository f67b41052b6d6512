"""The gut: stomach, loops of small bowel, colon with gas and stool, rectum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas, Part
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import smooth_max, step
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.chest import Chest
from workbench.anatomy.torso.habitus import CAVITY, Habitus, rib_cage
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import Path, strung
from workbench.anatomy.tubes import Tubes
from workbench.anatomy.waves import ScaledWaves

__all__ = ["Bowel"]

LOOPS = 74
GUT = ((-125.0, -80.0, -150.0), (125.0, 105.0, 235.0))


@dataclass(frozen=True)
class Bowel:
    """The gut of one subject in the body's coordinates."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice
    chest: Chest

    @cached_property
    def _grain(self) -> SmoothTexture:
        return SmoothTexture.draw(self.dice, "content", channels=3)

    @cached_property
    def _waves(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "waves", fields=3, lengths=(24, 70), sd=1.0, count=24)

    def paint(self, canvas: Canvas, cavity: Tensor) -> None:
        """Paint mesentery, small bowel and colon."""
        part = canvas.part(*GUT)
        if part is None:
            return
        held = part.where(part.at(cavity) < 0)
        if held is None:
            return
        depth = held.at(cavity)
        self._mesentery(canvas, held)
        self._loops(canvas, held, depth)
        self._colon(canvas, held, depth)

    def _mesentery(self, canvas: Canvas, part: Part) -> None:
        found = self._twigs.nearest(part.q, canvas.edge)
        if found is not None:
            canvas.paint(part, canvas.cover(found[0]), self.tissues["vein"], LABELS["vein"])

    @cached_property
    def _twigs(self) -> Tubes:
        """Vessels of the mesentery: a fan from its root to the loops."""
        ends = self._anchors[::2]
        bows = 7 * self.dice.normals("twigs", len(ends), 3).numpy()
        paths: list[tuple[float, Path]] = []
        for k, (end, bow) in enumerate(zip(ends, bows, strict=True)):
            root = np.array([10.0, 22.0, 105 - 60 * (k / len(ends))])
            paths.append((0.0, [(*root, 2.4), (*((root + end) / 2 + bow), 1.7), (*end, 1.0)]))
        return strung(paths)

    # -- small bowel ---------------------------------------------------------------------------

    @cached_property
    def _anchors(self) -> np.ndarray:
        """Middles of the loops: points of the lower belly that keep away from one another."""
        share = self.dice.uniforms("anchors", 700, 3).numpy()
        low, high = np.array([-96.0, -14.0, -98.0]), np.array([92.0, 84.0, 198.0])
        points = low + share * (high - low)
        chosen: list[np.ndarray] = []
        for point in points:
            a, b, middle = CAVITY.at(float(point[2]))
            inside = (point[0] / (a - 16)) ** 2 + ((point[1] - middle) / (b - 12)) ** 2 < 1
            # The spine and the great vessels are behind, the colon frames the rest.
            behind = (abs(point[0]) < 50 and point[1] < 6) or (point[2] > 120 and point[0] > 10)
            if inside and not behind and all(np.linalg.norm(point - other) > 22 for other in chosen):
                chosen.append(point)
            if len(chosen) == LOOPS:
                break
        return np.array(chosen)

    @cached_property
    def _sausages(self) -> list[tuple[Tubes, int]]:
        """The loops, each with a number from 0 to 9 that says what is in it."""
        headings = self.dice.normals("loops/headings", LOOPS, 2, 3).numpy() * (1, 1, 0.6)
        headings /= np.linalg.norm(headings, axis=2, keepdims=True)
        draws = self.dice.uniforms("loops", LOOPS, 3).tolist()
        share = np.linspace(-1, 1, 6)[:, None]
        loops = []
        for anchor, (along, bend), (wide, long, kind) in zip(self._anchors, headings, draws, strict=False):
            line = anchor + (20 + 26 * long) * (share * along + 0.7 * (share**2 - 0.4) * bend)
            loops.append((strung([(0.0, [(*point, 10 + 7 * wide) for point in line])]), int(10 * kind)))
        return loops

    def _loops(self, canvas: Canvas, part: Part, depth: Tensor) -> None:
        """Paint the loops, each up to where the next one is nearer: they share walls, and squeeze."""
        size = part.q.shape[1]
        first = torch.full((size,), 9.0)
        second = first.clone()
        kind = torch.zeros(size)
        for tubes, number in self._sausages:
            found = tubes.nearest(part.q, 9.0)
            if found is None:
                continue
            nearer = found[0] < first
            second = torch.where(nearer, first, torch.minimum(second, found[0]))
            kind = torch.where(nearer, float(number), kind)
            first = torch.minimum(first, found[0])
        if not (first < canvas.edge).any():
            return
        t = self.tissues
        waves = self._waves(part.q)
        gap = self.dice.uniform("gap", -0.6, 0.8) + 0.03 * max(0.0, self.habitus.belly)
        shape = torch.maximum(torch.maximum(first + 0.8 * waves[0], (first - second) / 2 + gap), depth + 2)
        # Folds stand into the lumen.
        folds = 1.1 * torch.sin(1.1 * part.q[0] + 3 * waves[1]) * self._folded
        lumen = shape + 2.6 + folds
        canvas.paint(part, canvas.cover(shape), t["gut wall"], LABELS["small bowel"])
        content = torch.full_like(shape, t["gut content"])
        if self._oral:
            content = torch.where(kind < 7, self._oral, content)
        collapsed = (kind >= 4) & (kind < 7)
        lumen = torch.where(collapsed, lumen + 3.5, lumen)
        content = content + 5 * self._grain(part.q, 3.0)[0]
        canvas.paint(part, canvas.cover(lumen), content, LABELS["small bowel"])
        # Gas rises to the front of some loops.
        gas = torch.maximum(lumen, torch.where(kind == 9, 46 - part.q[1] + 6 * waves[2], torch.tensor(9.0)))
        canvas.paint(part, canvas.cover(gas), t["air"], LABELS["bowel gas"])

    @cached_property
    def _folded(self) -> float:
        return self.dice.uniform("folds", 0.0, 1.0)

    @cached_property
    def _oral(self) -> float:
        """HU of what was drunk before the scan, 0 for nothing."""
        return self.dice.uniform("oral/HU", 120, 420) if self.dice.chance("oral", 0.25) else 0.0

    # -- colon ---------------------------------------------------------------------------------

    @cached_property
    def _colon_tubes(self) -> tuple[Tubes, float]:
        """The colon with a tag that counts mm along it, and its length."""
        d = self.dice
        frame = np.array([
            (88, 24, -28), (94, 20, 4), (97, -4, 45), (97, -14, 85), (88, 6, 116), (62, 44, 110),
            (24, 62, 96), (-22, 62, 94), (-62, 50, 118), (-92, 12, 160), (-99, -18, 172),
            (-101, -26, 128), (-98, -22, 80),
            (-96, -4, 36), (-88, 18, 0), (-66, 26, -34), (-30, 10, -30), (-8, 2, -42), (6, -22, -50),
            (2, -48, -62), (0, -56, -86), (0, -42, -112), (0, -40, -140),
        ], dtype=float)  # fmt: skip
        loose = np.array(
            [8, 8, 5, 5, 7, 12, 16, 16, 12, 6, 5, 5, 5, 7, 8, 14, 16, 10, 6, 4, 3, 2, 2], dtype=float
        )
        sag = d.normal("sag", 0, 1) * np.array([0, 0, 0, 0, 0, 8, 18, 18, 8] + [0] * 14)
        frame += np.clip(d.normals("colon", len(frame), 3).numpy(), -1.8, 1.8) * loose[:, None]
        frame[:, 2] -= np.abs(sag)
        share = np.linspace(0, len(frame) - 1, 4 * len(frame))
        line = np.stack([np.interp(share, np.arange(len(frame)), column) for column in frame.T], axis=1)
        for _ in range(3):
            line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
        along = np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
        wide = np.interp(share, [0, 4, 8, 10, 14, 18, 20, 22], [27, 24, 21, 18, 15, 13, 17, 13]) * d.normal(
            "wide", 1.0, 0.14
        )
        slow = np.sin(along / 47 + 6 * d.uniform("phase")) + np.sin(along / 81 + 6 * d.uniform("phase 2"))
        radius = wide * (1 + 0.12 * slow)
        tubes = Tubes(line[:-1], line[1:], radius[:-1], radius[1:], tags=(along[:-1] + along[1:]) / 2)
        return tubes, float(along[-1])

    def _colon(self, canvas: Canvas, part: Part, depth: Tensor) -> None:
        tubes, length = self._colon_tubes
        found = tubes.nearest(part.q, 12.0)
        if found is None or not (found[0] < canvas.edge + 4).any():
            return
        t, q = self.tissues, part.q
        waves = self._waves(q)
        share = found[1] / length
        # Haustra: pouches every three centimetres, along the coordinate that the colon runs along most.
        pouch = torch.sin(found[1] * (2 * math.pi / 31.0) + 1.5 * waves[0] + 0.02 * (q[0] + q[2]))
        outer = found[0] + (1.6 + 1.2 * pouch + 0.8 * waves[1]) * (share < 0.9)
        outer = torch.maximum(outer, depth + 2)
        wall = 2.2 + 1.2 * (share > 0.7)
        grain = self._grain(q, 2.3)
        canvas.paint(part, canvas.cover(outer), t["gut wall"], LABELS["colon"])
        # Stool: crumbs with gas between them; liquid in some.
        dry = self.dice.uniform("dry", 0.2, 1.0)
        stool = t["gut content"] + 18 + 26 * grain[0] - dry * 260 * (grain[1] - 0.6).clamp(0, 1.6)
        if self._oral:
            stool = stool + 0.6 * self._oral * (1 + 0.3 * grain[0])
        lumen = outer + wall
        canvas.paint(part, canvas.cover(lumen), stool, LABELS["colon"])
        amount = self.dice.uniform("gas", -1.0, 1.1)
        # Gas lies in front, where the lumen is highest, and in some stretches of the colon.
        stretch = torch.sin(found[1] * (2 * math.pi / 260) + 6 * self.dice.uniform("stretch")) + amount
        gas = torch.maximum(lumen, (14 - q[1] + 60 * (share > 0.85)) * 0.15 - 4 * stretch + 1.5 * waves[2])
        canvas.paint(part, canvas.cover(gas), t["air"], LABELS["bowel gas"])

    # -- stomach -------------------------------------------------------------------------------

    @cached_property
    def _stomach(self) -> Tubes:
        d = self.dice
        full = d.uniform("stomach/full", 0.72, 1.22)
        lift = 0.8 * self.habitus.dome
        j = d.normals("stomach", 6, 3).numpy() * 4
        path = [
            (-58, -18, 208 + lift, 40 * full),
            (-66, 2, 198 + lift, 37 * full),
            (-62, 22, 174, 30 * full),
            (-42, 44, 148, 25 * full),
            (-14, 52, 138, 19 * full),
            (14, 42, 142, 14),
        ]
        moved = [
            (x + float(a), y + float(b), z + float(c), r)
            for (x, y, z, r), (a, b, c) in zip(path, j, strict=True)
        ]
        duodenum = [
            (16, 40, 144, 12),
            (38, 26, 146, 12),
            (46, 8, 124, 12),
            (42, -2, 98, 12),
            (16, 4, 84, 11),
            (-20, 6, 92, 10.5),
        ]
        rows = [(1.0, moved), (2.0, [(float(x), float(y), float(z), float(r)) for x, y, z, r in duodenum])]
        return strung(rows)

    def paint_stomach(self, canvas: Canvas) -> None:
        """Paint the stomach with its folds, content and gas, and the duodenum."""
        part = canvas.part((-120, -75, 70), (75, 100, 285))
        if part is None:
            return
        found = self._stomach.nearest(part.q, 14.0)
        if found is None:
            return
        t, q = self.tissues, part.q
        waves = self._waves(q)
        _, radius = rib_cage(q)
        roof = (q[2] - self.chest.diaphragm(q, radius) + 4) * 0.8
        shape = smooth_max(found[0] + 0.9 * waves[0], roof, 6)
        stomach = found[1] < 1.5
        canvas.paint(part, canvas.cover(shape), t["gut wall"], LABELS["stomach"])
        rugae = 2.2 * torch.sin(0.5 * q[0] + 0.3 * q[2] + 3 * waves[1]).clamp(min=0) * step(-shape, -2, 8)
        lumen = shape + torch.where(stomach, 3.6 + rugae, torch.tensor(4.2))
        grain = self._grain(q, 2.6)
        food = self.dice.uniform("food") ** 2
        content = t["gut content"] + 10 + food * (35 * grain[0] - 110 * (grain[2] - 0.5).clamp(0, 1.5))
        if self._oral:
            content = content + 0.8 * self._oral
        canvas.paint(part, canvas.cover(lumen), content, LABELS["stomach"])
        level = self.dice.uniform("level", -10, 75)
        gas = torch.maximum(lumen, level - q[1] + 0.2 * (q[2] - 190).abs())
        canvas.paint(part, canvas.cover(gas), t["air"], LABELS["bowel gas"])
