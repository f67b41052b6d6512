"""What lies inside the skull: cerebrum, deep nuclei, ventricles, brain stem, cerebellum, vessels, dura."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.anatomy.brain.canvas import HeadCanvas
from workbench.anatomy.brain.cortex import Cortex, cerebrum
from workbench.anatomy.brain.solids import join, meet, superellipsoid, tube
from workbench.anatomy.brain.tissues import Tissue
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import ball, step
from workbench.anatomy.subject import Point
from workbench.anatomy.waves import EvenWaves

__all__ = ["Inner"]

#: Deep nuclei of the right side: tissue, centre, semi-axes in mm.
NUCLEI: tuple[tuple[Tissue, Point, Point], ...] = (
    (Tissue.THALAMUS, (10.5, -18, 6), (8.5, 14, 9)),
    (Tissue.PUTAMEN, (26, 3, 1), (5.0, 16, 10.5)),
    (Tissue.PALLIDUM, (19.5, -3, -1), (4.2, 9.5, 6.5)),
    (Tissue.CAUDATE, (13.5, 19, 6), (6.0, 10, 9.5)),
)
CAUDATE_TAIL: tuple[Point, ...] = ((15, 14, 13), (17, -4, 20), (19, -22, 20))
HIPPOCAMPUS: tuple[Point, ...] = ((22, -4, -21), (26, -18, -17), (27, -30, -9))
#: The lateral ventricle of the right side: horn in front, body, atrium; horn behind; horn below.
VENTRICLE: tuple[Point, ...] = ((13, 34, 4), (7.5, 22, 9), (7, 0, 17), (12, -24, 18), (22, -40, 11))
VENTRICLE_SIZES = (1.5, 5.6, 5.2, 5.8, 7.0)
HORN_BEHIND: tuple[Point, ...] = ((22, -40, 11), (23, -66, 6))
HORN_BELOW: tuple[Point, ...] = ((22, -40, 11), (33, -32, -6), (33, -12, -17))
MIDBRAIN_TO_CORD: tuple[Point, ...] = (
    (0, -26, -4),
    (0, -27, -16),
    (0, -34, -46),
    (0, -40, -64),
    (0, -60, -140),
)
STEM_SIZES = (15.0, 12.5, 9.5, 6.5, 5.5)


@dataclass(frozen=True)
class Inner:
    """One subject's brain, in the frame of the template; lengths in mm."""

    cortex: Cortex
    gap: float
    room: EvenWaves
    ventricles: float
    third: float
    folia: float
    wobble: EvenWaves
    vessels: EvenWaves
    callosum: float
    vessel_share: float

    @classmethod
    def draw(cls, dice: Dice) -> Inner:
        """Return a brain; an old one has wide sulci and ventricles."""
        atrophy = dice.uniform("atrophy") ** 3
        return cls(
            cortex=Cortex.draw(dice, atrophy),
            gap=dice.uniform("gap", 0.4, 1.4) + 1.8 * atrophy,
            room=EvenWaves.draw(dice, "room", count=12, lengths=(50, 110)),
            ventricles=dice.uniform("ventricles", 0.65, 1.15) + 0.65 * atrophy,
            third=dice.uniform("third ventricle", 0.7, 1.5) + 2.2 * atrophy,
            folia=dice.uniform("folia", 4.2, 5.6),
            wobble=EvenWaves.draw(dice, "folia wobble", count=12, lengths=(14, 40)),
            vessels=EvenWaves.draw(dice, "vessels", count=22, lengths=(11, 17)),
            callosum=dice.uniform("callosum", 5.5, 8.0) - 1.5 * atrophy,
            vessel_share=dice.uniform("vessel share", 0.5, 1.0),
        )

    def paint(self, canvas: HeadCanvas, skull: Tensor) -> Tensor:
        """Paint the inside, `skull` mm from the inner table; return the distance to the brain."""
        points = canvas.q
        x, y, z = points
        side = x.abs()
        mirrored = torch.stack([side, y, z])
        canvas.fill(Tissue.CSF, skull)
        gap = self.gap * (1 + 0.45 * self.room(points)).clamp(min=0.2)
        hull = cerebrum(points, gap)
        depth = self.cortex.pial_depth(points, hull)
        thick = self.cortex.thickness * (1 + 0.12 * self.room(points * 2.3))
        self._vessels(canvas, depth, hull)
        canvas.fill(Tissue.GREY, -depth)
        canvas.fill(Tissue.WHITE, thick - depth, edge=1.4)
        self._callosum(canvas)
        # The head of the caudate bulges into the ventricle: nuclei come after it.
        if canvas.sees((20, -15, 0), (34, 65, 45)):
            self._ventricles(canvas, mirrored)
        if canvas.sees((16, -5, 0), (24, 45, 40)):
            self._nuclei(canvas, mirrored)
        brain = hull
        if canvas.sees((0, -45, -70), (64, 65, 85)):
            # A stripped brain keeps the cisterns between its parts.
            brain = join(brain, self._below(canvas, mirrored, gap), 16)
        self._dura(canvas, skull)
        return brain

    def _callosum(self, canvas: HeadCanvas) -> None:
        if not canvas.sees((0, -5, 5), (22, 48, 34)):
            return
        x, y, z = canvas.q
        # Its ends bend away from the middle on their way into the lobes.
        bent = -5 + (y + 5) * (1 - (x * x).clamp(max=400) / 2000)
        arch = self.cortex.arch(torch.stack([x, bent, z]))
        thick = self.callosum * (1 + 0.35 * step(y, -28, -40) + 0.35 * step(y, 22, 34))
        band = torch.maximum(arch + 0.3, -arch - thick)
        below = torch.where(y > -5, -4 - z, 4 - z)
        canvas.fill(Tissue.WHITE, meet(meet(band, x.abs() - 17, 3), below, 3))

    def _nuclei(self, canvas: HeadCanvas, mirrored: Tensor) -> None:
        wander = 1.1 * self.wobble(canvas.q * 0.8)
        tail = tube(mirrored, CAUDATE_TAIL, (4.0, 3.0, 2.0))
        for tissue, centre, axes in NUCLEI:
            solid = superellipsoid(mirrored, centre, axes) + wander
            canvas.fill(
                tissue,
                join(solid, tail, 4) if tissue is Tissue.CAUDATE else solid,
                edge=3.0 if tissue is Tissue.THALAMUS else 1.8,
            )
        canvas.fill(Tissue.HIPPOCAMPUS, tube(mirrored, HIPPOCAMPUS, (8, 5.5, 4)), edge=1.2)
        red = ball(mirrored, (4.5, -19, -8), 3.0)
        canvas.fill(Tissue.PALLIDUM, red, edge=1.5, strength=0.8)

    def _ventricles(self, canvas: HeadCanvas, mirrored: Tensor) -> None:
        _, y, z = mirrored
        grow = self.ventricles
        body = tube(mirrored, VENTRICLE, [grow * size for size in VENTRICLE_SIZES], flat=(0.64, 1, 1.15))
        behind = tube(mirrored, HORN_BEHIND, (5.5 * grow, 1.6 * grow), flat=(1.4, 1, 1))
        below = tube(mirrored, HORN_BELOW, (4.6 * grow, 2.6 * grow, 1.6 * grow), flat=(1, 1, 1.3))
        lateral = join(join(body, behind, 4), below, 4)
        septum = 0.7 - mirrored[0]
        ceiling = self.cortex.arch(mirrored) + self.callosum + 0.8  # the corpus callosum is their roof
        lateral = meet(lateral, septum, 1)
        lateral = torch.where(mirrored[0] < 17, torch.maximum(lateral, ceiling), lateral)
        canvas.fill(Tissue.WHITE, lateral - 1.5, edge=2.0)
        canvas.fill(Tissue.VENTRICLE, lateral)
        u, v = (y + 11) / 15, (z + 1) / 11
        third = mirrored[0] - self.third * (1.25 - u * u - v * v)
        canvas.fill(Tissue.VENTRICLE, meet(third, superellipsoid(mirrored, (0, -11, -1), (9, 16, 12)), 1))
        choroid = tube(mirrored, ((7, 2, 13), (14, -22, 15), (22, -38, 9)), (0.6, 1.2, 2.4))
        canvas.fill(Tissue.CHOROID, choroid)

    def _below(self, canvas: HeadCanvas, mirrored: Tensor, gap: Tensor) -> Tensor:
        """Paint cisterns, brain stem and cerebellum, and return the distance to the latter two."""
        side, y, z = mirrored
        cistern = superellipsoid(mirrored, (0, 2, -19), (13, 11, 9))
        ring = tube(mirrored, MIDBRAIN_TO_CORD[:3], (17.5, 16.5, 14))
        quadrigeminal = superellipsoid(mirrored, (0, -42, -3), (11, 6, 7))
        canvas.fill(Tissue.CSF, join(join(ring + step(z, -8, 4) * 12, cistern, 5), quadrigeminal, 5))
        stem = tube(mirrored, MIDBRAIN_TO_CORD, STEM_SIZES)
        stem = meet(stem, z - 4, 4)
        pons = superellipsoid(mirrored, (0, -22, -29), (17.5, 11.5, 13))
        stem = join(stem, pons, 5)
        lobes = superellipsoid(mirrored, (24, -65, -36), (29, 36, 25))
        vermis = superellipsoid(mirrored, (0, -64, -31), (16, 29, 25))
        mass = join(lobes, vermis, 9) + 0.5 * gap
        roof = z + 5 + 0.30 * side + 0.2 * (-48 - y).clamp(min=0)
        mass = meet(mass, roof, 5)
        self._cerebellum(canvas, mass)
        peduncle = tube(mirrored, ((10, -27, -32), (18, -46, -36)), (7.5, 6))
        stem = join(stem, peduncle, 5)
        canvas.fill(Tissue.STEM, stem)
        fourth = meet(superellipsoid(mirrored, (0, -44, -34), (8, 5.5, 12)), mirrored[0] - 9, 1)
        canvas.fill(Tissue.VENTRICLE, fourth)
        canvas.fill(Tissue.VENTRICLE, tube(mirrored, ((0, -28, -4), (0, -34, -14), (0, -43, -28)), (1, 1, 2)))
        return join(mass, torch.maximum(stem, -66 - z), 8)

    def _cerebellum(self, canvas: HeadCanvas, mass: Tensor) -> None:
        """Paint folia: sheets that fan out about the fourth ventricle, every few of them a deep fissure."""
        x, y, z = canvas.q
        wobble = self.wobble(canvas.q)
        back, up = -(y - x * x / 120 + 37), z + 50
        radius = (back * back + up * up).sqrt().clamp(min=4)
        # A fan alone would lie flat in an axial slice: its sheets are tilted, to cross each plane in arcs.
        turn = (24 * torch.atan2(up, back) - 0.55 * back + 1.1 * wobble) * (math.pi / self.folia)
        fan = 24 / (radius * radius)
        steep = ((0.55 + fan * up) ** 2 + (fan * back) ** 2).sqrt() * (math.pi / self.folia)
        deep = (-mass).clamp(min=0)
        depth = -mass
        for share, reach, half in ((1.0, 6.5, 0.30), (1 / 3, 15.0, 0.45)):
            across = (turn * share).sin().abs() / (steep * share)
            below = (deep - reach * (1 + 0.3 * wobble)).clamp(min=0)
            depth = torch.minimum(depth, (across * across + below * below).sqrt() - half)
        canvas.fill(Tissue.CEREBELLAR_GREY, -depth, edge=0.8)
        # Fissures that do not reach as deep as the trunk of white matter leave it whole.
        white = torch.maximum(1.55 - depth, 2.6 - deep)
        canvas.fill(Tissue.CEREBELLAR_WHITE, white, edge=1.2)
        trunk = superellipsoid(torch.stack([x.abs(), y, z]), (16, -56, -36), (19, 11, 8))
        canvas.fill(Tissue.CEREBELLAR_WHITE, trunk - wobble, edge=1.5)

    def _vessels(self, canvas: HeadCanvas, depth: Tensor, hull: Tensor) -> None:
        """Paint arteries and veins that run in sulci and on the hull, where two sheets of a field cross."""
        shell = (depth < 0.9) & (hull < 4)
        if not bool(shell.any()):
            return
        points = canvas.q[:, shell]
        level, slope = self.vessels.with_slope(points)
        away = level.abs() / (slope * slope).sum(dim=0).add_(1e-3).sqrt_()
        size = 0.8 * self.vessel_share * (0.9 * self.room(points * 1.7) - 0.45).clamp(-1.0, 1.2)
        distance = torch.full_like(depth, 9.0)
        distance[shell] = torch.maximum(away - size, depth[shell] - 0.3)
        canvas.fill(Tissue.BLOOD, distance)

    def _dura(self, canvas: HeadCanvas, skull: Tensor) -> None:
        x, y, z = canvas.q
        arch = self.cortex.arch(canvas.q)
        falx = torch.maximum(x.abs() - 0.45, 9 - arch)
        falx = torch.maximum(falx, -2 - z - 0.25 * (-48 - y).clamp(min=0))
        canvas.fill(Tissue.DURA, falx, within=(skull < 0.5).float(), strength=0.75)
        canvas.fill(Tissue.DURA, (skull + 0.3).abs() - 0.5, strength=0.7)
        # The sagittal sinus runs along the midline under the vault, the transverse ones along the tentorium.
        upper = (x.abs() + 0.6 * (-skull).clamp(min=0) - 4.5).masked_fill_((z < 4) & (y > -70), 9.0)
        canvas.fill(Tissue.BLOOD, torch.maximum(upper, skull))
        tent = (z + 7.5 + 0.30 * x.abs() + 0.2 * (-48 - y).clamp(min=0)).abs()
        lateral = torch.maximum(torch.maximum(tent - 3.2, -4.0 - skull), y + 45)
        canvas.fill(Tissue.BLOOD, torch.maximum(lateral, skull))
