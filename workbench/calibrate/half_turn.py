"""By which angle, as it is stated, views that mirror each other are apart: pi, where the angles are right.

Views i and j, t beyond half a turn apart by the stated angles, show p_j(2 c - x) = p_i(x) + (t - o) p_i'(x).
All such pairs together tell o and c, linear near the truth. p' is a difference of views and holds their
noise, so the equation is multiplied by the differences of other views nearby before it is summed: these are
instruments, whose own noise averages out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.ct.views import Float

__all__ = ["HalfTurn", "stated_half_turn"]

#: Pairs are looked at up to so many gaps from half a turn, and fewer than so many, evenly chosen.
PAIRS, MOST = 2.5, 400
#: So many columns at the ends are left out, where smooth data are mixed with what lies beyond.
EDGE = 4
#: The instruments are so many views further in than what they are to be independent of.
FURTHER = 3
#: They must explain this share of p', or it is noise.
EXPLAINED = 0.25
#: So many standard errors are sure.
SURE = 5.0


@dataclass(frozen=True)
class HalfTurn:
    """Half a turn as the angles state it, with its standard deviation and their median gap, in rad."""

    angle: float
    sd: float
    gap: float

    @property
    def is_wrong(self) -> bool:
        """Whether it is surely more than half a view off: an end left out or counted twice."""
        return abs(self.angle - math.pi) > max(self.gap / 2, SURE * self.sd)


def stated_half_turn(data: Float, theta: Float, column: float) -> HalfTurn | None:
    """Return what smooth `data` (views, rows, columns) say; None where no views are opposed, or all alike."""
    theta, first = np.unique(np.round(theta, 9), return_index=True)
    views, columns = len(theta), data.shape[-1]
    if views < 2 * (FURTHER + 2):
        return None
    seen, gap = data[first], float(np.median(np.diff(theta)))
    beyond = theta[None] - theta[:, None] - math.pi
    opposed = np.argwhere(np.abs(beyond) <= PAIRS * gap)
    i, j = opposed[:: len(opposed) // MOST + 1].T
    place = np.arange(columns)
    at = 2 * column - place
    inside = (np.minimum(at, place) >= EDGE) & (np.maximum(at, place) <= columns - 1 - EDGE)
    if len(i) == 0 or inside.sum() < 2:
        return None
    left = np.clip(np.floor(at).astype(np.intp), 0, columns - 2)
    # p_j(2 c - x), with its own slopes.
    mirrored = seen[..., left] + (at - left) * (seen[..., left + 1] - seen[..., left])

    def further(values: Float, view: NDArray[np.intp]) -> Float:
        inwards = np.where(view < views / 2, 1, -1)
        near, far = view + FURTHER * inwards, view + (FURTHER + 1) * inwards
        found: Float = (values[far] - values[near]) / (theta[far] - theta[near])[:, None, None]
        return found

    slopes = (np.gradient(seen, theta, axis=0)[i] + np.gradient(mirrored, theta, axis=0)[j]) / 2
    instruments = (further(seen, i) + further(mirrored, j)) / 2
    along = np.gradient(seen, axis=-1)[i]
    wanted = seen[i] - mirrored[j] + beyond[i, j][:, None, None] * slopes
    slope, instrument, aside, rest = (
        values[..., inside].reshape(-1) for values in (slopes, instruments, along, wanted)
    )
    if (instrument @ slope) ** 2 <= EXPLAINED * (instrument @ instrument) * (slope @ slope):
        return None
    z, x = np.stack([instrument, aside]), np.stack([slope, -2 * aside])
    inverse = np.linalg.pinv(z @ x.T)
    found = inverse @ (z @ rest)
    # Smooth data: about one in four residuals counts.
    spread = 4 * float((rest - found @ x).var()) * inverse @ (z @ z.T) @ inverse.T
    return HalfTurn(math.pi + float(found[0]), math.sqrt(float(spread[0, 0])), gap)
