"""Filters with periodic ends: a frequency response, multiplied in the plain FFT.

    x -> F^-1 (response * F x)         frequency 0 first, over the last axes of a space

A real response is a self-adjoint filter; on real images it is even in frequency. A complex one
shifts phases; on real images response(-k) = conj(response(k)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.diagonal import Diagonal
from operators.errors import value_error
from operators.fourier import Fourier
from operators.linear import SVD, LinearOperator
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["PeriodicFilter", "checked_response"]


class PeriodicFilter(LinearOperator):
    """x -> F^-1 (response * F x), alike for every component in front of the filtered axes.

    `response` has the shape of the last axes of `domain`, as many as it has itself, in the order of
    torch.fft.fftn.
    """

    def __init__(self, domain: Space, response: Tensor) -> None:
        super().__init__(domain, domain)
        checked_response(domain, response, "response")
        self.axes = tuple(range(-response.ndim, 0))
        wide = response.to(torch.complex128 if response.is_complex() else torch.float64)
        self.response = Constant(wide, "response")
        self.is_unitary = bool((wide.abs() == 1).all())

    @property
    def H(self) -> LinearOperator:
        """The filter of the conjugate response; itself for a real one."""
        value = self.response.value
        return PeriodicFilter(self.domain, value.conj().resolve_conj()) if value.is_complex() else self

    def _apply(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.response.like(x))

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.response.like(y).conj())

    def _apply_gram(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.response.like(x).abs().square())

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        if x.is_complex():
            spectral: Tensor = torch.fft.fftn(x, dim=self.axes) * response
            full: Tensor = torch.fft.ifftn(spectral, dim=self.axes)
            return full
        half = response.narrow(-1, 0, x.shape[-1] // 2 + 1)
        sizes = [x.shape[axis] for axis in self.axes]
        real: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=self.axes) * half, s=sizes, dim=self.axes)
        return real

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        energy = self.response.value.abs() ** 2
        return Spectrum(energy, self.axes).combined(inner, torch.mul)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self._congruence(inner)  # filters commute

    def _svd(self) -> SVD:
        response = self.response.value
        size = response.abs()
        phase = torch.where(size > 0, response / torch.where(size > 0, size, 1.0), torch.ones_like(response))
        plain = Fourier(self.domain, self.axes, centred=False)
        return SVD(plain.H @ Diagonal(plain.codomain, phase), size.expand(self.domain.shape), plain.H)


def checked_response(domain: Space, response: Tensor, argument: str) -> Tensor:
    """Return `response` if it is a frequency response on the last axes of `domain`."""
    check_tensor(response, argument)
    if response.ndim == 0 or tuple(response.shape) != domain.shape[-response.ndim :]:
        raise value_error(
            argument, f"have the shape of the last axes of {domain.shape}", tuple(response.shape)
        )
    check_finite(response, argument)
    if not domain.is_complex:
        axes = list(range(response.ndim))
        mirrored = response.flip(axes).roll([1] * len(axes), axes).conj()
        error = float((response - mirrored).abs().max())
        if error > 100 * torch.finfo(response.dtype).eps * float(response.abs().max()):
            raise value_error(
                argument,
                "be even: value(-k) = conj(value(k)), which keeps real images real",
                f"a difference of {error:.1e}",
                "Frequencies in the order of torch.fft.fftn; a point-spread function: Blur(..., 'periodic').",
            )
    return response
