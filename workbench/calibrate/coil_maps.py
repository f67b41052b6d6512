"""Coil maps from the fully sampled centre of k-space: ESPIRiT, computed by sigpy.

Small kernels that map the calibration signal to itself are, at each voxel, a matrix over the coils;
its eigenvector to the eigenvalue one is the sensitivity there (Uecker et al., MRM 71:990, 2014).

    sum_c |S_c|^2 = 1 inside,  S = 0 where the eigenvalue lies below `crop`: no object, no map

What no data can tell is a phase per voxel, common to all coils. Here sum_c conj(w_c) S_c >= 0, with w
the first principal component of the calibration signal, a virtual coil: where it sees nothing the
phase of the maps, and with it that of the image, turns quickly. Nothing but the samples is used.

A scan along a trajectory that covers the centre is calibrated from what it looks like on a box:

    images = scan.operator(grid, components=(coils,)).H(density_weights(scan, grid) * y)
    espirit_maps(CartesianGeometry.around(grid).operator(grid, components=(coils,))(images), grid)
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry
from workbench.calibrate.acs import (
    Geometry,
    Placement,
    acs_widths,
    centred_box,
    encoded,
    is_encoded,
)
from workbench.calibration import CoilMaps
from workbench.random import Keys

__all__ = ["espirit_maps"]

ComplexArray = NDArray[np.complexfloating[Any, Any]]


def espirit_maps(
    kspace: Tensor,
    grid: Grid,
    *,
    geometry: Geometry | None = None,
    mask: Tensor | None = None,
    width: int = 24,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    iterations: int = 100,
    volumetric: bool = False,
    seed: int = 0,
) -> CoilMaps:
    """Return the coil maps of k-space (coils, kz, ky, kx) on `grid`.

    In three encoded dimensions the data are cut into planes by a transform along a fully sampled axis and
    each, like each slice of several, is calibrated for itself, under one threshold for all: 0.05 ms per
    voxel for 8 coils on one core.
    The same samples, seed, machine and number of threads give the same maps, bit by bit.

    Parameters
    ----------
    kspace
        Zero where nothing was measured: the whole encoded matrix, or a block about its centre.
    grid
        Where the maps are wanted: any that the geometry takes, such as a finer one of the same extent.
    geometry
        Of the k-space; by default the encoding of exactly `grid`, `CartesianGeometry.around(grid)`.
    mask
        What was measured; broadcasts to (kz, ky, kx). By default the geometry's, or whatever is not zero.
    width
        Of the calibration box along each axis, at most: a wider one costs time and adds little.
    kernel_width
        In samples; the box must be at least 2 kernel_width - 1 wide. For boxes of less than 20 lines a
        quarter of their width, and a threshold of .01, leave less of the signal outside the maps.
    threshold
        Singular values of the calibration matrix below this share of the largest are taken for noise.
    crop
        Least eigenvalue inside the support.
    iterations
        Of the power method at each voxel.
    volumetric
        Whether kernels reach across planes: as fast for kernels of 4, slower with the cube of their width,
        and 3 kB of memory per voxel for 8 coils.
    seed
        Of the vector that the power method starts from, the same at every voxel.
    """
    sigpy = require("sigpy.mri", feature="ESPIRiT", extra="mri")
    kernel = check_count(kernel_width, "kernel_width", minimum=2)
    width = check_count(width, "width", minimum=2 * kernel - 1)
    check_count(iterations, "iterations")
    if not 0 < check_number(threshold, "threshold") < 1:
        raise value_error("threshold", "lie between 0 and 1", threshold)
    if not 0 < check_number(crop, "crop") < 1:
        raise value_error("crop", "lie between 0 and 1", crop)
    given, encoding, sampled = encoded(kspace, grid, geometry, mask)
    place = Placement.of(encoding, grid)
    along = _plane_axis(sampled, encoding, volumetric)
    used, box = _calibration_box(sampled, encoding, along, width, kernel)
    measured = given * torch.from_numpy(sampled).to(given.device)
    acs = place.centred(measured)[(slice(None), *centred_box(sampled.shape, box))].cpu()
    planes = _planes(acs.numpy(), along, None if encoding.multislice else place.counts)
    axes = [axis for axis, has_steps in enumerate(is_encoded(encoding)) if has_steps and axis != along]
    shape = tuple(place.counts[axis] for axis in axes)
    start = Keys(seed, (0,)).normals(acs.shape[:1], "ESPIRiT", like=acs)[0].numpy()
    calibration = _Calibration(sigpy, used, kernel, crop, iterations, start)
    found = calibration.maps(planes.reshape(*planes.shape[:2], *[used] * len(shape)), shape, threshold)
    maps = np.moveaxis(found, 0, 1)  # (coils, planes, ...)
    if along is None:
        maps = maps.reshape(acs.shape[0], *place.counts)
    else:
        rest = [1 if axis == along else n for axis, n in enumerate(place.counts)]
        maps = np.concatenate([m.reshape(-1, *rest) for m in np.moveaxis(maps, 1, 0)], axis=along + 1)
    turned = torch.from_numpy(_referred(maps, virtual_coil(acs).numpy())).to(given)
    return CoilMaps(place.on_grid(turned, grid).contiguous(), grid)


def virtual_coil(samples: Tensor) -> Tensor:
    """Return the first principal component (coils,) of samples (coils, ...), its largest entry positive."""
    table = samples.reshape(samples.shape[0], -1).to(torch.complex128)
    weights: Tensor = torch.linalg.eigh(table @ table.mH)[1][:, -1]
    largest = weights[weights.abs().argmax()]
    return weights * (largest.conj() / largest.abs())


class _Calibration:
    """ESPIRiT of calibration blocks of one size, each of a plane or of the volume."""

    def __init__(
        self, sigpy: ModuleType, width: int, kernel: int, crop: float, iterations: int, start: ComplexArray
    ) -> None:
        self.sigpy, self.width, self.kernel = sigpy, width, kernel
        self.crop, self.iterations, self.start = crop, iterations, start

    def maps(self, blocks: ComplexArray, shape: tuple[int, ...], threshold: float) -> ComplexArray:
        """Return the maps (blocks, coils, *shape) of blocks (blocks, coils, width, ...).

        A threshold relative to each plane's own largest singular value would make maps of pure noise
        where a plane holds no object: it is relative to the largest of all.
        """
        norms = [self._norm(block) for block in blocks]
        if not max(norms) > 0:
            raise value_error("kspace", "hold a signal in its calibration box", "zeros")
        found = np.zeros((*blocks.shape[:2], *shape), blocks.dtype)
        for i, (block, norm) in enumerate(zip(blocks, norms, strict=True)):
            if norm > threshold * max(norms):
                found[i] = self._one(block, shape, threshold * max(norms) / norm)
        return found

    def _one(self, block: ComplexArray, shape: tuple[int, ...], threshold: float) -> ComplexArray:
        whole = np.zeros((block.shape[0], *shape), block.dtype)
        whole[(slice(None), *centred_box(shape, block.shape[1:]))] = block
        app = self.sigpy.app.EspiritCalib(
            whole,
            calib_width=self.width,
            thresh=threshold,
            kernel_width=self.kernel,
            crop=self.crop,
            max_iter=self.iterations,
            show_pbar=False,
        )
        # sigpy starts from ones, at right angles to some maps, and refers phases to coil 0, which may
        # see nothing somewhere: the iteration is its own, the start and the reference are ours.
        app.mps[:] = self.start.astype(block.dtype)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            while not app.alg.done():
                app.alg.update()
        vectors, values = app.alg.x.T[0].astype(np.complex128), app.alg.max_eig.T[0, 0]
        inside = values > self.crop
        norm = np.sqrt(np.sum(np.abs(vectors) ** 2, axis=0))
        unit = np.where(inside, vectors, 0) / np.where(inside, norm, 1)
        return unit.astype(block.dtype)

    def _norm(self, block: ComplexArray) -> float:
        """Return the largest singular value of the calibration matrix."""
        windows = np.lib.stride_tricks.sliding_window_view(
            block, [self.kernel] * (block.ndim - 1), axis=tuple(range(1, block.ndim))
        )
        positions = np.moveaxis(windows, 0, block.ndim - 1)
        table = positions.reshape(-1, block.shape[0] * self.kernel ** (block.ndim - 1))
        return float(np.linalg.norm(table, 2))


def _plane_axis(sampled: NDArray[np.bool_], encoding: CartesianGeometry, volumetric: bool) -> int | None:
    """Return the axis along which k-space is cut into planes: that of slices, or one of three encoded."""
    if encoding.multislice:
        return 0
    if volumetric or not all(is_encoded(encoding)):
        return None
    best, chosen = 0, None
    for axis in (2, 1, 0):  # the readout first
        if sampled.shape[axis] < encoding.matrix[axis]:
            continue
        plane = np.asarray(sampled.all(axis=axis, keepdims=True))
        widths = [w for i, w in enumerate(acs_widths(plane)) if i != axis]
        if min(widths) > best:
            best, chosen = min(widths), axis
    if chosen is None:
        raise value_error(
            "kspace",
            "be fully sampled along an axis, in a box about its centre, to be calibrated plane by plane",
            f"sampled boxes of {acs_widths(sampled)}",
            "Measure that; or use volumetric=True, which takes much longer.",
        )
    return chosen


def _calibration_box(
    sampled: NDArray[np.bool_], encoding: CartesianGeometry, along: int | None, width: int, kernel: int
) -> tuple[int, tuple[int, int, int]]:
    """Return the width of the calibration box and its widths along all three axes."""
    whole = sampled if along is None else np.asarray(sampled.all(axis=along, keepdims=True))
    widths = list(acs_widths(whole))
    least = 2 * kernel - 1
    within = [axis for axis, has_steps in enumerate(is_encoded(encoding)) if has_steps and axis != along]
    found = min((widths[axis] for axis in within), default=0)
    if found < least:
        raise value_error(
            "kspace",
            f"have a fully sampled box of at least {least} samples about frequency zero, "
            f"2 kernel_width - 1, along each encoded axis",
            f"one of {tuple(widths)} (kz, ky, kx)" if found else "none",
            "Measure more calibration lines, or use a smaller kernel_width.",
        )
    used = min(width, found)
    for axis in range(3):
        widths[axis] = used if axis in within else sampled.shape[axis]
    return used, (widths[0], widths[1], widths[2])


def _planes(acs: ComplexArray, along: int | None, counts: tuple[int, int, int] | None) -> ComplexArray:
    """Return calibration blocks (planes, coils, kz, ky, kx), transformed along an axis to its voxels."""
    if along is None:
        return acs[None]
    if counts is None:
        return np.moveaxis(acs, along + 1, 0)
    axis, count = along + 1, counts[along]
    n = acs.shape[axis]
    outer = tuple(slice(None) if i != axis else centred_box((count,), (n,))[0] for i in range(4))
    whole = np.zeros([count if i == axis else m for i, m in enumerate(acs.shape)], acs.dtype)
    whole[outer] = acs
    image = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(whole, axes=axis), axis=axis, norm="ortho"), axes=axis
    )
    return np.moveaxis(image, axis, 0).astype(acs.dtype)


def _referred(maps: ComplexArray, weights: ComplexArray) -> ComplexArray:
    """Return maps (coils, ...) whose part seen by the virtual coil is real and not negative."""
    seen = np.tensordot(weights.conj(), maps, axes=1)
    size = np.abs(seen)
    return maps * np.where(size > 0, seen.conj() / np.where(size > 0, size, 1), 1)
