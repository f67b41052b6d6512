"""Signed distances, negative inside, and the canvas that they are painted on with soft edges.

Points are (3, n): rows R, A, S in mm. Distances are exact for tubes and plates, and of first order near the
surface for ellipsoids; far away they are only bounds, since nothing looks at them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = [
    "Canvas",
    "Part",
    "Plates",
    "Tubes",
    "ellipsoid",
    "length",
    "oval",
    "smooth_max",
    "smooth_min",
    "step",
]

#: A brick of more tubes is looked at in halves, down to so many points.
FEW_TUBES, FEW_POINTS = 12, 2048
#: Pairs of a tube and a point that are looked at in one go.
AT_ONCE = 2**15
EPSILON = 1e-6


def length(p: Tensor) -> Tensor:
    """Return the lengths (n,) of vectors (3, n), faster than a norm that reduces over the first axis."""
    return torch.addcmul(p[0] * p[0], p[1], p[1]).addcmul_(p[2], p[2]).sqrt_()


def ellipsoid(
    q: Tensor, centre: Sequence[float], axes: Sequence[float], turn: Tensor | None = None
) -> Tensor:
    """Return the distance (n,) to an ellipsoid; `turn` (3, 3) has its axes as rows."""
    p = q - torch.tensor(centre, dtype=q.dtype)[:, None]
    if turn is not None:
        p = turn.to(q.dtype) @ p
    scaled = p / torch.tensor(axes, dtype=q.dtype)[:, None]
    radius = length(scaled)
    slope = length(scaled / torch.tensor(axes, dtype=q.dtype)[:, None])
    return radius * (radius - 1) / (slope + EPSILON)


def oval(
    x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, power: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Return the distance to |x/a|^m + |y/b|^m = 1 in the plane and the radius in units of the oval."""
    u, v = (x / a).abs() + EPSILON, (y / b).abs() + EPSILON
    if power == 2.0:
        up, vp = u, v
        radius = (u * u + v * v).sqrt()
    else:
        up, vp = u ** (power - 1), v ** (power - 1)
        radius = (up * u + vp * v) ** (1 / power)
    # d = (f - 1) / |grad f|, and grad f = f^(1 - m) (u^(m-1) / a, v^(m-1) / b).
    slope = ((up / a) ** 2 + (vp / b) ** 2).sqrt() * radius ** (1 - power)
    return (radius - 1) / slope, radius


def smooth_min(a: Tensor, b: Tensor, width: float | Tensor) -> Tensor:
    """Return the union of two shapes with a fillet of `width` mm."""
    h = (0.5 + 0.5 * (b - a) / width).clamp(0, 1)
    return torch.lerp(b, a, h) - width * h * (1 - h)


def smooth_max(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return the intersection of two shapes with an edge rounded over `width` mm."""
    return -smooth_min(-a, -b, width)


def step(x: Tensor, low: float, high: float) -> Tensor:
    """Return a smooth step from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


@dataclass
class Part:
    """Points of a canvas inside a box: their places `index` on it (None: all) and coordinates `q` (3, m)."""

    index: Tensor | None
    q: Tensor


class Canvas:
    """Values and labels at points q (3, n), painted over one organ after another."""

    def __init__(self, q: Tensor, value: float, edge: float) -> None:
        self.q = q
        self.edge = edge
        self.values = torch.full((q.shape[1],), value, dtype=q.dtype)
        self.labels = torch.zeros(q.shape[1], dtype=torch.int16)
        self.whole = Part(None, q)
        self.low = [float(v) for v in q.amin(dim=1)] if q.shape[1] else [0.0] * 3
        self.high = [float(v) for v in q.amax(dim=1)] if q.shape[1] else [0.0] * 3

    def part(self, low: Sequence[float], high: Sequence[float]) -> Part | None:
        """Return the points inside the box, or None where there are none."""
        outside = any(self.high[i] < low[i] or self.low[i] > high[i] for i in range(3))
        if outside or not self.q.shape[1]:
            return None
        if all(self.low[i] >= low[i] and self.high[i] <= high[i] for i in range(3)):
            return self.whole
        inside = torch.ones(self.q.shape[1], dtype=torch.bool)
        for i in range(3):
            if self.low[i] < low[i]:
                inside &= self.q[i] >= low[i]
            if self.high[i] > high[i]:
                inside &= self.q[i] <= high[i]
        return self.where(inside)

    def where(self, inside: Tensor) -> Part | None:
        """Return the points of a mask (n,), or None where there are none."""
        index = inside.nonzero()[:, 0]
        if not len(index):
            return None
        return self.whole if len(index) == len(inside) else Part(index, self.q[:, index])

    def cover(self, distance: Tensor) -> Tensor:
        """Return the share of a point's neighbourhood that lies inside a shape."""
        return (0.5 - distance / self.edge).clamp(0, 1)

    def paint(self, part: Part, cover: Tensor, value: Tensor | float, label: int | Tensor) -> None:
        """Mix `value` in where `cover` is, and label what is covered by half."""
        if part.index is None:
            self.values += cover * (value - self.values)
            self.labels[cover > 0.5] = label if isinstance(label, int) else label[cover > 0.5]
            return
        old = self.values[part.index]
        self.values[part.index] = old + cover * (value - old)
        inside = cover > 0.5
        self.labels[part.index[inside]] = label if isinstance(label, int) else label[inside]


class Tubes:
    """Round cones from `starts` to `ends` (s, 3), of radii `first` and `last` (s,).

    `flat` (s, 3) thins a tube along that direction, by a factor of sqrt(1 + |flat|^2).
    `tags` (s,) say what each is, such as its value.
    """

    def __init__(
        self,
        starts: ArrayLike,
        ends: ArrayLike,
        first: ArrayLike,
        last: ArrayLike,
        *,
        flat: ArrayLike | None = None,
        tags: ArrayLike | None = None,
    ) -> None:
        a, b = np.asarray(starts, dtype=float).reshape(-1, 3), np.asarray(ends, dtype=float).reshape(-1, 3)
        r, s = (np.broadcast_to(np.asarray(v, dtype=float), len(a)) for v in (first, last))
        self.table = torch.from_numpy(
            np.concatenate([a, b - a, r[:, None], (s - r)[:, None]], axis=1)
        ).float()
        reach = np.maximum(r, s)[:, None]
        self.low, self.high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        self.flat = None if flat is None else torch.from_numpy(np.asarray(flat, dtype=float)).float()
        self.tags = torch.zeros(len(a)) if tags is None else torch.as_tensor(np.asarray(tags)).float()

    def nearest(self, q: Tensor, reach: float) -> tuple[Tensor, Tensor] | None:
        """Return the distance (n,), at most `reach`, and the tag of the nearest tube, if any is near."""
        if not q.shape[1]:
            return None
        return self._nearest(q, reach, np.arange(len(self.low)))

    def _nearest(self, q: Tensor, reach: float, among: np.ndarray) -> tuple[Tensor, Tensor] | None:
        low, high = q.amin(dim=1).numpy(), q.amax(dim=1).numpy()
        near = ((self.low[among] <= high + reach) & (self.high[among] >= low - reach)).all(axis=1)
        among = among[near]
        if not len(among):
            return None
        if len(among) > FEW_TUBES and q.shape[1] > FEW_POINTS:
            axis = int(np.argmax(high - low))
            left = q[axis] <= float(low[axis] + high[axis]) / 2
            if 0 < int(left.sum()) < q.shape[1]:
                distance = q.new_full((q.shape[1],), reach)
                tag = torch.zeros_like(distance)
                for side in (left, ~left):
                    index = side.nonzero()[:, 0]
                    found = self._nearest(q[:, index], reach, among)
                    if found is not None:
                        distance[index], tag[index] = found
                return distance, tag
        middle = q.new_tensor((low + high) / 2)
        return self._all(q - middle[:, None], middle, reach, torch.from_numpy(among))

    def _all(self, q: Tensor, middle: Tensor, reach: float, which: Tensor) -> tuple[Tensor, Tensor]:
        distance = q.new_full((q.shape[1],), reach)
        tag = torch.zeros_like(distance)
        # About the middle of the points: float32 keeps its digits there.
        table = self.table[which].clone()
        table[:, :3] -= middle
        flat = None if self.flat is None else self.flat[which]
        batch = max(1, AT_ONCE // q.shape[1])
        for start in range(0, len(which), batch):
            rows = slice(start, start + batch)
            ax, ay, az, dx, dy, dz, r, grow = table[rows].T[:, :, None]
            square = dx * dx + dy * dy + dz * dz + EPSILON
            px, py, pz = q[0] - ax, q[1] - ay, q[2] - az
            t = (px * (dx / square)).addcmul_(py, dy / square).addcmul_(pz, dz / square).clamp_(0, 1)
            px, py, pz = px.addcmul_(t, -dx), py.addcmul_(t, -dy), pz.addcmul_(t, -dz)
            far = torch.addcmul(px * px, py, py).addcmul_(pz, pz)
            if flat is not None:
                fx, fy, fz = flat[rows].T[:, :, None]
                thin = (px * fx).addcmul_(py, fy).addcmul_(pz, fz)
                far = torch.addcmul(far, thin, thin)
            least, place = far.sqrt_().sub_(t.mul_(grow)).sub_(r).min(dim=0)
            tag = torch.where(least < distance, self.tags[which[rows]][place], tag)
            distance = torch.minimum(distance, least)
        return distance, tag


class Plates:
    """Triangles (t, 3, 3) with a thickness: within `radii` (t,) of them is inside."""

    def __init__(self, corners: ArrayLike, radii: ArrayLike, tags: ArrayLike | None = None) -> None:
        self.corners = np.asarray(corners, dtype=float).reshape(-1, 3, 3)
        self.radii = np.broadcast_to(np.asarray(radii, dtype=float), len(self.corners))
        self.low = self.corners.min(axis=1) - self.radii[:, None]
        self.high = self.corners.max(axis=1) + self.radii[:, None]
        self.tags = np.zeros(len(self.corners)) if tags is None else np.asarray(tags, dtype=float)

    def nearest(self, q: Tensor, reach: float, blend: float = 6.0) -> Tensor | None:
        """Return the distance (n,) to the plates, joined with fillets of `blend` mm; None if none is near."""
        if not q.shape[1]:
            return None
        low, high = q.amin(dim=1).numpy(), q.amax(dim=1).numpy()
        # What lies beyond `blend` of what matters changes no fillet there.
        reach = reach + blend
        total: Tensor | None = None
        for i in range(len(self.low)):
            if (self.low[i] > high + reach).any() or (self.high[i] < low - reach).any():
                continue
            far = _triangle(q, self.corners[i]) - float(self.radii[i])
            total = far if total is None else smooth_min(total, far, blend)
        return total


def _triangle(q: Tensor, corners: np.ndarray) -> Tensor:
    """Return the distance (n,) to a triangle."""
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal = normal / np.linalg.norm(normal)
    edges = torch.full_like(q[0], torch.inf)
    above = torch.ones(q.shape[1], dtype=torch.bool)
    for i in range(3):
        a, edge = corners[i], corners[(i + 1) % 3] - corners[i]
        p = q - q.new_tensor(a)[:, None]
        t = ((q.new_tensor(edge) @ p) / float(edge @ edge)).clamp(0, 1)
        edges = torch.minimum(edges, (p - q.new_tensor(edge)[:, None] * t).square().sum(dim=0))
        above &= (q.new_tensor(np.cross(normal, edge)) @ p) >= 0
    height = (q.new_tensor(normal) @ (q - q.new_tensor(corners[0])[:, None])).abs()
    return torch.where(above, height, edges.sqrt())
