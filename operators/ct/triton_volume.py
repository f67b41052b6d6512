"""Joseph's projector of volumes on CUDA, in Triton: without atomics, so that results are repeatable.

Views are streamed: the rays of some of them are traced into a table, in double precision, and forward and
adjoint read it. The forward has one program per tile of rays. The adjoint gathers: one program per block of
voxels goes through the views and, in each, through the few pixels whose rays can touch a voxel.

Counted beforehand, for 512^3 voxels and 720 views of 512 x 768 in single precision on an H100 (3.35 TB/s,
3e13 instructions/s over all lanes): the volume (0.54 GB) and the data (1.13 GB) have to pass the memory once,
0.5 ms. The tables are written and read, 24 bytes a ray, 13.6 GB or 4 ms; the adjoint adds to the volume once
per table, 72 times 1.1 GB or 23 ms. Neither way is bound by that. As compiled, a step of a ray takes 4 loads
and 78 instructions; at most 1.4e11 steps take 0.4 s. A voxel takes per view 190 instructions and 6 loads and
60 instructions for each of about 3 x 3 candidates: 2.4 s for 9.7e10 of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from operators.ct.rays import VolumeRays
from operators.ct.triton_kernels import ENTRIES, back_project, project, trace
from operators.ct.triton_seen import kind_of, seen_by

#: Rays of a table, in single precision 24 bytes each.
RAYS = 2**22
#: Volumes that are walked together.
BATCH = 4
#: Rays of a tile (rows, columns), voxels of a block (z, y, x), rays traced by a program.
TILE, BLOCK, TRACED = (4, 32), (4, 4, 8), 256
# Contracted differently in the two ways, products and sums would give weights that differ.
EXACT = {"enable_fp_fusion": False}


def forward(rays: VolumeRays, volume: Tensor) -> Tensor:
    """Return line integrals (batch, views, rows, columns) of `volume` (batch, z, y, x)."""
    source = volume.detach().contiguous()
    out = source.new_empty((len(source), *rays.views.shape))
    _, rows, columns = rays.views.shape
    tiles = -(-columns // TILE[1])
    with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
        for part, table in _tables(rays, source):
            grid = (tiles * -(-rows // TILE[0]), part.stop - part.start)
            for first in range(0, len(source), BATCH):
                count = min(BATCH, len(source) - first)
                project[grid](
                    source[first],
                    table,
                    out[first, part],
                    rows,
                    columns,
                    table.shape[1],
                    *rays.size,
                    count,
                    source.stride(0),
                    out.stride(0),
                    tiles,
                    ROWS=TILE[0],
                    COLUMNS=TILE[1],
                    BATCH=_power(count),
                    LARGE=source[0].numel() >= 2**31,
                    **EXACT,
                )
    return out


def adjoint(rays: VolumeRays, data: Tensor) -> Tensor:
    """Return the exact transpose: back-projection (batch, z, y, x) of (batch, views, rows, columns)."""
    source = data.detach().contiguous()
    out = source.new_zeros((len(source), *rays.size))
    _, rows, columns = rays.views.shape
    seen = torch.as_tensor(seen_by(rays), dtype=source.dtype, device=source.device)
    grid = tuple(-(-n // b) for n, b in zip(rays.size[::-1], BLOCK[::-1], strict=True))
    with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
        for part, table in _tables(rays, source):
            lengths = table[4].reshape(-1, rows, columns)
            for first in range(0, len(source), BATCH):
                chosen = source[first : first + BATCH, part] * lengths
                back_project[grid](
                    out[first],
                    chosen,
                    table,
                    seen[part],
                    part.stop - part.start,
                    rows,
                    columns,
                    table.shape[1],
                    *rays.size,
                    len(chosen),
                    out.stride(0),
                    chosen.stride(0),
                    KIND=kind_of(rays.views),
                    CURVED=bool(np.isfinite(rays.views.radius)),
                    DEPTH=BLOCK[0],
                    HEIGHT=BLOCK[1],
                    WIDTH=BLOCK[2],
                    BATCH=_power(len(chosen)),
                    **EXACT,
                )
    return out


def workspace_bytes(rays: VolumeRays, batch: int, dtype: torch.dtype) -> int:
    """Return the most bytes that either way needs besides its input and its output."""
    _, rows, columns = rays.views.shape
    traced = _views_at_once(rays) * rows * columns
    return traced * (ENTRIES + min(batch, BATCH)) * dtype.itemsize + len(rays.views.through) * 39 * 8


def _views_at_once(rays: VolumeRays) -> int:
    views, rows, columns = rays.views.shape
    return min(views, max(1, RAYS // (rows * columns)))


def _tables(rays: VolumeRays, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some views and the table of their rays."""
    views, step = rays.views, _views_at_once(rays)
    count, rows, columns = views.shape
    places = np.stack([views.through, views.centre, views.columns, views.rows, views.outwards], axis=1)
    placed, metric, across, sag, up = (
        torch.tensor(values, device=like.device)
        for values in (places, rays.metric, views.across, views.sag, views.up)
    )
    for begin in range(0, count, step):
        part = slice(begin, min(begin + step, count))
        total = (part.stop - begin) * rows * columns
        table = like.new_empty((ENTRIES, total))
        trace[(-(-total // TRACED),)](
            table, placed[part], metric, across, sag, up, rows, columns, total, *rays.size,
            KIND=kind_of(views), BLOCK=TRACED, **EXACT,
        )  # fmt: skip
        yield part, table


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
