"""Slices cut from volumes, endless and reproducible: where, how fine and how bent is keyed by step and row.

A slice is a plane through a volume near one of its axes, sampled twice as finely as its voxels and averaged,
so that what is too fine for them is gone. Patients differ in size and lie askew: slices are scaled, tilted
and gently bent. They are not mirrored unless asked for: a liver is on the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.priors.slice_frame import SliceAxis, slice_labels
from workbench.random import Keys
from workbench.training.batch import Batch
from workbench.training.contrast import Contrast
from workbench.training.volumes import SliceVolume

__all__ = ["Cutting", "SliceSource"]

#: Points along each side of a voxel.
FINER = 2
#: Waves of which a bend is made, and their lengths in mm.
WAVES, SHORTEST, LONGEST = 3, 80.0, 240.0


@dataclass(frozen=True)
class Cutting:
    """How slices are cut.

    Parameters
    ----------
    sizes
        Voxels (rows, columns) of the images of a step; each step takes one of them.
    spacing
        Shortest and longest side of a voxel in mm; between them uniform in its logarithm.
    rotation, tilt
        Largest turn within the plane and out of it, in degrees.
    scale
        Largest change of size, as a share.
    bend
        Root mean square of a smooth displacement, in mm.
    mirror
        The share of images mirrored left to right.
    """

    sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    spacing: tuple[float, float] = (1.5, 3.0)
    rotation: float = 10.0
    tilt: float = 6.0
    scale: float = 0.1
    bend: float = 3.0
    mirror: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.sizes, Sequence) or not self.sizes:
            raise type_error("sizes", "be pairs (rows, columns), one or more", repr(self.sizes))
        sizes = tuple(tuple(check_count(n, "sizes") for n in size) for size in self.sizes)
        if any(len(size) != 2 for size in sizes):
            raise value_error("sizes", "be pairs (rows, columns)", self.sizes)
        low, high = (check_number(length, "spacing", positive=True) for length in self.spacing)
        if not low <= high:
            raise value_error("spacing", "be (shortest, longest) in mm", self.spacing)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "spacing", (low, high))
        for name in ("rotation", "tilt", "scale", "bend", "mirror"):
            object.__setattr__(self, name, check_number(getattr(self, name), name, non_negative=True))


class SliceSource:
    """Batches of slices of `volumes`, as `contrast` makes images of them."""

    def __init__(
        self,
        volumes: Sequence[SliceVolume],
        contrast: Contrast,
        cutting: Cutting | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.volumes = SliceVolume.require_some(volumes)
        self.contrast = Contrast.require(contrast)
        self.cutting = Cutting() if cutting is None else cutting
        self.seed = check_count(seed, "seed", minimum=0)
        weights = torch.tensor([volume.weight for volume in self.volumes], dtype=torch.float64)
        self._shares = weights.cumsum(0) / weights.sum()

    def batch(self, step: int, rows: range, whole: int) -> Batch:
        """Return the rows `rows` of the batch of a step."""
        del whole
        like = torch.empty(0, dtype=torch.float64)
        one = Keys(self.seed, draws=(0,), step=step).uniforms((1,), "size of slices", like=like)[0]
        size = self.cutting.sizes[int(float(one) * len(self.cutting.sizes))]
        keys = Keys(self.seed, draws=tuple(rows), step=step)
        chances = keys.uniforms((6 * WAVES + 16,), "slices", like=like).tolist()
        cuts = [self._cut(row, size) for row in chances]
        # Beside a complex volume a real one has no imaginary part.
        most = max(image.shape[0] for image, _, _ in cuts)
        whole_images = [F.pad(image, (0, 0, 0, 0, 0, most - image.shape[0])) for image, _, _ in cuts]
        images = self.contrast.images(torch.stack(whole_images), keys)
        labels = torch.stack([label for _, label, _ in cuts])
        return Batch(images, labels, names=tuple(name for _, _, name in cuts), first=rows.start)

    def _cut(self, chance: list[float], size: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        """Return a slice (components, rows, columns) in physical values, its labels and its name."""
        law, draw = self.cutting, iter(chance)
        volume = self.volumes[min(int(torch.searchsorted(self._shares, next(draw))), len(self.volumes) - 1)]
        axis = volume.axes[int(next(draw) * len(volume.axes))]
        low, high = law.spacing
        low = min(max(low, volume.finest(axis)), high)
        spacing = low * (high / low) ** next(draw)
        scale = 1 + law.scale * (2 * next(draw) - 1)
        mirrored = next(draw) < law.mirror
        down, across = (2 - world for world in axis.in_plane)  # along (S, A, R)
        normal = 2 - axis.world
        centre = torch.zeros(3, dtype=torch.float64)
        first, last = volume.box[normal]
        centre[normal] = first + (last - first) * next(draw)
        for along, voxels in ((down, size[0]), (across, size[1])):
            centre[along] = _middle(volume.box[along], voxels * spacing * scale, next(draw))
        # Of a thin slab planes leave little room to tilt.
        tilt = min(math.radians(law.tilt), volume.extent[normal] / (2 * max(size) * spacing))
        turn = _rotation(normal, math.radians(law.rotation) * (2 * next(draw) - 1))
        for along in (down, across):
            turn = turn @ _rotation(along, tilt * (2 * next(draw) - 1))
        step = spacing * scale / FINER
        rows, columns = (
            (torch.arange(FINER * n, dtype=torch.float64) - (FINER * n - 1) / 2) * step for n in size
        )
        if mirrored and axis is not SliceAxis.SAGITTAL:
            columns = columns.flip(0)
        points = centre + rows[:, None, None] * turn[:, down] + columns[None, :, None] * turn[:, across]
        points = points + _bend(points, law.bend, list(draw))
        # Beyond the ends of a stack of slices nothing is known: the last slice goes on.
        points[..., normal].clamp_(0, volume.extent[normal])
        values = _sampled(volume, points)
        image = F.avg_pool2d(values, FINER)
        return image, slice_labels(spacing, axis), f"{volume.name}, {axis}, {float(centre[normal]):.0f} mm"


def _middle(box: tuple[float, float], field: float, chance: float) -> float:
    """Return where the middle of a field of view lies: over the object, a tenth of either off at most."""
    first, last = box
    extent = last - first
    room = max((extent - field) / 2, 0.0) + 0.1 * min(extent, field)
    return (first + last) / 2 + room * (2 * chance - 1)


def _rotation(axis: int, angle: float) -> Tensor:
    """Return a rotation about one of three axes."""
    turn = torch.eye(3, dtype=torch.float64)
    first, second = (a for a in range(3) if a != axis)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
    return turn


def _bend(points: Tensor, size: float, chance: list[float]) -> Tensor:
    """Return a displacement of root mean square `size` mm in all, a few waves along random directions."""
    if size == 0:
        return torch.zeros_like(points)
    amplitude = size * math.sqrt(2 / (3 * WAVES))
    moved = torch.zeros_like(points)
    for wave in range(WAVES):
        u, v, length, *phases = chance[6 * wave : 6 * wave + 6]
        rise, turn = 2 * u - 1, 2 * math.pi * v
        flat = math.sqrt(1 - rise**2)
        direction = torch.tensor([rise, flat * math.cos(turn), flat * math.sin(turn)], dtype=torch.float64)
        number = 2 * math.pi / (SHORTEST * (LONGEST / SHORTEST) ** length)
        phase = 2 * math.pi * torch.tensor(phases, dtype=torch.float64)
        moved += amplitude * torch.sin(number * (points @ direction)[..., None] + phase)
    return moved


def _sampled(volume: SliceVolume, points: Tensor) -> Tensor:
    """Return the volume at points (rows, columns, 3) in mm along (S, A, R) from its first voxel."""
    sizes = torch.tensor(volume.above.shape[1:], dtype=torch.float64)
    index = points / torch.tensor(volume.spacing, dtype=torch.float64)
    # torch counts from -1 to 1 between the centres of the outer voxels, and names x first.
    where = (2 * index / (sizes - 1).clamp(min=1) - 1).float().flip(-1)
    above = F.grid_sample(volume.above[None], where[None, None], padding_mode="zeros", align_corners=True)
    return above[0, :, 0] + volume.fill
