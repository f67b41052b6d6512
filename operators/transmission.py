"""Mean counts behind an object: A(x) = blank exp(-P x) + background (Beer-Lambert).

P gives line integrals without a unit, `blank` the mean count of each ray without the object (the flat
field, I0) and `background` what is counted besides: scatter, dark counts, randoms. These are means, which
a plain Poisson law turns into counts. Without a background, `PoissonTransmission` on P itself is the same
likelihood; with one it is no longer log-concave, and this operator is what describes it.

    J v = -blank f'(t) P v,     J^H r = -P^H (blank f'(t) r),     t = -P x,     f = exp

Where blank exp(t) nears the root of the largest number, at t = T, f goes on as its tangent,
f(t) = e^T (1 + t - T): the values stay finite and rising, and the derivative, e^T, still leads back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite, check_number, check_tensor
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["TransmissionCounts"]


class TransmissionCounts(Operator):
    """x -> blank exp(-inner x) + background, both >= 0, a number or a tensor that broadcasts to the data.

    A ray of `blank` 0 is dead: it counts the background whatever the object.
    """

    def __init__(
        self, inner: LinearOperator, blank: float | Tensor, background: float | Tensor = 0.0
    ) -> None:
        if not isinstance(inner, LinearOperator):
            raise type_error("inner", "be a LinearOperator", type(inner).__name__)
        if inner.codomain.is_complex:
            raise type_error("inner", "give real line integrals", inner.codomain)
        inner._require_exact_adjoint("TransmissionCounts")
        super().__init__(inner.domain, inner.codomain)
        self.dtypes = inner.dtypes
        self.inner = inner
        counts = _counts(blank, "blank", inner.codomain)
        if not bool((counts > 0).any()):
            raise value_error("blank", "be above 0 for one ray at least", 0.0)
        self.blank = Constant(counts, "blank")
        self.background = Constant(_counts(background, "background", inner.codomain), "background")
        self._log_blank = Constant(torch.where(counts > 0, counts, 1.0).double().log())

    def _apply(self, x: Tensor) -> Tensor:
        exponent = -self.inner._nested(x)
        bent = self._bent(exponent)
        return self.blank.like(x) * bent.exp() * (1 + (exponent - bent)) + self.background.like(x)

    def apply_vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return J(x)^H r for arguments known to fit."""
        return self.inner.apply_adjoint(self._slope(x) * r)

    def apply_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v for arguments known to fit."""
        return self._slope(x) * self.inner.apply(v)

    def _slope(self, x: Tensor) -> Tensor:
        return -self.blank.like(x) * self._bent(-self.inner.apply(x)).exp()

    def _bent(self, exponent: Tensor) -> Tensor:
        """Return the exponent, at most where the tangent begins."""
        largest = 0.5 * math.log(torch.finfo(exponent.dtype).max)
        return torch.minimum(exponent, largest - self._log_blank.like(exponent))


def _counts(value: float | Tensor, argument: str, space: Space) -> Tensor:
    """Return mean counts >= 0 that broadcast against one element of `space`."""
    if not isinstance(value, Tensor):
        return torch.tensor(check_number(value, argument, non_negative=True), dtype=torch.float64)
    check_finite(check_tensor(value, argument), argument)
    if value.is_complex():
        raise type_error(argument, "be real", value.dtype)
    if bool((value < 0).any()):
        raise value_error(argument, "be >= 0", float(value.min()))
    tail = space.shape[max(space.ndim - value.ndim, 0) :]
    if value.ndim > space.ndim or any(v not in (1, n) for v, n in zip(value.shape, tail, strict=True)):
        raise value_error(argument, f"broadcast to {space.shape}", tuple(value.shape))
    return value
