"""The centred orthonormal Fourier transform, with the point of zero phase stated.

    y_m = N^-1/2 sum_n x_n exp(-2 pi i s (m - M) (n - n0) / N)        along each transformed axis

m is the index of the frequency, M = N // 2 that of frequency zero; n0 is the (possibly fractional)
index of the voxel position that has zero phase, by default the FFT centre N // 2 (not the geometric
centre (N - 1) / 2); s = -1 for an axis that runs against the frequency axis of the scanner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_number
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Fourier"]


class Fourier(LinearOperator):
    """Unitary FFT over `axes` of a space, by default the last three axes longer than one voxel.

    `zero_phase` gives n0 per axis, `signs` s per axis. On a real domain the values are complex all
    the same and the adjoint takes the real part. `centred=False` puts frequency zero first (M = 0)
    and, unless told otherwise, zero phase at voxel 0: the plain FFT.
    """

    def __init__(
        self,
        domain: Space,
        axes: Sequence[int] | None = None,
        *,
        zero_phase: Sequence[float] | None = None,
        signs: Sequence[int] | None = None,
        centred: bool = True,
    ) -> None:
        super().__init__(domain, Space(Space.require(domain, "domain").shape, is_complex=True))
        self.axes = _sorted_axes(domain, axes)
        sizes = [domain.shape[axis] for axis in self.axes]
        self.centred = centred
        first = [n // 2 if centred else 0 for n in sizes]
        self.zero_phase = _per_axis(first if zero_phase is None else zero_phase, len(sizes), "zero_phase")
        turned = _per_axis([1] * len(sizes) if signs is None else signs, len(sizes), "signs")
        if not set(turned) <= {1.0, -1.0}:
            raise value_error("signs", "be +1 or -1 for each axis", turned)
        self.signs = tuple(int(s) for s in turned)
        self.is_unitary = domain.is_complex
        # exp(-2 pi i s (m - M)(n - n0) / N) = before_n exp(-2 pi i s m n / N) after_m
        before, after = [], []
        for n, m0, n0, s in zip(sizes, first, self.zero_phase, self.signs, strict=True):
            index = torch.arange(n, dtype=torch.float64)
            before.append(_phase(s * m0 * index / n))
            after.append(_phase(s * (index - m0) * n0 / n))
        self._before = _outer(before, self.axes)
        self._after = _outer(after, self.axes)
        self._forward_axes = tuple(a for a, s in zip(self.axes, self.signs, strict=True) if s > 0)
        self._backward_axes = tuple(a for a, s in zip(self.axes, self.signs, strict=True) if s < 0)

    def _apply(self, x: Tensor) -> Tensor:
        y = x if self._before is None else x * self._before.like(x)
        y = y.to(self.codomain.dtype_like(x))
        if self._forward_axes:
            y = torch.fft.fftn(y, dim=self._forward_axes, norm="ortho")
        if self._backward_axes:
            y = torch.fft.ifftn(y, dim=self._backward_axes, norm="ortho")
        return y if self._after is None else y * self._after.like(y)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        x = y if self._after is None else y * self._after.like(y).conj()
        if self._forward_axes:
            x = torch.fft.ifftn(x, dim=self._forward_axes, norm="ortho")
        if self._backward_axes:
            x = torch.fft.fftn(x, dim=self._backward_axes, norm="ortho")
        x = x if self._before is None else x * self._before.like(x).conj()
        return x if self.domain.is_complex else x.real

    def _apply_gram(self, x: Tensor) -> Tensor:
        return x

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        """F^H diag(w) F is a convolution: the phases cancel, frequencies are put in plain FFT order."""
        if inner.is_scalar:
            return inner
        if inner.axes:
            return None
        values = inner.values
        for axis, sign in zip(self.axes, self.signs, strict=True):
            if values.ndim < -axis or values.shape[axis] == 1:
                continue
            n = values.shape[axis]
            plain = torch.arange(n, device=values.device)
            stored = (sign * plain + (n // 2 if self.centred else 0)) % n
            values = values.index_select(values.ndim + axis, stored)
        if not self.domain.is_complex:
            # Re(F^H diag(w) F) keeps the part of w that is even in frequency.
            dims = [axis for axis in self.axes if values.ndim >= -axis]
            values = (values + values.flip(dims).roll([1] * len(dims), dims)) / 2
        return Spectrum(values, self.axes)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner if inner.is_scalar and self.domain.is_complex else None

    def _svd(self) -> SVD:
        ones = Spectrum.ones(self.device).values.expand(self.domain.shape)
        return SVD(self, ones, Identity(self.domain))


def _sorted_axes(domain: Space, axes: Sequence[int] | None) -> tuple[int, ...]:
    if axes is None:
        axes = [a for a in range(-min(3, domain.ndim), 0) if domain.shape[a] > 1] or [-1]
    if not isinstance(axes, Sequence) or not all(isinstance(a, (int, np.integer)) for a in axes):
        raise type_error("axes", f"be integers that name axes of {domain.shape}", repr(axes))
    negative = [int(a) - domain.ndim if a >= 0 else int(a) for a in axes]
    inside = all(-domain.ndim <= a < 0 for a in negative)
    if not negative or not inside or len(set(negative)) != len(negative):
        raise value_error("axes", f"name axes of {domain.shape}, each once", tuple(axes))
    if sorted(negative) != negative:
        raise value_error("axes", "be in ascending order", tuple(axes))
    return tuple(negative)


def _per_axis(values: Sequence[float], count: int, name: str) -> tuple[float, ...]:
    if not isinstance(values, (Sequence, np.ndarray)) or len(values) != count:
        raise value_error(name, f"have one entry per transformed axis ({count})", repr(values))
    return tuple(check_number(value, f"{name}[{i}]") for i, value in enumerate(values))


def _phase(turns: Tensor) -> Tensor:
    # Reduced to one turn first: cos and sin of large arguments lose digits.
    angle = 2 * math.pi * (turns - turns.round())
    return torch.polar(torch.ones_like(angle), angle)


def _outer(factors: list[Tensor], axes: tuple[int, ...]) -> Constant | None:
    product = torch.ones((), dtype=torch.complex128)
    for factor, axis in zip(factors, axes, strict=True):
        product = product * factor.reshape(-1, *[1] * (-axis - 1))
    if bool((product - 1).abs().max() < 1e-15):
        return None
    if bool(product.imag.abs().max() < 1e-15):
        return Constant(product.real.round(decimals=15))
    return Constant(product)


def fast_length(n: int) -> int:
    """Return the smallest length >= n without a prime factor above 7: what an FFT is quick with."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
