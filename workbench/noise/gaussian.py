"""Gaussian noise: y = m + n, independent per datum or correlated.

    independent   n ~ N(0, sigma^2) in each real component
    correlated    W n is white, sd 1 in each real component: Cov n = (W^H W)^-1

Complex data have two components: E|n|^2 = 2 sigma^2. Where a source states the total, sd^2 = E|n|^2,
it is `Gaussian.from_total(sd)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from operators.checks import check_number
from operators.constant import single_device
from operators.diagonal import Diagonal
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from workbench.noise.base import (
    GaussianForm,
    Noise,
    Value,
    as_step,
    check_data,
    check_draws,
    check_square,
    deviation,
    double,
    per_sample,
    precise,
    total,
)
from workbench.random import Keys

__all__ = ["CorrelatedGaussian", "Gaussian"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Noise):
    """y = m + sigma w, w standard normal in each real component, for real and for complex data.

    `sigma` is a number, or a tensor that broadcasts to the data. Data without noise (sigma 0) need
    an explicit `floor`: a smaller sigma is raised to it, with a warning.
    """

    name: ClassVar[str] = "gaussian"

    sigma: Value
    floor: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", deviation(self.sigma, self.floor))

    @classmethod
    def from_total(cls, sd: Value, *, floor: float | None = None) -> Gaussian:
        """Return the noise of complex data with E|n|^2 = sd^2: sd / sqrt 2 in each component."""
        if not isinstance(sd, Tensor):
            sd = check_number(sd, "sd")
        return cls(sd / math.sqrt(2), floor=floor)

    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` are one element of `space`, and sigma broadcasts to them."""
        check_data(data, space, is_complex=space.is_complex)
        check_square(self.sigma, "sigma", data)

    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the log of the normalised density, per batch element."""
        residual = (double(predicted) - double(data)) / self._served("sigma", double(data))
        return self._log_normaliser(data) - 0.5 * total(_square(residual), data)

    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return (y - m) / sigma^2."""
        return (precise(data, predicted) - predicted) / self._served("sigma", predicted) ** 2

    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return d / sigma^2."""
        del predicted, data
        return direction / self._served("sigma", direction) ** 2

    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return (sigma^2 point + step y) / (sigma^2 + step)."""
        variance, step = self._served("sigma", point) ** 2, as_step(step, point, data)
        return point + (precise(data, point) - point) * (step / (variance + step))

    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return m + sigma w."""
        check_draws(predicted, keys)
        white = keys.normals(predicted.shape[1:], purpose, like=predicted)
        return predicted + self._served("sigma", predicted) * white

    def gaussian_form(self, data: Tensor, space: Space) -> GaussianForm:
        """Return W = 1 / sigma: a multiple of the identity for one sigma, else diagonal."""
        weights = 1 / torch.as_tensor(self.sigma, dtype=torch.float64)
        if weights.numel() == 1:
            whitener: LinearOperator = float(weights) * Identity(space)
        else:
            whitener = Diagonal(space, precise(weights, data))
        return GaussianForm(whitener, data, self._log_normaliser(data))

    def shifted(self, data: Tensor, offset: Tensor) -> Tensor:
        """Return y - offset."""
        return data - precise(offset, data)

    def _log_normaliser(self, data: Tensor) -> float:
        if "_memo_mean_log" not in self.__dict__:
            # It broadcasts to the data: each of its entries is met equally often.
            logs = torch.as_tensor(self.sigma, dtype=torch.float64).log()
            self.__dict__["_memo_mean_log"] = float(logs.mean())
        mean: float = self.__dict__["_memo_mean_log"]
        return -_components(data) * data.numel() * (mean + 0.5 * LOG_2PI)


@dataclass(frozen=True, eq=False, repr=False)
class CorrelatedGaussian(Noise):
    """y = m + n with W n white for an injective `whitener` W on the space of the data.

    `log_determinant` is log |det W| (half the log of det W^H W), over the numbers that W is linear
    over. Without it, it is taken from a closed form; where there is none, `log_likelihood` leaves the
    constant out and `is_normalised` is False: fit for comparing predictions, not whiteners.
    """

    name: ClassVar[str] = "gaussian"

    whitener: LinearOperator
    log_determinant: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.whitener, LinearOperator):
            remedy = "One sd per datum: Gaussian(sigma)."
            raise type_error("whitener", "be a LinearOperator", type(self.whitener).__name__, remedy)
        given = self.log_determinant
        number = _log_determinant(self.whitener) if given is None else check_number(given, "log_determinant")
        object.__setattr__(self, "log_determinant", number)

    @property
    def is_normalised(self) -> bool:
        """Whether the density is known with its constant."""
        return self.log_determinant is not None

    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` are one element of `space`, the domain of the whitener."""
        space.check_same(self.whitener.domain, "whitener.domain")
        check_data(data, space, is_complex=space.is_complex)
        single_device((self.whitener, data), "noise.whitener and data")

    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return -|W (y - m)|^2 / 2, with the log of the density's constant where that is known."""
        # The difference in double precision: at a high signal to noise it is all that is left of the two.
        residual = double(predicted) - double(data)
        if torch.float64 not in self.whitener.dtypes:
            residual = precise(residual, predicted)
        white = self.whitener.apply(residual)
        square = _square(double(white)).sum(dim=tuple(range(-self.whitener.codomain.ndim, 0)))
        return (self._log_normaliser(data) or 0.0) - 0.5 * square

    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return W^H W (y - m)."""
        return self._gram(precise(data, predicted) - predicted)

    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return W^H W d."""
        del predicted, data
        return self._gram(direction)

    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return point + (W^H W + I / step)^-1 W^H W (y - point); `step` varies over the batch only."""
        step = per_sample(step, "step", point.shape[: point.ndim - data.ndim], point)
        return point + self.whitener.normal_solve(self.score(point, data), 1 / step)

    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return m + (W^H W)^-1 W^H w."""
        check_draws(predicted, keys)
        whitener = self.whitener
        like = predicted.new_empty(0, dtype=whitener.codomain.dtype_like(predicted))
        white = keys.normals(whitener.codomain.shape, purpose, like=like)
        return predicted + whitener.normal_solve(whitener.apply_adjoint(white))

    def gaussian_form(self, data: Tensor, space: Space) -> GaussianForm:
        """Return the whitener itself."""
        del space
        return GaussianForm(self.whitener, data, self._log_normaliser(data))

    def shifted(self, data: Tensor, offset: Tensor) -> Tensor:
        """Return y - offset."""
        return data - precise(offset, data)

    def _gram(self, residual: Tensor) -> Tensor:
        return self.whitener.apply_adjoint(self.whitener.apply(residual))

    def _log_normaliser(self, data: Tensor) -> float | None:
        if self.log_determinant is None:
            return None
        # As a map of real components, a complex-linear W has |det W|^2.
        factor = 2 if self.whitener.over_complex else 1
        return factor * self.log_determinant - 0.5 * LOG_2PI * _components(data) * data.numel()


def _log_determinant(whitener: LinearOperator) -> float | None:
    spectrum = whitener._gram_spectrum
    if spectrum is not None:
        squares = spectrum.values.double().expand(whitener.domain.shape)
    elif whitener.has_svd:
        squares = whitener.svd().s.double() ** 2
    else:
        return None
    if squares.numel() < whitener.domain.size or float(squares.min()) <= 0:
        remedy = "Leave unmeasured data out of the operator instead of giving them no weight."
        raise value_error("whitener", "be injective", "a singular value of 0", remedy)
    return 0.5 * float(squares.log().sum())


def _components(data: Tensor) -> int:
    return 2 if data.is_complex() else 1


def _square(values: Tensor) -> Tensor:
    return values.real**2 + values.imag**2 if values.is_complex() else values**2
