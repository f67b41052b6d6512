"""Posteriors that are known: what the draws of a sampler are held against.

All of it is over the real components of u, rows (K, n) in double precision; a complex u counts twice, real
and imaginary part side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from operators.errors import value_error
from operators.space import Space
from workbench.priors.chances import chosen_by
from workbench.random import Keys

__all__ = [
    "FieldTruth",
    "GaussianTruth",
    "GridTruth",
    "MixtureTruth",
    "Truth",
    "components_of",
    "from_reals",
    "reals",
]

DOUBLE = torch.empty(0, dtype=torch.float64)


def reals(u: Tensor) -> Tensor:
    """Return rows of real numbers out of (batch, ...)."""
    return (torch.view_as_real(u.resolve_conj()) if u.is_complex() else u).double().flatten(1)


def from_reals(rows: Tensor, space: Space) -> Tensor:
    """Return the elements (batch, *shape) of `space` whose real components are `rows`."""
    if not space.is_complex:
        return rows.reshape(-1, *space.shape)
    return torch.view_as_complex(rows.reshape(-1, *space.shape, 2).contiguous())


def components_of(entries: Tensor, space: Space) -> Tensor:
    """Return the indices of the real components of `entries`, flat indices of an element of `space`."""
    if not space.is_complex:
        return entries
    return torch.stack([2 * entries, 2 * entries + 1], dim=-1).flatten()


class Truth(ABC):
    """A posterior over n real components.

    `mean` and `sd` (n,) are known of all, `covariance` (p, p) of the components `patch` (p,), all of them
    where there are few. `modes` counts what draws may be confused between.
    """

    def __init__(self, mean: Tensor, sd: Tensor, patch: Tensor, covariance: Tensor) -> None:
        count = len(mean)
        if mean.shape != (count,) or sd.shape != (count,):
            raise value_error("sd", f"have the shape of the mean, {tuple(mean.shape)}", tuple(sd.shape))
        if covariance.shape != (len(patch), len(patch)):
            raise value_error("covariance", f"have shape {(len(patch),) * 2}", tuple(covariance.shape))
        self.mean, self.sd = mean.double(), sd.double()
        self.patch, self.covariance = patch.long(), covariance.double()

    @property
    def size(self) -> int:
        """The number of real components."""
        return len(self.mean)

    @property
    def modes(self) -> int:
        """The number of modes."""
        return len(self.mode_weights)

    @property
    def mode_weights(self) -> Tensor:
        """The probability of each mode (modes,)."""
        return torch.ones(1, dtype=torch.float64)

    def mode_chances(self, rows: Tensor) -> Tensor | None:
        """Return the probability that each row belongs to each mode (K, modes), None for a single mode."""
        del rows
        return None

    @abstractmethod
    def cdf(self, ends: Tensor) -> Tensor:
        """Return the marginal distribution functions at `ends` (k, n), one column per component."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> Tensor | None:
        """Return exact draws (count, n), None where there are none to be had."""


class FieldTruth(Truth):
    """A Gaussian too large for its covariance: that of a `patch`, the sd of all, a function that draws."""

    def __init__(
        self,
        mean: Tensor,
        sd: Tensor,
        patch: Tensor,
        covariance: Tensor,
        draws: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        super().__init__(mean, sd, patch, covariance)
        # Each solver is measured against the same draws.
        self._draws = None if draws is None else lru_cache(maxsize=1)(draws)

    def cdf(self, ends: Tensor) -> Tensor:
        """Return the normal distribution functions."""
        below: Tensor = torch.special.ndtr((ends - self.mean) / self.sd)
        return below

    def draw(self, count: int, seed: int) -> Tensor | None:
        """Return what the function draws."""
        return None if self._draws is None else self._draws(count, seed)


class GaussianTruth(FieldTruth):
    """N(mean, covariance), all of it known."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        root = _root(covariance.double())

        def draws(count: int, seed: int) -> Tensor:
            return mean.double() + _white(count, seed, len(mean)) @ root.T

        super().__init__(mean, covariance.diagonal().sqrt(), torch.arange(len(mean)), covariance, draws)


class MixtureTruth(Truth):
    """sum_k weights[k] N(means[k], covariances[k]); each component is a mode.

    `means` is (modes, n), `covariances` (modes, n, n), positive definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        if covariances.shape != (len(weights), means.shape[1], means.shape[1]):
            wanted = (len(weights), means.shape[1], means.shape[1])
            raise value_error("covariances", f"have shape {wanted}", tuple(covariances.shape))
        self._weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        mean = self._weights @ self.means
        apart = self.means - mean
        total = torch.einsum("k,kij->ij", self._weights, self.covariances)
        total = total + torch.einsum("k,ki,kj->ij", self._weights, apart, apart)
        super().__init__(mean, total.diagonal().sqrt(), torch.arange(len(mean)), total)
        self._factors = torch.linalg.cholesky(self.covariances)

    @property
    def mode_weights(self) -> Tensor:
        """The weights of the components."""
        return self._weights

    def mode_chances(self, rows: Tensor) -> Tensor:
        """Return the probability of each component given a row."""
        logs = []
        for weight, mean, factor in zip(self._weights, self.means, self._factors, strict=True):
            white = torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False)
            logs.append(weight.log() - factor.diagonal().log().sum() - 0.5 * white.square().sum(0))
        return torch.softmax(torch.stack(logs, dim=1), dim=1)

    def cdf(self, ends: Tensor) -> Tensor:
        """Return the mixtures of normal distribution functions."""
        sd = self.covariances.diagonal(dim1=1, dim2=2).sqrt()
        parts = torch.special.ndtr((ends[:, None] - self.means) / sd)
        return torch.einsum("m,kmn->kn", self._weights, parts)

    def draw(self, count: int, seed: int) -> Tensor:
        """Return draws: the component first."""
        chosen = chosen_by(Keys(seed, tuple(range(count))), self._weights, "referee: component")
        rows = _white(count, seed, self.size)
        for k, (mean, factor) in enumerate(zip(self.means, self._factors, strict=True)):
            rows[chosen == k] = mean + rows[chosen == k] @ factor.T
        return rows


class GridTruth(Truth):
    """A density over two components from its logarithm at the midpoints of equal cells of a rectangle.

    `first` and `second` are the midpoints, evenly spaced; `log_density` (len(first), len(second)) needs no
    constant. The midpoint rule errs by less than any power of the cells' size where the density and its
    slopes vanish at the border; within a cell draws and distribution functions take it as constant. The
    modes are the half-planes <direction, u> > 0 and < 0, in this order.
    """

    def __init__(self, first: Tensor, second: Tensor, log_density: Tensor, direction: Tensor) -> None:
        if log_density.shape != (len(first), len(second)):
            wanted = (len(first), len(second))
            raise value_error("log_density", f"have shape {wanted}", tuple(log_density.shape))
        self.axes = (first.double(), second.double())
        self.steps = torch.stack([axis[1] - axis[0] for axis in self.axes])
        self.chances = torch.softmax(log_density.double().flatten(), 0).reshape(log_density.shape)
        self.direction = direction.double()
        points = torch.stack(torch.meshgrid(*self.axes, indexing="ij"), dim=-1).flatten(0, 1)
        flat = self.chances.flatten()
        mean = flat @ points
        covariance = (points - mean).T @ (flat[:, None] * (points - mean))
        super().__init__(mean, covariance.diagonal().sqrt(), torch.arange(2), covariance)
        self._weights = flat @ self.mode_chances(points)

    @property
    def mode_weights(self) -> Tensor:
        """The probability of each half-plane."""
        return self._weights

    def mode_chances(self, rows: Tensor) -> Tensor:
        """Return ones and zeros; on the line between them halves."""
        inside = 0.5 + 0.5 * (rows @ self.direction).sign()
        return torch.stack([inside, 1 - inside], dim=1)

    def cdf(self, ends: Tensor) -> Tensor:
        """Return the shares of the cells below, of a cell in proportion."""
        columns: list[Tensor] = []
        for axis, step, values in zip(self.axes, self.steps, ends.T, strict=True):
            shares = self.chances.sum(1 - len(columns))
            below = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
            place = ((values - axis[0]) / step + 0.5).clamp(0, len(axis))
            cell = place.floor().long().clamp(max=len(axis) - 1)
            columns.append(below[cell] + (place - cell) * shares[cell])
        return torch.stack(columns, dim=1)

    def draw(self, count: int, seed: int) -> Tensor:
        """Return draws: the cell, and a place in it."""
        keys = Keys(seed, tuple(range(count)))
        chosen = chosen_by(keys, self.chances.flatten(), "referee: cell")
        place = keys.uniforms((2,), "referee: place", like=DOUBLE) - 0.5
        cells = torch.stack([chosen // len(self.axes[1]), chosen % len(self.axes[1])], dim=1)
        corner = torch.stack([axis[0] for axis in self.axes])
        return corner + (cells + place) * self.steps


def _white(count: int, seed: int, size: int) -> Tensor:
    return Keys(seed, tuple(range(count))).normals((size,), "referee: truth", like=DOUBLE)


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
