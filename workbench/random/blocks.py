"""Blocks of the generator made into pairs of numbers, the same bits by either of two ways.

torch's operations work on any device. Where numba is installed, normals on the CPU come from a compiled
loop instead, once so many have been asked for that what it saves has paid for loading it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import product

import torch
from torch import Tensor

from operators.threads import each
from workbench.random.philox import normal_pair, words

__all__ = ["Fill", "by_torch", "fill_normals", "has_memory"]

#: (first, draw, step, key, pairs): writes the numbers of the blocks from `first` on into each row of `pairs`
#: (rows, blocks, 2); `first` and `draw` are (rows, 1).
Fill = Callable[[Tensor, Tensor, int, tuple[int, int], Tensor], None]

#: Normals asked for before the loop is loaded: for so many torch's operations take about as long as that,
#: some two seconds, or much less where numba is at work already.
PRICE, PRICE_WITH_NUMBA = 2**25, 2**22
#: Blocks that a thread makes before it takes the next, and what a number takes it, to decide of threads.
SHARE, SECONDS = 2**13, 4e-9


def by_torch(transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Fill:
    """Return the way of torch's operations: `transform` makes two numbers of two words."""

    def fill(first: Tensor, draw: Tensor, step: int, key: tuple[int, int], pairs: Tensor) -> None:
        block = first + torch.arange(pairs.shape[1], device=first.device)
        for half, values in enumerate(transform(*words(block, draw, step, key))):
            pairs[..., half].copy_(values)

    return fill


class _Normals:
    """Both ways of normals, and how many were asked for."""

    def __init__(self) -> None:
        self.made = 0
        self.by_torch = by_torch(normal_pair)

    def __call__(self, first: Tensor, draw: Tensor, step: int, key: tuple[int, int], pairs: Tensor) -> None:
        if (compiled := self._compiled(pairs)) is not None:
            compiled(first, draw, step, key, pairs)
        else:
            self.by_torch(first, draw, step, key, pairs)

    def _compiled(self, pairs: Tensor) -> Fill | None:
        """Return the loop if it is worth it."""
        if pairs.device.type != "cpu" or not has_memory(pairs):
            return None
        self.made += pairs.numel()
        price = PRICE_WITH_NUMBA if "numba" in sys.modules else PRICE
        return compiled_normals() if self.made > price else None


fill_normals = _Normals()


@cache
def compiled_normals() -> Fill | None:
    """Return the loop's way, or None without numba, or where the loop rounds otherwise than torch does."""
    try:
        import numba

        from workbench.random import compiled_normals as kernel
    except ImportError:  # it may be there and want another numpy
        return None

    def fill(first: Tensor, draw: Tensor, step: int, key: tuple[int, int], pairs: Tensor) -> None:
        starts, draws, numbers = first.numpy(), draw.numpy(), pairs.numpy()

        def part(task: tuple[slice, slice]) -> None:
            rows, some = task
            begin = starts[rows] + some.start
            kernel.fill_normals(begin, draws[rows], step, *key, numbers[rows, some])

        if pairs.shape[0] * pairs.shape[1] <= SHARE:
            kernel.fill_normals(starts, draws, step, *key, numbers)
        else:
            each(part, _parts(*pairs.shape[:2]), seconds=pairs.numel() * SECONDS)

    compiled = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    return fill if compiled and _agree(fill, by_torch(normal_pair)) else None


def _parts(rows: int, blocks: int) -> list[tuple[slice, slice]]:
    """Return rows by the whole, or pieces of one each: what lies together in memory."""
    height = max(1, SHARE // blocks)
    return [
        (slice(top, min(top + height, rows)), slice(left, min(left + SHARE, blocks)))
        for top in range(0, rows, height)
        for left in range(0, blocks, SHARE)
    ]


def has_memory(values: Tensor) -> bool:
    """Return whether numpy can write to a tensor: inside a transform or a trace it stands for another."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    inside = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0
    return type(values) is Tensor and not traced and not inside


def _agree(one: Fill, other: Fill) -> bool:
    """Return whether two ways give the same bits: a compiler for another machine may fuse operations."""
    cpu = torch.device("cpu")
    first, draw = torch.tensor([[0], [2**40]], device=cpu), torch.tensor([[0], [1]], device=cpu)
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}
    for dtype, key in product(bits, ((0, 0), (2**32 - 1, 12345))):
        # Some more than whole vectors: what is left over at the end has instructions of its own.
        pairs = [torch.empty((2, 2**11 + 3, 2), dtype=dtype, device=cpu) for _ in range(2)]
        for fill, numbers in zip((one, other), pairs, strict=True):
            fill(first, draw, 7, key, numbers)
        if not torch.equal(*(numbers.view(bits[dtype]) for numbers in pairs)):
            return False
    return True
