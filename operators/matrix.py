"""Any linear operator given by its matrix: small problems, learned factors, tests against the truth.

    vec(y) = M vec(x)          vec: the entries of an element in C order

The singular values come from M once, in double precision. From real x to complex y the adjoint is
y -> Re(M^H y), and the singular vectors u are orthonormal for Re <., .>: those of [Re M; Im M].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from operators import linalg
from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.linalg import TraceEstimate
from operators.linear import SVD, LinearOperator
from operators.space import Space

__all__ = ["Matrix"]


class Matrix(LinearOperator):
    """x -> M x for a dense `matrix` M of shape (codomain.size, domain.size).

    Complex entries need a complex codomain, and so does a complex domain. `unitary` states that
    M^H M = M M^H = I, which products and solves then use; it is refused where it is plainly untrue.
    """

    def __init__(self, domain: Space, codomain: Space, matrix: Tensor, *, unitary: bool = False) -> None:
        super().__init__(domain, codomain)
        self.matrix = Constant(check_tensor(matrix, "matrix"), "matrix")
        wanted = (codomain.size, domain.size)
        if tuple(matrix.shape) != wanted:
            raise value_error(
                "matrix", f"have shape (codomain.size, domain.size) = {wanted}", tuple(matrix.shape)
            )
        check_finite(matrix, "matrix")
        if domain.is_complex and not codomain.is_complex:
            raise type_error("codomain", "be complex, as the domain is", codomain)
        if matrix.is_complex() and not codomain.is_complex:
            raise type_error("matrix", "be real for a real codomain", matrix.dtype, "Use a complex codomain.")
        #: Real numbers in, complex ones out.
        self._is_mixed = codomain.is_complex and not domain.is_complex
        self.is_unitary = unitary
        if unitary:
            self._refuse_if_not_unitary()

    @property
    def H(self) -> LinearOperator:
        """The operator of the conjugate transpose."""
        if self._is_mixed:
            return super().H
        # In a list, which a search for tensors does not enter: each of the two holds the other.
        if "_memo_adjoint" not in self.__dict__:
            twin = Matrix(self.codomain, self.domain, self.matrix.value.mH.resolve_conj())
            twin.is_unitary = self.is_unitary
            twin.__dict__["_memo_adjoint"] = [self]
            self.__dict__["_memo_adjoint"] = [twin]
        return cast("list[Matrix]", self.__dict__["_memo_adjoint"])[0]

    def _apply(self, x: Tensor) -> Tensor:
        y = _rows_times(x.flatten(1), self.matrix.like(x).mT)
        return y.to(self.codomain.dtype_like(x)).reshape(-1, *self.codomain.shape)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        x = _rows_times(y.flatten(1), self.matrix.like(y).conj())
        return (x.real if self._is_mixed else x).reshape(-1, *self.domain.shape)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> TraceEstimate:
        """Return tr A^H A, the sum of |M_ij|^2."""
        del probes, seed
        return TraceEstimate(float(self.matrix.value.abs().double().square().sum()))

    def _svd(self) -> SVD:
        return self._factors

    @property
    def _factors(self) -> SVD:
        if "_memo_factors" not in self.__dict__:
            self.__dict__["_memo_factors"] = self._decomposed()
        return cast(SVD, self.__dict__["_memo_factors"])

    def _decomposed(self) -> SVD:
        matrix = self.matrix.value
        wide = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
        if self._is_mixed:
            wide = torch.cat([wide.real, wide.imag if wide.is_complex() else torch.zeros_like(wide)])
        rows, columns = wide.shape
        # All right singular vectors; where rows are fewer, values and left vectors are filled with zeros.
        u, s, vh = torch.linalg.svd(wide, full_matrices=rows < columns)
        missing = columns - s.numel()
        u = torch.nn.functional.pad(u[:, : s.numel()], (0, missing))
        s = torch.nn.functional.pad(s, (0, missing))
        if self._is_mixed:
            u = torch.complex(u[: rows // 2], u[rows // 2 :])
        middle = Space((columns,), self.domain.is_complex)
        v = Matrix(middle, self.domain, vh.mH.resolve_conj(), unitary=True)
        return SVD(Matrix(middle, self.codomain, u), s, v)

    def _refuse_if_not_unitary(self) -> None:
        value = self.matrix.value
        remedy = "Leave out unitary=True."
        if self._is_mixed or value.shape[0] != value.shape[1]:
            raise value_error(
                "matrix", "be square, and between spaces of one kind, to be unitary", self, remedy
            )
        # One direction shows a matrix that is not: M^H M x = x.
        probe = linalg.normals((1, len(value)), seed=0, index=0, like=value)
        error = float((_rows_times(_rows_times(probe, value.mT), value.conj()) - probe).abs().max())
        if error > 1e3 * torch.finfo(value.dtype).eps * len(value) ** 0.5:
            raise value_error("matrix", "be unitary, as stated", f"|M^H M x - x| up to {error:.1e}", remedy)


def _rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows @ matrix where either may be complex."""
    if rows.is_complex() == matrix.is_complex():
        return rows @ matrix
    if rows.is_complex():
        return torch.complex(rows.real @ matrix, rows.imag @ matrix)
    return torch.complex(rows @ matrix.real, rows @ matrix.imag)
