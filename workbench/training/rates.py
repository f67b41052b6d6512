"""How fast to learn: a rate that rises, stays, and falls as one over the root of the step.

    rate(t) = peak * min(1, t / warmup) * min(1, sqrt(steady / t))

It needs no end to be known: a run is as good as its steps allow wherever it stops, and can be gone on with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from operators.checks import check_count, check_number

__all__ = ["LearningRate"]


@dataclass(frozen=True)
class LearningRate:
    """`warmup` steps of rise to `peak`, constant up to step `steady`, then the fall."""

    peak: float = 1e-3
    warmup: int = 200
    steady: int = 4000

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak", check_number(self.peak, "peak", positive=True))
        object.__setattr__(self, "warmup", check_count(self.warmup, "warmup", minimum=0))
        object.__setattr__(self, "steady", check_count(self.steady, "steady"))

    def at(self, step: int) -> float:
        """Return the rate of a step, counted from 1."""
        rise = min(1.0, step / self.warmup) if self.warmup else 1.0
        return self.peak * rise * min(1.0, math.sqrt(self.steady / step))
