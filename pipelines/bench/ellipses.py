"""Ellipses, whose line integrals are known: an image of voxel means, and the integrals along any lines.

Lines are a X + b Y = c in voxels from the middle of the image, X along its columns and Y along its rows,
with a^2 + b^2 = 1. An ellipse of value v and half axes A and B contributes 2 v A B sqrt(w^2 - d^2) / w^2 to a
line at the distance d from its centre, where w is half its width across the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lines", "integrals", "rasterised", "relative_error"]

Float = NDArray[np.float64]
Lines = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Ellipse:
    """Value (1 / voxel); centre and half axes in half widths of the image; turn in rad."""

    value: float
    centre: tuple[float, float]
    axes: tuple[float, float]
    turn: float


#: Not symmetric under any flip or exchange of axes, so that a mistake in a convention is seen.
ELLIPSES = (
    Ellipse(0.020, (0.02, -0.03), (0.80, 0.62), 0.3),
    Ellipse(-0.012, (0.30, 0.15), (0.22, 0.14), -0.5),
    Ellipse(0.015, (-0.35, -0.10), (0.12, 0.25), 0.9),
    Ellipse(0.030, (0.05, -0.38), (0.07, 0.05), 0.0),
)


def rasterised(n: int, parts: int = 8) -> NDArray[np.float32]:
    """Return the mean value in each of n x n voxels, from parts^2 places in each."""
    total = np.zeros((n, n))
    within = (np.arange(parts) + 0.5) / parts - 0.5
    for one in ELLIPSES:
        centre, axes = np.array(one.centre) * n / 2, np.array(one.axes) * n / 2
        for shift_y in within:
            y = np.arange(n)[:, None] - (n - 1) / 2 + shift_y - centre[1]
            for shift_x in within:
                x = np.arange(n)[None, :] - (n - 1) / 2 + shift_x - centre[0]
                p = (math.cos(one.turn) * x + math.sin(one.turn) * y) / axes[0]
                q = (math.cos(one.turn) * y - math.sin(one.turn) * x) / axes[1]
                total += one.value * (p**2 + q**2 < 1)
    return (total / parts**2).astype(np.float32)


def integrals(n: int, lines: Lines) -> Float:
    """Return the integrals along the lines (a, b, c) through an image of n x n voxels."""
    a, b, c = np.broadcast_arrays(*lines)
    total = np.zeros(c.shape)
    for one in ELLIPSES:
        (x, y), (long, short) = np.array(one.centre) * n / 2, np.array(one.axes) * n / 2
        distance = c - a * x - b * y
        width = (long * (a * math.cos(one.turn) + b * math.sin(one.turn))) ** 2
        width = width + (short * (b * math.cos(one.turn) - a * math.sin(one.turn))) ** 2
        chord = np.sqrt(np.maximum(width - distance**2, 0)) / width
        total += 2 * one.value * long * short * chord
    return total


def relative_error(found: NDArray[np.generic], exact: Float) -> float:
    """Return |found - exact| / |exact|."""
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))
