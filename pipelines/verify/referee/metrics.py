"""How far draws are from a posterior that is known.

    mean error           |m' - m| / sqrt(tr C)                     0.1: a tenth of a posterior sd
    covariance error     |C' - C|_F / |C|_F                        over the patch whose C is known
    variance ratio       tr C' / tr C                              below 1: too sure
    mode error           sum_k |w'_k - w_k| / 2                    the probability in wrong modes
    sliced Wasserstein   rms over directions t of W2(t u', t u) / sqrt(tr C / n)
    coverage             the posterior's mass between the draws' 5 % and 95 % quantiles, mean of components;
                         of exact draws 90 % on average, of 18 or fewer (K - 1) / (K + 1)

Primes are the draws', with their weights; C' is unbiased. Finitely many exact draws have errors too: of K
the mean's is about sqrt(1 / K), and W2 compares them with K draws of the truth, which are always the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_finite
from operators.errors import value_error
from pipelines.verify.referee.truth import Truth
from workbench.random import Keys

__all__ = ["DIRECTIONS", "LEVELS", "TRUTH_SEED", "Metrics", "measure", "measure_point"]

#: What is left of all weight, within rounding, where one draw has it.
ALONE = 1e-12
#: Draws of less than this share of the heaviest one's weight end no interval.
NEGLIGIBLE = 1e-6
#: Directions of the sliced distance.
DIRECTIONS = 64
#: Quantiles between which nine tenths of the posterior should lie.
LEVELS = (0.05, 0.95)
#: Of the truth's draws: one that no solver is run with, or its draws might be the same.
TRUTH_SEED = 2**63 + 1


@dataclass(frozen=True)
class Metrics:
    """The figures at the head of this module; None where there is no such thing."""

    mean_error: float
    covariance_error: float | None = None
    variance_ratio: float | None = None
    mode_error: float | None = None
    sliced_wasserstein: float | None = None
    coverage: float | None = None


def measure(rows: Tensor, truth: Truth, weights: Tensor | None = None) -> Metrics:
    """Return how far `rows` (K, n), two or more, are from the truth; `weights` (K,) are in proportion."""
    rows = _checked(rows, truth)
    if len(rows) < 2:
        raise value_error("rows", "be two draws or more", len(rows), "One answer: measure_point(row, truth).")
    shares = _shares(weights, len(rows))
    mean = shares @ rows
    error, ratio = _spread_errors(rows - mean, shares, truth)
    chances = truth.mode_chances(rows)
    return Metrics(
        mean_error=_mean_error(mean, truth),
        covariance_error=error,
        variance_ratio=ratio,
        mode_error=None if chances is None else _total_variation(shares @ chances, truth.mode_weights),
        sliced_wasserstein=_sliced_wasserstein(rows, truth, shares),
        coverage=_coverage(rows, truth, shares),
    )


def measure_point(row: Tensor, truth: Truth) -> Metrics:
    """Return how far one answer (n,) is from the posterior mean."""
    return Metrics(_mean_error(_checked(row[None], truth)[0], truth))


def _checked(rows: Tensor, truth: Truth) -> Tensor:
    if rows.ndim != 2 or rows.shape[1] != truth.size or rows.is_complex():
        remedy = "Real components side by side: reals(u)."
        raise value_error("rows", f"be real, of shape (K, {truth.size})", tuple(rows.shape), remedy)
    check_finite(rows, "rows")
    return rows.double()


def _shares(weights: Tensor | None, count: int) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    if weights.shape != (count,):
        raise value_error("weights", f"have shape ({count},)", tuple(weights.shape))
    check_finite(weights, "weights")
    wide = weights.double()
    if float(wide.min()) < 0 or not float(wide.max()) > 0:
        raise value_error("weights", "be >= 0, one of them larger", f"{float(wide.min()):g} the least")
    return wide / wide.sum()


def _mean_error(mean: Tensor, truth: Truth) -> float:
    return float((mean - truth.mean).norm() / truth.sd.norm())


def _spread_errors(apart: Tensor, shares: Tensor, truth: Truth) -> tuple[float | None, float | None]:
    """Return the error of the covariance and the variance ratio; one draw with all the weight has neither."""
    rest = 1 - float(shares.square().sum())
    if rest < ALONE:
        return None, None
    # Of draws that count more than others, each by its weight; K - 1 where all count alike.
    scatter = shares / rest
    near = apart[:, truth.patch]
    covariance = near.T @ (scatter[:, None] * near)
    error = float((covariance - truth.covariance).norm() / truth.covariance.norm())
    return error, float(scatter @ apart.square().sum(1)) / float(truth.sd.square().sum())


def _total_variation(first: Tensor, second: Tensor) -> float:
    return 0.5 * float((first - second).abs().sum())


def _coverage(rows: Tensor, truth: Truth, shares: Tensor) -> float:
    low, high = truth.cdf(_quantiles(rows, shares))
    return float((high - low).mean())


def _quantiles(rows: Tensor, shares: Tensor) -> Tensor:
    """Return the quantiles (2, n) of LEVELS, such that exact draws hold what lies between, however few.

    Below the k-th of K draws lies k / (K + 1) of their law, on average: c K / (K + 1) + 1 / (2 (K + 1)) where
    c is the share of all draws up to the middle of this one, of those that have any to speak of. Between
    draws it is the line, which adds up to a hundredth where tails bend; beyond the last the last. Of draws
    with weights K is 1 / sum w^2.
    """
    kept = shares > NEGLIGIBLE * shares.max()
    if int(kept.sum()) == 1:
        return rows[kept].expand(len(LEVELS), -1)
    values, order = rows[kept].T.contiguous().sort(dim=1)
    mass = shares[kept][order]
    count = 1 / float(shares.square().sum())
    places = ((mass.cumsum(1) - mass / 2) * count + 0.5) / (count + 1)
    found = []
    for level in LEVELS:
        wanted = torch.full_like(places[:, :1], level)
        above = torch.searchsorted(places, wanted).clamp(1, places.shape[1] - 1)
        ends = torch.cat([above - 1, above], 1)
        (first, last), (low, high) = places.gather(1, ends).T, values.gather(1, ends).T
        found.append(low + ((level - first) / (last - first)).clamp(0, 1) * (high - low))
    return torch.stack(found)


def _sliced_wasserstein(rows: Tensor, truth: Truth, shares: Tensor) -> float | None:
    exact = truth.draw(len(rows), TRUTH_SEED)
    if exact is None:
        return None
    keys = Keys(TRUTH_SEED, tuple(range(DIRECTIONS)))
    directions = keys.normals((truth.size,), "referee: directions", like=rows)
    directions = directions / directions.norm(dim=1, keepdim=True)
    square = _wasserstein_squares(directions @ rows.T, shares, directions @ exact.T).mean()
    return math.sqrt(float(square)) / (float(truth.sd.norm()) / math.sqrt(truth.size))


def _wasserstein_squares(values: Tensor, shares: Tensor, others: Tensor) -> Tensor:
    """Return W2^2 between each row of `values` with `shares` and that of `others`, equal shares.

    W2^2 = int_0^1 (F^-1(p) - G^-1(p))^2 dp, where both are staircases.
    """
    values, order = values.sort(dim=1)
    others = others.sort(dim=1).values
    reached = shares[order].cumsum(1)
    even = torch.arange(1, others.shape[1] + 1, dtype=values.dtype) / others.shape[1]
    even = even.expand_as(others).contiguous()
    edges = torch.cat([reached.clamp(max=1), even], dim=1).sort(dim=1).values
    before = torch.cat([torch.zeros_like(edges[:, :1]), edges[:, :-1]], dim=1)
    middle = (edges + before) / 2
    mine = torch.searchsorted(reached.contiguous(), middle).clamp(max=values.shape[1] - 1)
    theirs = torch.searchsorted(even, middle).clamp(max=others.shape[1] - 1)
    gaps = values.gather(1, mine) - others.gather(1, theirs)
    return ((edges - before) * gaps.square()).sum(1)
