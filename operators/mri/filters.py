"""Sums of modulated filters: what the normal operator of every k-space sampling is.

    G x = sum_p conj(phi_p) F^-1 diag(lambda_p) F (phi_p x),      phi_p(n) = exp(-pi i p . n / N)

F is the plain FFT over `axes`, p has one bit per axis, lambda_p is real. A Cartesian sampling needs
p = 0 alone. A Toeplitz operator of size N is the circulant of size 2 N restricted to N entries, and the
bits are the parities of its 2 N frequencies: FFTs of size N do the work of one of size 2 N, without the
padding, and fit the cache.

Coil by coil, block by block: the scratch memory is a few images of one coil, whatever their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Index = tuple[int | slice, ...]

__all__ = ["FilterTerm", "ModulatedFilters"]

#: Bytes of a block, per thread, that stay in the cache; a GPU wants work instead.
CACHED_BYTES = 1 << 22
GPU_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class FilterTerm:
    """`values` lambda_p, broadcast against the image; `odd` the bits of p, one per axis."""

    values: Tensor
    odd: tuple[bool, ...]


class ModulatedFilters:
    """G for images whose last axes hold `axes`; `sizes` are those of the FFT, at least the image's own.

    The values of a term broadcast against an image, so that they may differ from slice to slice or from
    frame to frame, in the axes before the first of `axes`.
    """

    def __init__(self, axes: tuple[int, ...], sizes: tuple[int, ...], terms: tuple[FilterTerm, ...]) -> None:
        self.axes = axes
        self.sizes = sizes
        self.terms = terms
        # Real factors of the real and imaginary parts: lambda and -lambda, for the conjugate.
        scaled = [term.values / math.prod(sizes) for term in terms]
        self._pairs = [torch.stack([values, -values], dim=-1) for values in scaled]
        self._phases = [self._vectors(term) for term in terms]

    def apply(self, x: Tensor) -> Tensor:
        """Return G x, alike for every axis in front of the image's own."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        lead, core = self._divided(x)
        for at in _tiles(lead, self._together(core, x)):
            total: Tensor | None = None
            for index in range(len(self.terms)):
                part = self._modulated(self._filtered(self._modulated(x[at], index), index, at), index)
                total = part if total is None else total.add_(part)
            if total is not None:
                torch.conj_physical(total, out=out[at])
        return out

    def through(self, x: Tensor, maps: Tensor) -> Tensor:
        """Return sum_c conj(m_c) G (m_c x) for images x (batch, *image) and maps (coils, *image)."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        (_, *lead), core = self._divided(x)
        together = self._together(core, x)
        step = min(together, lead[-1]) if lead else 1
        coils = max(1, together // step)
        for row, at in itertools.product(range(x.shape[0]), _tiles(tuple(lead), step)):
            of_map = _fitting(at, maps.shape[1 : 1 + len(at)])
            seen = x[(row, *at)]
            total = torch.zeros_like(seen, memory_format=torch.contiguous_format)
            for index in range(len(self.terms)):
                image = self._modulated(seen, index)
                summed: Tensor | None = None
                for first in range(0, maps.shape[0], coils):
                    block = maps[(slice(first, first + coils), *of_map)]
                    mirrored = self._filtered(block * image, index, at)
                    # conj(sum_c conj(m_c) g_c) = sum_c m_c conj(g_c)
                    part = mirrored.mul_(block).sum(dim=0)
                    summed = part if summed is None else summed.add_(part)
                if summed is not None:
                    total += self._modulated(summed, index)
            torch.conj_physical(total, out=out[(row, *at)])
        return out

    def _filtered(self, images: Tensor, index: int, at: Index) -> Tensor:
        """Return the conjugate of F^-1 diag(lambda_p) F of images that lie at `at` of the axes in front.

        conj(F^-1 s) = F conj(s) / N, and the conjugate of s costs nothing where lambda is multiplied.
        """
        pairs = self._pairs[index]
        varying = max(0, pairs.ndim - 1 + self.axes[0])
        pairs = pairs[_fitting(at[len(at) - varying :], pairs.shape[:varying])]
        inside = tuple(images.shape[axis] for axis in self.axes)
        # A transform may keep the order in which its argument lies in memory; `flatten` would then copy.
        spectral = torch.fft.fftn(images, s=self.sizes, dim=self.axes).contiguous()
        parts = torch.view_as_real(spectral)
        if pairs.shape[-2] == parts.shape[-2]:
            # Both as one contiguous axis: twice as fast.
            parts, pairs = parts.flatten(-2), pairs.flatten(-2)
        parts.mul_(pairs)
        mirrored: Tensor = torch.fft.fftn(spectral, dim=self.axes)
        for axis, n in zip(self.axes, inside, strict=True):
            mirrored = mirrored.narrow(axis, 0, n)
        return mirrored

    def _modulated(self, x: Tensor, index: int) -> Tensor:
        """Return phi_p x, which of a conjugate is the conjugate of conj(phi_p) x."""
        for vector in self._phases[index]:
            x = x * vector.narrow(0, 0, x.shape[-vector.ndim]).to(x.dtype)
        return x

    def _vectors(self, term: FilterTerm) -> list[Tensor]:
        vectors = []
        for axis, size, odd in zip(self.axes, self.sizes, term.odd, strict=True):
            angle = -math.pi * torch.arange(size, dtype=torch.float64, device=term.values.device) / size
            if odd:
                vector = torch.polar(torch.ones_like(angle), angle)
                vectors.append(vector.reshape(-1, *[1] * (-axis - 1)))
        return vectors

    def _divided(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape in front of the first transformed axis, and the shape from there on."""
        return tuple(x.shape[: self.axes[0]]), tuple(x.shape[self.axes[0] :])

    @staticmethod
    def _together(core: tuple[int, ...], x: Tensor) -> int:
        limit = CACHED_BYTES * torch.get_num_threads() if x.device.type == "cpu" else GPU_BYTES
        return max(1, limit // (math.prod(core) * x.element_size()))


def _tiles(lead: tuple[int, ...], step: int) -> Iterator[Index]:
    """Yield indices that cut axes of shape `lead` into pieces of `step` along the last of them."""
    if not lead:
        yield ()
        return
    for outer in itertools.product(*(range(n) for n in lead[:-1])):
        for first in range(0, lead[-1], step):
            yield (*outer, slice(first, first + step))


def _fitting(at: Index, shape: tuple[int, ...]) -> Index:
    """Return the index `at` for axes of `shape` that may have length 1 and broadcast."""
    pairs = zip(at, shape, strict=True)
    return tuple(e if n > 1 else 0 if isinstance(e, int) else slice(None) for e, n in pairs)
