"""The sums by gridding in plain torch: Kaiser-Bessel interpolation on an FFT of twice the size.

    y_j = sum_m w(K f_j - m) (F D x)_m,      D_n = 1 / w^(n / K),    K = 2 N

w is the Kaiser-Bessel window of W points with beta = pi sqrt(W^2 (1 - 1/4)^2 - 0.8) (Beatty, Nishimura
and Pauly, IEEE TMI 24 (2005) 799), w^ its Fourier transform. The interpolation is a sparse real matrix,
its transpose stored beside it: the adjoint is exact, and the sum over a row has a fixed order.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]

#: Entries of the matrix and its transpose that are stored; beyond it they are made at each call.
STORED = 30_000_000
#: Entries made at once.
PART = 4_000_000


@dataclass(frozen=True)
class Window:
    """Kaiser-Bessel window of `width` points on a grid of twice the image's size."""

    width: int

    @property
    def beta(self) -> float:
        """Shape parameter."""
        return math.pi * math.sqrt(self.width**2 * 0.75**2 - 0.8)

    def __call__(self, distance: FloatArray) -> FloatArray:
        """Return w at `distance` in points, 0 beyond half the width."""
        inside = np.clip(1 - (2 * distance / self.width) ** 2, 0, None)
        values: FloatArray = np.i0(self.beta * np.sqrt(inside)) / np.i0(self.beta) * (inside > 0)
        return values

    def transform(self, n: int, fine: int) -> FloatArray:
        """Return w^ at voxels n - n // 2 of an image on a grid of `fine` points."""
        turn = math.pi * self.width * (np.arange(n) - n // 2) / fine
        root = np.sqrt(np.asarray(self.beta**2 - turn**2, dtype=np.complex128))
        values: FloatArray = (self.width * np.sinh(root) / root / np.i0(self.beta)).real
        return values


class GriddedSums:
    """Both sums on any device, in single or double precision."""

    def __init__(
        self,
        frequency: FloatArray,
        shape: tuple[int, ...],
        accuracy: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._frequency = frequency - np.floor(frequency + 0.5)
        self._shape = shape
        self._window = Window(min(14, max(4, math.ceil(-math.log10(accuracy)) + 1)))
        self._fine = tuple(2 * max(n, self._window.width) for n in shape)
        self._dtype, self._device = dtype, device
        self._axes = tuple(range(-len(shape), 0))
        self._roll = tuple(-(n // 2) for n in shape)
        shaping = torch.ones((), dtype=torch.float64)
        for axis, n in enumerate(shape):
            width = 1 / self._window.transform(n, self._fine[axis])
            shaping = shaping * torch.from_numpy(width).reshape(-1, *[1] * (len(shape) - axis - 1))
        self._shaping = shaping.to(device=device, dtype=dtype)
        per_sample = self._window.width ** len(shape)
        step = max(1, PART // per_sample)
        self._parts = [slice(i, min(i + step, len(frequency))) for i in range(0, len(frequency), step)]
        self._keeps = len(frequency) * per_sample <= STORED
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, samples) from images (batch, *shape)."""
        padded = x.new_zeros((len(x), *self._fine))
        padded[(slice(None), *(slice(0, n) for n in self._shape))] = x * self._shaping
        # Voxel n // 2 is where the phase is zero.
        spectral = torch.fft.fftn(padded.roll(self._roll, self._axes), dim=self._axes)
        columns = _columns(spectral.flatten(1))
        rows = [torch.sparse.mm(self._pair(i)[0], columns) for i in range(len(self._parts))]
        return _complex(torch.cat(rows))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return images (batch, *shape) from (batch, samples)."""
        columns = _columns(y)
        total: Tensor | None = None
        for i, part in enumerate(self._parts):
            added = torch.sparse.mm(self._pair(i)[1], columns[part])
            total = added if total is None else total + added
        spectral = _complex(cast(Tensor, total)).reshape(len(y), *self._fine)
        # Unnormalised: the adjoint of the plain FFT.
        padded = torch.fft.ifftn(spectral, dim=self._axes, norm="forward")
        shifted = padded.roll([-r for r in self._roll], self._axes)
        image: Tensor = shifted[(slice(None), *(slice(0, n) for n in self._shape))] * self._shaping
        return image

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self._kept:
            return self._kept[index]
        pair = self._matrices(self._parts[index])
        if self._keeps:
            self._kept[index] = pair
        return pair

    def __getstate__(self) -> dict[str, object]:
        # torch cannot copy sparse tensors: a copy makes its own.
        return {**self.__dict__, "_kept": {}}

    def _matrices(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return the interpolation from the fine grid to the samples of `part`, and its transpose."""
        position = self._frequency[part] * np.array(self._fine)
        first = np.ceil(position - self._window.width / 2)
        offsets = np.arange(self._window.width)
        along = first[:, :, None] + offsets
        weights = self._window(along - position[:, :, None])
        places = np.mod(along, np.array(self._fine)[:, None]).astype(np.int64)
        count, axes = position.shape
        flat = np.zeros((count, 1), dtype=np.int64)
        values = np.ones((count, 1))
        for axis in range(axes):
            flat = (flat[:, :, None] * self._fine[axis] + places[:, axis, None, :]).reshape(count, -1)
            values = (values[:, :, None] * weights[:, axis, None, :]).reshape(count, -1)
        # Within a row in ascending order, as the format wants it.
        order = np.argsort(flat, axis=1, kind="stable")
        flat, values = np.take_along_axis(flat, order, 1), np.take_along_axis(values, order, 1)
        size = (count, math.prod(self._fine))
        rows = np.arange(count + 1, dtype=np.int64) * flat.shape[1]
        forward = self._csr(rows, flat.ravel(), values.ravel(), size)
        back = np.argsort(flat.ravel(), kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(flat.ravel(), minlength=size[1]))])
        sample = np.repeat(np.arange(count, dtype=np.int64), flat.shape[1])
        return forward, self._csr(starts, sample[back], values.ravel()[back], (size[1], size[0]))

    def _csr(
        self, starts: NDArray[np.int64], columns: NDArray[np.int64], values: FloatArray, size: tuple[int, int]
    ) -> Tensor:
        index = torch.int32 if max(*size, len(values)) < 2**31 else torch.int64
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                torch.from_numpy(starts).to(device=self._device, dtype=index),
                torch.from_numpy(columns).to(device=self._device, dtype=index),
                torch.from_numpy(values).to(device=self._device, dtype=self._dtype),
                size=size,
                check_invariants=False,
            )


def _columns(values: Tensor) -> Tensor:
    """Return (entries, 2 * batch) real from (batch, entries) complex: real and imaginary parts."""
    return torch.view_as_real(values.T.contiguous()).flatten(1)


def _complex(columns: Tensor) -> Tensor:
    pairs = columns.reshape(columns.shape[0], -1, 2).contiguous()
    return torch.view_as_complex(pairs).T.contiguous()


def make(
    frequency: FloatArray, shape: tuple[int, ...], accuracy: float, dtype: torch.dtype, device: torch.device
) -> GriddedSums:
    """Return the sums on `device`."""
    return GriddedSums(frequency, shape, accuracy, dtype, device)
