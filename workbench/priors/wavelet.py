"""Wavelet shrinkage: orthonormal wavelet coefficients of z, each pulled towards 0 by a threshold.

    denoise(z, sigma) = W^H soft(W z, T),      soft(c, T) = c max(1 - T / |c|, 0)

White noise has the standard deviation sigma in every coefficient, which is what thresholds are made of:
"sure": that of least estimated risk in a subband, out of a table (Donoho and Johnstone 1995); "bayes": T =
sigma^2 / s, s^2 the mean square of a subband less sigma^2 (Chang, Yu and Vetterli 2000), which is
scikit-image's default and too small where edges are few; "universal": T = sigma sqrt(2 log n). Complex
coefficients keep their phase.
W is redundant by default: all shifts of the orthonormal transform at once (a trous), which is cycle
spinning over every shift (Coifman and Donoho 1995) at the price of a few. A coarse axis is filtered from the
level on where the wavelets along the others have grown to its voxels: they are about as large in mm along
every axis.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from operators.extras import require
from operators.grid import Grid
from operators.space import Space
from workbench.priors.base import Denoiser
from workbench.priors.by_field import GRID_AXES, by_field, long_axes, require_images
from workbench.units import Units

__all__ = ["WaveletDenoiser", "orthogonal_filter"]

#: Vanishing moments of the Daubechies wavelets that are made here.
DAUBECHIES = range(1, 11)
#: Voxels that are left of an axis at its last level, by default.
COARSEST = 8
#: Thresholds in units of sigma that "sure" chooses from.
CANDIDATES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)


class WaveletDenoiser(Denoiser):
    """Soft thresholding of the wavelets of each image; the coarse image below them stays as it is.

    Parameters
    ----------
    space
        Real, complex or vector images on a grid; axes of one voxel play no part.
    wavelet
        "haar", "db2" to "db10", or another orthogonal one of PyWavelets, such as "sym4" (extra "image").
    threshold
        "sure" or "bayes", one per subband and image; "universal"; or a number, in units of sigma.
    levels
        Halvings of the finest axis; by default as many as leave 8 voxels of each axis.
    invariant
        Whether all shifts take part. Without, its errors are those of one grid of blocks; with periodic ends
        and a number t for a threshold it is then the prox of t sigma times the sum of |coefficients|.
    boundary
        "reflect": images are continued by their mirror image, by half of what the filters reach over, so
        that voxels at the ends are 0.1 to 0.2 sigma from those under an endless mirror; "periodic": their
        ends meet, and without `invariant` the axes have to divide by 2 at every level.
    units
        What the numbers mean.

    Gradients flow through it, those of "bayes" through the thresholds too; the table of "sure" has none.
    """

    proper = False

    def __init__(
        self,
        space: Space,
        *,
        wavelet: str = "db2",
        threshold: Literal["sure", "bayes", "universal"] | float = "sure",
        levels: int | None = None,
        invariant: bool = True,
        boundary: Literal["reflect", "periodic"] = "reflect",
        units: Units | None = None,
    ) -> None:
        grid = require_images(space)
        super().__init__(space, units)
        if not isinstance(wavelet, str):
            raise type_error("wavelet", "be the name of a wavelet", repr(wavelet))
        if threshold not in ("sure", "bayes", "universal"):
            remedy = "Or 'sure', 'bayes', 'universal'."
            threshold = check_number(threshold, "threshold", non_negative=True, remedy=remedy)
        if not isinstance(invariant, bool):
            raise type_error("invariant", "be True or False", repr(invariant))
        if boundary not in ("reflect", "periodic"):
            raise value_error("boundary", "be 'reflect' or 'periodic'", repr(boundary))
        self.wavelet, self.threshold, self.invariant, self.boundary = wavelet, threshold, invariant, boundary
        self.filter = orthogonal_filter(wavelet)
        self.plan = _plan(grid, None if levels is None else check_count(levels, "levels"))
        self.margins = self._margins(grid)

    def _margins(self, grid: Grid) -> dict[int, tuple[int, int]]:
        """Return by how many voxels each filtered axis is continued, before and after its own."""
        margins = {}
        for axis in long_axes(grid):
            count, n = sum(axis in level for level in self.plan), grid.shape[axis]
            if count == 0:
                continue
            block = 1 if self.invariant else 2**count
            if self.boundary == "periodic":
                if n % block:
                    remedy = "Take fewer levels, invariant=True, or boundary='reflect'."
                    raise value_error("levels", f"divide the {n} voxels of axis {axis + 3}", block, remedy)
                continue
            # Half the support of the longest wavelet: only its faint ends reach over the seam.
            half = ((len(self.filter) - 1) * (2**count - 1) + 1) // 2
            margins[axis] = (half, half + -(n + 2 * half) % block)
        return margins

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma > 0, by_field(self._shrunk, z, sigma), z)

    def _shrunk(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate for images (n, z, y, x) and levels (n, 1, 1, 1)."""
        shape, coarse, steps = z.shape, self._continued(z), self._steps()
        details: list[Tensor] = []
        for step in steps:
            coarse, *bands = self._analysed([coarse], step)
            # What the level adds to its image, so that one image a level is kept and not one a subband.
            kept = [torch.zeros_like(coarse)] + [self._soft(band, sigma, shape) for band in bands]
            details.append(self._synthesised(kept, step))
        for step, detail in zip(reversed(steps), reversed(details), strict=True):
            for axis, dilation in reversed(step):
                coarse = self._spread(coarse, None, axis, dilation)
            coarse = coarse + detail
        for axis, (before, _) in self.margins.items():
            coarse = coarse.narrow(axis, before, shape[axis])
        return coarse

    def details(self, z: Tensor) -> list[Tensor]:
        """Return the subbands that are shrunk, the finest level first, for images (..., z, y, x)."""
        coarse, found = self._continued(z), []
        for step in self._steps():
            coarse, *bands = self._analysed([coarse], step)
            found += bands
        return found

    def _steps(self) -> list[list[tuple[int, int]]]:
        """Return the axes that each level filters, with the distance of the taps along them."""
        dilations = dict.fromkeys(long_axes_of(self.plan), 1)
        steps = []
        for axes in self.plan:
            steps.append([(axis, dilations[axis]) for axis in axes])
            if self.invariant:
                dilations.update({axis: 2 * dilations[axis] for axis in axes})
        return steps

    def _continued(self, z: Tensor) -> Tensor:
        for axis, (before, after) in self.margins.items():
            n = z.shape[axis]
            place = torch.arange(-before, n + after, device=z.device) % (2 * n)
            z = z.index_select(axis, torch.minimum(place, 2 * n - 1 - place))
        return z

    def _analysed(self, bands: list[Tensor], step: list[tuple[int, int]]) -> list[Tensor]:
        """Return the subbands of one level, the coarse one first."""
        for axis, dilation in step:
            bands = [part for band in bands for part in self._split(band, axis, dilation)]
        return bands

    def _synthesised(self, bands: list[Tensor], step: list[tuple[int, int]]) -> Tensor:
        for axis, dilation in reversed(step):
            pairs = zip(bands[::2], bands[1::2], strict=True)
            bands = [self._spread(low, high, axis, dilation) for low, high in pairs]
        return bands[0]

    def _split(self, x: Tensor, axis: int, dilation: int) -> tuple[Tensor, Tensor]:
        """Return low[n] = sum_l h[l] x[n + dilation (l - c)] and high[n], with (-1)^l h[L - 1 - l].

        c = L / 2 - 1 is the middle: a coefficient says what is where it is, as in PyWavelets.
        """
        low, high = torch.zeros_like(x), torch.zeros_like(x)
        count = len(self.filter)
        for i, weight in enumerate(self.filter):
            moved = x.roll((count // 2 - 1 - i) * dilation, axis)
            low = low + weight * moved
            high = high + (-1) ** i * self.filter[count - 1 - i] * moved
        if self.invariant:
            return low, high
        n = x.shape[axis]
        even = torch.arange(0, n, 2, device=x.device)
        return low.index_select(axis, even), high.index_select(axis, even)

    def _spread(self, low: Tensor, high: Tensor | None, axis: int, dilation: int) -> Tensor:
        """Return the inverse of `_split`: its adjoint, over 2 where all shifts take part."""
        parts = [low] if high is None else [low, high]
        if not self.invariant:
            # Zeros between the entries.
            parts = [
                torch.stack([part, torch.zeros_like(part)], dim=axis + part.ndim + 1).flatten(
                    axis + part.ndim, axis + part.ndim + 1
                )
                for part in parts
            ]
        total, count = torch.zeros_like(parts[0]), len(self.filter)
        share = 0.5 if self.invariant else 1.0
        for i, weight in enumerate(self.filter):
            mixed = weight * parts[0]
            if high is not None:
                mixed = mixed + (-1) ** i * self.filter[count - 1 - i] * parts[1]
            total = total + share * mixed.roll((i + 1 - count // 2) * dilation, axis)
        return total

    def _soft(self, band: Tensor, sigma: Tensor, shape: torch.Size) -> Tensor:
        """Return a subband with its threshold taken off the magnitudes."""
        size = band.abs()
        if self.threshold == "bayes":
            parts = 2 if band.is_complex() else 1
            excess = size.square().mean(dim=GRID_AXES, keepdim=True) / parts - sigma**2
            heard = excess > 0
            signal = torch.where(heard, torch.where(heard, excess, 1.0).sqrt(), 0.0)
            # 1 - T / |c| with T = sigma^2 / signal, which may be infinite.
            weighted, limit = size * signal, sigma**2
        elif self.threshold == "sure":
            weighted, limit = size, _least_risk(size.detach(), sigma, band.is_complex()) * sigma
        else:
            factor = self.threshold
            if factor == "universal":
                factor = math.sqrt(2 * math.log(math.prod(shape[-3:])))
            weighted, limit = size, factor * sigma
        above = weighted > limit
        return band * torch.where(above, 1 - limit / torch.where(above, weighted, 1.0), 0.0)


def _least_risk(size: Tensor, sigma: Tensor, is_complex: bool) -> Tensor:
    """Return for each image the T / sigma of least estimated risk, out of CANDIDATES.

    Per coefficient c in units of sigma, with k = 1 real components or 2, and up to a constant:
    min(|c|^2, T^2), and where |c| > T also 2 k - 2 (k - 1) T / |c| (Stein).
    """
    ratio = size / torch.where(sigma > 0, sigma, 1.0)
    parts, square = 2 if is_complex else 1, ratio.square()
    risks = []
    for candidate in CANDIDATES:
        loud = (ratio > candidate).to(ratio.dtype)
        risk = square.clamp(max=candidate**2) + 2 * parts * loud
        if is_complex:
            risk = risk - 2 * candidate * loud / ratio.clamp(min=candidate or 1.0)
        risks.append(risk.mean(dim=GRID_AXES))
    best = torch.stack(risks).argmin(dim=0)
    table = torch.tensor(CANDIDATES, dtype=size.dtype, device=size.device)
    return table[best].reshape(sigma.shape)


def long_axes_of(plan: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Return the axes that any level filters."""
    return tuple(sorted({axis for level in plan for axis in level}))


def _plan(grid: Grid, levels: int | None) -> tuple[tuple[int, ...], ...]:
    """Return the axes that each level filters, the finest level first."""
    axes = long_axes(grid)
    finest = min(grid.spacing[axis] for axis in axes)
    # Level j joins voxels of about 2^j times the finest; nearest in ratio.
    first = {axis: max(0, round(math.log2(grid.spacing[axis] / finest))) for axis in axes}
    left = 1 if levels is not None else COARSEST
    most = {axis: max(1, int(math.log2(grid.shape[axis] / left))) for axis in axes}
    count = levels or max(first[axis] + most[axis] for axis in axes)
    plan = [tuple(a for a in axes if first[a] <= level < first[a] + most[a]) for level in range(count)]
    return tuple(level for level in plan if level)


@lru_cache(maxsize=64)
def orthogonal_filter(name: str) -> tuple[float, ...]:
    """Return the low-pass filter of an orthonormal wavelet: of sum sqrt(2), its even shifts orthonormal."""
    known = {"haar": 1} | {f"db{n}": n for n in DAUBECHIES}
    if name in known:
        return tuple(_daubechies(known[name]).tolist())
    pywt = require("pywt", feature=f"The wavelet {name!r}", extra="image")
    if name not in pywt.wavelist(kind="discrete"):
        raise value_error("wavelet", "be 'haar', 'db2' to 'db10' or one of pywt.wavelist()", repr(name))
    wavelet = pywt.Wavelet(name)
    if not wavelet.orthogonal:
        remedy = "White noise stays white in orthonormal wavelets alone: Daubechies, symlets, coiflets."
        raise value_error("wavelet", "be orthogonal", repr(name), remedy)
    return tuple(float(value) for value in wavelet.rec_lo)


def _daubechies(moments: int) -> NDArray[np.float64]:
    """Return the filter of extremal phase with `moments` vanishing moments, by spectral factorisation.

    |H(w)|^2 = 2 cos^2N(w / 2) P(sin^2(w / 2)),    P(y) = sum_k C(N - 1 + k, k) y^k,    y = (2 - z - 1/z) / 4
    """
    coefficients = [math.comb(moments - 1 + k, k) for k in range(moments)]
    taps = np.poly1d([1.0])
    for root in np.roots(coefficients[::-1]):
        # z + 1/z = 2 - 4 y: of the two, the root inside the unit circle.
        pair = np.roots([1.0, 4 * root - 2, 1.0])
        taps = taps * np.poly1d([1.0, -pair[np.argmin(np.abs(pair))]])
    for _ in range(moments):
        taps = taps * np.poly1d([1.0, 1.0])
    values = np.real(taps.coeffs)
    return np.asarray(values * math.sqrt(2) / values.sum(), dtype=np.float64)
