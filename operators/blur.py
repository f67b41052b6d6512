"""Blur by a point-spread function, with periodic ends, through the FFT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.circulant import PeriodicFilter
from operators.constant import Constant
from operators.errors import type_error, value_error
from operators.space import Space

__all__ = ["PeriodicBlur"]


class PeriodicBlur(PeriodicFilter):
    """Circular convolution with a real point-spread function over the last axes of a space.

    `psf` has one axis per blurred axis, its centre at index N // 2, and may not exceed the field. It
    is used as given: one that sums to 1 keeps the mean.
    """

    def __init__(self, domain: Space, psf: Tensor) -> None:
        Space.require(domain, "domain")
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
        axes = list(range(-psf.ndim, 0))
        padded = torch.zeros(field, dtype=torch.float64, device=psf.device)
        padded[tuple(slice(0, k) for k in psf.shape)] = psf.double()
        centred = padded.roll([-(k // 2) for k in psf.shape], dims=axes)
        super().__init__(domain, torch.fft.fftn(centred))

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
