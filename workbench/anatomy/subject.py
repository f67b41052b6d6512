"""What a synthetic subject is: a function of the world point, rendered on any grid.

A subject is drawn once from a seed and then has a value and a label at every point in RAS mm. A grid only
says where to look, so that a slice shows what the volume shows there, at any spacing and angle.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count, check_spacing
from operators.grid import Grid
from workbench.volume import Volume

__all__ = ["Lesion", "Rendered", "Subject"]

Point = tuple[float, float, float]

#: What `Subject.values` is: values and labels at world points.
Look = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Points evaluated at once: temporaries fit into a core's cache, and the box is small enough to cull by.
BRICK = 2**15

#: Points are rounded to this many mm, exactly representable in float32 up to 8 m: the rounding of an affine
#: would otherwise put a slice and its volume on different sides of an edge.
SNAP = 2.0**-10


@dataclass(frozen=True)
class Lesion:
    """What was put where: `kind` such as "lung nodule", its label, `centre` in RAS mm and `radius` in mm.

    `contrast` is the lesion's value less that of the tissue it took the place of, in the image's unit.
    """

    kind: str
    label: int
    centre: Point
    radius: float
    contrast: float


@dataclass(frozen=True)
class Rendered:
    """A subject on a grid: the image, the int16 label map and the truth about the lesions."""

    image: Volume
    labels: Volume
    lesions: tuple[Lesion, ...]

    def numbered(self, kinds: Sequence[int]) -> Volume:
        """Return which lesion a voxel is of: 1 for the first of `lesions`, and so on; 0 elsewhere.

        `kinds` are the labels of lesions; a voxel of one is of that which is nearest, in its own radii.
        """
        numbers = torch.zeros_like(self.labels.data)
        found = torch.isin(self.labels.data, torch.tensor([*kinds], dtype=self.labels.data.dtype)).nonzero()
        if self.lesions and len(found):
            points = torch.from_numpy(self.labels.grid.index_to_world(found.double().numpy()))
            centres = points.new_tensor([lesion.centre for lesion in self.lesions])
            radii = points.new_tensor([lesion.radius for lesion in self.lesions])
            nearest = (torch.cdist(points, centres) / radii).argmin(dim=1)
            numbers[tuple(found.T)] = (nearest + 1).to(numbers.dtype)
        return Volume(numbers, self.labels.grid)


class Subject(ABC):
    """A synthetic subject. Subclasses are frozen dataclasses of what was drawn from `seed`.

    They state `unit`, "HU" for CT and "" for the magnitude of an MR image, `label_names` (0 is "outside"),
    `lesions` and the labels that these have, `lesion_labels`, `box`, and evaluate themselves in `_values`.
    """

    seed: int
    unit: str
    label_names: Mapping[int, str]
    lesions: tuple[Lesion, ...] = ()
    lesion_labels: tuple[int, ...] = ()

    @property
    @abstractmethod
    def box(self) -> tuple[Point, Point]:
        """The low and the high corner, in RAS mm, of the box that the subject is meant to be looked at in."""

    @abstractmethod
    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (float32) and labels (int16), both (n,), at world points (n, 3), float32.

        The points of a call lie close together: their box tells which parts need not be looked at. A value
        must not depend on the points it is asked for with.
        """

    def grid(self, spacing: Sequence[float] | float) -> Grid:
        """Return the grid of `spacing` mm (z, y, x) that covers the box, with axes to S, A and R."""
        sizes = check_spacing(spacing, "spacing")
        low, high = (np.array(corner[::-1]) for corner in self.box)
        shape = [max(1, math.ceil(length / size)) for length, size in zip(high - low, sizes, strict=True)]
        return Grid.from_spacing(shape, sizes, centre=tuple(((low + high) / 2)[::-1]))

    def render(self, grid: Grid, *, supersample: int = 2) -> Rendered:
        """Return the subject on `grid`, each voxel the mean over `supersample`^3 points inside it.

        The label of a voxel is that of its centre. Frames of `grid`'s time axis are left out: a subject
        stands still (workbench.anatomy.motion moves it).
        """
        still = Grid.require(grid).with_time(None)
        count = check_count(supersample, "supersample")
        image = torch.empty(still.shape, dtype=torch.float32)
        labels = torch.empty(still.shape, dtype=torch.int16)
        for box in _bricks(still.shape, count):
            image[box], labels[box] = self._brick(still, box, count)
        return Rendered(Volume(image, still, self.unit), Volume(labels, still), self.lesions)

    def values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and labels (...) at world points (..., 3) in RAS mm."""
        flat = _snapped(points.reshape(-1, 3))
        parts = [self._values(part) for part in torch.split(flat, BRICK)]
        values, labels = (torch.cat(kind) for kind in zip(*parts, strict=True))
        return values.reshape(points.shape[:-1]), labels.reshape(points.shape[:-1])

    def _brick(self, grid: Grid, box: tuple[slice, ...], count: int) -> tuple[Tensor, Tensor]:
        shape = tuple(part.stop - part.start for part in box)
        centres = _world(grid, [np.arange(part.start, part.stop, dtype=float) for part in box])
        offset = (np.arange(count) + 0.5) / count - 0.5
        fine = [np.add.outer(np.arange(part.start, part.stop), offset).ravel() for part in box]
        values, labels = self._values(_world(grid, fine))
        blocks = values.reshape([n for size in shape for n in (size, count)])
        if count % 2 == 0:
            labels = self._values(centres)[1].reshape(shape)
        else:
            split = labels.reshape(blocks.shape)
            labels = split[:, count // 2, :, count // 2, :, count // 2]
        return blocks.mean(dim=(1, 3, 5)), labels


def _bricks(shape: Sequence[int], count: int) -> Iterator[tuple[slice, ...]]:
    """Yield boxes of voxels that cover an array of `shape`, of at most `BRICK` points each, nearly cubes."""
    side = [1, 1, 1]
    room = BRICK / count**3
    for rank, axis in enumerate(np.argsort(shape)):
        side[axis] = int(min(shape[axis], max(1, math.floor((room + 0.5) ** (1 / (3 - rank))))))
        room /= side[axis]
    starts = [range(0, n, step) for n, step in zip(shape, side, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + step, n)) for start, step, n in zip(corner, side, shape, strict=True)
        )


def _world(grid: Grid, index: Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Tensor:
    """Return the world points (n, 3) of the outer product of three ranges of indices."""
    table = np.stack(np.meshgrid(*index, indexing="ij"), axis=-1).reshape(-1, 3)
    return _snapped(torch.from_numpy(grid.index_to_world(table)))


def _snapped(points: Tensor) -> Tensor:
    return (torch.round(points.double() / SNAP) * SNAP).float()
