"""Non-local means: each voxel becomes the mean of those in its search box whose patches look like its own.

    denoise(z, sigma)_i = sum_j w_ij z_j / sum_j w_ij,    w_ij = max(exp(-max(d_ij, 0)) - exp(-5), 0)

    d_ij = mean over the patch of (|z_{i+k} - z_{j+k}|^2 - 2 m sigma^2) / (m h^2),     h = bandwidth * sigma

m = 1 for real images and 2 for complex ones, whose two parts count as two channels (Buades, Coll and Morel
2005; less the noise's own share: Darbon et al. 2008). Images are continued by their mirror image. It is what
scikit-image's denoise_nl_means(fast_mode=True) sets out to compute, but for weights that reach 0 without the
jump of its cut-off at d = 5: a small change of z makes a small change. That one (as of 0.26) sums patches
one voxel narrower than asked for and half a voxel off, and knows cubic voxels, one level and the CPU
only. Here patch and search box are lengths in mm: a coarse axis has fewer voxels of both.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import value_error
from operators.grid import Grid
from operators.space import Space
from workbench.priors.base import Denoiser
from workbench.priors.by_field import by_field, long_axes, require_images
from workbench.units import Units

__all__ = ["NonlocalMeansDenoiser"]

#: The weight that counts as 0: scikit-image's.
NO_WEIGHT = math.exp(-5.0)
#: Half the width of a patch, and of the search box by the number of long axes, in voxels of the finest axis.
PATCH = 1
SEARCH = {1: 6, 2: 6, 3: 3}
#: h / sigma: near the least error on the chest phantom, in 2D and 3D, over all sigma.
BANDWIDTH = 1.0


class NonlocalMeansDenoiser(Denoiser):
    """Means over voxels with similar surroundings.

    Parameters
    ----------
    space
        Real, complex or vector images on a grid; axes of one voxel play no part, components and frames are
        images by themselves.
    bandwidth
        h / sigma: how unlike patches may be, beside noise.
    patch
        Half the width of a patch in mm, the voxel itself not counted: along each axis the nearest whole
        number of voxels. By default 1 voxel of the finest axis; wider ones keep weak texture better.
    search
        The same of the box in which patches are compared: 6 voxels in a plane, 3 in a volume. The time
        taken goes as its volume.
    units
        What the numbers mean.

    Gradients flow through it; they keep several images for every second voxel of the search box.
    """

    proper = False

    def __init__(
        self,
        space: Space,
        *,
        bandwidth: float = BANDWIDTH,
        patch: float | None = None,
        search: float | None = None,
        units: Units | None = None,
    ) -> None:
        grid = require_images(space)
        super().__init__(space, units)
        axes = long_axes(grid)
        finest = min(grid.spacing[axis] for axis in axes)
        if patch is not None:
            check_number(patch, "patch", non_negative=True)
        if search is not None:
            check_number(search, "search", positive=True)
        self.bandwidth = check_number(bandwidth, "bandwidth", positive=True)
        self.patch = PATCH * finest if patch is None else float(patch)
        self.search = SEARCH[len(axes)] * finest if search is None else float(search)
        self.patch_voxels = _voxels(self.patch, grid)
        self.search_voxels = _voxels(self.search, grid)
        if not any(self.search_voxels):
            raise value_error("search", f"reach the next voxel, {finest:g} mm away", self.search)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma > 0, by_field(self._averaged, z, sigma), z)

    def _averaged(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return the means for images (n, z, y, x) and levels (n, 1, 1, 1)."""
        shape, patch = z.shape[-3:], self.patch_voxels
        around = z
        for axis in range(3):
            around = _mirrored(around, axis - 3, patch[axis] + self.search_voxels[axis])
        parts = 2 if z.is_complex() else 1
        variance = torch.where(sigma > 0, sigma, 1.0).square()
        scale = 1 / (parts * self.bandwidth**2 * variance)
        # A voxel is like itself, d_ii = 0; d_ij = d_ji, so half the box is looked at.
        total, weights = (1 - NO_WEIGHT) * z, torch.full_like(z.real, 1 - NO_WEIGHT)
        for shift in self._half_box():
            # Both ends of a pair: i in the image and j = i + shift out of it, or the other way round.
            first = [p + r - max(s, 0) for p, r, s in zip(patch, self.search_voxels, shift, strict=True)]
            length = [n + abs(s) for n, s in zip(shape, shift, strict=True)]
            low = [f - p for f, p in zip(first, patch, strict=True)]
            wide = [n + 2 * p for n, p in zip(length, patch, strict=True)]
            away = [f + s for f, s in zip(low, shift, strict=True)]
            difference = _squared(_window(around, low, wide) - _window(around, away, wide))
            distance = (_box_mean(difference, patch) - 2 * parts * variance) * scale
            weight = ((-distance.clamp(min=0)).exp() - NO_WEIGHT).clamp(min=0)
            here = [max(s, 0) for s in shift]
            there = [max(-s, 0) for s in shift]
            origin = [f + h for f, h in zip(first, here, strict=True)]
            for begin, sign in ((here, 1), (there, -1)):
                place = [o + sign * s for o, s in zip(origin, shift, strict=True)]
                share = _window(weight, begin, shape)
                total = total + share * _window(around, place, shape)
                weights = weights + share
        return total / weights

    def _half_box(self) -> list[tuple[int, ...]]:
        """Return one of each pair of opposite shifts in the search box."""
        box = itertools.product(*[range(-r, r + 1) for r in self.search_voxels])
        return [shift for shift in box if shift > (0, 0, 0)]


def _voxels(length: float, grid: Grid) -> tuple[int, int, int]:
    """Return the voxels within `length` mm on either side, none along an axis of one voxel."""
    z, y, x = (round(length / size) if n > 1 else 0 for size, n in zip(grid.spacing, grid.shape, strict=True))
    return z, y, x


def _mirrored(z: Tensor, axis: int, margin: int) -> Tensor:
    """Return `z` continued by its mirror image about the centres of its end voxels."""
    if margin == 0:
        return z
    n = z.shape[axis]
    place = torch.arange(-margin, n + margin, device=z.device) % (2 * n - 2)
    return z.index_select(axis, torch.minimum(place, 2 * n - 2 - place))


def _window(x: Tensor, start: list[int], length: list[int] | torch.Size) -> Tensor:
    for axis in range(3):
        x = x.narrow(axis - 3, start[axis], length[axis])
    return x


def _squared(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def _box_mean(x: Tensor, half: tuple[int, int, int]) -> Tensor:
    """Return means over boxes of 2 half + 1, where they fit in."""
    for axis in range(3):
        width, rest = 2 * half[axis] + 1, x.shape[axis - 3] - 2 * half[axis]
        total = x.narrow(axis - 3, 0, rest)
        for i in range(1, width):
            total = total + x.narrow(axis - 3, i, rest)
        x = total / width if width > 1 else total
    return x
