"""Diagonal operators: masks that keep the shape, and weights, entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Diagonal"]


class Diagonal(LinearOperator):
    """x -> weights * x. A boolean mask sets what it hides to zero.

    `weights` broadcasts against one element of `space`, so a line mask need not be repeated over
    coils or slices. Complex weights need a complex space.
    """

    def __init__(self, space: Space, weights: Tensor) -> None:
        super().__init__(space, space)
        if not isinstance(weights, Tensor):
            raise type_error("weights", "be a torch.Tensor", type(weights).__name__)
        if weights.dtype in (torch.bool, torch.uint8, torch.int32, torch.int64):
            weights = weights.to(torch.float32)
        check_tensor(weights, "weights")
        self.weights = Constant(weights, "weights")
        check_finite(weights, "weights")
        if weights.is_complex() and not space.is_complex:
            raise type_error("weights", "be real on a real space", weights.dtype)
        tail = space.shape[len(space.shape) - weights.ndim :]
        if weights.ndim > space.ndim or any(
            w not in (1, n) for w, n in zip(weights.shape, tail, strict=True)
        ):
            raise value_error("weights", f"broadcast to {space.shape}", tuple(weights.shape))
        self.is_unitary = bool((weights.abs() == 1).all())

    @property
    def H(self) -> LinearOperator:
        """The diagonal of the conjugate weights; itself for real ones."""
        value = self.weights.value
        return Diagonal(self.domain, value.conj().resolve_conj()) if value.is_complex() else self

    def _apply(self, x: Tensor) -> Tensor:
        return x * self.weights.like(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return y * self.weights.like(y).conj()

    def _apply_gram(self, x: Tensor) -> Tensor:
        weights = self.weights.like(x)
        return x * (weights * weights.conj()).real if weights.is_complex() else x * weights * weights

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        energy = self.weights.value.abs().double() ** 2
        if self.weights.value.numel() == 1:
            return inner.scaled(float(energy))
        return Spectrum(energy).combined(inner, torch.mul)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self._congruence(inner)

    def _svd(self) -> SVD:
        value = self.weights.value
        size = value.abs()
        phase = torch.where(size > 0, value / torch.where(size > 0, size, 1.0), torch.ones_like(value))
        values = size.double().expand(self.domain.shape)
        return SVD(Diagonal(self.domain, phase), values, Identity(self.domain))
