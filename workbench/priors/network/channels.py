"""Elements of a space as a network takes them: (batch, *components, z, y, x) as (batch, channels, [z,] y, x).

Components, and frames of a time axis, are channels. A complex image is two, real and imaginary, one pair
per component: each has noise of standard deviation sigma, as the convention of priors has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.errors import value_error
from operators.space import Space

__all__ = ["Channels"]


@dataclass(frozen=True)
class Channels:
    """The layout of the elements of `space` for a network of `dimensions` axes."""

    space: Space
    dimensions: int

    def __post_init__(self) -> None:
        grid, dims = self.space.grid, self.dimensions
        if grid is None and self.space.ndim < dims:
            raise value_error("space", f"have {dims} axes, those of the network's images", self.space.shape)
        if grid is not None and dims == 2 and not grid.is_plane:
            raise value_error(
                "space",
                "lie on a single slice, for a network of slices",
                f"{grid.shape[0]} slices",
                "Grid.plane(...), slice by slice; or a network of volumes.",
            )

    @classmethod
    def of(cls, space: Space, dimensions: int | None) -> Channels:
        """Return the layout; without stated dimensions that of the grid, 2 for a single slice."""
        if dimensions is None:
            if space.grid is None:
                remedy = "State the network's dimensions: Training(dimensions=2)."
                raise value_error("space", "lie on a Grid", space, remedy)
            dimensions = 2 if space.grid.is_plane else 3
        return cls(space, dimensions)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Voxels along the axes of an image."""
        return self.space.shape[-self.dimensions :]

    @property
    def count(self) -> int:
        """How many channels an element has."""
        return self.space.size // math.prod(self.sizes) * (2 if self.space.is_complex else 1)

    def split(self, x: Tensor) -> Tensor:
        """Return images (batch, channels, [z,] y, x) of elements (batch, *shape)."""
        images = x.reshape(x.shape[0], -1, *self.sizes)
        if not images.is_complex():
            return images
        pairs = torch.view_as_real(images.resolve_conj())
        return pairs.movedim(-1, 2).flatten(1, 2)

    def join(self, images: Tensor) -> Tensor:
        """Return the elements that `split` made images of."""
        if self.space.is_complex:
            pairs = images.reshape(images.shape[0], -1, 2, *self.sizes).movedim(2, -1)
            images = torch.view_as_complex(pairs.contiguous())
        return images.reshape(images.shape[0], *self.space.shape)

    def condition(self, name: str, value: Tensor) -> Tensor:
        """Return a condition image, any components in front of the grid's axes, as one row of channels."""
        where = self.sizes if self.space.grid is None else self.space.grid.array_shape
        if tuple(value.shape[value.ndim - len(where) :]) != where or value.ndim < len(where):
            expected = f"have the shape (..., {', '.join(map(str, where))}) of the space's grid"
            raise value_error(name, expected, tuple(value.shape), "Resample it on that grid.")
        space = Space(tuple(value.shape), value.is_complex(), self.space.grid)
        return Channels(space, self.dimensions).split(value.detach().clone()[None])
