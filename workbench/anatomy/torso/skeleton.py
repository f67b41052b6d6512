"""Bones but for the spine: ribs with their cartilages, sternum, shoulders, pelvis, hips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import length, step
from workbench.anatomy.torso.habitus import CAGE, SPINE, Habitus
from workbench.anatomy.torso.spine import LEVELS, Bone, Spine
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import Path
from workbench.anatomy.tubes import Plates, Tubes

__all__ = ["Skeleton"]

RIB = 6.4  # half the height of a rib, mm
FLAT = 1.15


def _tag(label: str, shell: float) -> float:
    """Return one number for a label and the thickness of the cortex, in mm below 10."""
    return LABELS[label] + shell / 10


@dataclass(frozen=True)
class Skeleton:
    """The bones of one subject in the body's coordinates."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice

    def paint(self, canvas: Canvas) -> None:
        """Paint all bones that come near the canvas' points."""
        self._spine.paint(canvas)
        reach = 2 * canvas.edge
        for tubes, box in ((self._ribs, RIBS_BOX), (self._long, LONG_BOX)):
            part = canvas.part(*box)
            found = None if part is None else tubes.nearest(part.q, reach)
            if part is not None and found is not None:
                distance, tag = found
                label = tag.floor()
                shell = 10 * (tag - label)
                soft = torch.where(label == LABELS["costal cartilage"], 1.0, 0.0)
                yellow = shell > 3  # shafts
                self._bone.paint(
                    canvas, part, distance, shell, label.to(torch.int16), soft=soft, yellow=yellow
                )
        self._lining(canvas)
        for plates, thin, name in ((self._pelvis, 1.9, "pelvis"), (self._scapulae, 1.4, "scapula")):
            part = canvas.part(plates.low.min(axis=0) - reach, plates.high.max(axis=0) + reach)
            far = None if part is None else plates.nearest(part.q, reach)
            if part is not None and far is not None:
                self._bone.paint(canvas, part, far, thin, LABELS[name])
        self._hips(canvas)

    def _lining(self, canvas: Canvas) -> None:
        """Paint the muscles that line the pelvis."""
        part = canvas.part((-120, -85, -150), (120, 40, 0))
        far = None if part is None else self._pelvis.nearest(part.q, 14.0)
        if part is not None and far is not None:
            thick = 10 + 4 * self._bone.grain(part.q, 14.0)[0] - 8 * step(-part.q[1], 55, 80)
            streaks = 8 * self._bone.grain(part.q, 3.0)[1]
            canvas.paint(part, canvas.cover(far - thick), self.tissues["muscle"] + streaks, LABELS["muscle"])

    @cached_property
    def _bone(self) -> Bone:
        return Bone(self.tissues, self.dice)

    @cached_property
    def _spine(self) -> Spine:
        return Spine(self.tissues, self._bone)

    # -- the chest -----------------------------------------------------------------------------

    @cached_property
    def _ribs(self) -> Tubes:
        starts, ends, radii, flats, tags = [], [], [], [], []

        def add(path: Path, normals: Path, radius: float, label: str, shell: float = 1.2) -> None:
            for a, b, n in zip(path, path[1:], normals, strict=False):
                starts.append(a)
                ends.append(b)
                radii.append(radius)
                flats.append(FLAT * np.asarray(n))
                tags.append(_tag(label, shell))

        spread = self.dice.normals("ribs", 2, 12, 3)
        joint = (402.0, 372.0, 350.0, 328.0, 308.0, 293.0, 282.0)
        for side in (1.0, -1.0):
            tips: list[np.ndarray] = []
            for k in range(12):
                jitter = spread[int(side < 0), k].clamp(-2.5, 2.5).tolist()
                path, normals = self._rib(k, side, jitter)
                add(path, normals, RIB * (0.85 if k in (0, 11) else 1.0), "rib")
                tip, target = np.array(path[-1]), None
                if k < 7:
                    depth = CAGE.at(joint[k])
                    target = np.array([side * 15.0, depth[1] + depth[2] - 1.0, joint[k]])
                elif k < 10:
                    target = tips[-1]
                if target is not None:
                    share = np.linspace(0, 1, 6)[:, None]
                    line = tip + share * (target - tip)
                    # Out to the cage: a straight line would cut the corner through the lung.
                    for point in line[1:-1]:
                        a, b, middle = CAGE.at(float(point[2]))
                        size = (abs(point[0] / a) ** 2.3 + abs((point[1] - middle) / b) ** 2.3) ** (1 / 2.3)
                        point[0], point[1] = point[0] / size, middle + (point[1] - middle) / size
                    add(line.tolist(), [(0.0, 1.0, 0.0)] * 5, RIB * 0.9, "costal cartilage")
                    tips.append(line[2])
        top, bottom = CAGE.at(404.0), CAGE.at(285.0)
        line = [
            (0, top[1] + top[2], 408),
            (0, sum(CAGE.at(370.0)[1:]) + 2, 372),
            (0, bottom[1] + bottom[2] + 1, 285),
        ]
        for offset, radius in ((-9.0, 9.5), (9.0, 9.5)):
            shifted = [(x + offset * (1.5 if z > 380 else 0.75), y, z) for x, y, z in line]
            add(shifted, [(0.0, 1.0, 0.25)] * 2, radius, "sternum")
        return Tubes(starts, ends, radii, radii, flat=flats, tags=tags)

    def _rib(
        self, k: int, side: float, jitter: Sequence[float]
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Return the points of a rib from the spine to its cartilage, and the normals between them."""
        height = LEVELS[16 - k] + 8
        drop = (34, 58, 74, 86, 96, 102, 106, 104, 98, 90, 62, 40)[k] + 3 * jitter[0]
        ends = (0.8, 0.82, 0.82, 0.81, 0.8, 0.78, 0.74, 0.69, 0.63, 0.57, 0.43, 0.3)[k] + 0.008 * jitter[1]
        middle, half, deep = SPINE.at(float(height))
        path = [
            [side * (half - 1), middle - deep + 2, height],
            [side * (half + 14), middle - deep - 12, height - 2],
        ]
        for angle in np.linspace(0.17, ends, 15) * math.pi:
            z = height - drop * (1 - math.cos(angle)) / 2
            a, b, centre = CAGE.at(float(z))
            c, s = -math.cos(angle), math.sin(angle)
            size = (abs(s) ** 2.3 + abs(c) ** 2.3) ** (1 / 2.3)
            path.append([side * a * s / size, centre + b * c / size, z + jitter[2]])
        points = np.array(path)
        normals = np.zeros_like(points[1:])
        for i, point in enumerate((points[1:] + points[:-1]) / 2):
            a, b, centre = CAGE.at(float(point[2]))
            normal = np.array([point[0] / a**2, (point[1] - centre) / b**2, 0.0])
            normals[i] = normal / (np.linalg.norm(normal) + 1e-9)
        return path, normals.tolist()

    # -- limbs and girdles ---------------------------------------------------------------------

    @cached_property
    def _long(self) -> Tubes:
        rows: list[tuple[float, ...]] = []

        def add(path: Path, label: str, shell: float = 4.5) -> None:
            for s in (1.0, -1.0):
                for a, b in pairwise(path):
                    rows.append((s * a[0], a[1], a[2], s * b[0], b[1], b[2], a[3], b[3], _tag(label, shell)))

        up = self.habitus.arms == "up"
        add(
            (
                (20, 54, 414, 8.5),
                (55, 56, 424, 6.2),
                (95, 32, 440 + 14 * up, 5.8),
                (128, -6, 448 + 14 * up, 6.5),
            ),
            "clavicle",
            1.8,
        )
        out = max(0.0, 0.9 * self.habitus.fat - 6)
        shaft = (168, 6, 590) if up else (199 + out, -30, 215)
        if self.habitus.arms != "absent":
            head = (146, -22, 445) if up else (150, -24, 422)
            add(((*head, 23), (*head, 23)), "humerus", 1.2)
            neck = [0.75 * h + 0.25 * s for h, s in zip(head, shaft, strict=True)]
            add(((*head, 18), (*neck, 11.5), (*shaft, 10.5)), "humerus")
            if not up:
                add(((203 + out, -10, 205, 9), (206 + out, 6, 60, 7), (202 + out, 24, -60, 8)), "humerus")
        h = HIP
        add(((*h, 23.0), (*h, 23.0)), "femur", 1.2)
        add(((*h, 14.5), (122, -6, -112, 15.5)), "femur", 2.0)
        add(
            ((124, -10, -96, 13.0), (126, -8, -125, 16.0), (119, -4, -165, 14.0), (106, 6, -300, 13.5)),
            "femur",
        )
        table = np.array(rows)
        return Tubes(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7], tags=table[:, 8])

    @cached_property
    def _pelvis(self) -> Plates:
        wide = 1.04 if self.habitus.female else 0.98
        a, b, c, d = (46, -76, 14), (98, -24, 66), (126, 12, 48), (120, 44, 8)
        e, f, g, m = (100, 40, -38), (90, 4, -50), (62, -56, -44), (84, -20, 8)
        wings = [
            (m, a, b, 4.2),
            (m, b, c, 3.6),
            (m, c, d, 4.4),
            (m, d, e, 4.4),
            (m, e, f, 7.5),
            (m, f, g, 6.5),
            (m, g, a, 6.5),
        ]
        ramus = [
            ((76, 22, -74), (72, 30, -82), (16, 52, -108), 8.5),
            ((12, 50, -102), (9, 46, -128), (14, 44, -124), 7.0),
            ((14, 42, -126), (20, 38, -130), (60, -36, -152), 5.6),
        ]
        seat = [
            ((84, -24, -84), (70, -34, -110), (64, -44, -146), 12.0),
            ((88, -20, -66), (70, -44, -62), (82, -28, -100), 8.0),
        ]
        sacrum = [
            ((0, -52, -14), (46, -62, -10), (38, -74, -62), 10.5),
            ((0, -52, -14), (38, -74, -62), (0, -88, -66), 11.5),
            ((0, -88, -66), (26, -80, -70), (0, -94, -112), 8.0),
            ((0, -94, -112), (4, -92, -114), (0, -80, -136), 4.5),
        ]
        triangles, radii = [], []
        for *corners, radius in [*wings, *ramus, *seat, *sacrum]:
            for side in (1, -1):
                triangles.append([(side * wide * x, y, z) for x, y, z in corners])
                radii.append(radius)
        return Plates(triangles, radii)

    @cached_property
    def _scapulae(self) -> Plates:
        rise = {"up": 18.0, "down": 0.0, "absent": 8.0}[self.habitus.arms]
        # A raised arm turns the blade outwards.
        out = 10.0 if self.habitus.arms == "up" else 0.0
        glenoid, coracoid, acromion = (122, -30, 420), (112, 6, 428), (132, -38, 452)
        top, low = (72 + out, -76, 432), (92 + 2.4 * out, -98, 318)
        medial, ridge = (70 + out, -92, 402), (78 + out, -100, 412)
        sheets = [
            (glenoid, top, medial, 2.8),
            (glenoid, medial, low, 3.2),
            (glenoid, ridge, acromion, 3.4),
            (glenoid, (118, -26, 404), (112, -36, 414), 8.0),
            (glenoid, coracoid, (118, -10, 436), 5.0),
        ]
        triangles = [[(s * x, y, z + rise) for x, y, z in corners] for *corners, _ in sheets for s in (1, -1)]
        return Plates(triangles, [radius for *_, radius in sheets for _ in (1, -1)])

    def _hips(self, canvas: Canvas) -> None:
        """Paint the sockets: shells around the heads of the femora, open below and to the side."""
        part = canvas.part((-140, -50, -135), (140, 50, -35))
        if part is None:
            return
        x, y, z = part.q
        p = torch.stack([x.abs() - HIP[0], y - HIP[1], z - HIP[2]])
        far = length(p)
        open_side = 0.78 * p[0] - 0.18 * p[1] - 0.6 * p[2] - 5
        socket = torch.maximum(torch.maximum(far - 34, 26.5 - far), open_side)
        self._bone.paint(canvas, part, socket, 1.8, LABELS["pelvis"])


#: Where the middle of the femoral head is.
HIP = (86.0, 2.0, -82.0)
RIBS_BOX = ((-160.0, -130.0, 110.0), (160.0, 130.0, 480.0))
LONG_BOX = ((-260.0, -90.0, -320.0), (260.0, 90.0, 620.0))
