"""Values of an image at displaced voxels or at points, differentiable in the image and in the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from operators.base import checked_finite
from operators.checks import check_tensor
from operators.deformation.displaced import read_displaced
from operators.deformation.rows import read
from operators.deformation.stencil import Boundary, Placement, Stencil
from operators.errors import type_error, value_error
from operators.grid import FRAMES_ARE_A_BATCH, Grid
from operators.space import Space


def check_still(grid: object, argument: str = "grid") -> Grid:
    """Return `grid` if it is a Grid without a time axis."""
    chosen = Grid.require(grid, argument)
    if chosen.time is not None:
        raise value_error(argument, "have no time axis", chosen, FRAMES_ARE_A_BATCH)
    return chosen


def check_field(field: Tensor, grid: Grid, argument: str) -> Tensor:
    """Return `field` if it is finite displacements (..., 3, *grid.shape)."""
    Space.vectors(check_still(grid)).check(field, argument)
    return checked_finite(field, argument)


def planar(x: Tensor) -> Tensor:
    """Return complex `x` (..., z, y, x) as its parts (..., 2, z, y, x), real `x` as (..., 1, z, y, x)."""
    return torch.stack([x.real, x.imag], dim=-4) if x.is_complex() else x.unsqueeze(-4)


def joined(parts: Tensor, is_complex: bool) -> Tensor:
    """Undo `planar`."""
    if not is_complex:
        return parts.squeeze(-4)
    return torch.complex(parts.select(-4, 0).contiguous(), parts.select(-4, 1).contiguous())


def pull(image: Tensor, field: Tensor, place: Placement) -> Tensor:
    """Return `image` (*batch, *place.shape), read where `field` (*batch, 3, *out) moves `place`.

    The batch axes of the two broadcast.
    """

    def read_at(values: Tensor, shift: Tensor) -> Tensor:
        return read_displaced(values, place, shift)

    return paired(image, field, tuple(field.shape[-3:]), read_at)


def paired(
    image: Tensor,
    field: Tensor,
    out: tuple[int, ...],
    read_at: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Call `read_at(values (P, C, n), shift (P, 3, *out))` for broadcasting batch axes, real values."""
    parts = planar(image)
    lead = tuple(field.shape[: field.ndim - 1 - len(out)])
    try:
        batch = np.broadcast_shapes(image.shape[:-3], lead)
    except ValueError as error:
        shapes = f"{tuple(image.shape[:-3])} and {lead}"
        raise value_error("field", "have batch axes that broadcast with the image's", shapes) from error
    lead = (1,) * (len(batch) - len(lead)) + lead
    # Trailing batch axes that share one displacement share one stencil.
    split = len(lead)
    while split and lead[split - 1] == 1:
        split -= 1
    rows = math.prod(batch[:split])
    values = parts.expand(*batch, *parts.shape[-4:]).reshape(rows, -1, math.prod(parts.shape[-3:]))
    shift = field.reshape(*lead[:split], 3, *out).expand(*batch[:split], 3, *out).reshape(rows, 3, *out)
    result = read_at(values, shift).reshape(*batch, parts.shape[-4], *out)
    if not image.is_complex():
        return result.squeeze(len(batch))
    real, imaginary = result.unbind(len(batch))
    return torch.complex(real.contiguous(), imaginary.contiguous())


def warp(
    image: Tensor,
    field: Tensor,
    grid: Grid,
    *,
    moving_grid: Grid | None = None,
    boundary: Boundary = "zero",
) -> Tensor:
    """Return x(r + u(r)) for the voxels r of `grid`: a pull-back, differentiable in image and field.

    `image` (*batch, *moving_grid.shape), real or complex, lies on `moving_grid`, by default the field's
    own; `field` (*batch, 3, *grid.shape) is u in mm. Batch axes broadcast: of several components per
    sample, give the field an axis of one, `field.unsqueeze(-5)`. Outside the voxels of the image there
    is 0, or the value at the edge, as `boundary` says.
    """
    source = check_still(grid if moving_grid is None else moving_grid, "moving_grid")
    check_field(field, grid, "field")
    _check_image(image, source)
    return pull(image, field, Placement.of_grid(source, grid, boundary, field.device))


def warp_labels(
    labels: Tensor,
    field: Tensor,
    grid: Grid,
    *,
    moving_grid: Grid | None = None,
    outside: int = 0,
) -> Tensor:
    """Return integer or boolean `labels` at the voxel nearest to r + u(r), `outside` beyond the faces.

    Arguments as in `warp`; halfway between two voxels the upper one counts.
    """
    source = check_still(grid if moving_grid is None else moving_grid, "moving_grid")
    check_field(field, grid, "field")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise type_error("labels", "be a tensor of integers or booleans", found, "Images: warp(...).")
    if tuple(labels.shape[-3:]) != source.shape:
        raise value_error("labels", f"have shape (..., {source.shape})", tuple(labels.shape))
    beyond = _label(outside, labels)
    place = Placement.of_grid(source, grid, "zero", field.device)

    def read_at(values: Tensor, shift: Tensor) -> Tensor:
        stencil = place.at(shift)
        nearest = _nearest(stencil)
        picked = read(values, nearest)
        inside = stencil.inside
        return picked if inside is None else torch.where(inside, picked, beyond)

    return paired(labels, field.detach(), grid.shape, read_at)


def _label(value: object, labels: Tensor) -> Tensor:
    lowest, highest = (0, 1) if labels.dtype == torch.bool else _limits(labels.dtype)
    whole = isinstance(value, (int, np.integer))
    if not whole or not lowest <= cast(int, value) <= highest:
        raise value_error("outside", f"be an integer of {lowest}..{highest} as the labels are", repr(value))
    return torch.tensor(value, dtype=labels.dtype, device=labels.device)


def _limits(dtype: torch.dtype) -> tuple[int, int]:
    limits = torch.iinfo(dtype)
    return limits.min, limits.max


def _nearest(stencil: Stencil) -> Tensor:
    flat = stencil.flat
    for share, stride in zip(stencil.shares, stencil.strides, strict=True):
        flat = flat + (share.squeeze(1) >= 0.5).to(flat.dtype) * stride
    return flat


def _check_image(image: Tensor, grid: Grid) -> None:
    check_tensor(image, "image")
    if tuple(image.shape[-3:]) != grid.shape:
        expected = ", ".join(str(n) for n in grid.shape)
        raise value_error(
            "image",
            f"have shape (..., {expected})",
            tuple(image.shape),
            "An image on another grid than the field's: moving_grid=...",
        )
    checked_finite(image, "image")
