"""Poisson counts, each a function of its own key and mean alone, bitwise the same on every device.

Below a mean of 10: inversion, the smallest k whose distribution function reaches u. From 10 on: PTRS,
the transformed rejection of W. Hoermann (Insurance: Mathematics and Economics 12, 1993, 39-45), whose
trial i reads the block (voxel, step, draw) under the key of lane i, so that no voxel waits for another.
Both are exact for numbers u of 52 bits; the logarithms are those of `workbench.random.philox`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

import torch
from torch import Tensor

from workbench.random.philox import LOG, PI, make_key, minus_log, polynomial, square_root, uniform, words

__all__ = ["LARGEST_MEAN", "Trials", "poisson_counts"]

#: Up to it, a count and all of PTRS are far enough below 2^53 to be right to a small part of 1.
LARGEST_MEAN = 1e15
SWITCH = 10.0


def _tables() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return EXP and STIRLING; decimals round alike everywhere, unlike the C library's exp and log."""
    with localcontext(Context(prec=30)):
        root = (2 * Decimal("3.14159265358979323846264338328")).sqrt()
        exponentials = [Decimal(-n).exp() for n in range(11)]
        errors = [
            (math.factorial(n) / root).ln() + n - (n + Decimal("0.5")) * Decimal(n).ln() for n in range(1, 16)
        ]
    return tuple(map(float, exponentials)), (0.0, *map(float, errors))


#: e^-n for n = 0, ..., 10, and ln n! - ln(sqrt(2 pi n) (n / e)^n) for n = 1, ..., 15, a 0 before it.
EXP, STIRLING = _tables()


@dataclass(frozen=True)
class Trials:
    """The random words of the elements with the index `voxel` (n,) in their array and number `draw` (n,)."""

    voxel: Tensor
    draw: Tensor
    step: int
    seed: int
    purpose: str

    def words(self, lane: int) -> tuple[Tensor, Tensor]:
        """Return fresh words for trial number `lane` of each element."""
        return words(self.voxel, self.draw, self.step, make_key(self.seed, "poisson", self.purpose, lane))

    def only(self, chosen: Tensor) -> Trials:
        """Return the trials of the elements with the indices `chosen`."""
        return Trials(self.voxel[chosen], self.draw[chosen], self.step, self.seed, self.purpose)


def poisson_counts(mean: Tensor, trials: Trials) -> Tensor:
    """Return counts of `mean` (n,), in float64."""
    counts = torch.empty_like(mean)
    small = mean < SWITCH
    for part, method in ((small, _inversion), (~small, _ptrs)):
        chosen = part.nonzero()[:, 0]
        if len(chosen):
            counts[chosen] = method(mean[chosen], trials.only(chosen))
    return counts


def _inversion(mean: Tensor, trials: Trials) -> Tensor:
    """Return the smallest k with P(0) + ... + P(k) >= u for means < 10."""
    u = uniform(trials.words(0)[0])
    term = _exp_minus(mean)
    total = term.clone()
    count = torch.zeros_like(mean)
    # 1 - 2^-53, the largest u, is passed by k = 46; beyond, rounding may hold the sum below it.
    for k in range(1, 64):
        beyond = total < u
        if not bool(beyond.any()):
            break
        count.add_(beyond)
        total.add_(term.mul_(mean).mul_(1.0 / k))
    return count


def _exp_minus(x: Tensor) -> Tensor:
    """Return exp(-x) for 0 <= x <= 10: a table at the nearest integer, Taylor's series between."""
    nearest = x.add(0.5).floor_()
    table = torch.tensor(EXP, dtype=x.dtype, device=x.device)
    series = polynomial(nearest - x, [1.0 / math.factorial(n) for n in range(1, 15)])
    return series.add_(1.0).mul_(table[nearest.to(torch.int64)])


def _ptrs(mean: Tensor, trials: Trials) -> Tensor:
    """Return counts for means >= 10 by transformed rejection with a squeeze."""
    count = torch.empty_like(mean)
    waiting = torch.arange(len(mean), device=mean.device)
    lane = 0
    while len(waiting):
        first, second = trials.only(waiting).words(lane)
        candidate, accepted = _trial(mean[waiting], uniform(first), uniform(second))
        count[waiting[accepted]] = candidate[accepted]
        waiting = waiting[~accepted]
        lane += 1
    return count


def _trial(mean: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidate k = floor((2a / w + b)(u - 1/2) + mean + 0.43) and whether v accepts it."""
    b = square_root(mean) * 2.53 + 0.931
    a = b * 0.02483 - 0.059
    u = u - 0.5
    w = 0.5 - u.abs()
    k = ((a * 2.0 / w + b) * u + mean + 0.43).floor_()
    squeeze = (w >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2.0))
    outside = (k < 0) | ((w < 0.013) & (v > w))
    hat = v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (w * w) + b)
    # hat <= P(k), as -ln hat >= -ln P(k)
    dense = minus_log(hat) >= _minus_log_probability(k.clamp(min=0.0), mean)
    return k, squeeze | (dense & ~outside)


def _minus_log_probability(k: Tensor, mean: Tensor) -> Tensor:
    """Return -ln(mean^k e^-mean / k!) = D + ln(2 pi k)/2 + delta(k), and `mean` for k = 0.

    delta is what Stirling's formula lacks. D = k ln(k / mean) - (k - mean) >= 0 is a small difference of
    large terms near k = mean; with r = (k - mean) / (k + mean), where k ln(k / mean) = 2 k atanh(r), it
    is (k - mean) r + k r (2 atanh(r) / r - 2): no digits are lost (C. Loader, 2000).
    """
    positive = k.clamp(min=1.0)
    difference = k - mean
    r = difference / (k + mean)
    near = difference * r + k * r * polynomial(r * r, LOG)
    far = -difference - k * minus_log(positive / mean)
    deviance = torch.where(r.abs() <= 0.17, near, far)
    value = deviance - minus_log(positive * (2.0 * PI)) * 0.5 + _stirling_error(positive)
    return torch.where(k > 0, value, mean)


def _stirling_error(k: Tensor) -> Tensor:
    """Return delta(k) = ln k! - ln(sqrt(2 pi k) (k / e)^k): a table below 16, else its series in 1/k."""
    table = torch.tensor(STIRLING, dtype=k.dtype, device=k.device)
    inverse = torch.ones_like(k).div_(k)
    square = inverse * inverse
    series = polynomial(square, [-1 / 360, 1 / 1260, -1 / 1680, 1 / 1188]).add_(1 / 12).mul_(inverse)
    return torch.where(k < 16, table[k.clamp(max=15.0).to(torch.int64)], series)
