"""What is done to images whose size or voxels are not those of the network; `policy` says when.

Every way evaluates a denoiser `core(y, level, images)` of the network's own size and returns D on the grid of
y. `images` are conditions on the same grid; they go the same way.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Core", "Direct", "Images", "Padded", "Resampled", "Sizing", "Tiled"]

#: Conditions by name, (1 or batch, channels, ...).
Images = Mapping[str, Tensor]


class Core(Protocol):
    """The posterior mean by a network, for images of the network's size."""

    @property
    def rows(self) -> int | None:
        """How many images the network takes at once; None: any number."""

    def __call__(self, y: Tensor, level: Tensor, images: Images, *, many: bool = False) -> Tensor:
        """Return D; `many`: this is one call of several whose activations would add up."""


class Sizing(ABC):
    """One way from the grid of an image to the network and back."""

    #: What the network sees, ([z,] y, x).
    size: tuple[int, ...]
    #: Noise level that the network sees over that of the image.
    noise_scale: float = 1.0
    #: Whether the result is the mean of a law, if the network's is.
    is_exact: bool = True

    @abstractmethod
    def denoise(self, core: Core, y: Tensor, level: Tensor, images: Images, scaled: bool) -> Tensor:
        """Return D for y (batch, channels, ...) and level (batch, 1, ...): sigma, inverse if `scaled`."""


@dataclass(frozen=True)
class Direct(Sizing):
    """As it is."""

    size: tuple[int, ...]

    def denoise(self, core: Core, y: Tensor, level: Tensor, images: Images, scaled: bool) -> Tensor:
        """Return core(y)."""
        del scaled
        return core(y, level, images)


@dataclass(frozen=True)
class Padded(Sizing):
    """Mirrored at its ends (the end voxel repeated) to a larger size, and cropped again."""

    sizes: tuple[int, ...]
    size: tuple[int, ...]

    def denoise(self, core: Core, y: Tensor, level: Tensor, images: Images, scaled: bool) -> Tensor:
        """Return the middle of core(padded y)."""
        del scaled
        d = core(self._pad(y), level, {name: self._pad(image) for name, image in images.items()})
        for axis, (n, m) in enumerate(zip(self.sizes, self.size, strict=True)):
            d = d.narrow(2 + axis, (m - n) // 2, n)
        return d

    def _pad(self, x: Tensor) -> Tensor:
        for axis, (n, m) in enumerate(zip(self.sizes, self.size, strict=True)):
            if m > n:
                index = (torch.arange(m, device=x.device) - (m - n) // 2) % (2 * n)
                x = x.index_select(2 + axis, torch.where(index < n, index, 2 * n - 1 - index))
        return x


@dataclass(frozen=True)
class Resampled(Sizing):
    """Band-limited to coarser voxels over the same extent, and back.

    U is n x m per axis, the first m of n cosines (DCT-II, both orthonormal) times sqrt(n / m): sampled
    images of m voxels go to n voxels that show the same thing, mirrored at their ends. U^T U = (n / m) I,
    so that R = (m / n) U^T undoes it, and R noise of standard deviation sigma is white, with

        sigma0 = sigma sqrt(m / n)        (m / n over all axes)

    If what there is is x = U x0 with x0 of the network's law, z tells of x0 by z0 = R z alone, and
    E[x | z] = U E[x0 | z0] exactly. Finer detail than x0 has is taken for noise.
    In u = s x + noise: R u / sqrt(m / n) = s0 x0 + noise, s0 = s / sqrt(m / n).
    """

    sizes: tuple[int, ...]
    coarse: tuple[int, ...]
    inner: Sizing

    @property
    def size(self) -> tuple[int, ...]:  # type: ignore[override]
        """What the network sees."""
        return self.inner.size

    @property
    def noise_scale(self) -> float:  # type: ignore[override]
        """sqrt(m / n), times what the inner one does."""
        return self._root * self.inner.noise_scale

    @property
    def is_exact(self) -> bool:  # type: ignore[override]
        """Whether the inner one is."""
        return self.inner.is_exact

    @property
    def _root(self) -> float:
        return math.sqrt(math.prod(self.coarse) / math.prod(self.sizes))

    def denoise(self, core: Core, y: Tensor, level: Tensor, images: Images, scaled: bool) -> Tensor:
        """Return U core(R y)."""
        root = self._root
        y0 = self._through(y, down=True)
        images0 = {name: root * self._through(image, down=True) for name, image in images.items()}
        if scaled:
            d = self.inner.denoise(core, y0, level / root, images0, scaled)
        else:
            d = self.inner.denoise(core, root * y0, root * level, images0, scaled)
        return self._through(d, down=False) / root

    def _through(self, x: Tensor, *, down: bool) -> Tensor:
        """Return x between the grids by isometries."""
        for axis, (n, m) in enumerate(zip(self.sizes, self.coarse, strict=True)):
            if n != m:
                bands = _bands(n, m).to(x.device, x.dtype)
                x = (x.movedim(2 + axis, -1) @ (bands.T if down else bands)).movedim(-1, 2 + axis)
        return x


@dataclass(frozen=True)
class Tiled(Sizing):
    """Tiles of the network's size, blended by a smooth partition of unity: D = sum of w_i D(tile i).

    Along an axis tiles lie evenly, the first and the last at its ends, `overlap` voxels or more in common.
    A tile's weight rises as sin^2 over its overlaps; weights are divided by their sum.
    """

    sizes: tuple[int, ...]
    size: tuple[int, ...]
    overlap: tuple[int, ...]

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxels of the tiles along each axis."""
        return tuple(map(_starts, self.sizes, self.size, self.overlap))

    @property
    def is_exact(self) -> bool:  # type: ignore[override]
        """Whether there is one tile only: tiles see nothing of each other."""
        return self.sizes == self.size

    def denoise(self, core: Core, y: Tensor, level: Tensor, images: Images, scaled: bool) -> Tensor:
        """Return the blend, as many tiles at once as the network takes images, else one of each image."""
        del scaled
        corners = list(itertools.product(*self.starts))
        group = max(1, (core.rows or 1) // y.shape[0])
        axes = zip(self.starts, self.sizes, self.size, self.overlap, strict=True)
        weights = [_weights(*axis).to(y.device, y.dtype) for axis in axes]
        d = torch.zeros_like(y)
        for first in range(0, len(corners), group):
            some = corners[first : first + group]
            tiles = self._tiles(y, some)
            beside = {
                name: self._tiles(image.expand(y.shape[0], *image.shape[1:]), some)
                for name, image in images.items()
            }
            levels = level.repeat(len(some), *[1] * (level.ndim - 1))
            parts = core(tiles, levels, beside, many=len(corners) > 1).chunk(len(some))
            for corner, part in zip(some, parts, strict=True):
                where = self._where(corner)
                d[where] += part * self._weight(weights, corner)
        return d

    def _tiles(self, x: Tensor, corners: list[tuple[int, ...]]) -> Tensor:
        return torch.cat([x[self._where(corner)] for corner in corners])

    def _where(self, corner: tuple[int, ...]) -> tuple[slice, ...]:
        inside = (slice(start, start + m) for start, m in zip(corner, self.size, strict=True))
        return slice(None), slice(None), *inside

    def _weight(self, weights: list[Tensor], corner: tuple[int, ...]) -> Tensor:
        product = torch.ones((), dtype=weights[0].dtype, device=weights[0].device)
        for starts, weight, start in zip(self.starts, weights, corner, strict=True):
            product = product[..., None] * weight[starts.index(start)]
        return product


def _starts(n: int, size: int, overlap: int) -> tuple[int, ...]:
    """Return the first voxels of tiles that cover n voxels, evenly."""
    if n <= size:
        return (0,)
    count = math.ceil((n - overlap) / (size - overlap))
    return tuple(round(i * (n - size) / (count - 1)) for i in range(count))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _weights(starts: tuple[int, ...], n: int, size: int, overlap: int) -> Tensor:
    """Return weights (tiles, size) that sum to 1 over each of n voxels."""
    place = torch.arange(size, dtype=torch.float64) + 0.5
    edge = torch.minimum(place, size - place).clamp(max=max(overlap, 0.5))
    rise = (edge / max(overlap, 0.5) * math.pi / 2).sin() ** 2
    total = torch.zeros(n, dtype=torch.float64)
    for start in starts:
        total[start : start + size] += rise
    return torch.stack([rise / total[start : start + size] for start in starts])


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _bands(n: int, m: int) -> Tensor:
    """Return the isometry m x n from n samples to the m that share its first m cosines."""
    return _cosines(m).T @ _cosines(n)[:m]


def _cosines(n: int) -> Tensor:
    """Return the orthonormal DCT-II of n samples, a matrix."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = (math.pi / n * k[:, None] * (k + 0.5)).cos() * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix
