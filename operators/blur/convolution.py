"""Convolution along some axes of a tensor, by taps or by FFT; both with exact adjoints.

    y_i = sum_j h_j x_{i + c - j}          c the index of the centre of h, k // 2 of k entries

A kernel is stored over all trailing axes of the field, of size 1 along those that it leaves alone.
Taps: one shifted copy of the field per entry that is not zero. FFT: of a length that leaves no wrapped
entry in the values. A tap costs about 0.2 ns per voxel and core, an FFT 2.5 to 5 ns per axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.batch import by_components
from operators.blur.padding import Continuation, continued, folded
from operators.constant import Constant, moved
from operators.fourier import fast_length

__all__ = ["Convolution", "blurred_axes", "passes", "plan", "response", "separated"]

#: Taps per axis that take as long as the FFT.
TAPS_PER_AXIS = 16


@dataclass(frozen=True, eq=False)
class Taps:
    """Convolution of a field continued by hand, one shifted copy per entry of the kernel."""

    axes: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    arguments: tuple[int, ...]
    values: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Return the values whose windows lie within `x`."""
        total = self._window(x, self.starts[0]) * self.weights[0]
        for start, weight in zip(self.starts[1:], self.weights[1:], strict=True):
            total.add_(self._window(x, start), alpha=weight)
        return total

    def backward(self, y: Tensor) -> Tensor:
        """Return the adjoint of `forward`."""
        shape = list(y.shape)
        for axis, n in zip(self.axes, self.arguments, strict=True):
            shape[axis] = n
        total = y.new_zeros(shape)
        for start, weight in zip(self.starts, self.weights, strict=True):
            self._window(total, start).add_(y, alpha=weight)
        return total

    def _window(self, x: Tensor, start: tuple[int, ...]) -> Tensor:
        for axis, first, n in zip(self.axes, start, self.values, strict=True):
            x = x.narrow(axis, first, n)
        return x

    def to(self, device: torch.device) -> Taps:
        """Return itself: its weights are numbers."""
        del device
        return self


@dataclass(frozen=True, eq=False)
class Spectral:
    """Convolution through an FFT of `sizes`; `half` is the response on the half spectrum of real fields."""

    axes: tuple[int, ...]
    half: Constant
    sizes: tuple[int, ...]
    arguments: tuple[int, ...]
    values: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Return the first `values` entries of the circular convolution of `sizes`."""
        return by_components(lambda part: self._filtered(part, self.half.like(part), self.values), x)

    def backward(self, y: Tensor) -> Tensor:
        """Return the adjoint of `forward`."""
        return by_components(
            lambda part: self._filtered(part, self.half.like(part).conj(), self.arguments), y
        )

    def _filtered(self, x: Tensor, half: Tensor, kept: tuple[int, ...]) -> Tensor:
        spectral = torch.fft.rfftn(x, s=self.sizes, dim=self.axes) * half
        whole: Tensor = torch.fft.irfftn(spectral, s=self.sizes, dim=self.axes)
        for axis, n in zip(self.axes, kept, strict=True):
            whole = whole.narrow(axis, 0, n)
        return whole

    def to(self, device: torch.device) -> Spectral:
        """Return the same with its response on `device`."""
        return moved(self, device)


@dataclass(frozen=True, eq=False)
class Convolution:
    """One pass over some axes: the field continued beyond its ends where taps need it, then convolved."""

    engine: Taps | Spectral
    #: axis, entries before, entries after
    reach: tuple[tuple[int, int, int], ...]
    how: Continuation

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`."""
        for axis, before, after in self.reach:
            x = continued(x, axis, before, after, self.how)
        return self.engine.forward(x)

    def backward(self, y: Tensor) -> Tensor:
        """Return the adjoint of `forward`."""
        x = self.engine.backward(y)
        for axis, before, after in reversed(self.reach):
            x = folded(x, axis, before, after, self.how)
        return x

    def to(self, device: torch.device) -> Convolution:
        """Return the same with its tensors on `device`."""
        return moved(self, device)


def plan(kernel: Tensor, shape: tuple[int, ...], boundary: str, *, taps: bool | None = None) -> Convolution:
    """Return the faster engine for `kernel` on fields of `shape`; `taps` decides instead, for tests.

    `boundary` is a Continuation, or "valid": only values that need nothing beyond the ends.
    """
    axes = blurred_axes(kernel)
    fields = tuple(shape[a] for a in axes)
    lengths = tuple(kernel.shape[a] for a in axes)
    values = tuple(n - k + 1 for n, k in zip(fields, lengths, strict=True)) if boundary == "valid" else fields
    used = int(kernel.count_nonzero())
    if taps is None:
        taps = used <= TAPS_PER_AXIS * len(axes)
    centres, ends = tuple(k // 2 for k in lengths), tuple(k - 1 for k in lengths)
    # Entry j of the kernel brings argument i + c - j: the first value reaches k - 1 - c entries back.
    reach = tuple((a, e - c, c) for a, e, c in zip(axes, ends, centres, strict=True))
    how: Continuation = (
        "periodic" if boundary == "periodic" else "reflect" if boundary == "reflect" else "zero"
    )
    if taps:
        entries = kernel.nonzero()[:, list(axes)].tolist()
        starts = [tuple(e - j for j, e in zip(entry, ends, strict=True)) for entry in entries]
        weights = tuple(kernel[kernel != 0].tolist())
        arguments = tuple(n + k - 1 for n, k in zip(values, lengths, strict=True))
        outside = () if boundary == "valid" else reach
        return Convolution(Taps(axes, tuple(starts), weights, arguments, values), outside, how)
    if boundary == "reflect":
        arguments, outside, shifts = (
            tuple(n + k - 1 for n, k in zip(fields, lengths, strict=True)),
            reach,
            ends,
        )
    else:
        arguments, outside, shifts = fields, (), ends if boundary == "valid" else centres
    if boundary == "periodic":
        sizes = fields
    elif boundary == "zero":
        # Values and arguments both start at 0: with k // 2 zeros behind the field none is met twice.
        sizes = tuple(fast_length(n + c) for n, c in zip(fields, centres, strict=True))
    else:
        sizes = tuple(fast_length(n) for n in arguments)
    half = torch.fft.rfftn(_placed(kernel, axes, sizes, shifts), dim=axes)
    return Convolution(Spectral(axes, Constant(half), sizes, arguments, values), outside, how)


def passes(
    kernel: Tensor, profiles: tuple[Tensor, ...] | None, shape: tuple[int, ...], boundary: str
) -> tuple[Convolution, ...]:
    """Return the convolutions to run one after the other: one per profile of a product, else one."""
    steps = []
    for part in profiles or (kernel,):
        steps.append(plan(part, shape, boundary))
        reduced = list(shape)
        for axis, n in zip(steps[-1].engine.axes, steps[-1].engine.values, strict=True):
            reduced[axis] = n
        shape = tuple(reduced)
    return tuple(steps)


def blurred_axes(kernel: Tensor) -> tuple[int, ...]:
    """Return the axes along which the kernel is longer than 1, the last one if there is none."""
    return tuple(a for a in range(-kernel.ndim, 0) if kernel.shape[a] > 1) or (-1,)


def response(kernel: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the frequency response of the periodic convolution on `shape`, and the axes it runs over."""
    axes = blurred_axes(kernel)
    sizes = tuple(shape[a] for a in axes)
    shifts = tuple(kernel.shape[a] // 2 for a in axes)
    return torch.fft.fftn(_placed(kernel, axes, sizes, shifts), dim=axes), axes


def separated(kernel: Tensor, tolerance: float) -> tuple[Tensor, ...] | None:
    """Return one kernel per axis longer than 1 whose product is `kernel`, None if there is none.

    A product of profiles is known by its lines through any entry that is not zero: the largest.
    """
    axes = [a for a in range(-kernel.ndim, 0) if kernel.shape[a] > 1]
    if len(axes) < 2:
        return None
    peak = [int(i) for i in torch.unravel_index(kernel.abs().argmax(), kernel.shape)]
    top = kernel[tuple(peak)]
    parts: list[Tensor] = []
    for axis in axes:
        line = kernel[
            tuple(slice(None) if a - kernel.ndim == axis else slice(i, i + 1) for a, i in enumerate(peak))
        ]
        parts.append(line / top if parts else line)
    product = parts[0]
    for part in parts[1:]:
        product = product * part
    return tuple(parts) if bool((product - kernel).abs().max() <= tolerance * top.abs()) else None


def _placed(kernel: Tensor, axes: tuple[int, ...], sizes: tuple[int, ...], shifts: tuple[int, ...]) -> Tensor:
    """Return the kernel with entry j at (j - shift) mod size; what meets there is added."""
    shape = list(kernel.shape)
    for axis, size, shift in zip(axes, sizes, shifts, strict=True):
        index = (torch.arange(kernel.shape[axis], device=kernel.device) - shift) % size
        shape[axis] = size
        kernel = kernel.new_zeros(shape).index_add(axis, index, kernel)
    return kernel
