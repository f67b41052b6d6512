"""The Cartesian Fourier encoding as an operator: zero-padding, centred FFT, choice of samples.

    A = S C F P

P fills the field of view with zeros around (behind) the grid, F is the centred orthonormal FFT of the
field of view, C keeps the encoded frequencies around zero, S the samples taken: as a list, or in place
with zeros elsewhere. F^H C^H S^H S C F is a filter; where an axis is padded and all its frequencies are
taken, P^H F^H F P = I along it and the filter does without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from operators.constant import Constant
from operators.fourier import Fourier
from operators.identity import Identity
from operators.linear import SVD, LinearOperator
from operators.mri.coils import KSpaceOperator
from operators.mri.filters import FilterTerm, ModulatedFilters
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["AxisEncoding", "CartesianEncoding", "KSpaceSamples"]


@dataclass(frozen=True)
class AxisEncoding:
    """One encoded axis: `voxels` of the grid, `length` of the FFT, `samples` kept; else as in Fourier."""

    axis: int
    voxels: int
    length: int
    samples: int
    zero_phase: float
    sign: int

    @property
    def first(self) -> int:
        """Index of the first frequency kept."""
        return self.length // 2 - self.samples // 2


class KSpaceSamples(LinearOperator):
    """k-space of the whole field of view -> the samples taken: S C.

    `axes` name the encoded axes (negative). `mask`, boolean, broadcasts against the kept box over the
    last axes of `domain`. With `zero_filled` the values stand on the box and are zero where nothing was
    taken; else they are listed: the trailing axes along which the mask has length 1 stay axes, those of
    the mask in front of them become one axis of samples.
    """

    def __init__(
        self, domain: Space, axes: tuple[AxisEncoding, ...], mask: Tensor | None, *, zero_filled: bool
    ) -> None:
        box = list(domain.shape)
        for axis in axes:
            box[axis.axis] = axis.samples
        self.axes = axes
        self._box = tuple(box)
        self.mask = None if mask is None else Constant(mask.to(torch.float32), "mask")
        self.places: Tensor | None = None
        shape = self._box
        if mask is not None and not zero_filled:
            whole = [n == 1 for n in mask.shape[1:]]
            trailing = next((i for i, one in enumerate(reversed(whole)) if not one), len(whole))
            first, last = len(box) - mask.ndim, len(box) - trailing
            flat = mask.reshape(mask.shape[: mask.ndim - trailing]).expand(self._box[first:last]).flatten()
            self.places = torch.nonzero(flat).flatten()
            # The box with its listed axes as one, and the list.
            self._flat = (*self._box[:first], flat.numel(), *self._box[last:])
            self._list = (*self._box[:first], len(self.places), *self._box[last:])
            self._along = first + 1
            frames = (self._box[first],) if mask.ndim > 3 else ()
            shape = (*self._box[:first], *frames, len(self.places) // math.prod(frames), *self._box[last:])
        super().__init__(domain, Space(shape, is_complex=True))
        self.is_unitary = mask is None and self._box == domain.shape

    def _apply(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = x.narrow(axis.axis, axis.first, axis.samples)
        if self.places is not None:
            listed = x.reshape(x.shape[0], *self._flat).index_select(self._along, self.places)
            return listed.reshape(x.shape[0], *self.codomain.shape)
        return x.clone() if self.mask is None else x * self.mask.like(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        if self.places is not None:
            y = self._boxed(y, y.shape[:1])
        elif self.mask is not None:
            y = y * self.mask.like(y)
        for axis in self.axes:
            if axis.samples < axis.length:
                y = _padded(y, axis.axis, axis.first, axis.length)
        return y.clone() if self.is_unitary else y

    def _boxed(self, listed: Tensor, batch: tuple[int, ...]) -> Tensor:
        """Return the box with the listed values in their places."""
        places = cast(Tensor, self.places)
        flat = listed.new_zeros((*batch, *self._flat))
        along = self._along - 1 + len(batch)
        return flat.index_copy(along, places, listed.reshape(*batch, *self._list)).reshape(*batch, *self._box)

    def _apply_gram(self, x: Tensor) -> Tensor:
        return x * self.taken(x.device).to(x.real.dtype)

    def taken(self, device: torch.device | None = None) -> Tensor:
        """Return 1 where a frequency of the whole field of view is taken and 0 elsewhere; it broadcasts."""
        if self.mask is None:
            return self.spread(torch.ones((), dtype=torch.float64, device=device))
        return self.spread(self.mask.value.double())

    def spread(self, values: Tensor) -> Tensor:
        """Return `values` on the kept box, broadcast against it, with zeros around it."""
        for axis in self.axes:
            if axis.samples == axis.length:
                continue
            if values.ndim < -axis.axis:
                values = values.reshape(*[1] * (-axis.axis - values.ndim), *values.shape)
            shape = list(values.shape)
            shape[axis.axis] = axis.samples
            values = _padded(values.expand(shape), axis.axis, axis.first, axis.length)
        return values

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        if inner.axes and not inner.is_scalar:
            return None
        values = inner.values.double()
        if self.places is not None:
            if values.numel() > 1:
                values = self._boxed(values.expand(self.codomain.shape), ())
            else:
                values = values.reshape(()) * cast(Constant, self.mask).value.double()
        elif self.mask is not None:
            values = values * self.mask.value.double()
        return Spectrum(self.spread(values))

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        if not inner.is_scalar:
            return None
        if self.mask is None or self.places is not None:
            return inner
        return Spectrum(inner.values.double().reshape(()) * self.mask.value.double())

    def _svd(self) -> SVD:
        return SVD(self, self.taken(self.device).expand(self.domain.shape), Identity(self.domain))


class CartesianEncoding(KSpaceOperator):
    """Complex images, or components of such, -> k-space on a box or at the samples taken: S C F P.

    `flipped` axes are not encoded: their slices are only listed the other way round.
    """

    def __init__(
        self,
        domain: Space,
        axes: tuple[AxisEncoding, ...],
        mask: Tensor | None = None,
        *,
        zero_filled: bool = True,
        flipped: tuple[int, ...] = (),
    ) -> None:
        whole = list(domain.shape)
        for axis in axes:
            whole[axis.axis] = axis.length
        self.axes = axes
        self.flipped = flipped
        self._padded_axes = tuple(a for a in axes if a.length > a.voxels)
        self.fourier = Fourier(
            Space(tuple(whole), is_complex=True),
            [a.axis for a in axes],
            zero_phase=[a.zero_phase for a in axes],
            signs=[a.sign for a in axes],
        )
        self.samples = KSpaceSamples(self.fourier.codomain, axes, mask, zero_filled=zero_filled)
        super().__init__(domain, self.samples.codomain)
        self.is_unitary = self.samples.is_unitary and not self._padded_axes

    def _apply(self, x: Tensor) -> Tensor:
        x = x.flip(self.flipped) if self.flipped else x
        for a in self._padded_axes:
            x = _padded(x, a.axis, 0, a.length)
        y = self.fourier._apply(x)
        return y if self.samples.is_unitary else self.samples._apply(y)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        y = y if self.samples.is_unitary else self.samples._apply_adjoint(y)
        x = self.fourier._apply_adjoint(y)
        for a in self._padded_axes:
            x = x.narrow(a.axis, 0, a.voxels)
        return x.flip(self.flipped) if self.flipped else x

    def _apply_gram(self, x: Tensor) -> Tensor:
        filters = self._gram_filters(x)
        spectrum = self._gram_spectrum
        if filters is not None:
            return filters.apply(x)
        return super()._apply_gram(x) if spectrum is None else spectrum.apply(x, lambda values: values)

    def _gram_filters(self, x: Tensor) -> ModulatedFilters | None:
        spectrum = self._gram_spectrum
        if spectrum is None or not spectrum.axes:
            return None
        name = f"_memo_filters_{x.dtype}"
        if name not in self.__dict__:
            values = spectrum.values.to(x.real.dtype)
            sizes = tuple(self.domain.shape[axis] for axis in spectrum.axes)
            term = FilterTerm(values, (False,) * len(sizes))
            self.__dict__[name] = ModulatedFilters(spectrum.axes, sizes, (term,))
        return cast(ModulatedFilters, self.__dict__[name])

    def _congruence(self, inner: Spectrum) -> Spectrum | None:
        on_box = self.samples._congruence(inner)
        if on_box is None:
            return None
        values = on_box.values
        for a in self._padded_axes:
            if values.ndim < -a.axis or values.shape[a.axis] == 1:
                continue
            first = values.narrow(a.axis, 0, 1)
            # F_a^H w F_a is w on a padded axis only for a constant w.
            if a.samples < a.length or not torch.equal(values, first.expand_as(values)):
                return None
            values = first
        kept = [a for a in self.axes if a not in self._padded_axes]
        if self.flipped:
            axes = [axis for axis in self.flipped if values.ndim >= -axis]
            values = values.flip(axes)
        if values.numel() == 1:
            return Spectrum(values.reshape(()))
        if not kept:
            return Spectrum(values)
        fourier = Fourier(self.domain, [a.axis for a in kept], signs=[a.sign for a in kept])
        return fourier._congruence(Spectrum(values))

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        if not inner.is_scalar or self._padded_axes:
            return None
        return self.samples._dual_congruence(inner)

    def _svd(self) -> SVD | None:
        if self._padded_axes or self.flipped:
            return None
        if self.samples.is_unitary:
            ones = Spectrum.ones(self.device).values.expand(self.domain.shape)
            return SVD(self, ones, Identity(self.domain))
        taken = self.samples.taken(self.device).expand(self.domain.shape)
        whole = CartesianEncoding(self.domain, tuple(_whole(a) for a in self.axes))
        return SVD(self.samples, taken, whole.H)


def _whole(axis: AxisEncoding) -> AxisEncoding:
    return AxisEncoding(axis.axis, axis.voxels, axis.length, axis.length, axis.zero_phase, axis.sign)


def _padded(x: Tensor, axis: int, first: int, length: int) -> Tensor:
    """Return `x` with zeros around it along `axis`, its first entry at index `first` of `length`."""
    before = [0] * (2 * -axis)
    before[-2], before[-1] = first, length - first - x.shape[axis]
    return torch.nn.functional.pad(x, before)
