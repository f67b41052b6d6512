"""Normal operators that a fast transform diagonalises: solved, inverted and traced in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.errors import value_error
from operators.space import Space


@dataclass(frozen=True)
class Spectrum:
    """A self-adjoint G = B^H diag(values) B: B the identity, or the unitary FFT over `axes`.

    `axes` are negative and sorted; `values` are real, >= 0 and broadcast against an element of the
    domain, Fourier values in plain FFT order (frequency 0 first).
    """

    values: Tensor
    axes: tuple[int, ...] = ()

    @classmethod
    def ones(cls, device: torch.device | None = None) -> Spectrum:
        """Return the spectrum of the identity."""
        return cls(torch.ones((), dtype=torch.float64, device=device))

    @property
    def is_scalar(self) -> bool:
        """Whether G is a multiple of the identity, which every basis diagonalises."""
        return self.values.numel() == 1

    def scaled(self, factor: float) -> Spectrum:
        """Return the spectrum of factor * G."""
        return Spectrum(self.values * factor, self.axes)

    def combined(self, other: Spectrum, combine: Callable[[Tensor, Tensor], Tensor]) -> Spectrum | None:
        """Return `combine` of both sets of values in a common basis, None if there is none known."""
        for axes in (self.axes, other.axes):
            if self.diagonal_in(axes) and other.diagonal_in(axes):
                return Spectrum(combine(self.values, other.values), axes)
        return None

    def diagonal_in(self, axes: tuple[int, ...]) -> bool:
        """Tell whether the FFT over `axes` diagonalises G too: it must not vary along those it adds."""
        if self.is_scalar or self.axes == axes:
            return True
        if not set(self.axes) <= set(axes):
            return False
        added = set(axes) - set(self.axes)
        return all(-axis > self.values.ndim or self.values.shape[axis] == 1 for axis in added)

    def apply(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return function(G) x for `x` of shape (batch, *domain.shape); `function` works in double."""
        factors = function(self.values.to(device=x.device, dtype=torch.float64))
        factors = factors.to(x.real.dtype if x.is_complex() else x.dtype)
        if not self.axes:
            return x * factors
        if x.is_complex():
            spectral: Tensor = torch.fft.fftn(x, dim=self.axes) * factors
            full: Tensor = torch.fft.ifftn(spectral, dim=self.axes)
            return full
        # A real G has values even in frequency: the half spectrum along the last axis is enough.
        last = self.axes[-1]
        if factors.ndim >= -last and factors.shape[last] > 1:
            factors = factors.narrow(last, 0, x.shape[last] // 2 + 1)
        sizes = [x.shape[axis] for axis in self.axes]
        half: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=self.axes) * factors, s=sizes, dim=self.axes)
        return half

    def solve(self, b: Tensor, c: Tensor) -> Tensor:
        """Return (G + c I)^-1 b."""
        shift = c.double()
        # Fourier values carry rounding of the largest one; entries of a diagonal are what they are.
        rounding = torch.finfo(torch.float64).eps * float(self.values.max()) if self.axes else 0.0
        smallest = float(self.values.min()) + float(shift.min())
        if smallest <= rounding or 1 / smallest > torch.finfo(b.dtype).max:
            raise value_error(
                "c",
                "be larger here: the smallest eigenvalue of A^H A + c I is zero to rounding",
                float(shift.min()),
                "Raise c, or use pinv() for the minimum-norm solution.",
            )
        return self.apply(b, lambda values: 1 / (values + shift))

    def pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor:
        """Return G^+ b; values at or below cutoff^2 times the largest count as zero."""

        def invert(values: Tensor) -> Tensor:
            keep = values > cutoff**2 * values.max()
            return torch.where(keep, 1 / torch.where(keep, values, 1.0), 0.0)

        return self.apply(b, invert)

    def trace(self, domain: Space) -> float:
        """Return the trace of G on `domain`."""
        return float(self.values.double().expand(domain.shape).sum())
