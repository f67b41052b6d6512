"""What a subject lies on and under: table top, mattress, a sheet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from workbench.anatomy.canvas import Canvas
from workbench.anatomy.dice import Dice
from workbench.anatomy.torso.tissues import LABELS

__all__ = ["Couch"]


@dataclass(frozen=True)
class Couch:
    """The table top, in the world: straight, whatever lies on it."""

    dice: Dice
    back: float  # height of the unloaded back above the world's R-S plane, mm

    @cached_property
    def kind(self) -> str:
        """Return "curved", "flat" or "none": some reconstructions end before the table."""
        return self.dice.choice("kind", ("curved", "curved", "flat", "flat", "none"))

    @cached_property
    def _numbers(self) -> tuple[float, float, float, float, float, float]:
        d = self.dice
        bend = d.uniform("bend", 0.0005, 0.0014) if self.kind == "curved" else 0.0
        half, thick, pad = d.uniform("half", 195, 260), d.uniform("thick", 14, 60), d.uniform("pad", 2, 24)
        return bend, half, thick, pad, d.uniform("shell", -450, 120), self.back + d.uniform("press", -5, 4)

    def top(self, x: Tensor) -> Tensor:
        """Return the height of what the body lies on, which flattens the back."""
        bend, *_, height = self._numbers
        return height + bend * x * x

    def paint(self, canvas: Canvas, points: Tensor, skin: Tensor, waves: Tensor) -> None:
        """Paint what lies around the body, at world points (3, n)."""
        x, y, _ = points
        if self.kind != "none":
            bend, half, thick, pad, shell, _ = self._numbers
            below = (self.top(x) - pad - y) / (1 + (2 * bend * x).square()).sqrt()
            # The lower side rises to the edges, as a hull does.
            depth = thick * (1 - 0.75 * (x / half).square().clamp(max=1)) if self.kind == "flat" else thick
            board = torch.maximum((below - depth / 2).abs() - depth / 2, x.abs() - half)
            foam = torch.maximum((below + pad / 2).abs() - pad / 2, x.abs() - 0.85 * half)
            canvas.paint(canvas.whole, canvas.cover(foam), -945.0, LABELS["table"])
            canvas.paint(canvas.whole, canvas.cover(board), -900.0, LABELS["table"])
            canvas.paint(canvas.whole, canvas.cover(board.abs() - 0.8), shell, LABELS["table"])
        if self.dice.chance("cloth", 0.6):
            # One layer that lies off the skin by what its folds ask for.
            off = 4 + 9 * (1 + waves[0]).clamp(min=0) + 3 * waves[1].abs()
            sheet = (skin - off).abs() - self.dice.uniform("weave", 0.3, 0.8)
            there = torch.maximum(sheet, -40 - y + 20 * waves[1])
            linen = self.dice.uniform("linen", -900, -650)
            canvas.paint(canvas.whole, canvas.cover(there), linen, LABELS["cloth"])
