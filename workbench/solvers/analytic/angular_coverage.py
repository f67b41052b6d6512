"""Which part of a circle views cover, and how much of it each stands for.

Views stand for half the gap to their neighbours on either side (the trapezoid rule on the circle), so that
those which are repeated share. A gap much wider than the others is no sampling: it was not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from operators.ct.views import Float

__all__ = ["AngularCoverage"]

#: A gap this many times as wide as nearly all others was not measured. Golden angles leave gaps up to 2.62
#: times others; of n at random the widest is about log n times the mean, and 95% are below 3 times that.
GAP, NEARLY_ALL = 4.0, 0.95
#: Angles nearer than this, in rad, are one.
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class AngularCoverage:
    """Angles on a circle of `period` rad: the arc from `start` over `length`, and the `weights` in rad."""

    period: float
    start: float
    length: float
    weights: Float

    @property
    def is_closed(self) -> bool:
        """Whether the whole circle was measured."""
        return self.length >= self.period

    @classmethod
    def of(cls, angles: Float, period: float) -> AngularCoverage:
        """Return how `angles`, in rad, cover the circle of `period`."""
        folded = np.mod(angles, period)
        # Rounding must not tear apart what coincides at the seam.
        folded = np.where(period - folded < SAME, 0.0, folded)
        order = np.argsort(folded, kind="stable")
        place: list[float] = []
        group = np.empty(len(angles), dtype=np.intp)
        for index in order:
            if not place or folded[index] - place[-1] > SAME:
                place.append(float(folded[index]))
            group[index] = len(place) - 1
        if len(place) == 1:
            return cls(period, place[0], 0.0, np.full(len(angles), period / len(angles)))
        at = np.array(place)
        gaps = np.diff(at, append=at[0] + period)  # behind each
        typical, widest = float(np.median(gaps)), int(np.argmax(gaps))
        open_arc = bool(gaps[widest] > GAP * np.quantile(gaps, NEARLY_ALL, method="lower"))
        length = period - float(gaps[widest]) + typical if open_arc else period
        start = float(at[(widest + 1) % len(at)]) - typical / 2 if open_arc else 0.0
        if open_arc:
            gaps[widest] = typical
        share = (gaps + np.roll(gaps, 1)) / 2
        weights = share[group] / np.bincount(group)[group]
        return cls(period, start, length, weights)

    def inside(self, angles: Float, taper: float) -> Float:
        """Return 1 at angles on the arc, 0 beyond, with a squared sine over `taper` rad at both ends."""
        if self.is_closed:
            return np.ones_like(angles)
        along = np.mod(angles - self.start, self.period)
        depth = np.minimum(along, self.length - along)
        if taper <= 0:
            return (depth >= 0).astype(np.float64)
        found: Float = np.sin(np.clip(depth / taper, 0, 1) * (math.pi / 2)) ** 2
        return found
