"""What lies outside the brain: skull, scalp, face, orbits, sinuses and neck."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.anatomy.brain.canvas import HeadCanvas
from workbench.anatomy.brain.solids import join, superellipsoid, tube
from workbench.anatomy.brain.tissues import Tissue
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ball, step
from workbench.anatomy.subject import Point
from workbench.anatomy.waves import EvenWaves

__all__ = ["Head"]

#: Muscles that move the eye and its nerve, from the apex of the orbit: end point, radius.
APEX: Point = (14, 12, -25)
CORDS: tuple[tuple[Tissue, Point, float], ...] = (
    (Tissue.MUSCLE, (44, 54, -31), 2.2),
    (Tissue.MUSCLE, (20, 54, -31), 2.4),
    (Tissue.MUSCLE, (32, 54, -20), 2.0),
    (Tissue.MUSCLE, (32, 54, -43), 2.2),
    (Tissue.NERVE, (32, 47, -32), 2.0),
)


@dataclass(frozen=True)
class Head:
    """One subject's head about its brain, in the frame of the template; lengths in mm."""

    skull: float
    fat: float
    skin: float
    temporal: float
    uneven: EvenWaves
    strands: EvenWaves
    cells: EvenWaves
    marrow: EvenWaves
    sinuses: float
    nose: float
    ears: bool
    jaw: float

    @classmethod
    def draw(cls, dice: Dice) -> Head:
        """Return a head."""
        return cls(
            skull=dice.uniform("skull", 4.5, 8.0),
            fat=dice.uniform("scalp fat", 1.5, 6.0),
            skin=dice.uniform("skin", 1.4, 2.4),
            temporal=dice.uniform("temporal muscle", 3, 8),
            uneven=EvenWaves.draw(dice, "skull uneven", count=12, lengths=(30, 90)),
            strands=EvenWaves.draw(dice, "muscle strands", count=18, lengths=(13, 26)),
            cells=EvenWaves.draw(dice, "air cells", count=16, lengths=(8, 14)),
            marrow=EvenWaves.draw(dice, "marrow", count=14, lengths=(7, 20)),
            sinuses=dice.uniform("sinuses", 0.7, 1.2),
            nose=dice.uniform("nose", 0.8, 1.25),
            ears=dice.chance("ears", 0.6),
            jaw=dice.uniform("jaw", -4, 6),
        )

    def paint(self, canvas: HeadCanvas, skull: Tensor) -> None:
        """Paint what lies outside the inner table of the skull, which is `skull` mm away."""
        points = canvas.q
        x, y, z = points
        mirrored = torch.stack([x.abs(), y, z])
        uneven = self.uneven(points)
        bone = self.skull * (1 + 0.22 * uneven)
        # Over the temples the bone is thin and the muscle thick.
        temple = step(x.abs(), 30, 60) * step(z, 48, 5) * step(y, -60, -5)
        bone = bone * (1 - 0.45 * temple)
        muscle = self.temporal * temple * step(y, 66, 30)
        fat = self.fat * (1 + 0.2 * uneven)
        vault = skull - bone - muscle - fat - self.skin
        skin = self._skin(points, mirrored, vault)
        canvas.fill(Tissue.SKIN, skin)
        canvas.fill(Tissue.FAT, skin + self.skin)
        strands = self.strands(torch.stack([x, y, 0.35 * z]))
        canvas.fill(Tissue.MUSCLE, torch.maximum(skin + self.skin + fat, 0.16 - strands.abs()), edge=1.0)
        self._skull(canvas, skull, bone, skin)
        if canvas.sees((0, 40, -60), (80, 80, 60)):
            self._face(canvas, mirrored, skin)
        self._neck(canvas, mirrored)

    def _skin(self, points: Tensor, mirrored: Tensor, vault: Tensor) -> Tensor:
        face = superellipsoid(points, (0, 20, -58), (62, 64, 72), power=2.4)
        chin = superellipsoid(points, (0, 62 + self.jaw, -105), (30, 26, 28))
        neck = tube(points, ((0, -28, -60), (0, -36, -190)), (60, 58), flat=(1.05, 1, 1))
        nose = tube(points, ((0, 82, -22), (0, 97 + 6 * self.nose, -56)), (6.0, 11.0 * self.nose))
        body = join(join(join(vault, face, 22), neck, 25), join(chin, nose, 14), 12)
        if self.ears:
            ear = superellipsoid(mirrored, (82, -24, -28), (5, 15, 29)) + 1.5 * self.strands(points * 1.4)
            body = join(body, ear, 5)
        return body

    def _skull(self, canvas: HeadCanvas, skull: Tensor, bone: Tensor, skin: Tensor) -> None:
        """Paint two tables of dense bone and the marrow between them, in the base with cells of air."""
        x, y, z = canvas.q
        canvas.fill(Tissue.BONE, torch.maximum(skull - bone, skin + 3))
        marrow = self.marrow(canvas.q)
        middle = (skull - 0.5 * bone).abs() - (0.27 * bone + 0.3 * marrow)
        canvas.fill(Tissue.MARROW, middle, strength=0.9)
        mastoid = superellipsoid(torch.stack([x.abs(), y, z]), (54, -34, -44), (13, 16, 18))
        canvas.fill(Tissue.BONE, mastoid)
        canvas.fill(Tissue.AIR, torch.maximum(mastoid + 2, -0.3 - self.cells(canvas.q)))
        canal = tube(torch.stack([x.abs(), y, z]), ((88, -22, -34), (58, -20, -36)), (2.6, 2.6))
        canvas.fill(Tissue.AIR, torch.maximum(canal, skin))

    def _face(self, canvas: HeadCanvas, mirrored: Tensor, skin: Tensor) -> None:
        side, y, z = mirrored
        x = canvas.q[0]
        cells = self.cells(torch.stack([x, 0.35 * y, z]))
        inside = skin + 4
        # Bones of the face about their cavities: nose, maxillary, ethmoid, sphenoid and frontal sinuses.
        size = self.sinuses
        nose = superellipsoid(mirrored, (0, 56, -54), (15, 34, 23))
        maxillary = superellipsoid(mirrored, (29, 46, -61), (13 * size, 15 * size, 16 * size))
        ethmoid = superellipsoid(mirrored, (7, 44, -33), (9, 22, 12), power=3.0)
        sphenoid = superellipsoid(mirrored, (8, 6, -42), (9 * size, 11 * size, 9 * size))
        frontal = superellipsoid(mirrored, (9, 73, -8), (11 * size, 4.5 * size, 11 * size))
        jaw = tube(mirrored, ((48, 6, -62), (46, 10, -100), (16, 66 + self.jaw, -104)), (5, 6, 7))
        palate = tube(mirrored, ((0, 30, -78), (14, 66, -80)), (5, 6))
        orbit = superellipsoid(mirrored, (30, 40, -31), (18, 30, 19))
        bones = torch.minimum(torch.minimum(nose, maxillary), torch.minimum(ethmoid, sphenoid)) - 2.2
        bones = torch.minimum(torch.minimum(bones, frontal - 2.0), torch.minimum(jaw, palate))
        bones = torch.maximum(torch.minimum(bones, orbit - 2.0), inside)
        canvas.fill(Tissue.BONE, bones)
        canvas.fill(Tissue.MARROW, torch.minimum(jaw, palate) + 2.2, strength=0.9)
        lined = torch.minimum(torch.minimum(nose, maxillary), torch.minimum(ethmoid, sphenoid))
        lined = torch.minimum(lined, frontal)
        canvas.fill(Tissue.MUCOSA, torch.maximum(lined + 0.4, inside))
        # Turbinates: folds of mucosa along the nose, thin walls between the ethmoid's cells.
        curls = (torch.sin(0.52 * side + 0.25 * z + 0.9 * cells)).abs() / 0.6
        canvas.fill(Tissue.AIR, torch.maximum(nose + 1.5, 0.75 - curls))
        canvas.fill(Tissue.AIR, torch.maximum(ethmoid + 0.5, 0.25 - cells.abs()))
        canvas.fill(Tissue.AIR, torch.minimum(maxillary + 1.2 + 0.6 * cells, sphenoid + 1.0))
        canvas.fill(Tissue.AIR, frontal + 0.8)
        canvas.fill(Tissue.AIR, torch.maximum(tube(mirrored, ((0, 14, -58), (0, 4, -130)), (8, 9)), y - 30))
        self._orbit(canvas, mirrored, orbit)

    def _orbit(self, canvas: HeadCanvas, mirrored: Tensor, orbit: Tensor) -> None:
        if not canvas.sees((30, 40, -31), (20, 34, 22)):
            return
        # A cone of fat from the apex to the rim.
        cone = tube(mirrored, (APEX, (31, 50, -31)), (3, 19))
        canvas.fill(Tissue.FAT, torch.maximum(cone, orbit))
        for tissue, end, radius in CORDS:
            canvas.fill(tissue, tube(mirrored, (APEX, end), (1.0, radius)))
        eye = ball(mirrored, (32, 57, -31), 12.2)
        canvas.fill(Tissue.DURA, eye - 0.6)
        canvas.fill(Tissue.EYE, eye + 0.5)
        canvas.fill(Tissue.LENS, superellipsoid(mirrored, (32, 65.5, -31), (4.6, 2.1, 4.6)))

    def _neck(self, canvas: HeadCanvas, mirrored: Tensor) -> None:
        if not canvas.sees((0, -20, -110), (60, 80, 60)):
            return
        discs = torch.sin(mirrored[2] * 0.33)
        spine = tube(mirrored, ((0, -14, -62), (0, -26, -190)), (8, 11))
        arches = tube(mirrored, ((0, -64, -84), (0, -72, -190)), (7, 9))
        facets = tube(mirrored, ((22, -42, -72), (22, -50, -190)), (7, 7))
        vertebrae = torch.minimum(torch.minimum(spine, arches), facets)
        keep = (canvas.labels != int(Tissue.AIR)).float()
        canvas.fill(Tissue.BONE, vertebrae, within=keep)
        canvas.fill(Tissue.MARROW, torch.maximum(vertebrae + 1.6, discs - 0.8), within=keep)
        arteries = tube(mirrored, ((27, 2, -62), (29, 2, -190)), (2.6, 3.4))
        veins = tube(mirrored, ((33, -8, -58), (36, -4, -190)), (4.0, 5.5))
        canvas.fill(Tissue.BLOOD, torch.minimum(arteries, veins))
