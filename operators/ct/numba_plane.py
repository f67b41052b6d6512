"""Joseph's projector of slices, compiled by numba: many slices in one walk, both ways race-free.

The forward runs in parallel over views. The adjoint runs over the lines of the image: a ray that walks along
u touches exactly one line per step, so each thread adds to lines of its own; then the same along v. Every sum
runs in the order of the rays, whatever the number of threads.

Importing this module needs numba; `operators.ct.engines` asks for it by name.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from operators.ct.plane_kernels import Walks, back_project, project
from operators.ct.plane_layout import Group, Planes, groups, lanes_for, shares
from operators.ct.rays import PlaneRays, Slices
from operators.threads import each

__all__ = ["adjoint", "forward", "kept_bytes", "workspace_bytes"]

#: Views that are walked band by band together, fewer where there are many threads.
VIEWS = 16
#: Views whose data are in memory at a time on the way back. It orders the sums, so it knows no threads.
CHUNK = 64
#: Lines of the image that a thread adds to before it takes the next ones; of 4 to 64 the fastest at 512^2.
LINES = 16
#: Seconds that a step of a ray takes, of all slices in a vector, or to move a number: threads go by it.
STEP = 1e-9

_WALKS: WeakKeyDictionary[PlaneRays, Walks] = WeakKeyDictionary()


def forward(slices: Slices, stack: Tensor, out: Tensor) -> None:
    """Add line integrals (batch, rows, views, columns) of a stack (batch, slices, nu, nv) to `out`."""
    walks = _walks(slices.rays)
    for group in groups(slices, len(stack), walks.pixels, stack.dtype.itemsize):
        _project(Planes.of(stack), Planes.of(out), walks, group)


def adjoint(slices: Slices, data: Tensor, out: Tensor) -> None:
    """Add the exact transpose, a stack (batch, slices, nu, nv) of (batch, rows, views, columns), to `out`."""
    walks = _walks(slices.rays)
    for group in groups(slices, len(data), walks.pixels, data.dtype.itemsize):
        _back_project(Planes.of(data), Planes.of(out), walks, group)


def workspace_bytes(slices: Slices, batch: int, dtype: torch.dtype) -> int:
    """Return the most bytes that either way needs besides its input, its output and what is kept."""
    walks, count = _walks(slices.rays), batch * int((slices.of_row >= 0).sum())
    views, columns = slices.rays.shape
    lanes = lanes_for(count, walks.pixels, dtype.itemsize)
    beside = max(min(CHUNK, views), min(_views_together(views) * torch.get_num_threads(), views)) * columns
    return (walks.pixels + beside) * lanes * dtype.itemsize


def kept_bytes(rays: PlaneRays, dtype: torch.dtype) -> int:
    """Return the bytes of the rays in whole numbers, which stay from call to call in either precision."""
    del dtype
    return sum(part.nbytes for part in _walks(rays).arrays)


def _walks(rays: PlaneRays) -> Walks:
    if rays not in _WALKS:
        _WALKS[rays] = Walks.of(rays)
    return _WALKS[rays]


def _views_together(views: int) -> int:
    return max(1, min(VIEWS, views // (4 * torch.get_num_threads())))


def _project(source: Planes, target: Planes, walks: Walks, group: Group) -> None:
    nu, views, columns = walks.size[0], *walks.at.shape
    lanes, kind = (0,) * group.lanes, source.memory.dtype
    image = np.zeros(walks.pixels * group.lanes, dtype=kind)

    def fill(lines: range) -> None:
        source.fill(image, walks.pitch, walks.pitch + 1, group.slices, lines)

    def part(chosen: range) -> None:
        sums = np.empty(len(chosen) * columns * group.lanes, dtype=kind)
        project(image, walks.pitch, walks.arrays, (chosen.start, chosen.stop), sums, lanes)
        target.add(sums, columns, -chosen.start * columns, group.rows, chosen)

    each(fill, shares(nu, LINES), seconds=len(image) * STEP)
    each(part, shares(views, _views_together(views)), seconds=views * walks.pixels * STEP)


def _back_project(source: Planes, target: Planes, walks: Walks, group: Group) -> None:
    (nu, nv), (views, columns) = walks.size, walks.at.shape
    lanes, kind = (0,) * group.lanes, source.memory.dtype
    image = np.zeros(walks.pixels * group.lanes, dtype=kind)
    values = np.zeros(min(CHUNK, views) * columns * group.lanes, dtype=kind)
    for begin in range(0, views, CHUNK):
        chunk = range(begin, min(begin + CHUNK, views))

        def fill(chosen: range, first: int = begin) -> None:
            source.fill(values, columns, -first * columns, group.rows, chosen)

        def part(task: tuple[bool, range], chunk: range = chunk) -> None:
            walk_u, steps = task
            back_project(
                image,
                walks.pitch,
                walks.arrays,
                (chunk.start, chunk.stop),
                values,
                walk_u,
                (steps.start, steps.stop),
                lanes,
            )

        each(fill, [range(view, view + 1) for view in chunk], seconds=len(values) * STEP)
        for walk_u, count in ((True, nu), (False, nv)):
            if (walks.along_u[begin : chunk.stop] == walk_u).any():
                at_most = max(4, min(LINES, count // (4 * torch.get_num_threads())))
                tasks = [(walk_u, steps) for steps in shares(count, at_most)]
                each(part, tasks, seconds=len(chunk) * walks.pixels * STEP / 2)

    def empty(lines: range) -> None:
        target.add(image, walks.pitch, walks.pitch + 1, group.slices, lines)

    each(empty, shares(nu, LINES), seconds=len(image) * STEP)
