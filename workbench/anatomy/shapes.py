"""Signed distances of shapes, negative inside, and how they join.

Points are (3, n): rows R, A, S in mm. Distances to ovals and ellipsoids are of first order near the surface;
far away they are only bounds, since nothing looks at them there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ball", "ellipsoid", "length", "oval", "rotation", "smooth_max", "smooth_min", "step"]

#: Of a slope that is divided by.
EPSILON = 1e-6


def rotation(axis: int, angle: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the turn (3, 3) by `angle` rad about a world axis."""
    c, s = math.cos(angle), math.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    turn = torch.eye(3, dtype=dtype)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def length(p: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the lengths (n,) of vectors (3, n), faster than a norm that reduces over the first axis."""
    return torch.addcmul(p[0] * p[0], p[1], p[1]).addcmul_(p[2], p[2]).sqrt_()


def ball(q: Tensor, centre: Sequence[float], radius: float) -> Tensor:
    """Return the distance (n,) to a ball."""
    return length([row - c for row, c in zip(q, centre, strict=True)]) - radius


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
    """Return a smooth step from 0 at `low` to 1 at `high`; it falls where `low` is the greater one."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
