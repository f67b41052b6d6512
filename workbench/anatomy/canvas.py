"""What is painted on: values and labels of points, one organ over another, with soft edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Canvas", "Part"]


@dataclass
class Part:
    """Some points of a canvas: their places `index` on it (None: all) and coordinates `q` (3, m)."""

    index: Tensor | None
    q: Tensor

    def at(self, values: Tensor) -> Tensor:
        """Return what `values` (n,) of the whole canvas are at these points."""
        return values if self.index is None else values[self.index]

    def where(self, inside: Tensor) -> Part | None:
        """Return those of the points that a mask (m,) picks, or None where there are none."""
        index = inside.nonzero()[:, 0]
        if not len(index):
            return None
        return Part(index if self.index is None else self.index[index], self.q[:, index])


class Canvas:
    """Values and labels at points q (3, n); `edge` is the width in mm of the ramp at a surface."""

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
        part = self.whole.where(inside)
        return self.whole if part is not None and bool(inside.all()) else part

    def cover(self, distance: Tensor, edge: float | None = None) -> Tensor:
        """Return the share of a point's neighbourhood that lies inside a shape, by an `edge` of its own."""
        return (0.5 - distance / (self.edge if edge is None else edge)).clamp(0, 1)

    def paint(
        self, part: Part, cover: Tensor, value: Tensor | float, label: int | Tensor, *, most: float = 0.5
    ) -> None:
        """Mix `value` in where `cover` is, and label what is covered by more than `most`."""
        inside = cover > most
        if part.index is None:
            self.values += cover * (value - self.values)
            self.labels[inside] = label if isinstance(label, int) else label[inside]
            return
        old = self.values[part.index]
        self.values[part.index] = old + cover * (value - old)
        self.labels[part.index[inside]] = label if isinstance(label, int) else label[inside]
