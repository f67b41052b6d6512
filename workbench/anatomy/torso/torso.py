"""A torso as a CT scanner sees it, from the neck to the thighs, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_count, check_number
from workbench.anatomy.canvas import Canvas, Part
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import smooth_max
from workbench.anatomy.subject import Lesion, Point, Subject
from workbench.anatomy.texture import SmoothTexture
from workbench.anatomy.torso.abdomen import Abdomen
from workbench.anatomy.torso.chest import Chest
from workbench.anatomy.torso.couch import Couch
from workbench.anatomy.torso.habitus import MUSCLE, Frame, Habitus, draw_habitus
from workbench.anatomy.torso.lesions import KINDS, counted, paint_lesions, placed
from workbench.anatomy.torso.mediastinum import Mediastinum
from workbench.anatomy.torso.skeleton import Skeleton
from workbench.anatomy.torso.tissues import LABELS, NAMES, draw_tissues
from workbench.anatomy.torso.wall import Wall
from workbench.anatomy.waves import ScaledWaves

__all__ = ["Torso"]

#: Phases as often as they are drawn.
SCANNED = ("none", "none", "arterial", "venous", "venous")


@dataclass(frozen=True)
class Torso(Subject):
    """An adult's torso in HU. `Torso.draw(seed)` draws one; two of a seed are equal.

    Parameters
    ----------
    contrast
        The phase of iodine: "none", "arterial" or "venous".
    noise
        Standard deviation in HU of the scanner's noise in the middle of the body; 0 for none.
    edge
        Width in mm over which the scanner blurs an edge.
    """

    seed: int
    contrast: str
    noise: float
    edge: float
    habitus: Habitus
    tissues: dict[str, float] = field(repr=False, compare=False)
    lesions: tuple[Lesion, ...] = ()

    unit: ClassVar[str] = "HU"  # type: ignore[misc]
    label_names: ClassVar[Mapping[int, str]] = NAMES  # type: ignore[misc]
    lesion_labels: ClassVar[tuple[int, ...]] = tuple(LABELS[kind] for kind in KINDS)  # type: ignore[misc]

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        contrast: str | None = None,
        lesions: int | Mapping[str, int] = 0,
        noise: float = 0.0,
        edge: float | None = None,
    ) -> Torso:
        """Return the torso of `seed`.

        Parameters
        ----------
        seed
            An integer of at least 0. What is not given below is drawn from it too.
        contrast
            The phase of iodine, "none", "arterial" or "venous".
        lesions
            How many, of all kinds in turn, or by kind, {"lung nodule": 2}: see `lesions.KINDS`.
        noise
            Standard deviation in HU of the scanner's noise in the middle of the body; 0 for none.
        edge
            Width in mm over which the scanner blurs an edge.
        """
        number = check_count(seed, "seed", minimum=0)
        dice = Dice(number, "torso/")
        habitus = draw_habitus(Dice(number, "habitus/"))
        phase = dice.choice("phase", SCANNED) if contrast is None else contrast
        width = dice.uniform("edge", 1.2, 2.4) if edge is None else check_number(edge, "edge", positive=True)
        loud = check_number(noise, "noise", non_negative=True)
        tissues = draw_tissues(Dice(number, "tissues/"), phase, habitus.bone)
        healthy = cls(number, phase, loud, width, habitus, tissues)
        counts = counted(lesions)
        if not any(counts.values()):
            return healthy
        # Where lesions lie is a matter of the seed, not of the noise.
        still = replace(healthy, noise=0.0)
        found = placed(Dice(number, "lesions/"), counts, still.values, still._frame.world)
        return replace(healthy, lesions=found)

    @property
    def box(self) -> tuple[Point, Point]:
        """The corners of the box from the thighs to the neck."""
        h = self.habitus
        half = (258 + 1.2 * h.fat if h.arms == "down" else 200 + 0.8 * h.fat) * h.width
        back = -(106 * h.depth + 0.9 * h.fat + 56)
        front = 112 * h.depth + 1.6 * h.fat + 1.15 * max(0.0, h.belly) + 0.6 * h.breast + 20
        return (-half, back, -225 * h.height), (half, front, 500 * h.height)

    @property
    def landmarks(self) -> Mapping[str, Point]:
        """World points in mm: middle of the diaphragm, its right dome, middle of the heart."""
        height = 238.0 + self.habitus.dome
        places = {
            "diaphragm": (0.0, 12.0, height),
            "dome": (62.0, 12.0, height),
            "heart": self._chest.heart_centre,
        }
        points = {name: self._frame.world(torch.tensor(place)[:, None])[0] for name, place in places.items()}
        return {name: (float(p[0]), float(p[1]), float(p[2])) for name, p in points.items()}

    @cached_property
    def _frame(self) -> Frame:
        return Frame(self.habitus, Dice(self.seed, "frame/"))

    @cached_property
    def _wall(self) -> Wall:
        return Wall(self.habitus, self.tissues, Dice(self.seed, "wall/"))

    @cached_property
    def _couch(self) -> Couch:
        h = self.habitus
        back = -(MUSCLE.at(200.0)[1] + 0.68 * h.fat) * h.depth
        return Couch(Dice(self.seed, "couch/"), back)

    @cached_property
    def _skeleton(self) -> Skeleton:
        return Skeleton(self.habitus, self.tissues, Dice(self.seed, "skeleton/"))

    @cached_property
    def _chest(self) -> Chest:
        return Chest(self.habitus, self.tissues, Dice(self.seed, "chest/"))

    @cached_property
    def _mediastinum(self) -> Mediastinum:
        return Mediastinum(self.habitus, self.tissues, Dice(self.seed, "mediastinum/"))

    @cached_property
    def _abdomen(self) -> Abdomen:
        return Abdomen(self.habitus, self.tissues, Dice(self.seed, "abdomen/"), self._chest)

    @cached_property
    def _folds(self) -> ScaledWaves:
        return ScaledWaves.draw(
            Dice(self.seed, "cloth/"),
            "folds",
            fields=2,
            lengths=(40, 160),
            sd=0.7,
            count=16,
            stretch=(1, 1, 2),
        )

    @cached_property
    def _noise(self) -> tuple[SmoothTexture, SmoothTexture]:
        return tuple(SmoothTexture.draw(Dice(self.seed, "noise/"), name, channels=1) for name in "ab")  # type: ignore[return-value]

    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        q = self._frame.body(points)
        world = points.T
        skin, muscle = self._surfaces(q, world)
        outer = Canvas(q, -1000.0, self.edge)
        if bool((skin > -self.edge).any()):
            self._couch.paint(outer, world, skin, self._folds(q))
        part = outer.where(skin < self.edge)
        if part is not None:
            self._inside(outer, part, skin, muscle)
        if self.lesions:
            rough = self._noise[0](world, 5.0)[0]
            paint_lesions(outer, self.lesions, world, rough, self.tissues)
        values = outer.values
        if self.noise:
            values = values + self.noise * self._grains(world, muscle)
        return values.clamp(-1024, 3071), outer.labels

    def _surfaces(self, q: Tensor, world: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances (n,) to the skin and to what lies under the fat."""
        muscle = self._wall.muscle(q)
        skin = self._wall.skin(q, muscle)
        # Lying flattens the back, and the fat on it more than the muscle.
        press = self._couch.top(world[0]) - world[1]
        return smooth_max(skin, press, 14), smooth_max(muscle, press + 4 + 0.2 * self.habitus.fat, 18)

    def _inside(self, outer: Canvas, part: Part, skin: Tensor, muscle: Tensor) -> None:
        """Paint the body at the points in it and over its surface."""
        skin, muscle = part.at(skin), part.at(muscle)
        canvas = Canvas(part.q, 0.0, self.edge)
        cavity = self._wall.cavity(part.q, muscle)
        self._wall.paint(canvas, skin, muscle, cavity)
        self._abdomen.paint(canvas, cavity)
        self._chest.paint(canvas)
        self._mediastinum.paint(canvas)
        self._skeleton.paint(canvas)
        outer.paint(part, outer.cover(skin), canvas.values, canvas.labels)

    def _grains(self, world: Tensor, muscle: Tensor) -> Tensor:
        """Return noise of sd 1 in the middle of the body, less towards the skin and outside."""
        first, second = self._noise
        white = 0.8 * first(world, 1.1)[0] + 0.75 * second(world, 1.9)[0]
        return white * (0.35 + 0.65 * (-muscle / 70).clamp(0, 1))
