"""The canvas of a head: tissues with the signals of a sequence, edges of about a millimetre."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.anatomy.brain.tissues import Tissue
from workbench.anatomy.canvas import Canvas
from workbench.anatomy.subject import Point

__all__ = ["HeadCanvas"]

#: Width in mm of the ramp between two tissues, as an image of a resolution of about a millimetre has it.
EDGE = 0.9


class HeadCanvas(Canvas):
    """A canvas that knows how bright each tissue is, and that a head is nearly its own mirror image."""

    def __init__(self, q: Tensor, signals: Mapping[Tissue, float]) -> None:
        super().__init__(q, 0.0, EDGE)
        self.signals = signals

    def fill(
        self,
        tissue: Tissue,
        distance: Tensor,
        *,
        edge: float = EDGE,
        within: Tensor | None = None,
        strength: float = 1.0,
    ) -> None:
        """Paint `tissue` where `distance` is negative; `within` is a share (n,) that it is held to."""
        cover = self.cover(distance, edge)
        if within is not None:
            cover *= within
        cover *= strength
        self.paint(self.whole, cover, self.signals[tissue], int(tissue), most=0.5 * strength)

    def sees(self, centre: Point, reach: Point) -> bool:
        """Tell whether a point may lie in the box or its mirror image; what lies there is else left out."""
        nearest_x = 0.0 if self.low[0] <= 0 <= self.high[0] else min(abs(self.low[0]), abs(self.high[0]))
        farthest_x = max(abs(self.low[0]), abs(self.high[0]))
        if nearest_x > centre[0] + reach[0] or farthest_x < centre[0] - reach[0]:
            return False
        return all(
            self.low[i] <= centre[i] + reach[i] and self.high[i] >= centre[i] - reach[i] for i in (1, 2)
        )

    def is_any(self, *tissues: Tissue) -> Tensor:
        """Return where the label is one of `tissues`."""
        return torch.isin(self.labels, torch.tensor(tissues, dtype=self.labels.dtype))
