"""Fewer, virtual coils: the principal components of the measured ones.

    V = the first rows of U^H,  Y = U diag(s) Q^H of samples Y (coils, samples)

V has orthonormal rows, so white noise stays white with its sd. Noise that is not white is made so
first: with `whitening` W the matrix is V W, V from W Y, applied to data that were not whitened.
The energy kept, sum_i<n s_i^2 / sum s^2, counts noise with the signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_number, check_tensor
from operators.errors import type_error, value_error
from workbench.calibrate.coil_matrix import CoilMatrix
from workbench.calibrate.prewhitening import Prewhitening

__all__ = ["CoilCompression", "compress_coils"]


@dataclass(frozen=True, eq=False)
class CoilCompression(CoilMatrix):
    """V, or V W; `energy` is the share of the samples' energy, after W, that it keeps."""

    energy: float = 1.0


def compress_coils(
    kspace: Tensor,
    *,
    coils: int | None = None,
    energy: float | None = None,
    whitening: Prewhitening | None = None,
) -> tuple[Tensor, CoilCompression]:
    """Return samples (virtual coils, ...) of samples (coils, ...), and the matrix that made them.

    `coils` is how many virtual coils; or `energy` the share that the fewest of them must keep. Without
    `whitening` the noise must be white and of one sd for the result to be best. Give the calibration
    samples alone to choose by these, and `apply` the matrix to all. Coil maps follow by `maps`, or are
    calibrated from the compressed samples.
    """
    check_tensor(kspace, "kspace")
    if not kspace.is_complex():
        raise type_error("kspace", "be complex", kspace.dtype)
    if kspace.ndim < 2:
        raise value_error("kspace", "have shape (coils, ...)", tuple(kspace.shape))
    check_finite(kspace, "kspace")
    if (coils is None) == (energy is None):
        raise value_error("coils", "be given, or `energy`, and not both", f"{coils} and {energy}")
    if whitening is not None and not isinstance(whitening, Prewhitening):
        raise type_error("whitening", "be a Prewhitening or None", type(whitening).__name__)
    samples = kspace.detach() if whitening is None else whitening.apply(kspace.detach())
    table = samples.reshape(samples.shape[0], -1).to(torch.complex128)
    # In double precision the squares of singular values are known to 1e-16 of the largest: far below noise.
    squares, vectors = torch.linalg.eigh(table @ table.mH)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    if not float(squares[0]) > 0:
        raise value_error("kspace", "hold a signal", "zeros")
    kept = squares.cumsum(0) / squares.sum()
    count = _count(coils, energy, kept)
    rows = vectors[:, :count].mH
    # A singular vector has a free phase: its largest entry is made positive.
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    matrix = (rows * (largest.conj() / largest.abs())).cpu()
    sigma = None if whitening is None else whitening.sigma
    matrix = matrix if whitening is None else matrix @ whitening.matrix
    found = CoilCompression(matrix, sigma, float(kept[count - 1]))
    return found.apply(kspace.detach()), found


def _count(coils: int | None, energy: float | None, kept: Tensor) -> int:
    if coils is not None:
        count = check_count(coils, "coils")
        if count > len(kept):
            raise value_error("coils", f"be at most the number of coils, {len(kept)}", count)
        return count
    wanted = check_number(energy, "energy", positive=True)
    if wanted > 1:
        raise value_error("energy", "be at most 1", energy)
    return min(int((kept < wanted * (1 - 1e-12)).sum()) + 1, len(kept))
