"""Fields continued beyond their ends, and the adjoint: what lies outside folded back.

With n entries x_0 ... x_{n-1} along an axis, entry e outside is

    "zero"       0
    "periodic"   x_{e mod n}
    "reflect"    x_{e mod 2n}, and x_{2n - 1 - (e mod 2n)} in the second half: the end entry repeats

which is "constant", "wrap" and "reflect" (half-sample symmetric) of scipy.ndimage. The reach may
exceed the field, whose copies then go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Continuation", "continued", "folded"]

Continuation = Literal["zero", "periodic", "reflect"]


def continued(x: Tensor, axis: int, before: int, after: int, how: Continuation) -> Tensor:
    """Return `x` with `before` entries more in front of `axis` and `after` behind it."""
    if before == after == 0:
        return x
    if how == "zero":
        shape = list(x.shape)
        shape[axis] += before + after
        wide = x.new_zeros(shape)
        wide.narrow(axis, before, x.shape[axis]).copy_(x)
        return wide
    parts = []
    for start, length, turned in _copies(x.shape[axis], before, after, how):
        part = x.narrow(axis, start, length)
        parts.append(part.flip(axis) if turned else part)
    return torch.cat(parts, dim=axis)


def folded(y: Tensor, axis: int, before: int, after: int, how: Continuation) -> Tensor:
    """Return the adjoint of `continued`: each entry is the sum of its copies."""
    if before == after == 0:
        return y
    size = y.shape[axis] - before - after
    if how == "zero":
        return y.narrow(axis, before, size)
    total = y.narrow(axis, before, size).clone()
    position = 0
    for start, length, turned in _copies(size, before, after, how):
        if position != before:
            part = y.narrow(axis, position, length)
            total.narrow(axis, start, length).add_(part.flip(axis) if turned else part)
        position += length
    return total


def _copies(n: int, before: int, after: int, how: Continuation) -> Iterator[tuple[int, int, bool]]:
    """Yield what each copy shows of the field, from the first to the last: start, length, turned round."""
    for copy in range(-(-before // n) * -1, -(-after // n) + 1):
        low = max(-before - copy * n, 0)
        high = min(n + after - copy * n, n)
        turned = how == "reflect" and copy % 2 != 0
        yield (n - high if turned else low), high - low, turned
