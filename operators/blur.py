"""Blur by a point-spread function, with periodic ends, through the FFT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.constant import Constant
from operators.diagonal import Diagonal
from operators.errors import type_error, value_error
from operators.fourier import Fourier
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["PeriodicBlur"]


class PeriodicBlur(LinearOperator):
    """Circular convolution with a real point-spread function over the last axes of a space.

    `psf` has one axis per blurred axis, its centre at index N // 2, and may not exceed the field. It
    is used as given: one that sums to 1 keeps the mean.
    """

    def __init__(self, domain: Space, psf: Tensor) -> None:
        super().__init__(domain, domain)
        check_tensor(psf, "psf")
        psf = Constant(psf, "psf").value
        check_finite(psf, "psf")
        if psf.is_complex():
            raise type_error("psf", "be real", psf.dtype)
        field = domain.shape[-psf.ndim :] if 0 < psf.ndim <= domain.ndim else ()
        if not field or any(k > n for k, n in zip(psf.shape, field, strict=True)):
            raise value_error(
                "psf", f"have at most the shape of the field, {domain.shape}", tuple(psf.shape), "Crop it."
            )
        self.axes = tuple(range(-psf.ndim, 0))
        padded = torch.zeros(field, dtype=torch.float64, device=psf.device)
        padded[tuple(slice(0, k) for k in psf.shape)] = psf.double()
        centred = padded.roll([-(k // 2) for k in psf.shape], dims=list(self.axes))
        self._transfer = Constant(torch.fft.fftn(centred))

    @classmethod
    def gaussian(
        cls, domain: Space, fwhm: Sequence[float] | float, *, device: torch.device | str = "cpu"
    ) -> PeriodicBlur:
        """Return the blur by a Gaussian of full width at half maximum `fwhm` in mm, (z, y, x)."""
        grid = Space.require(domain, "domain").grid
        if grid is None:
            raise value_error("domain", "lie on a Grid, for lengths in mm", domain)
        widths = list(fwhm) if isinstance(fwhm, Sequence) else [fwhm] * 3
        if len(widths) != 3:
            raise value_error("fwhm", "be one width in mm or three (z, y, x)", tuple(widths))
        psf = torch.ones((1, 1, 1), dtype=torch.float64, device=device)
        for axis, (width, n, step) in enumerate(zip(widths, grid.shape, grid.spacing, strict=True)):
            width = check_number(width, f"fwhm[{axis}]", non_negative=True)
            sigma = width / (2 * math.sqrt(2 * math.log(2)))
            distance = (torch.arange(n, dtype=torch.float64, device=device) - n // 2) * step
            # exp(-d^2 / 2 sigma^2), and a single one at d = 0 for width 0.
            profile = torch.exp(-0.5 * (distance / sigma) ** 2) if sigma > 0 else (distance == 0).double()
            psf = psf * (profile / profile.sum()).reshape([-1 if a == axis else 1 for a in range(3)])
        return cls(domain, psf)

    def _apply(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer.like(x))

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self._transfer.like(y).conj())

    def _apply_gram(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer.like(x).abs().square())

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        if x.is_complex():
            spectral: Tensor = torch.fft.fftn(x, dim=self.axes) * transfer
            full: Tensor = torch.fft.ifftn(spectral, dim=self.axes)
            return full
        half = transfer.narrow(-1, 0, x.shape[-1] // 2 + 1)
        sizes = [x.shape[axis] for axis in self.axes]
        real: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=self.axes) * half, s=sizes, dim=self.axes)
        return real

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        energy = self._transfer.value.abs() ** 2
        return Spectrum(energy, self.axes).combined(inner, torch.mul)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self._congruence(inner)  # convolutions commute

    def _svd(self) -> SVD:
        transfer = self._transfer.value
        size = transfer.abs()
        phase = torch.where(size > 0, transfer / torch.where(size > 0, size, 1.0), torch.ones_like(transfer))
        plain = Fourier(self.domain, self.axes, centred=False)
        return SVD(plain.H @ Diagonal(plain.codomain, phase), size.expand(self.domain.shape), plain.H)
