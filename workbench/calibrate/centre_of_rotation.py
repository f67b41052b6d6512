"""The column at which the axis of rotation is seen, found from parallel-beam data alone.

First guess: of two views half a turn apart one is the mirror image of the other. The shift at which they
correlate best, over the columns that both see, is twice the centre.

Refinement: data that belong to one object are what the image made of them predicts. With A_c and FBP_c
about an axis at column c,

    R(c) = |p - A_c FBP_c p|^2,    R(c) = R_0 + k (c - c*)^2 near its minimum,

with the variance R_0 / (k data) of least squares for c*. It holds for any coverage that FBP takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_number, check_tensor
from operators.ct import CoverageWarning, ParallelBeamGeometry
from operators.ct.views import Float
from operators.errors import type_error, value_error
from operators.grid import Grid
from workbench.calibration import CentreOfRotation
from workbench.solvers.filtered_back_projection import FilteredBackProjection

__all__ = ["FoundCentre", "find_centre", "mirror_centre"]

#: Views count as half a turn apart up to this many rad, and columns that both see are at least this share.
OPPOSED, OVERLAP = math.radians(5), 0.25
#: A ramp would fit the noise too, and the deviation would come out too small.
SMOOTH = FilteredBackProjection("hann", cutoff=0.5)
#: Columns are binned until there are at most so many, and so many detector rows are looked at.
COLUMNS, ROWS = 320, 4
#: The steps of the search, in binned columns, each about the best of the one before, and how many to a side.
STEPS, REACH = (2.0, 0.5, 0.125), 4
#: A minimum that explains less of R than this, or is known no better than to so many columns, tells nothing.
DEPTH, WORST_SD = 0.1, 0.5


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
    most `rows` detector rows are looked at, evenly spaced. An error says where the data cannot tell. The
    centre belongs to these angles: an end left out by mistake moves it too.
    """
    data, theta = _checked(line_integrals, angles)
    start = mirror_centre(data, theta) if guess is None else check_number(guess, "guess")
    if not 0 <= start <= data.shape[-1] - 1:
        raise value_error("guess", f"be one of the columns 0 to {data.shape[-1] - 1}", start)
    number = min(check_count(rows, "rows"), data.shape[1])
    chosen = np.unique(np.linspace(0, data.shape[1] - 1, number + 2)[1:-1].round().astype(np.intp))
    part, factor = data[:, torch.from_numpy(chosen)], 1
    while part.shape[-1] > COLUMNS:
        half = part.shape[-1] // 2
        part = (part[..., 0 : 2 * half : 2] + part[..., 1 : 2 * half : 2]) / 2
        factor *= 2
    # The middle of the binned columns 2 k and 2 k + 1 lies half a column on.
    binned = (start - (factor - 1) / 2) / factor
    # One grid for all centres: another one is another misfit.
    side = 2 * max(math.ceil(min(binned, part.shape[-1] - 1 - binned)), 2)
    search = _Search(part, theta, Grid.from_spacing((len(chosen), side, side), (1.0, 1.0, 1.0)))
    best = search.best(binned)
    column, curvature, depth = search.minimum(best)
    lowest = search.misfit(best)
    sd = math.sqrt(lowest / (curvature * part.numel())) if curvature > 0 else math.inf
    if depth < DEPTH or sd > WORST_SD or abs(column - best) > STEPS[1]:
        raise value_error(
            "line_integrals",
            "tell where the axis is",
            f"a misfit that varies by {depth:.1%} near column {start:.1f}",
            "Look at the sinogram, or give the centre by hand: CentreOfRotation(column).",
        )
    return FoundCentre(column * factor + (factor - 1) / 2, sd * factor, depth)


@dataclass(frozen=True, eq=False)
class _Search:
    """R of binned data as a function of the column, remembered."""

    data: Tensor
    theta: Float
    grid: Grid
    known: dict[float, float] = field(default_factory=dict)

    def misfit(self, column: float) -> float:
        """Return R."""
        key = round(column, 6)
        if key not in self.known:
            _, rows, columns = self.data.shape
            geometry = ParallelBeamGeometry(tuple(self.theta), columns, 1.0, rows, 1.0, axis_column=column)
            with warnings.catch_warnings():
                # The search passes scans that are cut off; the data's own truncation is for who reconstructs.
                warnings.simplefilter("ignore", CoverageWarning)
                operator = geometry.operator(self.grid)
                image = SMOOTH.image(operator, self.data)
            self.known[key] = float((operator(image) - self.data).double().square().sum())
        return self.known[key]

    def best(self, column: float) -> float:
        """Return the best of the columns that were tried, in ever finer steps."""
        for step in STEPS:
            places = [column + k * step for k in range(-REACH, REACH + 1)]
            column = places[int(np.argmin([self.misfit(place) for place in places]))]
        return column

    def minimum(self, best: float) -> tuple[float, float, float]:
        """Return c*, k and 1 - R(c*) / R far away, from the parabola through what lies near `best`."""
        near = np.array([place for place in self.known if abs(place - best) <= STEPS[1] + 1e-9])
        k, b, _ = np.polyfit(near - best, [self.known[place] for place in near], 2)
        far = np.median([value for place, value in self.known.items() if abs(place - best) > STEPS[0]])
        depth = 1 - self.misfit(best) / float(far) if far > 0 else 0.0
        return float(best - b / (2 * k)) if k > 0 else math.inf, float(k), depth


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
