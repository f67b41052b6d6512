"""Synthetic MR heads: a brain with a folded cortex, its skull, face and neck, under a drawn sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.checks import check_count
from operators.errors import type_error, value_error
from operators.grid import Grid
from workbench.anatomy.brain.canvas import HeadCanvas
from workbench.anatomy.brain.cortex import cranium
from workbench.anatomy.brain.head import Head
from workbench.anatomy.brain.inner import Inner
from workbench.anatomy.brain.lesions import KINDS, Focus, placed
from workbench.anatomy.brain.phase import complex_image
from workbench.anatomy.brain.tissues import CONTRASTS, LABEL_NAMES, Sequence, Tissue, draw_signals
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import rotation, step
from workbench.anatomy.subject import Lesion, Point, Subject
from workbench.anatomy.texture import SharpTexture
from workbench.anatomy.waves import EvenWaves, Warp
from workbench.volume import Volume

__all__ = ["Brain"]

#: How much the texture shows in a tissue, as a share of its signal.
GRAIN = {Tissue.MUSCLE: 0.10, Tissue.MARROW: 0.18, Tissue.FAT: 0.07, Tissue.SKIN: 0.08, Tissue.MUCOSA: 0.10}
GRAIN |= {Tissue.TUMOUR_CORE: 0.06, Tissue.TUMOUR_RIM: 0.06, Tissue.STROKE: 0.05, Tissue.BLOOD: 0.10}


@dataclass(frozen=True)
class Brain(Subject):
    """A head drawn from `seed`: magnitudes in units of the brightest of grey matter, white matter and CSF.

    `contrast` names the sequence, one of `CONTRASTS`; `skull` tells whether the head is there or only its
    brain, as after skull stripping. Make one with `draw`.
    """

    seed: int
    contrast: str
    skull: bool
    high_field: bool
    sequence: Sequence
    signals: Mapping[Tissue, float]
    inner: Inner
    head: Head
    pose: tuple[Point, ...]
    shift: Point
    warp: Warp
    bias: EvenWaves
    bias_size: float
    fine: SharpTexture
    coarse: EvenWaves
    grain: float
    margin: float
    foci: tuple[Focus, ...] = ()
    lesions: tuple[Lesion, ...] = ()

    unit = ""
    label_names = LABEL_NAMES
    lesion_labels = (Tissue.STROKE, Tissue.MS, Tissue.TUMOUR_CORE, Tissue.TUMOUR_RIM, Tissue.OEDEMA)

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        contrast: str | None = None,
        skull: bool | None = None,
        lesions: int = 0,
        lesion_kinds: tuple[str, ...] = KINDS,
    ) -> Brain:
        """Return the subject of `seed`.

        Parameters
        ----------
        contrast
            "t1", "t2", "flair", "pd", "t1c" (T1 after contrast agent), "t2s" (T2*); None draws one.
        skull
            True for the whole head, False for the brain alone; None draws it. The brain is the same.
        lesions
            How many lesions to place, away from one another; their truth is in `lesions` of the subject.
        lesion_kinds
            What they may be: "stroke", "ms" (a white-matter lesion), "tumour" (rim, core and oedema).
        """
        dice = Dice(check_count(seed, "seed", minimum=0), "brain ")
        if contrast is not None and contrast not in CONTRASTS:
            raise value_error("contrast", f"be one of {', '.join(CONTRASTS)}, or None", repr(contrast))
        if skull is not None and not isinstance(skull, bool):
            raise type_error("skull", "be True, False, or None to draw it", repr(skull))
        number = check_count(lesions, "lesions", minimum=0)
        kinds = _checked_kinds(lesion_kinds)
        name = dice.choice("contrast", CONTRASTS) if contrast is None else contrast
        high_field = dice.chance("field strength", 0.5)
        sequence = Sequence.draw(dice, name, high_field)
        brain = cls(
            seed=dice.seed,
            contrast=name,
            skull=dice.chance("skull present", 0.5) if skull is None else skull,
            high_field=high_field,
            sequence=sequence,
            signals=draw_signals(dice, name, high_field, sequence),
            inner=Inner.draw(dice),
            head=Head.draw(dice),
            pose=_draw_pose(dice),
            shift=(
                dice.normal("shift x", 0, 1.5),
                dice.normal("shift y", 0, 2.5),
                dice.normal("shift z", 0, 2.5),
            ),
            warp=Warp.draw(dice, "warp", size=3.4, count=14, lengths=(55, 150)),
            bias=EvenWaves.draw(dice, "bias", count=8, lengths=(170, 340)),
            bias_size=dice.uniform("bias size", 0.03, 0.13),
            fine=SharpTexture.draw(dice, "fine texture", step=1.7),
            coarse=EvenWaves.draw(dice, "coarse texture", count=16, lengths=(18, 60)),
            grain=dice.uniform("grain", 0.012, 0.05),
            margin=dice.uniform("stripping margin", 0.0, 2.0),
        )
        if not number:
            return brain
        brain = replace(brain, foci=placed(dice, number, kinds, brain.values))
        return replace(brain, lesions=tuple(brain._truth(focus) for focus in brain.foci))

    @property
    def box(self) -> tuple[Point, Point]:
        """A box around the head down to the upper neck, or around the brain alone."""
        if self.skull:
            return (-90.0, -126.0, -98.0), (90.0, 118.0, 98.0)
        return (-78.0, -116.0, -76.0), (78.0, 82.0, 88.0)

    def complex_image(
        self, grid: Grid, *, supersample: int = 2, strength: float = 1.0, susceptibility: float = 1.0
    ) -> Volume:
        """Return the image on `grid` times exp(i phase), the smooth phase drawn from the same seed."""
        image = self.render(grid, supersample=supersample).image
        return complex_image(image, self.seed, strength=strength, susceptibility=susceptibility)

    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        world = points.T.contiguous()
        canvas = self._painted(world)
        if not bool(canvas.labels.any()) and not bool(canvas.values.any()):
            return canvas.values, canvas.labels
        grain = torch.full((max(Tissue) + 1,), self.grain)
        for tissue, share in GRAIN.items():
            grain[tissue] = share
        coarse = self.coarse(canvas.q)
        texture = 1 + grain[canvas.labels.long()] * (0.75 * self.fine(world) + 0.65 * coarse)
        return canvas.values * texture.clamp(min=0) * self._gain(world), canvas.labels

    def _gain(self, world: Tensor) -> Tensor:
        """Return the sensitivity at points (3, n): smooth, and falling off towards the neck."""
        return torch.exp(self.bias_size * self.bias(world)) * (0.35 + 0.65 * step(world[2], -135, -60))

    def _painted(self, world: Tensor) -> HeadCanvas:
        x, y, z = world
        moved = torch.stack(
            [x * a + y * b + z * c + shift for (a, b, c), shift in zip(self.pose, self.shift, strict=True)]
        )
        at = self.warp(moved)
        skull = cranium(at)
        canvas = HeadCanvas(at, self.signals)
        outside = skull > -3
        if self.skull and bool(outside.any()):
            part = HeadCanvas(at[:, outside], self.signals)
            self.head.paint(part, skull[outside])
            canvas.values[outside], canvas.labels[outside] = part.values, part.labels
        inside = skull < 1.5
        if bool(inside.any()):
            part = HeadCanvas(at[:, inside], self.signals)
            part.values, part.labels = canvas.values[inside], canvas.labels[inside]
            brain = self.inner.paint(part, skull[inside])
            for focus in self.foci:
                focus.paint(part, world[:, inside])
            if not self.skull:
                self._strip(part, brain)
            canvas.values[inside], canvas.labels[inside] = part.values, part.labels
        return canvas

    def _strip(self, canvas: HeadCanvas, brain: Tensor) -> None:
        keep = canvas.cover(brain - self.margin)
        canvas.values = canvas.values * keep
        canvas.labels = canvas.labels.masked_fill(keep <= 0.5, int(Tissue.OUTSIDE))

    def _truth(self, focus: Focus) -> Lesion:
        """Return the lesion's record; its contrast is against what it replaced, with the gain there."""
        place = torch.tensor(focus.centre)[:, None]
        host = Tissue(int(replace(self, foci=())._painted(place).labels[0]))
        contrast = float(self._gain(place)) * (self.signals[focus.label] - self.signals[host])
        return Lesion(focus.kind, int(focus.label), focus.centre, focus.radius, contrast)


def _draw_pose(dice: Dice) -> tuple[Point, ...]:
    """Return the matrix from world to template: sizes of +-8 percent, a head held within a few degrees."""
    nod, tilt, turn = (
        math.radians(dice.normal(f"pose {k}", 0, sd)) for k, sd in (("nod", 5), ("tilt", 2.5), ("turn", 3))
    )
    size = dice.normal("size", 0.96, 0.03)
    sizes = [size * dice.normal(f"size {axis}", 1.0, 0.025) for axis in "xyz"]
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate((nod, tilt, turn)):
        matrix = matrix @ rotation(axis, -angle, torch.float64)
    matrix = torch.diag(1 / torch.tensor(sizes, dtype=torch.float64)) @ matrix
    a, b, c = matrix.tolist()
    return tuple(a), tuple(b), tuple(c)


def _checked_kinds(kinds: object) -> tuple[str, ...]:
    if not isinstance(kinds, tuple) or not kinds or any(kind not in KINDS for kind in kinds):
        raise value_error("lesion_kinds", f"be a tuple of some of {', '.join(KINDS)}", repr(kinds))
    return kinds
