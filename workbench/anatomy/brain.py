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
from workbench.anatomy.brain_canvas import Canvas
from workbench.anatomy.brain_cortex import cranium
from workbench.anatomy.brain_head import Head
from workbench.anatomy.brain_inner import Inner
from workbench.anatomy.brain_lesions import KINDS, WHITE_OR_NUCLEI, Focus
from workbench.anatomy.brain_noise import Chance, Texture, Warp, Waves
from workbench.anatomy.brain_phase import complex_image
from workbench.anatomy.brain_solids import soft_step
from workbench.anatomy.brain_tissues import CONTRASTS, LABEL_NAMES, Sequence, Tissue, draw_signals
from workbench.anatomy.subject import Lesion, Point, Subject
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
    pose: tuple[tuple[float, float, float], ...]
    shift: Point
    warp: Warp
    bias: Waves
    bias_size: float
    fine: Texture
    coarse: Waves
    grain: float
    margin: float
    foci: tuple[Focus, ...] = ()
    lesions: tuple[Lesion, ...] = ()

    unit = ""
    label_names = LABEL_NAMES

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
        chance = Chance(check_count(seed, "seed", minimum=0))
        if contrast is not None and contrast not in CONTRASTS:
            raise value_error("contrast", f"be one of {', '.join(CONTRASTS)}, or None", repr(contrast))
        if skull is not None and not isinstance(skull, bool):
            raise type_error("skull", "be True, False, or None to draw it", repr(skull))
        number = check_count(lesions, "lesions", minimum=0)
        kinds = _checked_kinds(lesion_kinds)
        name = CONTRASTS[chance.choice("contrast", len(CONTRASTS))] if contrast is None else contrast
        high_field = chance.uniform("field strength", 0, 1) < 0.5
        sequence = Sequence.draw(chance, name, high_field)
        brain = cls(
            seed=chance.seed,
            contrast=name,
            skull=chance.uniform("skull present", 0, 1) < 0.5 if skull is None else skull,
            high_field=high_field,
            sequence=sequence,
            signals=draw_signals(chance, name, high_field, sequence),
            inner=Inner.draw(chance),
            head=Head.draw(chance),
            pose=_draw_pose(chance),
            shift=(
                chance.normal("shift x", 0, 1.5),
                chance.normal("shift y", 0, 2.5),
                chance.normal("shift z", 0, 2.5),
            ),
            warp=Warp.draw(chance, "warp", size=3.4, count=14, shortest=55, longest=150),
            bias=Waves.draw(chance, "bias", 8, 170, 340),
            bias_size=chance.uniform("bias size", 0.03, 0.13),
            fine=Texture.draw(chance, "fine texture", step=1.7),
            coarse=Waves.draw(chance, "coarse texture", 16, 18, 60),
            grain=chance.uniform("grain", 0.012, 0.05),
            margin=chance.uniform("stripping margin", 0.0, 2.0),
        )
        return brain._with_lesions(chance, number, kinds) if number else brain

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
        coarse = self.coarse(canvas.points)
        texture = 1 + grain[canvas.labels.long()] * (0.75 * self.fine(world) + 0.65 * coarse)
        return canvas.values * texture.clamp(min=0) * self._gain(world), canvas.labels

    def _gain(self, world: Tensor) -> Tensor:
        """Return the sensitivity at points (3, n): smooth, and falling off towards the neck."""
        return torch.exp(self.bias_size * self.bias(world)) * (0.35 + 0.65 * soft_step(world[2], -135, -60))

    def _painted(self, world: Tensor) -> Canvas:
        x, y, z = world
        moved = torch.stack(
            [x * a + y * b + z * c + shift for (a, b, c), shift in zip(self.pose, self.shift, strict=True)]
        )
        at = self.warp(moved)
        skull = cranium(at)
        canvas = Canvas(at, self.signals)
        outside = skull > -3
        if self.skull and bool(outside.any()):
            part = Canvas(at[:, outside], self.signals)
            self.head.paint(part, skull[outside])
            canvas.values[outside], canvas.labels[outside] = part.values, part.labels
        inside = skull < 1.5
        if bool(inside.any()):
            part = Canvas(at[:, inside], self.signals)
            part.values, part.labels = canvas.values[inside], canvas.labels[inside]
            brain = self.inner.paint(part, skull[inside])
            for focus in self.foci:
                focus.paint(part, world[:, inside])
            if not self.skull:
                self._strip(part, brain)
            canvas.values[inside], canvas.labels[inside] = part.values, part.labels
        return canvas

    def _strip(self, canvas: Canvas, brain: Tensor) -> None:
        keep = (0.5 - (brain - self.margin) / 0.9).clamp(0, 1)
        canvas.values = canvas.values * keep
        canvas.labels = canvas.labels.masked_fill(keep <= 0.5, int(Tissue.OUTSIDE))

    def _with_lesions(self, chance: Chance, number: int, kinds: tuple[str, ...]) -> Brain:
        """Return the subject with lesions at points of its white matter and deep nuclei."""
        tries = 200 + 60 * number
        low, high = (-62.0, -95.0, -30.0), (62.0, 62.0, 70.0)
        columns = [
            torch.tensor(chance.uniforms(f"lesion {axis}", tries)) * (b - a) + a
            for axis, a, b in zip("xyz", low, high, strict=True)
        ]
        candidates = torch.stack(columns, dim=1)
        labels = self.values(candidates)[1]
        fits = torch.zeros_like(labels, dtype=torch.bool)
        for tissue in WHITE_OR_NUCLEI:
            fits |= labels == int(tissue)
        places = iter(candidates[fits].tolist())
        foci: list[Focus] = []
        for j in range(number):
            drawn = Focus.draw(chance, j, kinds[chance.choice(f"lesion {j} kind", len(kinds))])
            for x, y, z in places:
                apart = [1.6 * (drawn.radius + other.radius) for other in foci]
                if all(math.dist((x, y, z), o.centre) > d for o, d in zip(foci, apart, strict=True)):
                    foci.append(replace(drawn, centre=(x, y, z)))
                    break
            else:
                break
        if len(foci) < number:
            raise value_error(
                "lesions", f"be few enough to lie apart, here {len(foci)}", number, "Ask for fewer."
            )
        brain = replace(self, foci=tuple(foci))
        return replace(brain, lesions=tuple(brain._truth(focus) for focus in foci))

    def _truth(self, focus: Focus) -> Lesion:
        """Return the lesion's record; its contrast is against white matter, with the coil's gain there."""
        gain = float(self._gain(torch.tensor(focus.centre)[:, None]))
        contrast = gain * (self.signals[focus.label] - self.signals[Tissue.WHITE])
        return Lesion(focus.kind, int(focus.label), focus.centre, focus.radius, contrast)


def _draw_pose(chance: Chance) -> tuple[tuple[float, float, float], ...]:
    """Return the matrix from world to template: sizes of +-8 percent, a head held within a few degrees."""
    nod, tilt, turn = (
        math.radians(chance.normal(f"pose {k}", 0, sd)) for k, sd in (("nod", 5), ("tilt", 2.5), ("turn", 3))
    )
    size = chance.normal("size", 0.96, 0.03)
    sizes = [size * chance.normal(f"size {axis}", 1.0, 0.025) for axis in "xyz"]
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in ((0, nod), (1, tilt), (2, turn)):
        i, j = (k for k in range(3) if k != axis)
        turned = torch.eye(3, dtype=torch.float64)
        turned[i, i] = turned[j, j] = math.cos(angle)
        turned[i, j], turned[j, i] = math.sin(angle), -math.sin(angle)
        matrix = matrix @ turned
    matrix = torch.diag(1 / torch.tensor(sizes, dtype=torch.float64)) @ matrix
    a, b, c = matrix.tolist()
    return tuple(a), tuple(b), tuple(c)


def _checked_kinds(kinds: object) -> tuple[str, ...]:
    if not isinstance(kinds, tuple) or not kinds or any(kind not in KINDS for kind in kinds):
        raise value_error("lesion_kinds", f"be a tuple of some of {', '.join(KINDS)}", repr(kinds))
    return kinds
