"""Point-spread functions that are not a formula: a path of motion, and a measured volume.

Motion: h(r) = integral w(t) delta(r - p(t)) dt for a path p of displacements in mm. Blurring by it is
the exact mean of the linearly interpolated field along the path: each point of the path is shared
between its eight voxels by the linear weights, integrated in closed form.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from operators.blur.psf import PSF
from operators.checks import check_finite, check_number, check_points, check_spacing, check_tensor
from operators.errors import value_error
from operators.frame import require_orthogonal
from operators.grid import FloatArray, Grid

__all__ = ["MeasuredPSF", "MotionPSF"]

#: Nodes on [0, 1] of the two-point Gauss rule, exact for the cubics that products of three lines are.
GAUSS = (0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5)


@dataclass(frozen=True)
class MotionPSF(PSF):
    """Motion along straight lines between the points `path`, displacements in mm (z, y, x).

    A displacement moves the image by itself. `times` in s, one per point and rising, say when each
    is passed; without them the speed is constant. A single point is a shift.
    """

    path: tuple[tuple[float, float, float], ...]
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        points = check_points(self.path, "path")
        if points.ndim != 2 or not len(points):
            raise value_error("path", "have shape (points, 3)", points.shape)
        object.__setattr__(self, "path", tuple(tuple(point) for point in points.tolist()))
        if self.times is None:
            return
        if not isinstance(self.times, (Sequence, np.ndarray)) or len(self.times) != len(points):
            raise value_error("times", f"have one entry per point ({len(points)})", repr(self.times))
        times = tuple(check_number(t, f"times[{i}]") for i, t in enumerate(self.times))
        still = len(times) > 1 and times[0] == times[-1]
        if still or any(b < a for a, b in itertools.pairwise(times)):
            raise value_error("times", "rise", times)
        object.__setattr__(self, "times", times)

    @classmethod
    def in_world(cls, path: ArrayLike, grid: Grid, *, times: Sequence[float] | None = None) -> MotionPSF:
        """Return the motion along `path` in mm along world (R, A, S), as seen from `grid`."""
        axes = require_orthogonal(Grid.require(grid))
        along = check_points(path, "path") @ axes
        return cls(tuple(map(tuple, along.tolist())), None if times is None else tuple(times))

    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        points = np.array(self.path) / spacing
        half = np.ceil(np.abs(points).max(axis=0)).astype(int)
        self._check_extent((2 * half + 1).tolist())
        values = np.zeros(2 * half + 1)
        lengths = np.linalg.norm(np.diff(np.array(self.path), axis=0), axis=1)
        shares = lengths if self.times is None else np.diff(self.times)
        if not len(shares) or shares.sum() == 0:
            points, shares = points[[0, 0]], np.ones(1)
        for start, stop, share in zip(points[:-1] + half, points[1:] + half, shares, strict=True):
            _draw(values, start, stop, float(share))
        return [values]


@dataclass(frozen=True, eq=False)
class MeasuredPSF(PSF):
    """A measured point-spread function: `values` (z, y, x) on voxels of `spacing` mm.

    Its centre is index N // 2, or its centre of mass, or its largest entry. On other spacings it is
    resampled axis by axis: where voxels are larger or equal, by the parts of its voxels inside each of
    them, else by linear interpolation. Subtract the background first: it is used as given.
    """

    values: Tensor
    spacing: tuple[float, float, float] | float
    centre: Literal["index", "mass", "peak"] = "index"

    def __post_init__(self) -> None:
        check_finite(check_tensor(self.values, "values"), "values")
        if self.values.is_complex() or self.values.ndim != 3:
            found = f"{self.values.dtype} of shape {tuple(self.values.shape)}"
            raise value_error("values", "be real and have three axes (z, y, x)", found, "A plane: (1, y, x).")
        object.__setattr__(self, "values", self.values.detach().clone())
        object.__setattr__(self, "spacing", check_spacing(self.spacing, "spacing"))
        if self.centre not in ("index", "mass", "peak"):
            raise value_error("centre", "be 'index', 'mass' or 'peak'", repr(self.centre))
        total, size = float(self.values.double().sum()), float(self.values.double().abs().sum())
        if total <= 1e-6 * size:
            raise value_error("values", "have a positive sum", total, "A blur keeps the mean.")

    def _factors(self, spacing: FloatArray) -> list[FloatArray]:
        self._check_extent(np.ceil(np.array(self.values.shape) * self.spacing / spacing).astype(int).tolist())
        values = self.values.double().cpu().numpy()
        origin = self._origin(values)
        for axis, (own, step) in enumerate(zip(np.array(self.spacing), spacing, strict=True)):
            weights = _resampling(values.shape[axis], origin[axis], float(own / step))
            values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
        if values.sum() <= 0:
            raise value_error("values", "have a positive sum on this grid", float(values.sum()))
        return [values]

    def _origin(self, values: FloatArray) -> FloatArray:
        shape = np.array(values.shape)
        if self.centre == "index":
            return shape // 2
        if self.centre == "peak":
            return np.array(np.unravel_index(values.argmax(), values.shape))
        index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
        return np.asarray((index * values).sum(axis=(1, 2, 3)) / values.sum())


def _draw(values: FloatArray, start: FloatArray, stop: FloatArray, share: float) -> None:
    """Add a line from `start` to `stop`, in voxels, of total weight `share`."""
    along = stop - start
    cuts = [0.0, 1.0]
    for a, d in zip(start, along, strict=True):
        if d != 0:
            whole = np.arange(np.ceil(min(a, a + d)), np.floor(max(a, a + d)) + 1)
            cuts.extend(((whole - a) / d).tolist())
    times = np.unique(np.clip(cuts, 0, 1))
    lengths = np.diff(times)
    nodes = (times[:-1, None] + lengths[:, None] * np.array(GAUSS)).ravel()
    weights = np.repeat(share * lengths / 2, 2)
    # Rounding may put a point a hair outside.
    points = np.clip(start + nodes[:, None] * along, 0, np.array(values.shape) - 1)
    low = np.floor(points).astype(int)
    part = points - low
    for corner in np.ndindex(2, 2, 2):
        shared = weights * np.prod(np.where(corner, part, 1 - part), axis=1)
        # A weight of zero may lie beyond the last voxel.
        place = np.minimum(low + corner, np.array(values.shape) - 1)
        np.add.at(values, tuple(place.T), shared)


def _resampling(n: int, origin: float, ratio: float) -> FloatArray:
    """Return the matrix from `n` voxels to voxels 1 / `ratio` as large, the centre of both on one point."""
    # Faces of the old voxels in new ones, index 0 the new centre.
    faces = (np.arange(n + 1) - 0.5 - origin) * ratio
    half = max(int(np.ceil(np.abs(faces[[0, -1]]).max() - 0.5 - 1e-9)), 0)
    new = np.arange(-half, half + 1)
    if ratio <= 1 + 1e-9:
        low = np.maximum(faces[None, :-1], new[:, None] - 0.5)
        high = np.minimum(faces[None, 1:], new[:, None] + 0.5)
        parts: FloatArray = np.maximum(high - low, 0) / ratio
        return parts
    where = new / ratio + origin
    lines: FloatArray = np.maximum(1 - np.abs(where[:, None] - np.arange(n)[None, :]), 0)
    return lines
