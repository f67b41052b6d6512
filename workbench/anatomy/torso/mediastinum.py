"""What passes between the lungs and on: aorta, great vessels, windpipe, gullet, thyroid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.habitus import SPINE, Habitus
from workbench.anatomy.torso.tissues import LABELS
from workbench.anatomy.trees import Path, mirrored, strung
from workbench.anatomy.tubes import Tubes

__all__ = ["Mediastinum"]


def _before_spine(z: float, out: float) -> float:
    """Return how far to the front a point lies `out` mm before the spine at height `z`."""
    middle, _, deep = SPINE.at(z)
    return middle + deep + out


@dataclass(frozen=True)
class Mediastinum:
    """Large vessels from the neck to the thighs, airways as far as the lungs, the gullet."""

    habitus: Habitus
    tissues: dict[str, float]
    dice: Dice

    def paint(self, canvas: Canvas) -> None:
        """Paint the windpipe, the gullet, the thyroid and the great vessels."""
        t = self.tissues
        part = canvas.part((-150, -90, -320), (150, 75, 600))
        if part is None:
            return
        found = self._soft.nearest(part.q, 4.0)
        if found is not None:
            distance, which = found
            gullet = which == LABELS["oesophagus"]
            value = torch.where(gullet, t["oesophagus"], t["thyroid"])
            canvas.paint(part, canvas.cover(distance), value, which.to(torch.int16))
        for tubes, wall in ((self._windpipe, 1.8), (self._gullet_gas, 0.0)):
            found = tubes.nearest(part.q, 4.0)
            if found is not None:
                if wall:
                    canvas.paint(part, canvas.cover(found[0] - wall), t["muscle"], LABELS["airway"])
                canvas.paint(part, canvas.cover(found[0]), t["air"], LABELS["airway"])
        found = self._great.nearest(part.q, 3.0)
        if found is None:
            return
        distance, which = found
        value = torch.full_like(distance, t["vein"])
        for name in ("aorta", "artery", "pulmonary artery"):
            value[which == LABELS[name]] = t[name]
        z, x = part.q[2], part.q[0]
        first = (which == LABELS["vein"]) & (z > 300) & (x > -60)
        value[first] = t["superior cava"]
        canvas.paint(
            part, canvas.cover(distance), value + 3 * self._texture(part.q, 3.0)[0], which.to(torch.int16)
        )
        if self._chalk:
            # Old vessels: chalk in the wall.
            lumps = self._texture(part.q, 4.0)[1]
            chalk = torch.maximum((distance + 0.6).abs() - 1.0, (2.45 - self._chalk - lumps) * 4)
            chalk[(which != LABELS["aorta"]) & (which != LABELS["artery"])] = 9.0
            canvas.paint(part, canvas.cover(chalk), 620.0, which.to(torch.int16))

    @cached_property
    def _chalk(self) -> float:
        return self.dice.uniform("chalk", 0.1, 1.1) if self.dice.chance("old", 0.45) else 0.0

    @cached_property
    def _texture(self) -> SmoothTexture:
        return SmoothTexture.draw(self.dice, "vessels", channels=2)

    @cached_property
    def _windpipe(self) -> Tubes:
        r = self.dice.normal("windpipe", 8.2, 0.9)
        main: Path = [
            (0, -6, 600, r),
            (0, 4, 500, r),
            (1, 0, 440, r),
            (3, -8, 388, r + 0.4),
            (3, -12, 364, r + 1),
        ]
        right: Path = [(5, -13, 362, r - 0.6), (22, -17, 348, r - 1.6), (40, -17, 334, r - 2.6)]
        left: Path = [(1, -13, 362, r - 0.8), (-20, -17, 348, r - 2.4), (-42, -18, 334, r - 3.2)]
        return strung([(0.0, main), (0.0, right), (0.0, left)])

    @cached_property
    def _soft(self) -> Tubes:
        """The gullet and the lobes of the thyroid; a tag is the label."""
        heights = ((0, 540), (-2, 460), (-6, 400), (-4, 350), (-4, 300), (-8, 262))
        gullet: list[Sequence[float]] = [(x, _before_spine(z, 9), z, 7.0) for x, z in heights]
        gullet += [(-18.0, -16.0, 240.0, 7.5), (-40.0, -10.0, 226.0, 9.0)]
        lobes = mirrored([(15.0, -2.0, 470.0, 6.0), (18.0, -4.0, 484.0, 9.0), (18.0, -2.0, 502.0, 6.0)])
        return strung([(LABELS["oesophagus"], gullet), *((LABELS["thyroid"], lobe) for lobe in lobes)])

    @cached_property
    def _gullet_gas(self) -> Tubes:
        heights = [self.dice.uniform(f"gullet/{k}", 270, 450) for k in range(3)]
        return strung(
            [(0.0, [(-4, _before_spine(z, 10), z + up, 2.5 - up / 14) for up in (0, 14)]) for z in heights]
        )

    @cached_property
    def _great(self) -> Tubes:
        """The great vessels; a tag is the label."""
        d = self.dice
        wind = d.normal("aorta/wind", 0, 5)
        sizes = {
            "aorta": d.normal("aorta/wide", 1.0, 0.1),
            "pulmonary artery": d.normal("pulmonary/wide", 1.0, 0.07),
        }
        groups = {
            "vein": _veins(),
            "pulmonary artery": PULMONARY,
            "artery": _arteries(),
            "aorta": [_aorta(wind)],
        }
        paths: list[tuple[float, Path]] = []
        for name, group in groups.items():
            size = sizes.get(name, 1.0)
            paths += [(LABELS[name], [(x, y, z, size * r) for x, y, z, r in path]) for path in group]
        return strung(paths)


def _aorta(wind: float) -> Path:
    arch = [(-8, 12, 306, 14), (4, 24, 330, 16), (10, 24, 352, 15.5), (8, 12, 376, 14.5), (-2, -6, 388, 13.5)]
    turn = [(-15, -18, 384, 13), (-22, -29, 368, 12.5), (-24, -30, 340, 12)]
    down = ((-24 - wind, 5, 300, 12), (-16, 10, 240, 11.5), (-9, 10, 200, 11), (-7, 10, 160, 10.5))
    last = ((-6 + wind, 10, 110, 9.5), (-4, 10, 58, 9))
    return [*arch, *turn, *((x, _before_spine(z, out), z, r) for x, out, z, r in (*down, *last))]


def _arteries() -> list[Path]:
    fork, trunk = _before_spine(58, 8), _before_spine(160, 18)
    groin = [(67, 34, -82, 4.8), (77, 44, -108, 4.6), (81, 40, -160, 4.3), (81, 30, -320, 4)]
    return [
        *mirrored([(2, fork, 58, 6.5), (25, -8, 16, 5.5), (49, -14, -30, 5), *groin]),
        *mirrored([(34, -14, 0, 4), (52, -44, -40, 3.5), (56, -50, -80, 3)]),
        *mirrored([(7, 2, 386, 5), (18, 0, 420, 4.5), (24, -6, 470, 4), (26, -8, 600, 4)]),
        *mirrored([(10, -8, 388, 5), (34, -14, 430, 5), (70, -4, 442, 4.5), (120, -16, 420, 4.2)]),
        *mirrored([(6, _before_spine(135, 10), 136, 4), (30, -18, 134, 3), (48, -22, 132, 2.6)]),
        [
            (-7, trunk, 170, 4),
            (-4, trunk + 12, 166, 3.6),
            (-40, 6, 172, 3),
            (-78, -22, 182, 2.8),
        ],
        [(-7, _before_spine(150, 18), 150, 4), (2, 24, 120, 3.8), (10, 34, 50, 3)],
    ]


def _veins() -> list[Path]:
    lower = [(20, 16, 200, 12.5), (17, 11, 130, 11.5), (14, 9, 50, 10.5)]
    groin = [(70, 30, -86, 6), (74, 40, -112, 5.5), (80, 34, -160, 5), (82, 24, -320, 4.6)]
    arms = mirrored([(44, 12, 436, 6.5), (80, 6, 440, 5.5), (125, -8, 416, 5)])
    return [
        [(26, 22, 412, 8), (28, 16, 370, 9.5), (26, 14, 322, 10.5)],
        [(22, -6, 258, 13), *((x, _before_spine(z, out), z, r) for x, out, z, r in lower)],
        *mirrored([(8, _before_spine(50, 9), 50, 8), (32, -18, 8, 6.5), (58, -22, -36, 6.2), *groin]),
        [(26, 22, 410, 7.5), *arms[0]],
        [(26, 22, 406, 7.5), (6, 24, 404, 6.5), (-22, 22, 412, 6.5), *arms[1]],
        *mirrored([(26, 10, 426, 6), (32, 2, 470, 6), (34, -2, 600, 5.5)]),
        *mirrored([(14, _before_spine(135, 11), 138, 5), (32, -14, 136, 4.5), (52, -22, 132, 4)]),
        # Portal vein with those that make it.
        [(4, 16, 138, 6), (16, 12, 162, 7), (30, 10, 182, 7), (52, 4, 190, 6), (74, -4, 192, 4.5)],
        [(4, 16, 140, 5), (-30, 4, 158, 4.5), (-76, -24, 178, 4)],
        [(6, 16, 140, 6), (12, 26, 110, 5.2), (18, 36, 50, 4)],
    ]


PULMONARY: list[Path] = [
    [(-22, 38, 322, 14), (-24, 22, 342, 14.5), (-14, 2, 350, 12)],
    [(-14, 4, 349, 12), (18, -4, 346, 11), (36, -8, 342, 9)],
    [(-22, 12, 350, 12), (-40, -10, 350, 10), (-48, -20, 338, 8.5)],
]
