"""Mean, variance and quantiles of weighted draws, from pieces that fit in memory.

Weights w are non-negative and sum to one; equal ones are 1 / n.

- mean m = sum w x.
- Variance sum w |x - m|^2 / (1 - sum w^2): unbiased for draws whose weights say how much each one
  counts ("reliability weights"); n - 1 in the denominator for equal weights. Of complex draws it is
  the variance PER COMPONENT, half of the above: a complex normal of standard deviation 1 in each
  component has variance 1.
- Quantiles count a draw of weight w as w / u copies, u the smallest weight that is not 0, and are those of
  NumPy and torch by default (linear; type 7 of Hyndman and Fan) for all the copies. With G the inverse of
  the weighted distribution function, a staircase,

      Q(p) = (1 / u) integral of G(t) dt from a to a + u,  a = p (1 - u):

  one draw as long as a to a + u lies within the share of the probability that it owns, and a straight line
  from it to the next otherwise. Q(0) and Q(1) are the smallest and the largest draw. Equal weights give
  NumPy's default; integers of which the smallest is 1 give that of the draws repeated so often; a draw of
  weight near 1 is the quantile at nearly all p. The smaller u, the shorter the slopes: in the limit Q(p) is
  G(p), NumPy's "inverted_cdf". A draw of weight 0 is left out.

Sums run in double precision, each piece about its own mean (Welford, West, Chan): no digits are lost
where the spread is small beside the mean. A NaN stays in the voxel it is in.

`summarise`, `quantiles_of` and `frequencies_of` read draws piece by piece, a region of the image through
all draws or a few draws at a time, `block_bytes` of them at once; an ensemble may be larger than memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_number
from operators.errors import value_error
from workbench.store import Draws, slabs

__all__ = ["Moments", "checked_levels", "frequencies_of", "quantiles", "quantiles_of", "summarise"]

#: Entries sorted at once: they and their helpers fit in a processor's cache.
_SORTED_AT_ONCE = 2**18

#: Numbers of a region whose moments run: in double precision they stay in the cache for all draws.
_RUNNING = 2**17

#: From so many numbers on, draws one by one are faster than in blocks.
_LARGE = 2**12


class Moments:
    """Running mean and variance of draws of one shape; `merge` joins two that saw different draws."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.weight_squared = 0.0
        self._is_complex = False
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def add(self, draws: Tensor, weights: Tensor) -> None:
        """Take in `draws` (n, ...) with `weights` (n,) >= 0, which need not sum to one."""
        kept = weights > 0
        if not bool(kept.all()):
            # Left out and not multiplied by 0: they may be NaN.
            draws, weights = draws[kept.to(draws.device)], weights[kept]
        if len(draws) == 0:
            return
        self._is_complex = draws.is_complex()
        x = torch.view_as_real(draws.resolve_conj()) if self._is_complex else draws
        if x[0].numel() >= _LARGE:
            for draw, weight in zip(x, weights.tolist(), strict=True):
                self._add_one(draw.to(torch.float64), weight)
            return
        x, w = x.to(torch.float64), weights.to(draws.device, torch.float64)
        block = Moments()
        block.weight, block.weight_squared = float(w.sum()), float(w.square().sum())
        block._mean = torch.tensordot(w, x, 1) / block.weight
        block._scatter = torch.tensordot(w, (x - block._mean).square_(), 1)
        self.merge(block)

    def _add_one(self, x: Tensor, weight: float) -> None:
        """Take in a draw: d = x - m, m += d w / W, M += w (1 - w / W) d^2."""
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = torch.zeros_like(x), torch.zeros_like(x)
        self.weight += weight
        self.weight_squared += weight**2
        share = weight / self.weight
        apart = x - self._mean
        self._mean.add_(apart, alpha=share)
        self._scatter.addcmul_(apart, apart, value=weight * (1 - share))

    def merge(self, other: Moments) -> None:
        """Take in all that `other` has seen."""
        if other._mean is None or other._scatter is None:
            return
        self._is_complex |= other._is_complex
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = other._mean.clone(), other._scatter.clone()
        else:
            # M = M_a + M_b + d^2 w_a w_b / (w_a + w_b), m = m_a + d w_b / (w_a + w_b)
            share = other.weight / (self.weight + other.weight)
            apart = other._mean - self._mean
            self._mean.add_(apart, alpha=share)
            self._scatter.add_(other._scatter).add_(apart.square_(), alpha=self.weight * share)
        self.weight += other.weight
        self.weight_squared += other.weight_squared

    @property
    def mean(self) -> Tensor:
        """The mean, float64 or complex128."""
        mean, _ = self._seen()
        return torch.view_as_complex(mean) if self._is_complex else mean

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, float64; per component where the draws are complex."""
        _, scatter = self._seen()
        left = 1 - self.weight_squared / self.weight**2
        if left <= 4 * np.finfo(np.float64).eps:
            raise value_error("weights", "be spread over two draws or more", "all on one draw")
        variance = scatter / (self.weight * left)
        return variance.mean(-1) if self._is_complex else variance

    def _seen(self) -> tuple[Tensor, Tensor]:
        if self._mean is None or self._scatter is None:
            raise value_error("weights", "be positive for one draw at least", "none")
        return self._mean, self._scatter


def quantiles(draws: Tensor, weights: Tensor | None, levels: Sequence[float]) -> Tensor:
    """Return the quantiles (len(levels), ...) of `draws` (n, ...) along the first axis, in float64.

    `weights` (n,) >= 0 are in proportion; None stands for equal ones. `draws` are real.
    """
    if weights is not None:
        weights = weights.double() / weights.double().sum()
        kept = weights > 0
        draws, weights = draws[kept.to(draws.device)], weights[kept]
        if bool((weights == weights[0]).all()):
            weights = None
    count = len(draws)
    flat = draws.reshape(count, -1).cpu().numpy()
    result = np.empty((len(levels), flat.shape[1]))
    step = max(1, _SORTED_AT_ONCE // count)
    w = None if weights is None else weights.cpu().numpy()
    for i in range(0, flat.shape[1], step):
        # Rows side by side in memory sort several times faster than columns.
        rows = np.array(flat[:, i : i + step].T, order="C")
        result[:, i : i + step] = _equal(rows, levels) if w is None else _weighted(rows, w, levels)
    return torch.from_numpy(result.reshape(len(levels), *draws.shape[1:]))


def checked_levels(q: object) -> tuple[list[float], bool]:
    """Return the probabilities `q`, and whether there were several, which may be one in a list."""
    wanted = _plain(q)
    several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
    listed = list(wanted) if isinstance(wanted, Sequence) and several else [wanted]
    levels = [check_number(_plain(level), "q", non_negative=True) for level in listed]
    if not levels or max(levels) > 1:
        raise value_error("q", "be a number in 0..1, or several", repr(q))
    return levels, several


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value


def summarise(
    draws: Draws, weights: Tensor, value: Callable[[Moments], Tensor], dtype: torch.dtype, block_bytes: int
) -> Tensor:
    """Return `value` of the moments of each voxel, in `dtype` on the CPU."""
    element = draws.shape[1:]
    found = torch.empty(element, dtype=dtype)
    most = max(1, min(_RUNNING, block_bytes // 64))
    for region in [()] if draws.reads_whole else slabs(element, most):
        moments = Moments()
        for first, block in _blocks(draws, region, weights, block_bytes):
            moments.add(block, weights[first : first + len(block)])
        found[region] = value(moments).to("cpu", dtype)
    return found


def quantiles_of(draws: Draws, weights: Tensor | None, levels: Sequence[float], block_bytes: int) -> Tensor:
    """Return `quantiles` of real draws, (len(levels), ...) in their dtype on the CPU."""
    count, *element = draws.shape
    found = torch.empty((len(levels), *element), dtype=draws.dtype)
    for region in slabs(element, max(1, block_bytes // (count * draws.dtype.itemsize))):
        block = draws.read(slice(None), region)
        found[(slice(None), *region)] = quantiles(block, weights, levels).to(draws.dtype)
    return found


def frequencies_of(draws: Draws, weights: Tensor, classes: int, block_bytes: int) -> Tensor:
    """Return the share (classes, ...) of the draws of tokens that are of each class, float32."""
    element = draws.shape[1:]
    found = torch.empty((classes, *element))
    # A class has a double for each entry of a region.
    for region in slabs(element, max(1, block_bytes // (8 * (classes + 4)))):
        total = torch.zeros(found[(slice(None), *region)].shape, dtype=torch.float64)
        for first, block in _blocks(draws, region, weights, block_bytes):
            w = weights[first : first + len(block)].to(block.device)
            for token in range(classes):
                total[token] += torch.tensordot(w, (block == token).double(), 1).cpu()
        found[(slice(None), *region)] = total.float()
    return found


def _blocks(
    draws: Draws, region: tuple[slice, ...], weights: Tensor, block_bytes: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield a few draws at a time of a region, with the number of the first; none without weight."""
    count, *element = draws.shape
    entries = math.prod(s.stop - s.start for s in region) if region else math.prod(element)
    # With them there may be the same in double precision, and about the mean.
    step = max(1, block_bytes // (2 * entries * draws.dtype.itemsize))
    for first in range(0, count, step):
        if bool((weights[first : first + step] > 0).any()):
            yield first, draws.read(slice(first, first + step), region)


def _equal(rows: NDArray[np.floating], levels: Sequence[float]) -> NDArray[np.float64]:
    rows.sort(axis=-1)
    last = rows.shape[1] - 1
    found = []
    for level in levels:
        place = level * last
        low = min(int(place), max(0, last - 1))
        found.append(_between(rows[:, low], rows[:, min(low + 1, last)], np.float64(place - low)))
    return _with_nan(np.stack(found), rows[:, -1])


def _weighted(
    rows: NDArray[np.floating], weights: NDArray[np.float64], levels: Sequence[float]
) -> NDArray[np.float64]:
    order = np.argsort(rows, axis=-1)
    rows = np.take_along_axis(rows, order, axis=-1)
    reached = np.cumsum(weights[order], axis=-1)
    last, unit = rows.shape[1] - 1, weights.min()
    found = []
    for level in levels:
        start = level * (1 - unit)
        # At 1 by name: a unit lost in the rounding of the sums must not hide the largest draw.
        low = np.where(level == 1, last, np.minimum((reached <= start).sum(axis=-1), last))[:, None]
        a, b, end = (
            np.take_along_axis(values, index, axis=-1)[:, 0]
            for values, index in ((rows, low), (rows, np.minimum(low + 1, last)), (reached, low))
        )
        found.append(_between(a, b, np.clip(start + unit - end, 0, unit) / unit))
    return _with_nan(np.stack(found), rows[:, -1])


def _between(
    low: NDArray[np.floating], high: NDArray[np.floating], share: NDArray[np.float64] | np.float64
) -> NDArray[np.float64]:
    """Return low + share (high - low), also where one of them or both are infinite."""
    a, b = low.astype(np.float64), high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        mixed = a + share * (b - a)
    mixed = np.where((share == 0) | (a == b), a, mixed)
    return np.where(share == 1, b, mixed)


def _with_nan(found: NDArray[np.float64], largest: NDArray[np.floating]) -> NDArray[np.float64]:
    # NaN sorts last: one among the draws is one in every quantile.
    found[:, np.isnan(largest)] = np.nan
    return found
