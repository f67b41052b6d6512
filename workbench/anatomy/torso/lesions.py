"""Lesions where there is room for them, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_count
from operators.errors import type_error, value_error
from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.shapes import length
from workbench.anatomy.subject import Lesion, Look, Point
from workbench.anatomy.torso.tissues import LABELS

__all__ = ["KINDS", "LesionKind", "counted", "paint_lesions", "placed"]

#: Points tried for each kind of lesion, and mm that two lesions keep between them.
TRIALS, APART = 1500, 6.0
#: A lesion's surface is where its distance is off by this share of the radius, of the texture's sd.
ROUGH = 0.03


@dataclass(frozen=True)
class LesionKind:
    """Where a kind of lesion lies: the labels `hosts`, looked for in `box` of the body's coordinates.

    `contrasts` is the range of HU above `tissue`. A `mixed` lesion adds its contrast to what is there, so
    that vessels are seen through it; others replace it.
    """

    hosts: tuple[str, ...]
    tissue: str
    box: tuple[Point, Point]
    radii: tuple[float, float]
    contrasts: tuple[float, float]
    mixed: bool = False


LUNG_BOX: tuple[Point, Point] = ((-130.0, -100.0, 150.0), (130.0, 100.0, 460.0))
LUNGS = ("lung right", "lung left")

#: What can be asked for.
KINDS: Mapping[str, LesionKind] = {
    "lung nodule": LesionKind(LUNGS, "lung", LUNG_BOX, (2.5, 13.0), (820.0, 910.0)),
    "ground-glass nodule": LesionKind(LUNGS, "lung", LUNG_BOX, (4.0, 14.0), (170.0, 380.0), mixed=True),
    "liver metastasis": LesionKind(
        ("liver",), "liver", ((-90.0, -90.0, 90.0), (130.0, 100.0, 280.0)), (3.0, 20.0), (-62.0, -22.0)
    ),
    "bone lesion": LesionKind(
        ("vertebra", "pelvis"),
        "marrow",
        ((-130.0, -110.0, -140.0), (130.0, 60.0, 450.0)),
        (3.0, 9.0),
        (-220.0, 420.0),
    ),
}


def counted(lesions: object) -> dict[str, int]:
    """Return how many of each kind are asked for: a number is shared out among the kinds in their order."""
    if isinstance(lesions, Mapping):
        unknown = [name for name in lesions if name not in KINDS]
        if unknown:
            raise value_error("lesions", f"name kinds out of {', '.join(KINDS)}", repr(unknown[0]))
        counts = {name: check_count(n, f"lesions[{name!r}]", minimum=0) for name, n in lesions.items()}
        return {name: counts[name] for name in KINDS if name in counts}
    if isinstance(lesions, bool) or not isinstance(lesions, int):
        remedy = 'Such as 3 or {"lung nodule": 2}.'
        raise type_error("lesions", "be a number, or kinds with their numbers", repr(lesions), remedy)
    total = check_count(lesions, "lesions", minimum=0)
    return {name: total // len(KINDS) + (i < total % len(KINDS)) for i, name in enumerate(KINDS)}


def placed(
    dice: Dice, counts: Mapping[str, int], look: Look, world: Callable[[Tensor], Tensor]
) -> tuple[Lesion, ...]:
    """Return the lesions that `counts` asks for, each inside its organ and away from the others.

    `look` gives the values and labels of the subject without lesions at world points (n, 3), `world` makes
    these of the body's coordinates (3, n). Where an organ has no room left, a ValueError says so.
    """
    lesions: list[Lesion] = []
    for name, count in counts.items():
        if not count:
            continue
        low, high = (torch.tensor(corner)[:, None] for corner in KINDS[name].box)
        tried = world(low + dice.uniforms(f"{name}/places", 3, TRIALS).float() * (high - low))
        places = tried[_hosted(look(tried)[1], name)]
        for i in range(count):
            lesions.append(_one(dice, i, name, places, lesions, look))
    return tuple(lesions)


def _hosted(labels: Tensor, name: str) -> Tensor:
    return torch.isin(labels, torch.tensor([LABELS[host] for host in KINDS[name].hosts], dtype=labels.dtype))


def _one(dice: Dice, number: int, name: str, places: Tensor, others: list[Lesion], look: Look) -> Lesion:
    kind, label = KINDS[name], f"{name}/{number}"
    small, large = kind.radii
    radius = small * (large / small) ** dice.uniform(f"{label}/radius")
    contrast = dice.uniform(f"{label}/contrast", *kind.contrasts)
    if name == "bone lesion" and abs(contrast) < 120:
        contrast = 120.0 if contrast > 0 else -120.0  # lytic or sclerotic, not neither
    ranks = dice.uniforms(f"{label}/order", len(places)) if len(places) else torch.empty(0)
    order = torch.argsort(ranks)
    # Smaller, if it must be, rather than outside its organ.
    for size in (radius, 0.7 * radius + 0.3 * small, 0.4 * radius + 0.6 * small, small):
        for some in torch.split(places[order], 64):
            apart = [(some - some.new_tensor(o.centre)).norm(dim=1) > o.radius + size + APART for o in others]
            free = torch.stack(apart).all(dim=0) if apart else torch.ones(len(some), dtype=torch.bool)
            around = some[:, None] + size * _STAR
            inside = _hosted(look(around.reshape(-1, 3))[1], name).reshape(len(some), -1)
            # A vessel may cross it, another organ may not.
            fits = free & inside[:, 0] & (inside.float().mean(dim=1) > 0.85)
            if fits.any():
                x, y, z = some[int(fits.nonzero()[0])].tolist()
                return Lesion(name, LABELS[name], (x, y, z), size, contrast)
    expected = f"have room for {name} number {number + 1} in {' or '.join(kind.hosts)}"
    raise value_error("lesions", expected, "no such place", "Ask for fewer, or take another seed.")


def paint_lesions(
    canvas: Canvas, lesions: tuple[Lesion, ...], points: Tensor, texture: Tensor, tissues: Mapping[str, float]
) -> None:
    """Paint the lesions at world points (3, n); `texture` (n,) of sd 1 roughens their surface a little."""
    for lesion in lesions:
        offset = points - points.new_tensor(lesion.centre)[:, None]
        index = (offset.abs().amax(dim=0) < 1.5 * lesion.radius + 2 * canvas.edge).nonzero()[:, 0]
        if not len(index):
            continue
        kind, rough = KINDS[lesion.kind], texture[index].clamp(-2, 2)
        distance = length(offset[:, index]) - lesion.radius * (1 + ROUGH * rough)
        cover = canvas.cover(distance, canvas.edge + 0.2 * lesion.radius * kind.mixed)
        old = canvas.values[index]
        new = lesion.contrast + (old if kind.mixed else tissues[kind.tissue] + 4 * rough)
        canvas.values[index] = torch.lerp(old, new, cover)
        canvas.labels[index[cover > 0.5]] = lesion.label


#: The middle of a ball and fourteen points of its surface.
_CORNERS = [[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
_STAR = torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3), torch.tensor(_CORNERS) / 3**0.5])
