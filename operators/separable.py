"""A small matrix along each axis: y = (M_1 x M_2 x ... ) x, the Kronecker product of dense matrices.

Its singular values are the products of those of the factors, its singular vectors theirs. So every
solve, pseudo-inverse, norm and trace is exact at the price of one small SVD per axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from operators.batch import by_components
from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.cosine import checked_axes
from operators.errors import type_error, value_error
from operators.linalg import TraceEstimate
from operators.linear import SVD, LinearOperator
from operators.space import Space

__all__ = ["Separable"]


class Separable(LinearOperator):
    """x -> the matrix of each axis applied along it; `matrices` maps an axis to (values, arguments).

    Axes without a matrix are left alone. Complex matrices need complex spaces.
    """

    def __init__(self, domain: Space, codomain: Space, matrices: Mapping[int, Tensor]) -> None:
        super().__init__(domain, codomain)
        if not isinstance(matrices, Mapping):
            raise type_error("matrices", "map axes to matrices", repr(matrices))
        if domain.is_complex != codomain.is_complex:
            raise type_error("codomain", "be complex if the domain is, else real", codomain)
        ordered = sorted(matrices, key=lambda a: a - domain.ndim if a >= 0 else a)
        self.axes = checked_axes(domain, ordered, "matrices")
        self.matrices = tuple(
            Constant(_checked(matrices[name], f"matrices[{name}]", domain.shape[axis], domain.is_complex))
            for name, axis in zip(ordered, self.axes, strict=True)
        )
        shape = list(domain.shape)
        for axis, matrix in zip(self.axes, self.matrices, strict=True):
            shape[axis] = len(matrix.value)
        if codomain.shape != tuple(shape):
            raise value_error("codomain", f"have the shape of the values, {tuple(shape)}", codomain.shape)
        # Least work first: along the axis that shrinks most.
        rank = [m.value.shape[0] / m.value.shape[1] for m in self.matrices]
        self._order = tuple(sorted(range(len(rank)), key=rank.__getitem__))

    @property
    def H(self) -> LinearOperator:
        """The operator of the conjugate transposes."""
        if "_memo_adjoint" not in self.__dict__:
            turned = {a: m.value.mH.resolve_conj() for a, m in zip(self.axes, self.matrices, strict=True)}
            twin = Separable(self.codomain, self.domain, turned)
            # In a list, which a search for tensors does not enter: each of the two holds the other.
            twin.__dict__["_memo_adjoint"] = [self]
            self.__dict__["_memo_adjoint"] = [twin]
        return cast("list[LinearOperator]", self.__dict__["_memo_adjoint"])[0]

    def _apply(self, x: Tensor) -> Tensor:
        for i in self._order:
            x = _along(x, self.matrices[i].like(x), self.axes[i])
        return x

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        for i in reversed(self._order):
            y = _along(y, self.matrices[i].like(y).mH, self.axes[i])
        return y

    def norm(self, *, tolerance: float = 1e-6, max_iterations: int = 300, seed: int = 0) -> float:
        """Return the product of the matrices' norms."""
        del tolerance, max_iterations, seed
        return math.prod(float(torch.linalg.matrix_norm(_wide(m.value), 2)) for m in self.matrices)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> TraceEstimate:
        """Return the product of the sums of |M_ij|^2, once for each entry of the axes left alone."""
        del probes, seed
        others = self.domain.size // math.prod(self.domain.shape[a] for a in self.axes)
        return TraceEstimate(
            others * math.prod(float(_wide(m.value).abs().square().sum()) for m in self.matrices)
        )

    def _svd(self) -> SVD:
        if "_memo_factors" not in self.__dict__:
            self.__dict__["_memo_factors"] = self._decomposed()
        return cast(SVD, self.__dict__["_memo_factors"])

    def _decomposed(self) -> SVD:
        lefts, rights = {}, {}
        values = torch.ones((), dtype=torch.float64, device=self.device)
        for axis, constant in zip(self.axes, self.matrices, strict=True):
            rows, columns = constant.value.shape
            # All right singular vectors; where rows are fewer, values and left vectors are filled with zeros.
            u, s, vh = torch.linalg.svd(_wide(constant.value), full_matrices=rows < columns)
            missing = columns - s.numel()
            lefts[axis] = torch.nn.functional.pad(u[:, : s.numel()], (0, missing))
            rights[axis] = vh.mH.resolve_conj()
            s = torch.nn.functional.pad(s, (0, missing))
            values = values * s.reshape(-1, *[1] * (-axis - 1))
        middle = Space(self.domain.shape, self.domain.is_complex)
        v = Separable(middle, self.domain, rights)
        v.is_unitary = True
        return SVD(Separable(middle, self.codomain, lefts), values.expand(self.domain.shape), v)


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Return the product of `matrix` with every line of `x` along `axis`."""
    if x.is_complex() and not matrix.is_complex():
        return by_components(lambda part: _along(part, matrix, axis), x)
    if axis == -1:
        return x @ matrix.mT
    after = math.prod(x.shape[axis + 1 :])
    y = matrix @ x.reshape(-1, x.shape[axis], after)
    return y.reshape(*x.shape[:axis], len(matrix), *x.shape[axis + 1 :])


def _wide(matrix: Tensor) -> Tensor:
    return matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)


def _checked(matrix: Tensor, argument: str, columns: int, is_complex: bool) -> Tensor:
    check_tensor(matrix, argument)
    if matrix.ndim != 2 or matrix.shape[1] != columns:
        raise value_error(argument, f"have shape (values, {columns})", tuple(matrix.shape))
    if matrix.is_complex() and not is_complex:
        raise type_error(argument, "be real on a real space", matrix.dtype)
    check_finite(matrix, argument)
    return matrix
