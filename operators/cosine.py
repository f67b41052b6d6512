"""The orthonormal cosine transform (DCT-II): it diagonalises even filters with reflecting ends.

    y_m = s_m sum_n x_n cos(pi m (2 n + 1) / 2 N),      s_0 = N^-1/2, else s_m = (2 / N)^1/2

along each axis. With v the even entries of x, then the odd ones backwards, this is
Re(s_m exp(-pi i m / 2 N) (FFT v)_m), and its adjoint, which is its inverse, runs the same steps back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from operators.batch import by_components
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Cosine"]


class Cosine(LinearOperator):
    """Unitary DCT-II over `axes` of a space, by default the last three longer than one entry."""

    is_unitary = True

    def __init__(self, domain: Space, axes: Sequence[int] | None = None) -> None:
        shape = Space.require(domain, "domain").shape
        super().__init__(domain, Space(shape, domain.is_complex))
        self.axes = checked_axes(domain, axes)
        self._phases = tuple(Constant(_phase(shape[axis])) for axis in self.axes)

    def _apply(self, x: Tensor) -> Tensor:
        return by_components(self._cosines, x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return by_components(self._back, y)

    def _cosines(self, x: Tensor) -> Tensor:
        for axis, phase in zip(self.axes, self._phases, strict=True):
            line = x.movedim(axis, -1)
            line = torch.cat([line[..., ::2], line[..., 1::2].flip(-1)], dim=-1)
            x = (torch.fft.fft(line) * phase.like(line)).real.movedim(-1, axis)
        return x

    def _back(self, y: Tensor) -> Tensor:
        for axis, phase in zip(self.axes, self._phases, strict=True):
            line = y.movedim(axis, -1)
            line = torch.fft.ifft(line * phase.like(line).conj(), norm="forward").real
            even = (line.shape[-1] + 1) // 2
            back = torch.empty_like(line)
            back[..., ::2] = line[..., :even]
            back[..., 1::2] = line[..., even:].flip(-1)
            y = back.movedim(-1, axis)
        return y

    def _apply_gram(self, x: Tensor) -> Tensor:
        return x

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner if inner.is_scalar else None

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner if inner.is_scalar else None

    def _svd(self) -> SVD:
        return SVD(self, Spectrum.ones(self.device).values.expand(self.domain.shape), Identity(self.domain))


def even_response(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the eigenvalues of the convolution with an even `kernel` with reflecting ends: real cosines.

    h_0 + 2 sum_{j > 0} h_j cos(pi m j / N) along each axis, over the trailing axes of `shape`.
    """
    for axis in range(-kernel.ndim, 0):
        k, n = kernel.shape[axis], shape[axis]
        if k == 1:
            continue
        offset = torch.arange(k, dtype=torch.float64, device=kernel.device) - k // 2
        frequency = torch.arange(n, dtype=torch.float64, device=kernel.device)
        cosines = torch.cos(math.pi * ((frequency[:, None] * offset) % (2 * n)) / n)
        kernel = torch.tensordot(kernel, cosines, dims=([axis], [1])).movedim(-1, axis)
    return kernel


def checked_axes(domain: Space, axes: Sequence[int] | None, argument: str = "axes") -> tuple[int, ...]:
    """Return axes of `domain` as negative numbers in ascending order."""
    if axes is None:
        return tuple(a for a in range(-min(3, domain.ndim), 0) if domain.shape[a] > 1) or (-1,)
    if not isinstance(axes, Sequence) or not all(isinstance(a, int) for a in axes):
        raise type_error(argument, f"be integers that name axes of {domain.shape}", repr(axes))
    chosen = [a - domain.ndim if a >= 0 else a for a in axes]
    if not chosen or len(set(chosen)) != len(chosen) or not all(-domain.ndim <= a < 0 for a in chosen):
        raise value_error(argument, f"name axes of {domain.shape}, each once", tuple(axes))
    if sorted(chosen) != chosen:
        raise value_error(argument, "be in ascending order", tuple(axes))
    return tuple(chosen)


def _phase(n: int) -> Tensor:
    m = torch.arange(n, dtype=torch.float64)
    scale = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    return torch.polar(scale, -math.pi * m / (2 * n))
