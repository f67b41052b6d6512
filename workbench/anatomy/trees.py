"""Branching trees that fill a region: vessels and airways of the lungs and the liver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.anatomy.dice import Dice
from workbench.anatomy.tubes import Tubes

__all__ = ["Path", "grow", "mirrored", "points_in", "strung"]

Points = NDArray[np.float64]

#: Points (R, A, S, radius) in mm along a tube.
Path = Sequence[Sequence[float]]


def points_in(
    dice: Dice, name: str, count: int, box: tuple[Points, Points], inside: Callable[[Tensor], Tensor]
) -> Points:
    """Return up to `count` points (m, 3) of the box where `inside`, of points (3, n), is true."""
    share = dice.uniforms(name, 6 * count, 3).numpy()
    points: Points = box[0] + share * (box[1] - box[0])
    kept = inside(torch.from_numpy(points.T).float()).numpy()
    chosen: Points = points[kept][:count]
    return chosen


def grow(
    dice: Dice,
    name: str,
    trunk: Points,
    tips: Points,
    *,
    finest: float,
    power: float = 2.7,
    widest: float = 99.0,
) -> tuple[Points, Points, Points, Points]:
    """Return starts, ends (s, 3) and radii at both (s,) of a tree that leads from `trunk` (k, 3) to all tips.

    Tips join the tree in the order of their distance from the root, each at the node that is near and does
    not ask for a turn back. Radii follow Murray's law, r^p = sum of r^p over the branches.
    """
    away = np.linalg.norm(tips - trunk[-1], axis=1)
    nodes = np.concatenate([trunk, tips[np.argsort(away)]])
    parent = np.maximum(np.arange(len(nodes)) - 1, -1)
    heading = np.gradient(trunk, axis=0) if len(trunk) > 1 else np.zeros((1, 3))
    heading = np.concatenate([heading, np.zeros((len(tips), 3))])
    heading[: len(trunk)] /= np.linalg.norm(heading[: len(trunk)], axis=1, keepdims=True) + 1e-9
    for i in range(len(trunk), len(nodes)):
        step = nodes[i] - nodes[:i]
        length = np.linalg.norm(step, axis=1) + 1e-6
        turn = 1 - (step * heading[:i]).sum(axis=1) / length
        parent[i] = int(np.argmin(length * (1 + 1.1 * turn)))
        heading[i] = step[parent[i]] / length[parent[i]]
        # A branch leaves the way its parent went, to first order.
        heading[i] = 0.8 * heading[i] + 0.2 * heading[parent[i]]
    flow = np.full(len(nodes), finest**power)
    flow[: len(trunk)] = 0
    for i in range(len(nodes) - 1, 0, -1):
        flow[parent[i]] += flow[i]
    radius = np.minimum(flow ** (1 / power), widest)
    child = np.arange(1, len(nodes))
    a, b = nodes[parent[child]], nodes[child]
    first = np.minimum(radius[parent[child]], radius[child] * 1.15)
    bow = (
        dice.normals(f"{name}/bow", len(child), 3).numpy()
        * 0.07
        * np.linalg.norm(b - a, axis=1, keepdims=True)
    )
    middle = (a + b) / 2 + bow
    between = (first + radius[child]) / 2
    return (
        np.concatenate([a, middle]),
        np.concatenate([middle, b]),
        np.concatenate([first, between]),
        np.concatenate([between, radius[child]]),
    )


def strung(paths: Sequence[tuple[float, Path]]) -> Tubes:
    """Return tubes through the points (R, A, S, radius) of each path, with the path's tag."""
    rows = [(*a[:3], *b[:3], a[3], b[3], tag) for tag, path in paths for a, b in pairwise(path)]
    table = np.array(rows, dtype=float)
    return Tubes(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7], tags=table[:, 8])


def mirrored(path: Path) -> list[Path]:
    """Return the path, on the right, and its mirror image on the left."""
    return [path, [(-x, y, z, r) for x, y, z, r in path]]
