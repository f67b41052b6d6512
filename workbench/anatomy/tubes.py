"""Many tubes and plates at once: only those near the points are looked at. Points are (3, n) in mm."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from workbench.anatomy.shapes import EPSILON, smooth_min

__all__ = ["Plates", "Tubes"]

#: A brick of more tubes is looked at in halves, down to so many points.
FEW_TUBES, FEW_POINTS = 12, 2048
#: Pairs of a tube and a point that are looked at in one go.
AT_ONCE = 2**15


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
