"""The fully sampled centre of k-space (autocalibration signal, ACS) and where it lies on a grid.

An axis of N samples has frequency zero at N // 2; a centred box of width w covers the indices
N // 2 - w // 2 <= m < N // 2 - w // 2 + w. An axis of one sample is not encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_finite, check_tensor
from operators.errors import type_error, value_error
from operators.grid import FRAMES_ARE_A_BATCH, Grid
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry

__all__ = [
    "Placement",
    "acs_widths",
    "centred_box",
    "checked_kspace",
    "encoded",
    "is_encoded",
    "measured_samples",
]

Widths = tuple[int, int, int]
Mask = NDArray[np.bool_]
Geometry = CartesianGeometry | SampledCartesianGeometry


def checked_kspace(kspace: Tensor, argument: str = "kspace") -> Tensor:
    """Return `kspace` if it is complex and finite of shape (coils, kz, ky, kx)."""
    check_tensor(kspace, argument)
    if not kspace.is_complex():
        raise type_error(argument, "be complex", kspace.dtype)
    if kspace.ndim != 4:
        remedy = "A single slice has one kz: kspace[:, None]."
        raise value_error(argument, "have shape (coils, kz, ky, kx)", tuple(kspace.shape), remedy)
    check_finite(kspace, argument)
    return kspace.detach()


def measured_samples(kspace: Tensor, mask: Tensor | None) -> Mask:
    """Return which frequencies (kz, ky, kx) were measured: `mask`, else where any coil is not zero."""
    shape = tuple(kspace.shape[1:])
    if mask is None:
        return np.asarray((kspace != 0).any(dim=0).cpu().numpy())
    found = getattr(mask, "mask", mask)
    if not isinstance(found, Tensor):
        raise type_error("mask", "be a torch.Tensor or a sampling pattern", type(mask).__name__)
    if found.ndim == 1 and found is not mask:
        remedy = "geometry=SampledCartesianGeometry.lines(encoding, pattern), or mask=pattern.mask[:, None]."
        raise value_error("mask", "not be a pattern of lines: it leaves kx out", tuple(found.shape), remedy)
    values = found.detach().cpu()
    if values.is_complex() or not bool(((values == 0) | (values == 1)).all()):
        raise value_error("mask", "hold True and False only, or 1 and 0", f"others, {values.dtype}")
    sizes = zip(reversed(values.shape), reversed(shape), strict=False)
    if values.ndim > 3 or any(n not in (1, m) for n, m in sizes):
        raise value_error("mask", f"broadcast to (kz, ky, kx) = {shape}", tuple(values.shape))
    measured = np.broadcast_to(values.numpy().astype(bool), shape).copy()
    if not measured.any():
        raise value_error("mask", "mark at least one sample as measured", "none")
    return measured


def centred_box(shape: tuple[int, ...], widths: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slices of the centred box of `widths` in an array of `shape`."""
    starts = [n // 2 - w // 2 for n, w in zip(shape, widths, strict=True)]
    return tuple(slice(a, a + w) for a, w in zip(starts, widths, strict=True))


def acs_widths(sampled: Mask) -> Widths:
    """Return the widths of the fully sampled centred box whose narrowest encoded axis is widest.

    Among several, the one that holds most samples. (0, 0, 0) where frequency zero was not measured.
    """
    # With the axes in ascending order the two Python loops run over the short ones.
    order = np.argsort(sampled.shape, kind="stable")
    turned = sampled.transpose(order)
    encoded = [n > 1 for n in turned.shape]
    best, widest = (0, 0), (0, 0, 0)
    plane = np.ones(turned.shape[1:], dtype=bool)
    for w0, i in enumerate(_outwards(turned.shape[0]), start=1):
        plane = plane & turned[i]
        line = np.ones(turned.shape[2], dtype=bool)
        for w1, j in enumerate(_outwards(turned.shape[1]), start=1):
            line = line & plane[j]
            run = line[_outwards(turned.shape[2])]
            w2 = int(run.argmin()) if not run.all() else run.size
            if w2 == 0:
                break
            found = (w0, w1, w2)
            narrow = [w for w, is_encoded in zip(found, encoded, strict=True) if is_encoded]
            score = (min(narrow, default=1), w0 * w1 * w2)
            if score > best:
                best, widest = score, found
    widths = [0, 0, 0]
    for axis, width in zip(order, widest, strict=True):
        widths[axis] = width
    return widths[0], widths[1], widths[2]


def encoded(
    kspace: Tensor, grid: Grid, geometry: Geometry | None, mask: Tensor | None
) -> tuple[Tensor, CartesianGeometry, Mask]:
    """Return checked k-space, its encoding and which of its samples were measured.

    Without a geometry the encoding is that of exactly `grid`; the mask of a sampled one is used unless
    another is given.
    """
    given = checked_kspace(kspace)
    if isinstance(geometry, SampledCartesianGeometry):
        if not geometry.zero_filled or geometry.mask.ndim > 3:
            expected = "have its samples in place, zero-filled, and no time axis"
            found = f"zero_filled={geometry.zero_filled} and a mask of shape {tuple(geometry.mask.shape)}"
            raise value_error("geometry", expected, found, "Calibrate from one frame of k-space.")
        mask = geometry.mask if mask is None else mask
        geometry = geometry.encoding
    encoding = CartesianGeometry.around(grid) if geometry is None else geometry
    if not isinstance(encoding, CartesianGeometry):
        raise type_error("geometry", "be a CartesianGeometry", type(geometry).__name__)
    if Grid.require(grid).time is not None:
        raise value_error("grid", "have no time axis", grid, FRAMES_ARE_A_BATCH)
    shape = tuple(given.shape[1:])
    sliced = encoding.multislice and shape[0] != encoding.matrix[0]
    if sliced or any(n > m for n, m in zip(shape, encoding.matrix, strict=True)):
        raise value_error(
            "kspace",
            f"have the encoded matrix {encoding.matrix}, or be a block about its centre",
            shape,
            "Give the geometry that the data were measured in.",
        )
    sampled = measured_samples(given, mask)
    if encoding.multislice and mask is None:
        sampled[~sampled.any(axis=(1, 2))] = True  # a slice of zeros, without object or noise, says nothing
    return given, encoding, sampled


def is_encoded(encoding: CartesianGeometry) -> tuple[bool, bool, bool]:
    """Return which of the axes (z, y, x) are encoded: not those of one sample, nor slices."""
    z, y, x = (n > 1 for n in encoding.matrix)
    return z and not encoding.multislice, y, x


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a grid lie in an encoded box, axis by axis in array order.

    The box holds `counts` voxels of the grid's size; frequency m - N // 2 of the encoding has at voxel
    n the phase -2 pi sign (m - N // 2) (n - zero_phase) / count. Slices that are not encoded may be
    listed `backwards`.
    """

    counts: tuple[int, int, int]
    zero_phase: tuple[float, float, float]
    signs: tuple[int, int, int]
    backwards: bool = False

    @classmethod
    def of(cls, encoding: CartesianGeometry, grid: Grid) -> Placement:
        """Return the placement of `grid` in `encoding`."""
        axes, flipped = encoding.layout(grid)
        counts, signs = list(grid.shape), [1, 1, 1]
        centres = [float(n // 2) for n in grid.shape]
        for axis in axes:
            if axis.length > 1:
                counts[axis.axis], signs[axis.axis] = axis.length, axis.sign
                centres[axis.axis] = axis.zero_phase
        return cls(
            (counts[0], counts[1], counts[2]),
            (centres[0], centres[1], centres[2]),
            (signs[0], signs[1], signs[2]),
            bool(flipped),
        )

    def centred(self, kspace: Tensor) -> Tensor:
        """Return k-space (coils, kz, ky, kx) as if voxel count // 2 had zero phase on every axis."""
        for axis, (count, zero, sign) in enumerate(
            zip(self.counts, self.zero_phase, self.signs, strict=True)
        ):
            n = kspace.shape[axis + 1]
            turns = sign * (torch.arange(n, dtype=torch.float64) - n // 2) * (zero - count // 2) / count
            angle = -2 * np.pi * (turns - turns.round())
            phase = torch.polar(torch.ones_like(angle), angle).to(kspace)
            kspace = kspace * phase.reshape(-1, *[1] * (2 - axis))
        return kspace

    def on_grid(self, images: Tensor, grid: Grid) -> Tensor:
        """Return the voxels of `grid` out of images (..., *counts) in the order of the frequency axes."""
        for axis, (count, sign, n) in enumerate(zip(self.counts, self.signs, grid.shape, strict=True)):
            index = torch.arange(n)
            if sign < 0:
                index = (2 * (count // 2) - index) % count
            images = images.index_select(images.ndim - 3 + axis, index.to(images.device))
        return images.flip(-3) if self.backwards else images


def _outwards(n: int) -> list[int]:
    """Return the indices of an axis in the order in which a growing centred box takes them in."""
    order = [n // 2]
    for w in range(2, n + 1):
        start = n // 2 - w // 2
        order.append(start if w % 2 == 0 else start + w - 1)
    return order
