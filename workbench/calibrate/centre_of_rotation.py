"""The column at which the axis of rotation is seen, found from parallel-beam data alone.

First guess: of two views half a turn apart one is the mirror image of the other. The shift at which they
correlate best, over the columns that both see, is twice the centre.

Refinement: data that belong to one object are what the image made of them predicts. With A_c and FBP_c
about an axis at column c, a window w on the ramp, and what lies in the circle that the views see,

    R(c) = sum over views of |w * p - A_c FBP_c p|^2,    R(c) = R_0 + k (c - c*)^2 near its minimum,

with the variance of c* by how much the views' own minima differ. It takes half a turn or nearly: where FBP
lacks angles, what it misses hides the minimum, and an error says so.
At wrong angles the axis comes out wrong too: opposed views tell whether they are (`half_turn`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_number, check_tensor
from operators.ct import CoverageWarning, ParallelBeamGeometry
from operators.ct.views import Float
from operators.errors import type_error, value_error
from operators.grid import Grid
from workbench.calibrate.half_turn import HalfTurn, stated_half_turn
from workbench.calibration import CentreOfRotation
from workbench.solvers.analytic.angular_coverage import AngularCoverage
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection
from workbench.solvers.analytic.ramp_filter import Window, smoothed

__all__ = ["FoundCentre", "find_centre", "mirror_centre"]

#: Views count as half a turn apart up to this many rad, and columns that both see are at least this share.
OPPOSED, OVERLAP = math.radians(5), 0.25
#: A ramp would fit the noise too, and the deviation would come out too small.
WINDOW: Window = "hann"
CUTOFF = 0.5
SMOOTH = FilteredBackProjection(WINDOW, CUTOFF)
#: Columns are binned to at most so many, at first and at last, and so many detector rows are looked at.
COARSE, FINE, ROWS = 80, 320, 4
#: The first search goes so many binned columns to a side, and so often on from its end; the others go so
#: many steps of half of one.
REACH, WALKS, NEAR, STEP = 4, 3, 3, 0.5
#: A minimum that explains less of R than this, or is known no better than to so many columns, tells nothing.
DEPTH, WORST_SD = 0.1, 0.5
#: So few views agree with any axis.
FEWEST = 10
#: So many columns at the ends of the detector and of the circle are left out.
MARGIN = 3


@dataclass(frozen=True)
class FoundCentre:
    """A centre of rotation with its standard deviation, in columns; `depth` is 1 - R(c*) / R far away."""

    column: float
    sd: float
    depth: float

    @property
    def calibration(self) -> CentreOfRotation:
        """What a Measurement takes."""
        return CentreOfRotation(self.column)


def find_centre(
    line_integrals: Tensor, angles: Sequence[float], *, guess: float | None = None, rows: int = ROWS
) -> FoundCentre:
    """Return the centre of `line_integrals` (views, rows, columns) at `angles` in rad.

    It begins at `guess`, or where opposed views agree; without a guess some must lie half a turn apart. At
    most `rows` detector rows are looked at, evenly spaced. An error says where the data cannot tell. A
    warning says where opposed views are surely no half turn apart by `angles`, as where an end was left out
    by mistake; the centre is then that of the angles scaled to be right.
    """
    data, theta = _checked(line_integrals, angles)
    if len(theta) < FEWEST:
        remedy = "mirror_centre takes two that are half a turn apart."
        raise value_error("line_integrals", f"have {FEWEST} views or more", len(theta), remedy)
    start = mirror_centre(data, theta) if guess is None else check_number(guess, "guess")
    if not 0 <= start <= data.shape[-1] - 1:
        raise value_error("guess", f"be one of the columns 0 to {data.shape[-1] - 1}", start)
    number = min(check_count(rows, "rows"), data.shape[1])
    chosen = np.unique(np.linspace(0, data.shape[1] - 1, number + 2)[1:-1].round().astype(np.intp))
    part = data[:, torch.from_numpy(chosen)]
    scales = [2**k for k in range(data.shape[-1].bit_length()) if data.shape[-1] <= 2**k * FINE]
    coarse = next(k for k, scale in enumerate(scales) if data.shape[-1] <= scale * COARSE)
    best, depth = start, 0.0
    for _ in range(WALKS):
        search = _Search.of(part, theta, best, scales[coarse])
        places, misfits = search.tried(best, 1.0, REACH)
        total = misfits.sum(1)
        best, far = float(places[total.argmin()]), float(np.median(total))
        if 0 < total.argmin() < len(total) - 1:
            depth = 1 - float(total.min()) / far if far > 0 else 0.0
            break
        if not 0 <= best <= data.shape[-1] - 1:
            break
    for scale in scales[:coarse][::-1] or scales[:1]:
        search = _Search.of(part, theta, best, scale)
        column, sd, best = search.minimum(best)
    if depth < DEPTH or sd > WORST_SD * search.scale or abs(column - best) > search.scale:
        raise value_error(
            "line_integrals",
            "tell where the axis is",
            f"a misfit that varies by {depth:.1%} near column {start:.1f}",
            "Are the angles in rad? Look at the sinogram, give a better `guess`, or the centre by hand: "
            "CentreOfRotation(column).",
        )
    turn = search.half_turn(column)
    if turn is None or not turn.is_wrong:
        return FoundCentre(column, sd, depth)
    factor = math.pi / turn.angle
    search = _Search.of(part, theta * factor, column, search.scale)
    right, sd, _ = search.minimum(column)
    warnings.warn(
        f"views that mirror each other are {math.degrees(turn.angle):.2f} degrees apart by `angles`: "
        f"they should be {factor:.4f} times as wide, as where an end was left out or counted twice. The "
        f"centre {right:.2f} is that of such angles; with those given it would be {column:.2f}.",
        UserWarning,
        stacklevel=2,
    )
    return FoundCentre(right, sd, depth)


@dataclass(frozen=True, eq=False)
class _Search:
    """R of data in bins of `scale` columns, on the grid and the columns that belong to one place of the axis.

    Another grid would be another misfit. Columns are those of the data before they are binned.
    """

    data: Tensor
    theta: Float
    scale: int
    grid: Grid
    circle: Tensor
    seen: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, data: Tensor, theta: Float, centre: float, scale: int) -> _Search:
        """Return the search about `centre`."""
        count = data.shape[-1] // scale
        binned = data[..., : count * scale].reshape(*data.shape[:-1], count, scale).mean(-1)
        axis = _binned(centre, scale)
        # What all views see or, over a full turn, one of two opposed ones.
        sides = (axis, count - 1 - axis)
        turned = AngularCoverage.of(theta, 2 * math.pi).is_closed
        radius = max(max(sides) if turned else min(sides), 2.0)
        side = 2 * math.ceil(radius) + 1
        place = torch.arange(side) - (side - 1) / 2
        circle = place[:, None].square() + place.square() <= radius**2
        # At their ends the data are smoothed with what lies beyond.
        column = torch.arange(count)
        seen = (column - axis).abs() <= max(radius - MARGIN, 1.0)
        seen &= torch.minimum(column, count - 1 - column) >= min(MARGIN, count // 4)
        grid = Grid.from_spacing((data.shape[1], side, side), 1.0)
        return cls(binned, theta, scale, grid, circle, seen, smoothed(binned, window=WINDOW, cutoff=CUTOFF))

    def misfit(self, column: float) -> Float:
        """Return each view's part of R."""
        _, rows, columns = self.data.shape
        axis = _binned(column, self.scale)
        geometry = ParallelBeamGeometry(tuple(self.theta), columns, 1.0, rows, 1.0, axis_column=axis)
        with warnings.catch_warnings():
            # The search passes scans that are cut off; the data's own truncation is for who reconstructs.
            warnings.simplefilter("ignore", CoverageWarning)
            operator = geometry.operator(self.grid)
            image = SMOOTH.image(operator, self.data) * self.circle
        found: Float = ((operator(image) - self.wanted) * self.seen).double().square().sum((1, 2)).numpy()
        return found

    def tried(self, column: float, step: float, reach: int) -> tuple[Float, Float]:
        """Return places about `column`, `step` bins apart and `reach` to a side, and the parts of R there."""
        places: Float = column + step * self.scale * np.arange(-reach, reach + 1, dtype=np.float64)
        return places, np.stack([self.misfit(float(place)) for place in places])

    def minimum(self, column: float) -> tuple[float, float, float]:
        """Return c*, its sd and the best place tried near `column`, from the parabolas of all views there."""
        places, misfits = self.tried(column, STEP, NEAR)
        middle = int(np.clip(misfits.sum(1).argmin(), 1, len(places) - 2))
        best = float(places[middle])
        k, slope, _ = np.polyfit(STEP * np.arange(-1, 2), misfits[middle - 1 : middle + 2], 2)
        if not k.sum() > 0:
            return math.inf, math.inf, best
        place = -slope.sum() / (2 * k.sum())
        # At the minimum the slopes of the views sum to zero; how much they differ is their noise.
        sd = float(np.linalg.norm(2 * k * place + slope) / (2 * k.sum()))
        return float(best + place * self.scale), sd * self.scale, best

    def half_turn(self, column: float) -> HalfTurn | None:
        """Return what the angles state of views that mirror each other about `column`."""
        return stated_half_turn(self.wanted.double().numpy(), self.theta, _binned(column, self.scale))


def _binned(column: float, scale: int) -> float:
    """Return where `column` is among bins of `scale`: the first bin's middle is (scale - 1) / 2."""
    return (column - (scale - 1) / 2) / scale


def mirror_centre(line_integrals: Tensor, angles: Sequence[float] | Float) -> float:
    """Return where views half a turn apart are mirror images, by their correlation; to about a column."""
    data, theta = _checked(line_integrals, angles)
    turn = np.mod(theta[None] - theta[:, None], 2 * math.pi)
    off = np.abs(turn - math.pi)
    closest = float(off.min())
    if closest > OPPOSED:
        got = f"none within {math.degrees(closest):.1f} degrees of that"
        raise value_error("angles", "hold views half a turn apart", got, "Give a `guess`.")
    first, second = np.nonzero(np.triu(off <= max(1.5 * closest, 1e-6)))
    ahead, behind = data[torch.from_numpy(first)], data[torch.from_numpy(second)].flip(-1)
    scores = _correlations(ahead.double().flatten(0, 1).numpy(), behind.double().flatten(0, 1).numpy())
    best = int(np.nanargmax(scores))
    low, mid, high = (scores[min(max(best + k, 0), len(scores) - 1)] for k in (-1, 0, 1))
    curve = low - 2 * mid + high
    shift = 0.5 * (low - high) / curve if np.isfinite(curve) and curve < 0 else 0.0
    # Of the lags, -(columns - 1) comes first; at a lag of zero the axis is in the middle.
    return float((best + shift) / 2)


def _correlations(a: Float, b: Float) -> Float:
    """Return Pearson's correlation of all lines at every lag, over the columns that overlap; NaN for few."""
    columns = a.shape[-1]
    size = 2 ** math.ceil(math.log2(2 * columns))

    def lagged(x: Float, y: Float) -> Float:
        product = np.fft.irfft((np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size))).sum(axis=0), size)
        found: Float = np.roll(product, columns - 1)[: 2 * columns - 1]
        return found

    ones = np.ones_like(a)
    count = np.maximum(lagged(ones, ones), 1e-9)
    sum_a, sum_b = lagged(a, ones), lagged(ones, b)
    cross = lagged(a, b) - sum_a * sum_b / count
    energy = (lagged(a * a, ones) - sum_a**2 / count) * (lagged(ones, b * b) - sum_b**2 / count)
    enough = (count >= OVERLAP * columns * len(a)) & (energy > 1e-12 * float((a * a).sum()) ** 2)
    scores: Float = np.where(enough, cross / np.sqrt(np.where(enough, energy, 1.0)), np.nan)
    if not enough.any():
        raise value_error("line_integrals", "hold an object", "opposed views without contrast")
    return scores


def _checked(data: Tensor, angles: Sequence[float] | Float) -> tuple[Tensor, Float]:
    check_tensor(data, "line_integrals")
    if data.is_complex() or data.ndim != 3 or min(data.shape) < 1:
        expected = "be real, of shape (views, rows, columns)"
        raise value_error("line_integrals", expected, f"{data.dtype}, {tuple(data.shape)}")
    check_finite(data, "line_integrals")
    try:
        theta = np.asarray(angles, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type_error("angles", "be angles in rad", repr(angles)) from error
    if theta.shape != (data.shape[0],) or not np.isfinite(theta).all():
        raise value_error("angles", f"be {data.shape[0]} finite angles in rad, one per view", theta.shape)
    return data.detach().cpu(), theta
