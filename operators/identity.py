"""The identity: x -> x."""

from __future__ import annotations

from torch import Tensor

from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Identity"]


class Identity(LinearOperator):
    """x -> x on any space."""

    is_unitary = True

    def __init__(self, space: Space) -> None:
        super().__init__(space, space)

    @property
    def H(self) -> LinearOperator:
        """Itself."""
        return self

    def _apply(self, x: Tensor) -> Tensor:
        # A copy: autograd and in-place users must not meet the argument itself.
        return x.clone()

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def _apply_gram(self, x: Tensor) -> Tensor:
        return x

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner

    def _svd(self) -> SVD:
        return SVD(self, Spectrum.ones().values.expand(self.domain.shape), self)
