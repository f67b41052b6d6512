"""The solids of a head: signed distances as in `workbench.anatomy.shapes`, of points (3, n) in mm.

`join` and `meet` are `smooth_min` and `smooth_max`, and `superellipsoid` of power 2 is `ellipsoid` near its
surface. They are kept apart because they round otherwise, and the image of a seed is kept to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.anatomy.shapes import length
from workbench.anatomy.subject import Point

__all__ = ["join", "meet", "superellipsoid", "tube"]


def superellipsoid(points: Tensor, centre: Point, axes: Point, *, power: float = 2.0) -> Tensor:
    """Return the distance to an ellipsoid of semi-axes `axes`, to first order in its boundary.

    With g = |r / a|, (g - 1) / |grad g|; a `power` above 2 makes it boxier.
    """
    scaled = [(row - c) / a for row, c, a in zip(points, centre, axes, strict=True)]
    if power == 2.0:
        level = length(scaled)
        slope = length([s / a for s, a in zip(scaled, axes, strict=True)]) / level.clamp(min=1e-3)
    else:
        level = sum((s.abs() ** power for s in scaled), torch.zeros_like(points[0])).clamp(min=1e-6)
        level = level ** (1 / power)
        parts = [
            (s.abs() / level.clamp(min=1e-3)) ** (power - 1) / a for s, a in zip(scaled, axes, strict=True)
        ]
        slope = length(parts)
    # Near the centre both vanish: the distance there is that of the shortest semi-axis.
    return torch.maximum((level - 1) / slope.clamp(min=1e-4), torch.full_like(level, -min(axes)))


def tube(points: Tensor, path: Sequence[Point], radii: Sequence[float], *, flat: Point = (1, 1, 1)) -> Tensor:
    """Return the distance to a tube along `path` whose radius runs linearly between `radii`.

    `flat` stretches: a tube that is thin along x has flat[0] > 1.
    """
    scale = torch.tensor(flat)[:, None]
    at = points * scale
    best = torch.full_like(points[0], 1e4)
    for a, b, ra, rb in zip(path, path[1:], radii, radii[1:], strict=False):
        start = torch.tensor(a)[:, None] * scale
        along = torch.tensor(b)[:, None] * scale - start
        off = at - start
        square = float((along * along).sum())
        share = (off[0] * along[0, 0]).add_(off[1] * along[1, 0]).add_(off[2] * along[2, 0])
        share = share.div_(square).clamp_(0, 1)
        gap = length([off[i] - share * along[i, 0] for i in range(3)])
        best = torch.minimum(best, gap - (ra + (rb - ra) * share))
    return best


def join(a: Tensor, b: Tensor, blend: float) -> Tensor:
    """Return the union of two solids, their crease filled over `blend` mm."""
    near = (1 - (a - b).abs() / blend).clamp(min=0)
    return torch.minimum(a, b) - near * near * (blend / 4)


def meet(a: Tensor, b: Tensor, blend: float) -> Tensor:
    """Return the intersection of two solids, its edge rounded over `blend` mm."""
    near = (1 - (a - b).abs() / blend).clamp(min=0)
    return torch.maximum(a, b) + near * near * (blend / 4)
