"""The build of a subject: what is drawn of it, and how wide everything is at each height.

Organs are described in the body's own coordinates, mm of an average adult: R, A and S as in the world, S = 0
at the lower end of the spine's fifth lumbar vertebra. `Frame` maps the world to them: sizes, posture and a
smooth warp, so that no two subjects are alike and no contour is an ellipse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import oval, step
from workbench.anatomy.waves import ScaledWaves

__all__ = [
    "CAGE",
    "CAVITY",
    "MUSCLE",
    "ROUND",
    "SPINE",
    "Frame",
    "Habitus",
    "Profile",
    "draw_habitus",
    "rib_cage",
]

#: Exponent of the ovals that chest and belly are across.
ROUND = 2.3

#: The body is described between these heights.
LOWEST, HIGHEST = -260, 560


class Profile:
    """Numbers along the body's height: the columns of `table` after the height, smoothed over `blur` mm."""

    def __init__(self, table: tuple[tuple[float, ...], ...], *, blur: float = 14.0) -> None:
        knots = np.array(sorted(table))
        heights = np.arange(LOWEST - 60, HIGHEST + 61, dtype=float)
        kernel = np.exp(-0.5 * (np.arange(-45, 46) / blur) ** 2)
        columns = [np.interp(heights, knots[:, 0], column) for column in knots[:, 1:].T]
        padded = [np.pad(column, 45, mode="edge") for column in columns]
        smooth = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded]
        self._table = torch.from_numpy(np.stack(smooth)).float()

    def __call__(self, z: Tensor) -> Tensor:
        """Return the columns (columns, n) at heights (n,)."""
        place = (z - (LOWEST - 60)).clamp(0, self._table.shape[1] - 1.001)
        below = place.long()
        return torch.lerp(self._table[:, below], self._table[:, below + 1], place - below)

    def at(self, z: float) -> list[float]:
        """Return the columns at one height."""
        return [float(v) for v in self(torch.tensor([z]))[:, 0]]


#: Height, then half the width and half the depth, and the middle, of the body without its fat.
MUSCLE = Profile((
    (-260, 150, 80, -6), (-150, 150, 86, -6), (-85, 160, 94, -6), (-30, 150, 94, -6), (40, 137, 92, 0),
    (100, 132, 91, 0), (180, 138, 98, 0), (250, 146, 103, 0), (320, 150, 104, 0), (375, 156, 97, -5),
    (415, 152, 80, -14), (440, 118, 68, -20), (465, 76, 61, -19), (490, 60, 59, -14), (520, 56, 60, -6),
    (560, 58, 66, 0),
))  # fmt: skip

#: The surface that the ribs lie on.
CAGE = Profile((
    (60, 121, 84, 0), (110, 126, 86, 0), (150, 130, 90, 1), (200, 134, 93, 2), (260, 134, 95, 2),
    (320, 127, 89, -1), (370, 111, 77, -8), (405, 89, 62, -17), (435, 62, 45, -28), (455, 38, 28, -34),
    (470, 20, 16, -36), (560, 12, 10, -36),
))  # fmt: skip

#: The surface around the organs of the belly.
CAVITY = Profile((
    (-180, 60, 40, 0), (-140, 68, 50, -2), (-110, 80, 62, -4), (-50, 98, 76, 2), (0, 112, 74, 14),
    (60, 119, 70, 20), (120, 122, 74, 16), (180, 127, 88, 4), (220, 128, 90, 2), (300, 124, 86, 0),
    (400, 80, 55, -15),
))  # fmt: skip

#: Where the vertebral bodies' middle lies in depth, and half their width and depth.
SPINE = Profile((
    (-120, -80, 12, 8), (-60, -62, 24, 14), (-10, -37, 25, 17), (18, -27, 25, 17.5), (54, -20, 24, 17),
    (90, -19, 23, 16.5), (126, -22, 22, 16), (162, -28, 21, 15.5), (192, -33, 20, 15), (240, -39, 18, 14.5),
    (312, -44, 16, 13.5), (384, -41, 14.5, 11.5), (456, -30, 15, 9.5), (510, -20, 12.5, 8.5),
    (560, -14, 12, 8.5),
), blur=9.0)  # fmt: skip


def rib_cage(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to the surface that the ribs lie on, and the radius in units of it."""
    a, b, middle = CAGE(q[2])
    return oval(q[0], q[1] - middle, a, b, ROUND)


@dataclass(frozen=True)
class Habitus:
    """What was drawn of the build: factors of the average, mm where said, shares where said."""

    female: bool
    height: float
    width: float
    depth: float
    fat: float  # mm under the skin at the flank
    belly: float  # mm that the front of the belly stands out
    muscle: float  # share of the average
    marbling: float  # how much fat lies in and between the muscles
    breast: float  # mm
    arms: str  # "up", "down" or "absent"
    bone: float  # mineral density, share of the average
    dome: float  # mm that the diaphragm stands above the average
    heart: float
    roll: float  # rad about the long axis
    tilt: float  # rad about the axis to the right
    bend: float  # rad about the axis to the front
    warp: float  # mm


def draw_habitus(dice: Dice) -> Habitus:
    """Return a build at random: thin and obese, short and tall, straight and crooked."""
    female = dice.chance("sex", 0.5)
    obesity = dice.uniform("obesity") ** 1.4
    plump = 1.25 if female else 0.85
    return Habitus(
        female=female,
        height=dice.normal("height", 0.955 if female else 1.02, 0.04),
        width=dice.normal("width", 0.95 if female else 1.02, 0.045) * (1 + 0.12 * obesity),
        depth=dice.normal("depth", 0.95 if female else 1.02, 0.055) * (1 + 0.16 * obesity),
        fat=(4 + 38 * obesity) * plump * dice.uniform("fat", 0.75, 1.25),
        belly=(50 * obesity - 8) * dice.uniform("belly", 0.4, 1.1),
        muscle=dice.normal("muscle", 0.92 if female else 1.05, 0.09),
        marbling=dice.uniform("marbling", 0.3, 1.5),
        breast=dice.uniform("breast", 16, 34) * (1 + 0.8 * obesity) if female else 0.0,
        arms=dice.choice("arms", ("up", "up", "up", "up", "down", "down", "absent")),
        bone=dice.uniform("bone", 0.6, 1.15),
        dome=dice.normal("dome", 2.0, 13.0),
        heart=dice.normal("heart", 1.0, 0.08),
        roll=dice.normal("roll", 0.0, 0.035),
        tilt=dice.normal("tilt", 0.0, 0.025),
        bend=dice.normal("bend", 0.0, 0.02),
        warp=dice.uniform("warp", 2.0, 5.0),
    )


@dataclass(frozen=True)
class Frame:
    """World points to the body's coordinates: q = R p / scale + warp(p)."""

    habitus: Habitus
    dice: Dice

    @cached_property
    def scale(self) -> Tensor:
        """How long a mm of the average adult is along R, A and S."""
        h = self.habitus
        return torch.tensor([h.width, h.depth, h.height])

    @cached_property
    def _turn(self) -> Tensor:
        h = self.habitus
        a, b, c = h.roll, h.tilt, h.bend
        # Small angles: the columns are unit to second order, which is less than what is drawn.
        turn = torch.tensor([[1.0, -a, c], [a, 1.0, -b], [-c, b, 1.0]], dtype=torch.float64)
        straight, rest = torch.linalg.qr(turn)
        turned: Tensor = straight * rest.diagonal().sign()
        return turned.float()

    @cached_property
    def _coarse(self) -> ScaledWaves:
        return ScaledWaves.draw(
            self.dice, "coarse", fields=3, lengths=(110, 320), sd=self.habitus.warp, count=12
        )

    @cached_property
    def _fine(self) -> ScaledWaves:
        return ScaledWaves.draw(self.dice, "fine", fields=3, lengths=(28, 70), sd=0.8, count=14)

    def body(self, points: Tensor) -> Tensor:
        """Return the body's coordinates (3, n) of world points (n, 3)."""
        straight: Tensor = (self._turn @ (points.T - PIVOT)) / self.scale[:, None] + PIVOT
        x, y, z = straight
        # The belly: the front half is stretched forward, and all of it a little to the sides.
        stand = self.habitus.belly / 85 * step(z, -110, 20) * (1 - step(z, 120, 290))
        straight = torch.stack([x / (1 + 0.25 * stand), y / (1 + stand * step(y, -50, 60)), z])
        return straight + self._coarse(straight) + self._fine(straight)

    def world(self, q: Tensor) -> Tensor:
        """Return the world points (n, 3) of the body's coordinates (3, n): the inverse of `body`."""
        points = q.clone()
        for _ in range(12):
            points = points + (q - self.body(points.T)) * self.scale[:, None]
        return points.T.contiguous()


#: Turns are about the middle of the body.
PIVOT = torch.tensor([[0.0], [0.0], [150.0]])
