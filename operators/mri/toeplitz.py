"""The normal operator of a nonuniform Fourier sum as filters: Toeplitz, by its even and odd frequencies.

    (A^H A x)_n = sum_m t(n - m) x_m,      t(d) = N^-1 sum_j exp(2 pi i f_j . d)

A Toeplitz operator of size N is a part of the circulant of size 2 N with t as its first column. The
eigenvalues of that, split by the parity p of their frequencies, are real filters of size N:

    lambda_p = FFT_N [ exp(-pi i p . d / N) sum_o (-1)^(p . o) t(d - o N) ],      d in 0..N-1, o in {0, 1}^D

and A^H A = 2^-D sum_p conj(phi_p) F^-1 lambda_p F phi_p. t comes from 2^D adjoint sums of size N.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from operators.fourier import fast_length
from operators.mri.engines import DEFAULT_ACCURACY, FloatArray, make_sums
from operators.mri.filters import FilterTerm, ModulatedFilters

__all__ = ["toeplitz_filters"]


def toeplitz_filters(
    frequency: FloatArray,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    *,
    scale: float,
    engine: str,
    accuracy: float | None,
    like: Tensor,
) -> ModulatedFilters:
    """Return scale * sum over `frequency` (samples, axes) as filters over `axes` of images of `shape`.

    In the precision and on the device of `like`; computed in double precision, to a hundredth of
    `accuracy`.
    """
    real = torch.float32 if like.dtype in (torch.float32, torch.complex64) else torch.float64
    wanted = DEFAULT_ACCURACY[real] if accuracy is None else accuracy
    sizes = tuple(fast_length(n) for n in shape)
    sums = make_sums(
        engine, frequency, sizes, accuracy=max(wanted / 100, 1e-13), dtype=torch.float64, device=like.device
    )
    columns = {}
    for shift in itertools.product((0, 1), repeat=len(sizes)):
        # The sums are centred at N // 2; d = n - o N for n from 0.
        offset = [n // 2 - o * n for n, o in zip(sizes, shift, strict=True)]
        turns = frequency @ np.array(offset, dtype=np.float64)
        weights = torch.from_numpy(scale * np.exp(2j * math.pi * (turns - np.round(turns))))
        column = sums.adjoint(weights.to(like.device)[None])[0]
        for axis, o in enumerate(shift):
            if o:
                column.narrow(axis, 0, 1).zero_()  # t(-N) belongs to no pair of voxels
        columns[shift] = column
    terms = []
    for odd in itertools.product((0, 1), repeat=len(sizes)):
        total = torch.zeros_like(columns[odd])
        for shift, column in columns.items():
            sign = (-1) ** sum(p * o for p, o in zip(odd, shift, strict=True))
            total += sign * column
        for axis, p in enumerate(odd):
            if p:
                angle = -math.pi * torch.arange(sizes[axis], dtype=torch.float64, device=like.device)
                vector = torch.polar(torch.ones_like(angle), angle / sizes[axis])
                total *= vector.reshape(-1, *[1] * (len(sizes) - axis - 1))
        values = torch.fft.fftn(total).real / 2 ** len(sizes)
        terms.append(FilterTerm(_spread(values.to(real), axes), tuple(p == 1 for p in odd)))
    return ModulatedFilters(axes, sizes, tuple(terms))


def _spread(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `values` with axes of length 1 where an image has axes that are not transformed."""
    shape = [1] * -axes[0]
    for axis, n in zip(axes, values.shape, strict=True):
        shape[axis] = n
    return values.reshape(shape)
