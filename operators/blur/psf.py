"""Point-spread functions in mm, known to no grid until one asks for their kernel.

Coordinates are mm along the array axes (z, y, x) of the grid that is blurred, which has to have
perpendicular axes; `in_world` turns what is known along world (R, A, S). An image of a point at r is
h(r' - r): a PSF to the one side of its centre moves the image to that side. A kernel has its centre at
index k // 2 of k entries and sums to 1, so that a constant field stays constant.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from operators.checks import check_axes, check_number, replaced
from operators.errors import type_error, value_error
from operators.frame import require_orthogonal
from operators.grid import FloatArray, Grid

__all__ = ["PSF", "BoxPSF", "DiscPSF", "GaussianPSF"]

Triple = tuple[float, float, float]
FWHM_PER_SD = 2 * math.sqrt(2 * math.log(2))
#: Largest kernel that is made, in voxels: 1 GiB. Lengths in another unit than mm ask for more.
LARGEST = 2**27


@dataclass(frozen=True)
class PSF(ABC):
    """A point-spread function in mm."""

    def kernel(self, grid: Grid) -> Tensor:
        """Return the kernel (kz, ky, kx) on the spacing of `grid`, in double precision, of sum 1.

        Along an axis of a single voxel it is summed: a plane is blurred in the plane.
        """
        require_orthogonal(Grid.require(grid))
        single = tuple(axis for axis, n in enumerate(grid.shape) if n == 1)
        factors = [f.sum(axis=single, keepdims=True) for f in self._factors(np.array(grid.spacing))]
        self._check_extent(np.broadcast_shapes(*(f.shape for f in factors)))
        values = math.prod(factors[1:], start=factors[0])
        return torch.from_numpy(values / values.sum())

    def with_(self, **changes: object) -> Self:
        """Return the same with some values changed."""
        return replaced(self, changes)

    @abstractmethod
    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        """Return arrays (kz, ky, kx) whose product is the kernel for voxels of `spacing` mm, up to a factor.

        One, or three of a single axis each.
        """

    def _check_extent(self, shape: Sequence[int]) -> None:
        if math.prod(shape) > LARGEST:
            raise value_error(
                "psf",
                f"reach over {LARGEST} voxels at most",
                f"{tuple(shape)} of a {type(self).__name__}",
                "Its lengths are in mm, as those of the grid.",
            )


@dataclass(frozen=True)
class GaussianPSF(PSF):
    """A Gaussian of full width at half maximum `fwhm` in mm along three axes, 0 for none.

    The axes are those of the array, or the columns of `directions`, orthonormal in (z, y, x). It is
    sampled at voxel centres within `reach` standard deviations: a width below 1.2 voxels comes out
    narrower than stated, and one in an oblique direction is refused there.
    """

    fwhm: Triple | float
    directions: tuple[Triple, Triple, Triple] | None = None
    reach: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fwhm", _lengths(self.fwhm, "fwhm"))
        object.__setattr__(self, "reach", check_number(self.reach, "reach", positive=True))
        if self.directions is None:
            return
        turned = _matrix(self.directions, "directions")
        if np.abs(turned.T @ turned - np.eye(3)).max() > 1e-6:
            raise value_error("directions", "have orthonormal columns", turned.tolist())
        object.__setattr__(self, "directions", tuple(tuple(row) for row in turned.tolist()))

    @classmethod
    def from_sd(cls, sd: Triple | float, *, reach: float = 5.0) -> GaussianPSF:
        """Return the Gaussian of standard deviations `sd` in mm (z, y, x)."""
        z, y, x = (FWHM_PER_SD * length for length in _lengths(sd, "sd"))
        return cls((z, y, x), reach=reach)

    @classmethod
    def from_covariance(cls, covariance: ArrayLike, *, reach: float = 5.0) -> GaussianPSF:
        """Return the Gaussian of a 3x3 covariance in mm^2, rows and columns (z, y, x)."""
        matrix = _matrix(covariance, "covariance")
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        if np.abs(matrix - matrix.T).max() > 1e-9 * np.abs(matrix).max() or values[0] < -1e-12 * values[-1]:
            raise value_error("covariance", "be symmetric with eigenvalues >= 0", matrix.tolist())
        if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0:
            z, y, x = np.sqrt(np.diag(matrix)).tolist()
            return cls.from_sd((z, y, x), reach=reach)
        z, y, x = (FWHM_PER_SD * np.sqrt(np.maximum(values, 0))).tolist()
        rows = [(a, b, c) for a, b, c in vectors.tolist()]
        return cls((z, y, x), (rows[0], rows[1], rows[2]), reach)

    @classmethod
    def in_world(cls, covariance: ArrayLike, grid: Grid, *, reach: float = 5.0) -> GaussianPSF:
        """Return the Gaussian of a 3x3 covariance in mm^2 along world (R, A, S), as seen from `grid`."""
        axes = require_orthogonal(Grid.require(grid))
        along = axes.T @ _matrix(covariance, "covariance") @ axes
        # Rounding must not make an oblique Gaussian of one along the axes.
        along[np.abs(along) < 1e-14 * np.abs(along).max()] = 0
        return cls.from_covariance(along, reach=reach)

    @property
    def covariance(self) -> FloatArray:
        """The 3x3 covariance in mm^2, rows and columns (z, y, x)."""
        axes = np.eye(3) if self.directions is None else np.array(self.directions)
        matrix: FloatArray = (axes * (np.array(self.fwhm) / FWHM_PER_SD) ** 2) @ axes.T
        return matrix

    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        sd = np.sqrt(np.diag(self.covariance))
        counts = np.floor(self.reach * sd / spacing).astype(int).tolist()
        z, y, x = (np.arange(-n, n + 1) * h for n, h in zip(counts, spacing, strict=True))
        if self.directions is None:
            return _along_axes(
                np.exp(-0.5 * (r / s) ** 2) if s > 0 else np.ones(1)
                for r, s in zip((z, y, x), sd, strict=True)
            )
        narrowest = min(np.array(self.fwhm)) / FWHM_PER_SD
        if narrowest < 0.5 * spacing.max():
            raise value_error(
                "fwhm",
                f"be at least {0.5 * FWHM_PER_SD * spacing.max():.4g} mm in oblique directions on voxels of "
                f"{tuple(spacing.tolist())} mm",
                self.fwhm,
                "Resample on a finer grid, or blur along the array axes.",
            )
        self._check_extent((z.size, y.size, x.size))
        points = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)
        squares = np.einsum("...i,ij,...j", points, np.linalg.inv(self.covariance), points)
        return [np.where(squares <= self.reach**2, np.exp(-0.5 * squares), 0.0)]


@dataclass(frozen=True)
class BoxPSF(PSF):
    """The mean over a box of `width` in mm (z, y, x), 0 for none; a voxel counts by its part inside."""

    width: Triple | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", _lengths(self.width, "width"))

    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        rows = []
        for width, step in zip(np.array(self.width), spacing, strict=True):
            half = width / step / 2
            n = max(math.ceil(half - 0.5), 0)
            edges = np.clip(np.arange(-n, n + 2) - 0.5, -half, half)
            rows.append(np.diff(edges) if n else np.ones(1))
        return _along_axes(rows)


@dataclass(frozen=True)
class DiscPSF(PSF):
    """Defocus: a uniform disc of `radius` in mm, normal to array axis `normal`; exact pixel areas."""

    radius: float
    normal: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", check_number(self.radius, "radius", positive=True))
        check_axes((self.normal,), "normal")

    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        edges = []
        for step in np.delete(spacing, self.normal):
            n = max(math.ceil(self.radius / step - 0.5), 0)
            edges.append((np.arange(-n, n + 2) - 0.5) * step)
        self._check_extent([len(edge) for edge in edges])
        corners = _disc_below(edges[0][:, None], edges[1][None, :], self.radius)
        areas = np.diff(np.diff(corners, axis=0), axis=1)
        # Differences of nearly equal areas leave rounding where the disc does not reach.
        areas[areas < 1e-13 * areas.max()] = 0
        return [np.expand_dims(areas, self.normal)]


def _along_axes(rows: Iterable[FloatArray]) -> list[FloatArray]:
    """Return profiles along z, y and x as arrays of three axes."""
    return [np.expand_dims(row, [a for a in range(3) if a != axis]) for axis, row in enumerate(rows)]


def _disc_below(u: FloatArray, v: FloatArray, radius: float) -> FloatArray:
    """Return the area of the disc with first coordinate <= u and second <= v.

    At each t the chord below v has length s + clip(v, -s, s), s = (r^2 - t^2)^1/2, and S is the
    integral of s. |v| < s where |t| < a = (r^2 - v^2)^1/2.
    """

    def integral(t: FloatArray) -> FloatArray:
        inside: FloatArray = np.clip(t, -radius, radius)
        chord = np.sqrt(np.maximum(radius**2 - inside**2, 0))
        result: FloatArray = 0.5 * (inside * chord + radius**2 * np.arcsin(inside / radius))
        return result

    v = np.clip(v, -radius, radius)
    a = np.sqrt(np.maximum(radius**2 - v**2, 0))
    middle = np.clip(u, -a, a)
    start = np.full_like(u, -radius)
    below = np.minimum(u, -a)
    above = np.maximum(u, a)
    clipped = integral(below) - integral(start) + np.abs(v) * (middle + a) + integral(above) - integral(a)
    area: FloatArray = integral(u) - integral(start) + np.sign(v) * clipped
    return area


def _lengths(values: Sequence[float] | float, argument: str) -> Triple:
    """Return three lengths >= 0 in mm (z, y, x), from three or from one for all."""
    single = isinstance(values, (int, float, np.integer, np.floating))
    if not single and not isinstance(values, (Sequence, np.ndarray)):
        raise type_error(argument, "be a length in mm or three (z, y, x)", repr(values))
    entries = (values,) * 3 if single else tuple(values)  # type: ignore[arg-type]
    if len(entries) != 3:
        raise value_error(argument, "be one length in mm or three (z, y, x)", entries)
    z, y, x = (check_number(e, f"{argument}[{i}]", non_negative=True) for i, e in enumerate(entries))
    return z, y, x


def _matrix(values: ArrayLike, argument: str) -> FloatArray:
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type_error(argument, "be a 3x3 matrix of numbers", repr(values)) from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise value_error(argument, "be a finite 3x3 matrix", matrix.tolist())
    return matrix
