"""Data without phase: A(x) = |B x|^p for a linear B, with p = 2 (intensities) or p = 1 (magnitudes).

    z = B x
    p = 2:    J v = 2 Re(conj(z) B v)         J^H r = 2 B^H (r z)
    p = 1:    J v = Re(conj(sgn z) B v)       J^H r = B^H (r sgn z)          sgn z = z / |z|

|.| has no derivative at 0; sgn 0 = 0 is taken, one of its subgradients. B may be Fourier (far-field
diffraction), a stack of `fourier @ Diagonal(domain, mask)` (coded diffraction patterns; ptychography,
with the probe's positions as masks), a Fresnel propagator, a random matrix.

x and exp(i phi) x have the same data, a real x and -x too. With a Fourier transform alone, so have a
shifted x and the conjugate of x mirrored through the origin: compare results up to these.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from operators.base import Operator
from operators.errors import type_error, value_error
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["PhaseRetrieval"]


class PhaseRetrieval(Operator):
    """x -> |inner x|^power, real, of the shape of what `inner` gives; power 2 or 1."""

    def __init__(self, inner: LinearOperator, *, power: Literal[1, 2] = 2) -> None:
        if not isinstance(inner, LinearOperator):
            raise type_error("inner", "be a LinearOperator", type(inner).__name__)
        inner._require_exact_adjoint("PhaseRetrieval")
        if isinstance(power, bool) or power not in (1, 2):
            raise value_error("power", "be 1 for magnitudes or 2 for intensities", repr(power))
        values = inner.codomain
        super().__init__(inner.domain, Space(values.shape, grid=values.grid))
        self.dtypes = inner.dtypes
        self.inner = inner
        self.power = power

    def _apply(self, x: Tensor) -> Tensor:
        z = self.inner._nested(x)
        if self.power == 1:
            return z.abs()
        return z.real.square() + z.imag.square() if z.is_complex() else z.square()

    def apply_vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Return J(x)^H r for arguments known to fit."""
        z = self.inner.apply(x)
        return self.inner.apply_adjoint(r * (2 * z if self.power == 2 else z.sgn()))

    def apply_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v for arguments known to fit."""
        z, direction = self.inner.apply(x), self.inner.apply(v)
        z = 2 * z if self.power == 2 else z.sgn()
        return z.real * direction.real + z.imag * direction.imag if z.is_complex() else z * direction
