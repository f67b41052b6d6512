"""Masks: which entries of a field were measured, kept in a list or left in place among zeros.

    restrict=True      y = (w_i x_i) for the entries i with w_i != 0, in C order
    restrict=False     y_i = w_i x_i, zero where nothing was measured

Either way A^H A = diag(|w|^2), so every solve is exact, after a unitary transform too: undersampled
k-space is `Mask(fourier.codomain, lines, restrict=True) @ fourier`. Patterns: operators/mask_patterns.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.diagonal import Diagonal
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Mask"]


class Mask(LinearOperator):
    """Entries of `space` where `mask` is not zero, times its value there: True, or a weight.

    `mask` is boolean, real, or complex on a complex space, and broadcasts against one element. Axes in
    front that it does not have stay: restricted, (coils, z, y, x) seen through (y, x) gives
    (coils, z, entries), and a mask with all axes gives (entries,). `fill` goes from the list back
    to the field.
    """

    def __init__(self, space: Space, mask: Tensor, *, restrict: bool) -> None:
        Space.require(space, "space")
        if not isinstance(restrict, bool):
            raise type_error("restrict", "be True or False", repr(restrict))
        weights = _checked(space, mask)
        self.restrict = restrict
        self._weights = Diagonal(space, weights)
        self._split = space.ndim - weights.ndim if weights.ndim else 0
        kept = (weights != 0).expand(space.shape[self._split :])
        if not bool(kept.any()):
            raise value_error("mask", "keep at least one entry", "zero everywhere")
        self._kept = kept.flatten().nonzero()[:, 0]
        self._inside = kept.numel()
        # Zeros and ones need no product.
        self._plain = bool(((weights == 0) | (weights == 1)).all())
        lead = space.shape[: self._split]
        codomain = Space((*lead, len(self._kept)), space.is_complex) if restrict else space
        super().__init__(space, codomain)
        self.is_unitary = self._weights.is_unitary

    @property
    def kept(self) -> Tensor:
        """Boolean tensor of the shape of one element: what is measured."""
        return self._weights.weights.value.ne(0).expand(self.domain.shape)

    def fill(self, y: Tensor, value: float | complex = 0.0) -> Tensor:
        """Return the field with the data `y` as they are where they belong, and `value` elsewhere."""
        self.codomain.check(y, "y")
        if isinstance(value, complex) and not self.domain.is_complex:
            raise type_error("value", "be real on a real space", repr(value))
        background = torch.full_like(y[..., :1], value)
        if self.restrict:
            flat = background.expand(*y.shape[:-1], self._inside)
            return self._shaped(flat.index_copy(-1, self._kept, y))
        return torch.where(self.kept, y, background)

    def _apply(self, x: Tensor) -> Tensor:
        if not self.restrict:
            return self._weights._apply(x)
        y = x if self._plain else self._weights._apply(x)
        return self._gather(y)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        if not self.restrict:
            return self._weights._apply_adjoint(y)
        x = self._scatter(y)
        return x if self._plain else self._weights._apply_adjoint(x)

    def _apply_gram(self, x: Tensor) -> Tensor:
        return self._weights._apply_gram(x)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        if self.restrict and not inner.is_scalar:
            if inner.axes:
                return None
            inner = Spectrum(self._scatter(inner.values.expand(self.codomain.shape)))
        return self._weights._congruence(inner)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        between = self._weights._dual_congruence(inner)
        if between is None or not self.restrict:
            return between
        if between.axes and not between.is_scalar:
            return None
        return Spectrum(self._gather(between.values.expand(self.domain.shape)))

    def _svd(self) -> SVD:
        factors = self._weights._svd()
        if not self.restrict:
            return factors
        weights = self._weights.weights.value
        phases = weights.to(torch.complex128 if weights.is_complex() else torch.float64).sgn()
        return SVD(Mask(self.domain, phases, restrict=True), factors.s, Identity(self.domain))

    def _gather(self, x: Tensor) -> Tensor:
        return x.flatten(x.ndim - self.domain.ndim + self._split).index_select(-1, self._kept)

    def _scatter(self, y: Tensor) -> Tensor:
        return self._shaped(y.new_zeros(*y.shape[:-1], self._inside).index_copy(-1, self._kept, y))

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], *self.domain.shape[self._split :])


def _checked(space: Space, mask: Tensor) -> Tensor:
    """Return the mask as weights that broadcast against one element of `space`."""
    if not isinstance(mask, Tensor):
        raise type_error("mask", "be a torch.Tensor", type(mask).__name__, "Use torch.as_tensor(...).")
    weights = mask.to(torch.float32) if mask.dtype == torch.bool else check_tensor(mask, "mask")
    check_finite(weights, "mask")
    if weights.is_complex() and not space.is_complex:
        raise type_error("mask", "be boolean or real on a real space", weights.dtype)
    tail = space.shape[max(space.ndim - weights.ndim, 0) :]
    if weights.ndim > space.ndim or any(w not in (1, n) for w, n in zip(weights.shape, tail, strict=True)):
        raise value_error("mask", f"broadcast to {space.shape}", tuple(weights.shape))
    return Constant(weights, "mask").value
