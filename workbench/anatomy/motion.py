"""Frames of a subject under displacements that are known in closed form.

    (W_u x)(r) = x(r + u(r, t))

u is in mm along R, A and S, as in operators.deformation: it points from where something lies in frame t to
where it lies in the subject at rest. A frame is the subject itself, evaluated at r + u(r, t): nothing is
interpolated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from operators.errors import type_error
from operators.grid import Grid
from workbench.anatomy.subject import Lesion, Point, Subject
from workbench.volume import Volume

__all__ = ["Frames", "Moved", "Movement", "Together", "render_frames"]


class Movement(ABC):
    """A displacement field that is a function of the world point and of time."""

    @property
    @abstractmethod
    def period(self) -> float:
        """Seconds after which the movement repeats."""

    @abstractmethod
    def displacement(self, points: Tensor, time: float) -> Tensor:
        """Return u (..., 3) in mm along R, A and S at world points (..., 3), at `time` s."""


@dataclass(frozen=True)
class Together(Movement):
    """Two movements at once: u(r) = v(r) + w(r + v(r)), v of `outer` and w of `inner`.

    A heart beats within a chest that breathes: Together(breathing, beating), for a period of the outer.
    """

    outer: Movement
    inner: Movement

    @property
    def period(self) -> float:
        """Seconds after which the outer movement repeats."""
        return self.outer.period

    def displacement(self, points: Tensor, time: float) -> Tensor:
        """Return u at `points`."""
        first = self.outer.displacement(points, time)
        return first + self.inner.displacement(points + first, time)


@dataclass(frozen=True)
class Moved(Subject):
    """A subject at one time of a movement: x(r + u(r, time))."""

    subject: Subject
    movement: Movement
    time: float
    lesions: tuple[Lesion, ...] = field(default=(), init=False)

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The seed of the subject."""
        return self.subject.seed

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the subject."""
        return self.subject.unit

    @property
    def label_names(self) -> Mapping[int, str]:  # type: ignore[override]
        """The names of the subject's labels."""
        return self.subject.label_names

    @property
    def box(self) -> tuple[Point, Point]:
        """The box of the subject at rest."""
        return self.subject.box

    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        moved = points.double() + self.movement.displacement(points.double(), self.time)
        return self.subject.values(moved)


@dataclass(frozen=True)
class Frames:
    """`image` (t, z, y, x) and `labels` over time, and one displacement field in mm for each frame."""

    image: Volume
    labels: Volume
    fields: tuple[Volume, ...]


def render_frames(subject: Subject, movement: Movement, grid: Grid, *, supersample: int = 2) -> Frames:
    """Return the frames of a moving subject on `grid`, at the times of its time axis, with their fields.

    Each field is a volume with components ("R", "A", "S") on the grid, made for operators.deformation's Warp.
    """
    axis = Grid.require(grid).time
    if axis is None:
        remedy = "Such as grid.with_time(TimeAxis(10, 0.4))."
        raise type_error("grid", "have a time axis", repr(grid), remedy)
    still = grid.with_time(None)
    index = torch.cartesian_prod(*[torch.arange(n) for n in still.shape]).reshape(*still.shape, 3)
    points = torch.from_numpy(still.index_to_world(index.numpy()))
    images, labels, fields = [], [], []
    for k in range(axis.count):
        time = axis.start + k * axis.step
        frame = Moved(subject, movement, time).render(still, supersample=supersample)
        images.append(frame.image.data)
        labels.append(frame.labels.data)
        field = movement.displacement(points, time).movedim(-1, 0).float()
        fields.append(Volume(field.contiguous(), still, "mm", components=("R", "A", "S")))
    image = Volume(torch.stack(images), grid, subject.unit)
    return Frames(image, Volume(torch.stack(labels), grid), tuple(fields))
