"""Linear operators and their algebra: adjoint, normal operator, products, sums, multiples.

A new operator subclasses `LinearOperator` and writes `_apply` and `_apply_adjoint`. Where it knows
a closed form it also writes `_congruence` (and `_dual_congruence`, `_svd`); every exact solve,
pseudo-inverse, norm and trace, of products too, then follows from these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

from torch import Tensor

from operators.base import Operator
from operators.checks import check_scalar
from operators.constant import single_device
from operators.errors import NoClosedFormError, type_error, value_error
from operators.solves import NormalSolves, Stopping
from operators.spectrum import Spectrum


@dataclass(frozen=True)
class SVD:
    """A = u diag(s) v^H, with v v^H = I on the domain; s >= 0 has the shape of the spectral space.

    Over a real domain a Fourier v^H gives complex, Hermitian-symmetric coefficients.
    """

    u: LinearOperator
    s: Tensor
    v: LinearOperator


class LinearOperator(NormalSolves):
    """A linear operator: application, adjoint, algebra and solves."""

    #: Whether A^H A = A A^H = I.
    is_unitary: bool = False
    #: numpy scalars must leave `2.0 * A` to `__rmul__`.
    __array_ufunc__ = None

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return Adjoint(self)

    @property
    def gram(self) -> LinearOperator:
        """The normal operator A^H A."""
        return Gram(self)

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: object) -> Operator: ...
    def __matmul__(self, other: object) -> Operator:
        """Return the product self other, linear if both are."""
        if isinstance(other, LinearOperator):
            return Product(self, other)
        return super().__matmul__(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """Return the sum of two operators between the same spaces."""
        return Sum(self, other)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        """Return the difference of two operators between the same spaces."""
        _check_linear(other, "other")
        return Sum(self, Scaled(-1.0, other))

    def __rmul__(self, factor: complex) -> LinearOperator:
        """Return the multiple factor * A."""
        return Scaled(factor, self)

    def __mul__(self, factor: complex) -> LinearOperator:
        """Return the multiple A * factor."""
        return Scaled(factor, self)

    def __truediv__(self, divisor: complex) -> LinearOperator:
        """Return A / divisor."""
        number = check_scalar(divisor, "divisor")
        if number == 0:
            raise value_error("divisor", "not be zero", divisor)
        return Scaled(1 / number, self)

    def __neg__(self) -> LinearOperator:
        """Return -A."""
        return Scaled(-1.0, self)

    def measurement_solve(
        self,
        r: Tensor,
        c: float | Tensor = 0.0,
        *,
        start: Tensor | None = None,
        tolerance: float | None = None,
        max_iterations: int = 1000,
    ) -> Tensor:
        """Return the z of (A A^H + c I) z = r, the same solve in the space of the data."""
        return self.H._checked_solve(r, c, start, Stopping(tolerance, max_iterations, "r"))

    def svd(self) -> SVD:
        """Return the singular value decomposition where it has a closed form."""
        factors = self._svd()
        if factors is None:
            raise NoClosedFormError(
                f"{self!r} has no closed-form singular value decomposition. "
                "Use a method that needs products with A and A^H only."
            )
        return factors

    @property
    def has_svd(self) -> bool:
        """Whether svd() has a closed form."""
        return self._svd() is not None

    @property
    def has_closed_form(self) -> bool:
        """Whether normal_solve is exact, without iterations."""
        return self._gram_spectrum is not None or self.has_svd

    def _svd(self) -> SVD | None:
        return None

    def _solve_normal(self, b: Tensor, c: Tensor, start: Tensor | None, stopping: Stopping) -> Tensor:
        if self._gram_spectrum is not None or (factors := self._svd()) is None:
            return super()._solve_normal(b, c, start, stopping)
        # A^H A = v s^2 v^H and v v^H = I.
        coefficients = factors.v._apply_adjoint(b)
        shift = c.reshape(-1, *[1] * (coefficients.ndim - 1))
        return factors.v._apply(Spectrum(factors.s.double() ** 2).solve(coefficients, shift))

    def _pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor | None:
        if self._gram_spectrum is not None or (factors := self._svd()) is None:
            return super()._pseudo_solve(b, cutoff)
        squares = Spectrum(factors.s.double() ** 2)
        return factors.v._apply(squares.pseudo_solve(factors.v._apply_adjoint(b), cutoff))


class Adjoint(LinearOperator):
    """A^H; over a real domain its values are the real part, so it is linear over the reals only."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.codomain, op.domain)
        self.op = op
        self.adjoint_error = op.adjoint_error
        self.is_unitary = op.is_unitary

    @property
    def H(self) -> LinearOperator:
        """The operator this is the adjoint of."""
        return self.op

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.op.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        return self.op._apply_adjoint(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.op._apply(y)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        return self.op._dual_congruence(inner)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self.op._congruence(inner)

    def _svd(self) -> SVD | None:
        # Of a tall matrix, and of real images with complex values, u u^H is no identity.
        if self.domain.is_complex != self.codomain.is_complex or self.domain.size != self.codomain.size:
            return None
        factors = self.op._svd()
        return None if factors is None else SVD(factors.v, factors.s, factors.u)


class Gram(LinearOperator):
    """A^H A."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.domain, op.domain)
        op._require_exact_adjoint("gram")
        self.op = op
        self.is_unitary = op.is_unitary

    @property
    def H(self) -> LinearOperator:
        """Itself: A^H A is self-adjoint."""
        return self

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.op.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        return self.op._apply_gram(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.op._apply_gram(y)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        own = self.op._gram_spectrum
        return None if own is None else own.combined(inner, lambda mine, theirs: mine**2 * theirs)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self._congruence(inner)

    def _svd(self) -> SVD | None:
        factors = self.op._svd()
        return None if factors is None else SVD(factors.v, factors.s**2, factors.v)


class Product(LinearOperator):
    """outer inner."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        outer.domain.check_same(inner.codomain, "inner.codomain")
        super().__init__(inner.domain, outer.codomain)
        self.outer = outer
        self.inner = inner
        self.adjoint_error = outer.adjoint_error + inner.adjoint_error
        self.is_unitary = outer.is_unitary and inner.is_unitary
        single_device((outer, inner), "outer and inner operator")

    @property
    def H(self) -> LinearOperator:
        """inner^H outer^H, so that closed forms of the factors are still seen."""
        return Product(self.inner.H, self.outer.H)

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.outer.over_complex and self.inner.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        return self.outer._apply(self.inner._apply(x))

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.inner._apply_adjoint(self.outer._apply_adjoint(y))

    def _apply_gram(self, x: Tensor) -> Tensor:
        if (spectrum := self._gram_spectrum) is not None:
            return spectrum.apply(x, lambda values: values)
        return self.inner._apply_adjoint(self.outer._apply_gram(self.inner._apply(x)))

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        between = self.outer._congruence(inner)
        return None if between is None else self.inner._congruence(between)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        between = self.inner._dual_congruence(inner)
        return None if between is None else self.outer._dual_congruence(between)

    def _svd(self) -> SVD | None:
        # A unitary factor turns the singular vectors and leaves the values: U S V^H R = U S (R^H V)^H.
        if self.inner.is_unitary and (factors := self.outer._svd()) is not None:
            return SVD(factors.u, factors.s, Product(self.inner.H, factors.v))
        if self.outer.is_unitary and (factors := self.inner._svd()) is not None:
            return SVD(Product(self.outer, factors.u), factors.s, factors.v)
        return None


class Sum(LinearOperator):
    """first + second, between the same spaces."""

    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        _check_linear(second, "second")
        first.domain.check_same(second.domain, "second.domain")
        first.codomain.check_same(second.codomain, "second.codomain")
        super().__init__(first.domain, first.codomain)
        self.first = first
        self.second = second
        self.adjoint_error = max(first.adjoint_error, second.adjoint_error)
        single_device((first, second), "first and second operator")

    @property
    def H(self) -> LinearOperator:
        """The sum of the adjoints."""
        return Sum(self.first.H, self.second.H)

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.first.over_complex and self.second.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        return self.first._apply(x) + self.second._apply(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.first._apply_adjoint(y) + self.second._apply_adjoint(y)


class Scaled(LinearOperator):
    """factor A; a complex factor needs complex values."""

    def __init__(self, factor: complex, op: LinearOperator) -> None:
        number = check_scalar(factor, "factor")
        if number.imag != 0 and not op.codomain.is_complex:
            raise type_error("factor", "be real for an operator with real values", number)
        super().__init__(op.domain, op.codomain)
        self.factor = number if number.imag != 0 else number.real
        self.op = op
        self.adjoint_error = op.adjoint_error
        self.is_unitary = op.is_unitary and abs(number) == 1

    @property
    def H(self) -> LinearOperator:
        """conj(factor) A^H, so that what A^H knows is still seen."""
        if isinstance(self.factor, complex) and not self.op.domain.is_complex:
            return Adjoint(self)  # Re(conj(factor) A^H y) is no multiple of Re(A^H y)
        return Scaled(self.factor.conjugate(), self.op.H)

    @property
    def over_complex(self) -> bool:
        """Whether its parts are linear over the complex numbers."""
        return self.op.over_complex

    def _apply(self, x: Tensor) -> Tensor:
        return self.factor * self.op._apply(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self.op._apply_adjoint(self.factor.conjugate() * y)

    def _apply_gram(self, x: Tensor) -> Tensor:
        return abs(self.factor) ** 2 * self.op._apply_gram(x)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        spectrum = self.op._congruence(inner)
        return None if spectrum is None else spectrum.scaled(abs(self.factor) ** 2)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        spectrum = self.op._dual_congruence(inner)
        return None if spectrum is None else spectrum.scaled(abs(self.factor) ** 2)

    def _svd(self) -> SVD | None:
        factors = self.op._svd()
        size = abs(self.factor)
        if factors is None or size == 0:
            return None
        return SVD(Scaled(self.factor / size, factors.u), size * factors.s, factors.v)


def _check_linear(other: object, argument: str) -> None:
    if not isinstance(other, LinearOperator):
        raise type_error(argument, "be a LinearOperator", type(other).__name__)
