"""Where a figure has to lie, from draws of the law that the solver's own equations give.

Several sets of draws of a law, each of as many as the solver gave, say what each metric is for that law, bias
and all, and how far chance moves it. Whether draws follow a Gaussian law is asked of all their components at
once, in sigmas of three statistics of K rows of n that should be white:

    mean          K |mean|^2 is chi-square of n
    variance      the sum of squares of the first j components is chi-square of K j, the farthest off of all j
    correlation   half of K sum over i != j of (T^T T / K)_ij^2 is chi-square of n (n - 1) / 2, nearly
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipelines.verify.referee.metrics import Metrics, measure
from pipelines.verify.referee.truth import Truth

__all__ = ["SIGMAS", "Band", "bands_around", "bands_of", "near", "normality"]

#: Standard deviations that chance may move a figure by.
SIGMAS = 5.0


@dataclass(frozen=True)
class Band:
    """low <= value <= high."""

    low: float
    high: float

    def holds(self, value: float | None) -> bool:
        """Whether the value lies inside; None and NaN do not."""
        return value is not None and self.low <= value <= self.high


def bands_of(sets: Iterable[Tensor], truth: Truth) -> dict[str, Band]:
    """Return a band for every metric from sets of draws (count, n)."""
    return bands_around([measure(rows, truth) for rows in sets])


def bands_around(found: Sequence[Metrics]) -> dict[str, Band]:
    """Return a band for every metric from those of several sets."""
    bands = {}
    for field in fields(Metrics):
        values = [getattr(metrics, field.name) for metrics in found]
        if any(value is None for value in values):
            continue
        numbers = torch.tensor(values, dtype=torch.float64)
        # The mean of the sets is off by chance, too, and their spread is that of a few.
        wide = SIGMAS * float(numbers.std()) * (1 + 1 / len(found)) ** 0.5 * (1 + 2 / len(found))
        middle = float(numbers.mean())
        bands[field.name] = Band(middle - wide - 1e-12, middle + wide + 1e-12)
    return bands


def near(metrics: Metrics, share: float) -> dict[str, Band]:
    """Return bands around the figures of draws that have to be the same ones but for rounding."""
    values = {field.name: getattr(metrics, field.name) for field in fields(Metrics)}
    return {
        name: Band(value - share * (1 + abs(value)), value + share * (1 + abs(value)))
        for name, value in values.items()
        if value is not None
    }


def normality(rows: Tensor) -> dict[str, float]:
    """Return three statistics of rows that should be independent standard normals, in their own sigmas."""
    count, n = rows.shape
    mean = (count * rows.mean(0).square().sum() - n) / (2 * n) ** 0.5
    several = count * torch.arange(1, n + 1, dtype=rows.dtype)
    variances = (rows.square().sum(0).cumsum(0) - several) / (2 * several).sqrt()
    variance = variances[variances.abs().argmax()]
    gram = rows.T @ rows / count - torch.eye(n, dtype=rows.dtype)
    off = gram.square().sum() - gram.diagonal().square().sum()
    pairs = n * (n - 1) / 2
    # Few rows of many components are correlated by chance in a way that the chi-square does not know.
    correlation = ((count * off / 2 - pairs) / (2 * pairs) ** 0.5) / (1 + n / count**0.5 / SIGMAS)
    return {"mean": float(mean), "variance": float(variance), "correlation": float(correlation)}
