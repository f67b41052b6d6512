"""Photon counts behind an object: N ~ Poisson(blank exp(-m)) for line integrals m (Beer-Lambert).

`PoissonTransmission` is that law. `LogTransmission` is its Gaussian approximation in the logarithm,

    y = -log(N / blank),   y | m ~ N(m, 1 / N + excess^2),

good where counts are many. In both, the data are the counts N >= 0.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_number
from operators.diagonal import Diagonal
from operators.errors import value_error
from operators.space import Space
from workbench.noise.base import (
    GaussianForm,
    Noise,
    Value,
    as_step,
    check_data,
    check_draws,
    check_not_negative,
    check_parameter,
    check_real,
    double,
    positive,
    precise,
    total,
)
from workbench.noise.transmission import STARVED, line_integrals
from workbench.random import Keys
from workbench.random.poisson_draws import LARGEST_MEAN

__all__ = ["LogTransmission", "PoissonTransmission"]

#: From the lower bounds that `lambert` starts at, six Newton steps reach double precision.
NEWTON_STEPS = 6
#: Data below the first number where more than the second is expected look like line integrals.
LOGGED = (20.0, 1000.0)


@dataclass(frozen=True, eq=False, repr=False)
class _Transmission(Noise):
    """Counts behind an object; `blank` > 0 is the expected count without it, broadcasting to the data."""

    blank: Value

    def __post_init__(self) -> None:
        object.__setattr__(self, "blank", positive(self.blank, "blank"))

    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` are counts >= 0 of the shape of `space`, which is real."""
        check_real(space, "line integrals")
        check_data(data, space, is_complex=False)
        check_not_negative(data, "photon counts")
        check_parameter(self.blank, "blank", data)
        least = float(self.blank.min()) if isinstance(self.blank, Tensor) else self.blank
        if float(data.max()) < LOGGED[0] and least > LOGGED[1] and bool((data != data.round()).any()):
            warnings.warn(
                f"`data` reach {float(data.max()):.3g}, where {least:g} counts are expected without an "
                "object, and are no integers: if their logarithm has been taken already, use Gaussian noise.",
                UserWarning,
                stacklevel=4,
            )

    def _log_blank(self, like: Tensor) -> Value:
        blank = self._served("blank", like)
        return blank.log() if isinstance(blank, Tensor) else math.log(blank)

    def _rate(self, predicted: Tensor) -> Tensor:
        """Return blank exp(-m), at most the root of the largest number: what follows has room for sums."""
        largest = 0.5 * math.log(torch.finfo(predicted.dtype).max)
        return (self._log_blank(predicted) - predicted).clamp(max=largest).exp()


@dataclass(frozen=True, eq=False, repr=False)
class PoissonTransmission(_Transmission):
    """N ~ Poisson(blank exp(-m)), log-concave in m."""

    name: ClassVar[str] = "poisson"

    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the log-probability of the counts, per batch element."""
        counts = double(data)
        log_rate = self._log_blank(counts) - double(predicted)
        return total(counts * log_rate - log_rate.exp() - torch.lgamma(counts + 1), data)

    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return blank exp(-m) - N."""
        return self._rate(predicted) - precise(data, predicted)

    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return blank exp(-m) d."""
        del data
        return self._rate(predicted) * direction

    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return the m of N - blank exp(-m) + (m - point) / step = 0, by Lambert's W.

        With u = step blank exp(-m) that is u + log u = q, q = log(step blank) - point + step N.
        """
        counts, step = precise(data, point), as_step(step, point, data)
        log_step = step.log() if isinstance(step, Tensor) else math.log(step)
        top = self._log_blank(point) + log_step
        u = lambert(top - point + step * counts)
        # m = top - log u either way; for small u that is the difference of two large numbers.
        return torch.where(u > 1, top - u.log(), point - step * counts + u)

    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return counts."""
        check_draws(predicted, keys)
        least = float(predicted.detach().min())
        rate = self._rate(predicted)
        if float(rate.max()) > LARGEST_MEAN:
            raise value_error(
                "predicted",
                f"be line integrals with expected counts of at most {LARGEST_MEAN:g}",
                f"{float(rate.max()):.3g} counts, at a smallest line integral of {least:.3g}",
                "Line integrals are >= 0 behind a real object: check the unit of the image, 1/mm.",
            )
        return keys.poisson(rate, purpose)


@dataclass(frozen=True, eq=False, repr=False)
class LogTransmission(_Transmission):
    """-log(N / blank) ~ N(m, 1 / N + excess^2), the density of that logarithm; no count is taken for half.

    `excess` is the standard deviation of line integrals beyond that of counting: what electronics add, and
    what the voxels of a grid cannot represent (`workbench.calibrate.discretisation`). Its name is that of the
    Gaussian law it is; what its whitened data are, `gaussian_form` says.
    """

    excess: float = 0.0

    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "excess", check_number(self.excess, "excess", non_negative=True))

    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` are counts >= 0; warn of starved rays, once for this law."""
        super().check(data, space)
        if "_memo_checked" not in self.__dict__:
            self.__dict__["_memo_checked"] = True
            line_integrals(data, self.blank)

    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the log of the density of -log(N / blank), per batch element."""
        integrals, weights = self._logarithm(double(data))
        square = weights * (integrals - double(predicted)) ** 2
        return total(0.5 * (weights / (2 * math.pi)).log() - 0.5 * square, data)

    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return w (y - m), w = 1 / (1 / N + excess^2)."""
        integrals, weights = self._logarithm(precise(data, predicted))
        return weights * (integrals - predicted)

    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return w d."""
        del predicted
        return self._weights(precise(data, direction).clamp(min=STARVED)) * direction

    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return (point + step w y) / (1 + step w)."""
        integrals, weights = self._logarithm(precise(data, point))
        weights = weights * as_step(step, point, data)
        return point + (integrals - point) * (weights / (1 + weights))

    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return real-valued counts N = blank exp(-y), y ~ N(m, 1 / expected count + excess^2)."""
        check_draws(predicted, keys)
        white = keys.normals(predicted.shape[1:], purpose, like=predicted)
        expected = self._rate(predicted).clamp(min=STARVED)
        return self._rate(predicted + white / self._weights(expected).sqrt())

    def gaussian_form(self, data: Tensor, space: Space) -> GaussianForm:
        """Return W = sqrt(w) and y = -log(N / blank)."""
        integrals, weights = self._logarithm(data)
        constant = float(0.5 * (double(weights) / (2 * math.pi)).log().sum())
        return GaussianForm(Diagonal(space, weights.sqrt()), integrals, constant)

    def _weights(self, counts: Tensor) -> Tensor:
        return counts / (1 + self.excess**2 * counts)

    def _logarithm(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        counts = counts.clamp(min=STARVED)
        return self._log_blank(counts) - counts.log(), self._weights(counts)


def lambert(q: Tensor) -> Tensor:
    """Return the u > 0 of u + log u = q, that is Lambert's W(exp(q)), for any finite q.

    f(u) = u + log u - q is increasing and concave: from any u with f(u) <= 0, Newton's steps rise
    to the root and never pass it. Both starts are such lower bounds: W(z) >= z / (1 + z), and
    W(z) >= log z - log log z for z >= e. Where exp(q) underflows, u is the smallest normal number.
    """
    q = q.clamp(min=math.log(torch.finfo(q.dtype).tiny))
    u = torch.where(q > 1, q - q.clamp(min=1).log(), q.sigmoid())
    for _ in range(NEWTON_STEPS):
        u = u * (1 + q - u.log()) / (1 + u)
    return u
