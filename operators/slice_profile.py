"""From thin slices to thick ones, and from fine voxels to coarse ones: what super-resolution inverts.

    y_i = sum_j W_ij x_j,    W_ij = integral over thin voxel j of p(z - z_i) dz / integral of p

for the profile p of the slice selection, centred at each thick slice z_i; the integrals are exact. Thick
slices may overlap or leave gaps: the profile's width and the thick grid's spacing are independent. Every
solve is exact (operators/separable.py). A stack in another orientation is another SliceProfile: Stack.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from operators.blur.psf import FWHM_PER_SD
from operators.checks import check_axes, check_number
from operators.errors import type_error, value_error
from operators.grid import FloatArray, Grid
from operators.separable import Separable
from operators.solves import Stopping
from operators.space import Space
from operators.spectrum import Spectrum

__all__ = ["BoxProfile", "Downsample", "GaussianProfile", "Profile", "SampledProfile", "SliceProfile"]

Edges = Literal["renormalise", "zero"]


@dataclass(frozen=True)
class Profile(ABC):
    """Sensitivity across a slice as a function of the distance in mm from its centre."""

    @abstractmethod
    def below(self, distance: FloatArray) -> FloatArray:
        """Return the part of the profile at distances up to `distance`, from 0 to 1."""


@dataclass(frozen=True)
class BoxProfile(Profile):
    """Uniform over `thickness` mm."""

    thickness: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "thickness", check_number(self.thickness, "thickness", positive=True))

    def below(self, distance: FloatArray) -> FloatArray:
        """Return the part of the box at distances up to `distance`."""
        part: FloatArray = np.clip(distance / self.thickness + 0.5, 0, 1)
        return part


@dataclass(frozen=True)
class GaussianProfile(Profile):
    """A Gaussian of full width at half maximum `fwhm` mm."""

    fwhm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "fwhm", check_number(self.fwhm, "fwhm", positive=True))

    def below(self, distance: FloatArray) -> FloatArray:
        """Return the part of the Gaussian at distances up to `distance`."""
        scaled = torch.from_numpy(np.asarray(distance) * FWHM_PER_SD / self.fwhm)
        part: FloatArray = torch.special.ndtr(scaled).numpy()
        return part


@dataclass(frozen=True)
class SampledProfile(Profile):
    """A measured or simulated profile: `weights` at rising `offsets` mm, straight lines between them.

    Zero outside. Weights may be negative in places, as those of sinc pulses are; their integral is not.
    """

    offsets: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("offsets", "weights"):
            values = getattr(self, name)
            if not isinstance(values, (Sequence, np.ndarray)) or len(values) < 2:
                raise value_error(name, "be two numbers or more", repr(values))
            numbers = tuple(check_number(v, f"{name}[{i}]") for i, v in enumerate(values))
            object.__setattr__(self, name, numbers)
        if len(self.offsets) != len(self.weights):
            raise value_error("weights", f"be as many as offsets, {len(self.offsets)}", len(self.weights))
        if (np.diff(self.offsets) <= 0).any():
            raise value_error("offsets", "rise", self.offsets)
        if self._areas().sum() <= 0:
            raise value_error("weights", "have a positive integral", self.weights)

    def below(self, distance: FloatArray) -> FloatArray:
        """Return the part of the profile at distances up to `distance`."""
        offsets, weights, areas = np.array(self.offsets), np.array(self.weights), self._areas()
        z = np.clip(distance, offsets[0], offsets[-1])
        left = np.clip(np.searchsorted(offsets, z, side="right") - 1, 0, len(offsets) - 2)
        into = z - offsets[left]
        slope = (np.diff(weights) / np.diff(offsets))[left]
        before = np.concatenate([[0.0], np.cumsum(areas)])[left]
        part: FloatArray = (before + into * (weights[left] + slope * into / 2)) / areas.sum()
        return part

    def _areas(self) -> FloatArray:
        weights = np.array(self.weights)
        areas: FloatArray = np.diff(self.offsets) * (weights[:-1] + weights[1:]) / 2
        return areas


class SliceProfile(Separable):
    """Images on a thin grid -> images on the coaxial grid `thick`, slices along array axis `axis`.

    Both grids have the same voxels across that axis; along it, `thick` may have any spacing and run
    either way. `profile` is by default a box as wide as the thick spacing: no gap, no overlap. Where
    a profile leaves the thin grid, "renormalise" divides by the part inside, so that a constant volume
    stays constant up to the ends; "zero" says that nothing lies there.
    """

    def __init__(
        self,
        domain: Space,
        thick: Grid,
        profile: Profile | None = None,
        *,
        axis: int = 0,
        edges: Edges = "renormalise",
    ) -> None:
        thin = Space.require(domain, "domain").grid
        if thin is None:
            raise value_error("domain", "lie on a Grid, that of the thin slices", domain)
        (place,) = check_axes((axis,), "axis")
        Grid.require(thick, "thick")
        if edges not in ("renormalise", "zero"):
            raise value_error("edges", "be 'renormalise' or 'zero'", repr(edges))
        chosen = BoxProfile(thick.spacing[place]) if profile is None else profile
        if not isinstance(chosen, Profile):
            raise type_error("profile", "be a Profile, such as BoxProfile(5.0)", type(chosen).__name__)
        weights = _weights(thin, thick, place, chosen, edges)
        shape = (*domain.shape[: -len(thin.array_shape)], *thick.array_shape)
        codomain = Space(shape, domain.is_complex, thick, domain.is_vector)
        super().__init__(domain, codomain, {place - 3: torch.from_numpy(weights)})
        self.profile = chosen


class Downsample(Separable):
    """The mean over blocks of `factor` voxels (z, y, x): values on `grid.downsample(factor)`.

    A A^H = I / F for blocks of F voxels, so that F A^H is the pseudo-inverse: each voxel its block's
    value. The factors divide the shape.
    """

    def __init__(self, domain: Space, factor: Sequence[int] | int) -> None:
        grid = Space.require(domain, "domain").grid
        if grid is None:
            raise value_error("domain", "lie on a Grid", domain)
        coarse = grid.downsample(factor)
        factors = [n // m for n, m in zip(grid.shape, coarse.shape, strict=True)]
        shape = (*domain.shape[:-3], *coarse.shape)
        means = {}
        for axis, f in enumerate(factors):
            if f > 1 or axis == 2:
                eye = torch.eye(coarse.shape[axis], dtype=torch.float64)
                means[axis - 3] = eye.repeat_interleave(f, dim=1) / f
        codomain = Space(shape, domain.is_complex, coarse, domain.is_vector)
        super().__init__(domain, codomain, means)
        self.factor = tuple(factors)
        self.is_unitary = math.prod(factors) == 1

    def _apply(self, x: Tensor) -> Tensor:
        for axis, f in zip((-3, -2, -1), self.factor, strict=True):
            if f > 1:
                # Axis by axis: a joint sum over strided axes is ten times slower.
                shape = (*x.shape[:axis], x.shape[axis] // f, f, *x.shape[x.ndim + axis + 1 :])
                x = x.reshape(shape).sum(dim=axis)
        return x / math.prod(self.factor)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        for axis, f in zip((-3, -2, -1), self.factor, strict=True):
            y = y.repeat_interleave(f, dim=axis) if f > 1 else y
        return y / math.prod(self.factor)

    def _dual_congruence(self, inner: Spectrum) -> Spectrum | None:
        return inner.scaled(1 / math.prod(self.factor)) if inner.is_scalar else None

    def _solve_normal(self, b: Tensor, c: Tensor, start: Tensor | None, stopping: Stopping) -> Tensor:
        # A^H A = P / F for the projection P = F A^H A on fields that are constant in each block.
        count = math.prod(self.factor)
        if bool((c * torch.finfo(b.dtype).max <= 1).any()):
            return super()._solve_normal(b, c, start, stopping)
        inside = count * self._apply_adjoint(self._apply(b))
        return (b - inside) / c + inside / (c + 1 / count)

    def _pseudo_solve(self, b: Tensor, cutoff: float) -> Tensor:
        # Every singular value that is not zero is the largest: none is cut off.
        del cutoff
        return math.prod(self.factor) ** 2 * self._apply_adjoint(self._apply(b))


def _weights(thin: Grid, thick: Grid, axis: int, profile: Profile, edges: Edges) -> FloatArray:
    """Return W, shape (thick slices, thin slices)."""
    across = [a for a in range(3) if a != axis]
    if thin.time != thick.time or any(thin.shape[a] != thick.shape[a] for a in across):
        raise value_error(
            "thick",
            f"have the shape of the thin grid across axis {axis}, {thin!r}",
            repr(thick),
            "Resample it.",
        )
    # One step beyond the first slice even where there is one only: its direction has to fit too.
    ends = [(0, max(n - 1, 1) if a == axis else n - 1) for a, n in enumerate(thick.shape)]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    found = thin.world_to_index(thick.index_to_world(corners))
    if np.abs(found - corners)[:, across].max() > 1e-4:
        raise value_error(
            "thick",
            f"be coaxial with the thin grid: the same voxels across axis {axis}",
            repr(thick),
            f"Thin grid: {thin!r}. Resample one of the two.",
        )
    first, last = float(found[0, axis]), float(found[-1, axis])
    centres = np.linspace(first, last, max(thick.shape[axis], 2))[: thick.shape[axis], None]
    if centres.min() < -0.5 - 1e-4 or centres.max() > thin.shape[axis] - 0.5 + 1e-4:
        raise value_error(
            "thick",
            "have the centre of every slice within the thin grid",
            f"slices at thin indices {centres.min():.4g} to {centres.max():.4g} of {thin.shape[axis]}",
            "Pad the thin grid: grid.pad(...), or crop the thick one.",
        )
    # Distances run along the thick slices' own direction: a profile need not be even.
    way = 1 if last > first else -1
    faces = (np.arange(thin.shape[axis] + 1) - 0.5 - centres) * thin.spacing[axis] * way
    weights: FloatArray = np.diff(profile.below(faces), axis=1) * way
    inside = weights.sum(axis=1, keepdims=True)
    if inside.min() < 0.1:
        raise value_error(
            "thick",
            "have a tenth of every profile within the thin grid",
            float(inside.min()),
            "Pad the thin grid.",
        )
    return weights / inside if edges == "renormalise" else weights
