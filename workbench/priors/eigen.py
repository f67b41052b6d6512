"""Covariances in a basis where they are diagonal: S = basis spectrum basis^H, basis basis^H = I."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Eigen", "eigen_of"]


@dataclass(frozen=True)
class Eigen:
    """A self-adjoint S on `space`; no basis: the spectrum alone."""

    space: Space
    basis: LinearOperator | None
    spectrum: Spectrum

    @property
    def values(self) -> Tensor:
        """All eigenvalues, in double precision, in the shape of one element of the basis."""
        modes = self.space if self.basis is None else self.basis.domain
        return self.spectrum.values.double().expand(modes.shape)

    def apply(self, v: Tensor, function: Callable[..., Tensor], *levels: Tensor) -> Tensor:
        """Return function(S, *levels) v for `v` (batch, ...), each level one number per batch element."""
        inner = v if self.basis is None else self.basis.apply_adjoint(v)
        columns = [level.double().reshape(-1, *[1] * (inner.ndim - 1)) for level in levels]
        result = self.spectrum.apply(inner, lambda values: function(values, *columns))
        return result if self.basis is None else self.basis.apply(result)


def eigen_of(root: LinearOperator) -> Eigen | None:
    """Return the eigendecomposition of S = R R^H, None where no basis is known."""
    adjoint = root.H
    if (spectrum := adjoint._gram_spectrum) is not None:
        return Eigen(root.codomain, None, spectrum)
    if not adjoint.has_svd:
        return None
    factors = adjoint.svd()
    s = factors.s.double()
    rounding = s.numel() * torch.finfo(torch.float64).eps * s.max()
    return Eigen(root.codomain, factors.v, Spectrum(torch.where(s > rounding, s, 0.0) ** 2))
