"""Breathing and beating: displacements u(r, t) as in `workbench.anatomy.motion`, with u(r, 0) = 0.

No frame folds: the Jacobian of r + u stays above 0.25 for all that is accepted, and above 0.7 for a deep
breath (30 mm, the front 10 mm). Fields are smooth and bones are not asked: a breath of 15 mm moves vertebrae
by 0.2 mm in the mean, a process by up to 5 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import value_error
from workbench.anatomy.motion import Movement
from workbench.anatomy.shapes import step
from workbench.anatomy.subject import Point

__all__ = ["Beating", "Breathing"]

#: Of a movement in mm.
DEEPEST = 60.0
#: From the heart's middle to where nothing moves: along A, of what it is along R and S.
SHALLOW = 0.8


@dataclass(frozen=True)
class Breathing(Movement):
    """The diaphragm descends by `depth` mm and the front of the chest rises by `rise` mm as one breathes in.

    `diaphragm` is the world point of its middle, between the domes. Time runs from the end of a breath out:
    the share of the breath is sin^(2 p)(pi t / period), p the `flatness` of its start.
    """

    diaphragm: Point
    depth: float = 15.0
    rise: float = 5.0
    period: float = 4.0
    flatness: float = 2.0

    def __post_init__(self) -> None:
        if check_number(self.depth, "depth", non_negative=True) > DEEPEST:
            raise value_error("depth", f"be at most {DEEPEST:g} mm", self.depth, "More would fold the image.")
        if check_number(self.rise, "rise", non_negative=True) > DEEPEST:
            raise value_error("rise", f"be at most {DEEPEST:g} mm", self.rise, "More would fold the image.")
        check_number(self.period, "period", positive=True)
        check_number(self.flatness, "flatness", positive=True)

    def share(self, time: float) -> float:
        """Return how much of the breath is in at `time`, between 0 and 1."""
        return float(abs(math.sin(math.pi * time / self.period)) ** (2 * self.flatness))

    def displacement(self, points: Tensor, time: float) -> Tensor:
        """Return u at `points`: what comes down to r was above it, what comes forward was behind it."""
        x, y, z = (points - points.new_tensor(self.diaphragm)).unbind(dim=-1)
        # Along the height: nothing at the apex and in the pelvis, most at the dome. The spine stays, as
        # far as a smooth field can stop at its surface.
        height = step(z, -200, -5) * (1 - step(z, 5, 225))
        spine = torch.exp(-((x / 42) ** 4) - (((y + 62) / 56) ** 4))
        inner = step(y, -95, -50) * torch.exp(-((x / 115) ** 4) - (((y - 15) / 90) ** 4)) * (1 - spine)
        front = step(y, -60, 110) * step(z, -330, -20) * (1 - step(z, 60, 260)) * torch.exp(-((x / 220) ** 4))
        share = self.share(time)
        up = share * self.depth * height * inner
        forward = -share * self.rise * front
        return torch.stack([torch.zeros_like(up), forward, up], dim=-1)


@dataclass(frozen=True)
class Beating(Movement):
    """The heart contracts towards its `centre`, by `contraction` of each distance in its middle at most.

    Within `radius` mm of the centre; time runs from the end of filling. A third of the `period` is ejection.
    """

    centre: Point
    contraction: float = 0.2
    radius: float = 75.0
    period: float = 0.9

    def __post_init__(self) -> None:
        if check_number(self.contraction, "contraction", non_negative=True) >= 1:
            raise value_error("contraction", "be below 1", self.contraction, "More would fold the image.")
        check_number(self.radius, "radius", positive=True)
        check_number(self.period, "period", positive=True)

    def share(self, time: float) -> float:
        """Return how much of the contraction there is at `time`, between 0 and 1."""
        phase = (time / self.period) % 1.0
        if phase < 1 / 3:
            return 0.5 - 0.5 * math.cos(math.pi * 3 * phase)
        # Filling: fast at first, then slow.
        rest = (phase - 1 / 3) * 1.5
        return float((1 - rest) ** 2 * (1 + 2 * rest))

    def displacement(self, points: Tensor, time: float) -> Tensor:
        """Return u at `points`: what has come nearer to the centre was farther from it."""
        away = points - points.new_tensor(self.centre)
        # Behind the heart is the spine, in front of it the sternum: less room than on its sides.
        reach = points.new_tensor((1.0, SHALLOW, 1.0)) * self.radius
        far = (away / reach).square().sum(dim=-1, keepdim=True)
        return self.share(time) * self.contraction * away * (1 - far).clamp(min=0).square()
