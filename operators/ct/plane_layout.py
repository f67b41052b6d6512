"""Slices on their way between the tensors that hold them and the blocks that the CPU engines work on.

A block has the slices last, as many as fit a vector of the processor: one weight serves all of them. Only
one block is in memory at a time, at most BLOCK_BYTES long; it is filled and emptied line by line of cache,
since a plain transposition takes as long as the projection.

Importing this module needs numba.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from operators.compiled import njit
from operators.ct.lanes import add_product, load, store
from operators.ct.rays import Slices

__all__ = ["BLOCK_BYTES", "Group", "Planes", "groups", "lanes_for", "shares"]

Array = NDArray[Any]
#: Sample and place of each chosen plane, and how many a block takes.
Chosen = tuple[Array, Array, int]

#: Memory of a block of images: 1024 x 1024 pixels of 16 slices in single precision, and a margin.
BLOCK_BYTES = 72 * 2**20
#: Bytes per pixel of a block, the widest first, and one value: 32, 16, 8 slices or one in single precision.
PIXEL_BYTES = (128, 64, 32)
#: Pixels that are turned over together: a line of the cache in single precision.
LINE = 16
#: One lane: numba would check whether each place is negative.
ONE = (0,)


@dataclass(frozen=True, eq=False)
class Planes:
    """The memory of a tensor of stacks of planes, in any order: values[sample, place, i, k] by strides."""

    memory: Array
    strides: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor) -> Planes:
        """Return the planes x[sample, place], each (i, k)."""
        x = x.detach().resolve_neg()
        extent = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        # A flat array whatever the order: the kernels are compiled once.
        flat = x.as_strided((extent,), (1,)).numpy()
        a, b, c, d = x.stride()
        return cls(flat, (a, b, c, d), (x.shape[2], x.shape[3]))

    def fill(self, block: Array, pitch: int, shift: int, chosen: Chosen, lines: range) -> None:
        """Copy lines of the chosen planes to block[i * pitch + shift + k, slice]."""
        _fill(
            self.memory, self.strides, *chosen, block, pitch, shift, (lines.start, lines.stop, self.size[1])
        )

    def add(self, block: Array, pitch: int, shift: int, chosen: Chosen, lines: range) -> None:
        """Add block[i * pitch + shift + k, slice] to lines of the chosen planes."""
        _add(self.memory, self.strides, *chosen, block, pitch, shift, (lines.start, lines.stop, self.size[1]))


@dataclass(frozen=True, eq=False)
class Group:
    """Slices that are projected together, with the detector rows that see them; how many a block takes."""

    slices: Chosen
    rows: Chosen
    lanes: int


def lanes_for(count: int, pixels: int, itemsize: int) -> int:
    """Return how many of `count` slices a block takes: a vector's worth, within the memory allowed."""
    widths = [size // itemsize for size in PIXEL_BYTES if pixels * size <= BLOCK_BYTES]
    enough = [width for width in widths if width >= count]
    return 1 if count == 1 or not widths else enough[-1] if enough else widths[0]


def groups(slices: Slices, samples: int, pixels: int, itemsize: int) -> Iterator[Group]:
    """Yield what the rows see in all samples, block by block of so many `pixels`."""
    seen = np.flatnonzero(slices.of_row >= 0)
    total, first = samples * len(seen), 0
    while first < total:
        lanes = lanes_for(total - first, pixels, itemsize)
        sample, row = np.divmod(np.arange(first, min(first + lanes, total)), len(seen))
        rows = seen[row]
        yield Group((sample, slices.of_row[rows], lanes), (sample, rows, lanes), lanes)
        first += lanes


def shares(count: int, at_most: int) -> list[range]:
    """Return `count` things in parts of about the same size, none larger than `at_most`."""
    parts = max(-(-count // at_most), 1)
    return [range(count * k // parts, count * (k + 1) // parts) for k in range(parts)]


@njit(nogil=True, cache=True)
def _fill(
    memory: Array,
    strides: tuple[int, int, int, int],
    samples: Array,
    places: Array,
    lanes: int,
    block: Array,
    pitch: int,
    shift: int,
    part: tuple[int, int, int],
) -> None:
    for i in range(part[0], part[1]):
        for begin in range(0, part[2], LINE):
            end = min(begin + LINE, part[2])
            for j in range(len(samples)):
                start = samples[j] * strides[0] + places[j] * strides[1] + i * strides[2]
                for k in range(begin, end):
                    place = (i * pitch + shift + k) * lanes + j
                    store(block, place, load(memory, start + k * strides[3], ONE))


@njit(nogil=True, cache=True)
def _add(
    memory: Array,
    strides: tuple[int, int, int, int],
    samples: Array,
    places: Array,
    lanes: int,
    block: Array,
    pitch: int,
    shift: int,
    part: tuple[int, int, int],
) -> None:
    one = memory.dtype.type(1)
    for i in range(part[0], part[1]):
        for begin in range(0, part[2], LINE):
            end = min(begin + LINE, part[2])
            for j in range(len(samples)):
                start = samples[j] * strides[0] + places[j] * strides[1] + i * strides[2]
                for k in range(begin, end):
                    value = load(block, (i * pitch + shift + k) * lanes + j, ONE)
                    place = start + k * strides[3]
                    store(memory, place, add_product(load(memory, place, ONE), one, value))
