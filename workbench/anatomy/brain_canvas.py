"""Tissues painted one over another at points: each edge a ramp of about a millimetre."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.anatomy.brain_tissues import Tissue

__all__ = ["EDGE", "Canvas"]

#: Width in mm of the ramp between two tissues, as an image of a resolution of about a millimetre has it.
EDGE = 0.9


class Canvas:
    """Signals (n,) and labels (n,) of the points (3, n) that are being painted."""

    def __init__(self, points: Tensor, signals: Mapping[Tissue, float]) -> None:
        self.points = points
        self.signals = signals
        self.values = torch.zeros_like(points[0])
        self.labels = torch.zeros_like(points[0], dtype=torch.int16)
        self.low = points.amin(dim=1).tolist()
        self.high = points.amax(dim=1).tolist()

    def paint(
        self,
        tissue: Tissue,
        distance: Tensor,
        *,
        edge: float = EDGE,
        within: Tensor | None = None,
        strength: float = 1.0,
    ) -> None:
        """Paint `tissue` where `distance` is negative; `within` is a share (n,) that it is held to."""
        cover = (0.5 - distance / edge).clamp_(0, 1)
        if within is not None:
            cover *= within
        cover *= strength
        self.values += cover * (self.signals[tissue] - self.values)
        if strength > 0.5:
            self.labels.masked_fill_(cover > 0.5 * strength, int(tissue))

    def sees(self, centre: tuple[float, float, float], reach: tuple[float, float, float]) -> bool:
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
        found = torch.zeros_like(self.labels, dtype=torch.bool)
        for tissue in tissues:
            found |= self.labels == int(tissue)
        return found
