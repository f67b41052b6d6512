"""Blur by a point-spread function, with what lies beyond the ends of the field stated.

    y_i = sum_j h_j x_{i + c - j},      the centre c = k // 2 of k entries, odd or even

"periodic": the ends meet. "reflect": the field is mirrored at its outer faces (half-sample, the "reflect"
of scipy.ndimage). "zero": nothing lies outside. "valid": only the values that need nothing outside, on
the grid cropped to them. Closed forms: by the FFT for "periodic"; by the cosine transform for "reflect"
and a kernel even along each axis; axis by axis where the kernel is a product of profiles, whatever the
ends. Other solves run conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from operators.blur import convolution
from operators.blur.psf import PSF
from operators.checks import check_finite, check_tensor
from operators.constant import Constant
from operators.cosine import Cosine, checked_axes, even_response
from operators.diagonal import Diagonal
from operators.errors import type_error, value_error
from operators.fourier import Fourier
from operators.grid import TimeAxis
from operators.linalg import TraceEstimate
from operators.linear import SVD, LinearOperator
from operators.separable import Separable
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["Blur", "Boundary"]

Boundary = Literal["periodic", "reflect", "zero", "valid"]
BOUNDARIES = ("periodic", "reflect", "zero", "valid")
#: Longest axis whose matrix is decomposed, once, for a closed form: about ten seconds.
LONGEST_SVD = 2048


class Blur(LinearOperator):
    """Convolution with a real point-spread function, alike for every component and frame.

    `psf` is a PSF in mm, for the three axes of the domain's grid, or a kernel on its voxels, with one
    axis for each of `axes` (by default the last ones). A kernel is used as given: one that sums to 1
    keeps a constant field. It may exceed the field, except for "valid".
    """

    def __init__(
        self,
        domain: Space,
        psf: PSF | Tensor,
        boundary: Boundary = "reflect",
        *,
        axes: Sequence[int] | None = None,
    ) -> None:
        Space.require(domain, "domain")
        if domain.classes is not None:
            raise type_error("domain", "be a field of numbers", domain)
        if boundary not in BOUNDARIES:
            raise value_error("boundary", f"be one of {', '.join(BOUNDARIES)}", repr(boundary))
        kernel, tolerance = _kernel(domain, psf, axes)
        super().__init__(domain, _valid_values(domain, kernel) if boundary == "valid" else domain)
        self.boundary = boundary
        self.psf = Constant(kernel, "psf")
        self._profiles = convolution.separated(kernel, tolerance)
        self._passes = convolution.passes(kernel, self._profiles, domain.shape, boundary)
        slack = tolerance * float(kernel.abs().max())
        self._is_even = all(
            kernel.shape[a] % 2 == 1 and float((kernel - kernel.flip(a)).abs().max()) <= slack
            for a in range(kernel.ndim)
        )

    def _apply(self, x: Tensor) -> Tensor:
        for step in self._passes:
            x = step.forward(x)
        return x

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        for step in reversed(self._passes):
            y = step.backward(y)
        return y

    def norm(self, *, tolerance: float = 1e-6, max_iterations: int = 300, seed: int = 0) -> float:
        """Return the largest singular value: exact with a closed form, else by Lanczos."""
        if self._gram_spectrum is None and (factors := self._svd()) is not None:
            return float(factors.s.max())
        return super().norm(tolerance=tolerance, max_iterations=max_iterations, seed=seed)

    def gram_trace(self, *, probes: int = 16, seed: int = 0) -> TraceEstimate:
        """Return tr A^H A: exact with a closed form, else by random probes."""
        if self._gram_spectrum is None and (factors := self._svd()) is not None:
            return TraceEstimate(float(factors.s.square().sum()))
        return super().gram_trace(probes=probes, seed=seed)

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        if self.boundary != "periodic":
            return None
        response, axes = convolution.response(self.psf.value, self.domain.shape)
        return Spectrum(response.abs().square(), axes).combined(inner, torch.mul)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return self._congruence(inner)  # both diagonal in one basis

    def _svd(self) -> SVD | None:
        if "_memo_factors" not in self.__dict__:
            self.__dict__["_memo_factors"] = self._factors()
        return cast("SVD | None", self.__dict__["_memo_factors"])

    def _factors(self) -> SVD | None:
        kernel, shape = self.psf.value, self.domain.shape
        if self.boundary == "periodic":
            response, axes = convolution.response(kernel, shape)
            plain = Fourier(self.domain, axes, centred=False).to(kernel.device)
            size = response.abs()
            phase = torch.where(size > 0, response.sgn(), torch.ones_like(response))
            return SVD(plain.H @ Diagonal(plain.codomain, phase), size.expand(shape), plain.H)
        if self.boundary == "reflect" and self._is_even:
            values = even_response(kernel, shape)
            back = Cosine(self.domain, convolution.blurred_axes(kernel)).to(kernel.device).H
            signs = torch.where(values < 0, -1.0, 1.0).double()
            return SVD(back @ Diagonal(back.domain, signs), values.abs().expand(shape), back)
        lines = self._lines()
        return None if lines is None else Separable(self.domain, self.codomain, lines)._svd()

    def _lines(self) -> dict[int, Tensor] | None:
        """Return the matrix of each axis if the kernel is a product of profiles of moderate length."""
        kernel = self.psf.value
        axes = convolution.blurred_axes(kernel)
        profiles = (kernel,) if len(axes) == 1 else self._profiles
        if profiles is None or any(self.domain.shape[a] > LONGEST_SVD for a in axes):
            return None
        matrices = {}
        for axis, profile in zip(axes, profiles, strict=True):
            eye = torch.eye(self.domain.shape[axis], dtype=torch.float64, device=kernel.device)
            step = convolution.plan(profile.flatten(), eye.shape, self.boundary, taps=True)
            matrices[axis] = step.forward(eye).T.contiguous()
        return matrices


def _kernel(domain: Space, psf: PSF | Tensor, axes: Sequence[int] | None) -> tuple[Tensor, float]:
    """Return the kernel over all trailing axes, in double precision, and how exact it is."""
    if isinstance(psf, PSF):
        if domain.grid is None:
            raise value_error("domain", "lie on a Grid, for lengths in mm", domain)
        if axes is not None:
            raise value_error(
                "axes", "be left out for a PSF in mm", tuple(axes), "Give it a width of 0 there."
            )
        return psf.kernel(domain.grid), 1e-13
    if not isinstance(psf, Tensor):
        raise type_error("psf", "be a PSF or a torch.Tensor", type(psf).__name__, "Use torch.as_tensor(...).")
    check_finite(check_tensor(psf, "psf"), "psf")
    if psf.is_complex():
        raise type_error("psf", "be real", psf.dtype)
    if not 0 < psf.ndim <= domain.ndim:
        raise value_error("psf", f"have 1 to {domain.ndim} axes, as the field has", tuple(psf.shape))
    if not bool(psf.any()):
        raise value_error("psf", "have an entry that is not zero", "zero everywhere")
    places = checked_axes(domain, range(-psf.ndim, 0) if axes is None else axes)
    if len(places) != psf.ndim:
        raise value_error("axes", f"name one axis for each of the {psf.ndim} of psf", places)
    lengths = dict(zip(places, psf.shape, strict=True))
    shape = [lengths.get(a, 1) for a in range(places[0], 0)]
    return Constant(psf.double(), "psf").value.reshape(shape), 8 * torch.finfo(psf.dtype).eps


def _valid_values(domain: Space, kernel: Tensor) -> Space:
    """Return the space of the values that need nothing beyond the ends: the grid cropped to them."""
    shape = list(domain.shape)
    first = [0] * domain.ndim
    for axis in range(-kernel.ndim, 0):
        k = kernel.shape[axis]
        if k > shape[axis]:
            raise value_error(
                "psf",
                f"have at most the shape of the field, {domain.shape}, for 'valid'",
                tuple(kernel.shape),
            )
        first[axis] = k - 1 - k // 2
        shape[axis] -= k - 1
    grid = domain.grid
    if grid is not None:
        stop = [a + n for a, n in zip(first[-3:], shape[-3:], strict=True)]
        time = grid.time
        if time is not None:
            time = TimeAxis(shape[-4], time.step, time.start + first[-4] * time.step)
        grid = grid.crop(first[-3:], stop).with_time(time)
    return Space(tuple(shape), domain.is_complex, grid, domain.is_vector)
