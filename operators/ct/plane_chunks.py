"""Slices, a bounded number at a time, for engines that take an image (nu, nv, batch) and return it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from operators.ct.rays import PlaneRays, Slices

__all__ = ["CHUNK_BYTES", "adjoint", "forward", "workspace_bytes"]

#: Memory that the copies of a chunk, and what an engine gathers along a ray, should not exceed.
CHUNK_BYTES = 64 * 2**20

Kernel = Callable[[PlaneRays, Tensor], Tensor]


def forward(kernel: Kernel, slices: Slices, stack: Tensor, out: Tensor) -> None:
    """Write line integrals (batch, rows, views, columns) of a stack (batch, slices, nu, nv) to `out`."""
    for sample, row, place in _chunks(slices, stack):
        image = stack[sample, place].permute(1, 2, 0)
        out[sample, row] = kernel(slices.rays, image).permute(2, 0, 1)


def adjoint(kernel: Kernel, slices: Slices, data: Tensor, out: Tensor) -> None:
    """Add a stack (batch, slices, nu, nv) of back-projections of (batch, rows, views, columns) to `out`."""
    for sample, row, place in _chunks(slices, data):
        image = kernel(slices.rays, data[sample, row].permute(1, 2, 0))
        # Rows may share a slice.
        out.index_put_((sample, place), image.permute(2, 0, 1), accumulate=True)


def workspace_bytes(slices: Slices, batch: int, dtype: torch.dtype) -> int:
    """Return the most bytes that either way needs besides its input and its output."""
    count = min(batch * int((slices.of_row >= 0).sum()), _together(slices.rays, dtype))
    steps, columns = max(slices.rays.size), slices.rays.shape[1]
    # Beside the slices, the pixels and weights of a view: some ten numbers per step and column.
    return count * _bytes_per_slice(slices.rays, dtype) + 10 * steps * columns * 8


def _bytes_per_slice(rays: PlaneRays, dtype: torch.dtype) -> int:
    """Return the size of two copies of an image, of its data and of the pixels along the rays of a view."""
    (nu, nv), (views, columns) = rays.size, rays.shape
    return dtype.itemsize * 2 * (nu * nv + views * columns + max(nu, nv) * columns)


def _together(rays: PlaneRays, dtype: torch.dtype) -> int:
    return max(CHUNK_BYTES // _bytes_per_slice(rays, dtype), 1)


def _chunks(slices: Slices, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield sample, detector row and slice of what is projected together."""
    of_row = torch.as_tensor(slices.of_row, device=x.device)
    seen = torch.nonzero(of_row >= 0).flatten()
    for chosen in torch.split(
        torch.arange(len(x) * len(seen), device=x.device), _together(slices.rays, x.dtype)
    ):
        row = seen[chosen % len(seen)]
        yield chosen // len(seen), row, of_row[row]
