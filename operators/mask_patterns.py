"""Patterns of what was measured: boolean tensors, True where there are data, for `Mask`.

All are functions of their arguments alone, seeds included, and combine with `&`, `|` and `~`. Shapes
are those of one element, or of its last axes; axes may be named from the end, -1 the last. Patterns of
k-space, dense in its middle, are those of operators/mri/patterns.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from operators import linalg
from operators.checks import check_count, check_finite, check_number, check_tensor
from operators.errors import type_error, value_error

__all__ = [
    "boxes",
    "ellipsoid",
    "missing",
    "random_entries",
    "random_from",
    "random_lines",
    "regular_lines",
]

T = TypeVar("T")
Shape = Sequence[int]
Box = tuple[Sequence[int], Sequence[int]]


def random_entries(shape: Shape, fraction: float, *, seed: int, alike: Sequence[int] = ()) -> Tensor:
    """Return a mask that keeps `fraction` of the entries, rounded to a whole number, at least one.

    Along the axes `alike` the pattern repeats: one pattern for all slices, frames or coils.
    """
    sizes = _shape(shape)
    same = _axes(alike, len(sizes), "alike")
    own = [1 if axis in same else n for axis, n in enumerate(sizes)]
    total = math.prod(own)
    order = _uniforms(own, seed).flatten().argsort()
    keep = torch.zeros(total, dtype=torch.bool)
    keep[order[: _share(fraction, total)]] = True
    return keep.reshape(own).expand(sizes).clone()


def random_from(density: Tensor, *, seed: int) -> Tensor:
    """Return a mask that keeps each entry by itself with the probability `density` gives it."""
    check_finite(check_tensor(density, "density"), "density")
    if density.is_complex() or bool((density < 0).any() | (density > 1).any()):
        raise value_error("density", "be probabilities between 0 and 1", "other values")
    return _uniforms(list(density.shape), seed) < density.double().cpu()


def random_lines(shape: Shape, axis: int, fraction: float, *, seed: int) -> Tensor:
    """Return whole planes index = const along `axis`, `fraction` of them, rounded, at least one."""
    sizes = _shape(shape)
    (place,) = _axes((axis,), len(sizes), "axis")
    others = [a for a in range(len(sizes)) if a != place]
    return random_entries(sizes, fraction, seed=seed, alike=others)


def regular_lines(shape: Shape, axis: int, every: int, *, offset: int = 0) -> Tensor:
    """Return every `every`-th plane index = const along `axis`, from `offset` on."""
    sizes = _shape(shape)
    (place,) = _axes((axis,), len(sizes), "axis")
    step = check_count(every, "every")
    first = check_count(offset, "offset", minimum=0)
    if first >= min(step, sizes[place]):
        raise value_error("offset", f"be below {min(step, sizes[place])}", offset)
    keep = torch.zeros(sizes[place], dtype=torch.bool)
    keep[first::step] = True
    return _planes(keep, sizes, place)


def missing(shape: Shape, axis: int, indices: Sequence[int]) -> Tensor:
    """Return all but the planes `indices` along `axis`: slices, frames, views or detector rows lost."""
    sizes = _shape(shape)
    (place,) = _axes((axis,), len(sizes), "axis")
    keep = torch.ones(sizes[place], dtype=torch.bool)
    for i, index in enumerate(_sequence(indices, "indices")):
        number = check_count(index, f"indices[{i}]", minimum=0)
        if number >= sizes[place]:
            raise value_error(f"indices[{i}]", f"be below {sizes[place]}, the length of axis {axis}", number)
        keep[number] = False
    return _planes(keep, sizes, place)


def boxes(shape: Shape, hidden: Sequence[Box]) -> Tensor:
    """Return all but the boxes start <= index < stop, each a pair (start, stop) over the last axes."""
    sizes = _shape(shape)
    keep = torch.ones(sizes, dtype=torch.bool)
    for i, box in enumerate(_sequence(hidden, "hidden")):
        if not isinstance(box, Sequence) or len(box) != 2:
            raise value_error(f"hidden[{i}]", "be a pair (start, stop)", repr(box))
        start, stop = (_sequence(end, f"hidden[{i}]") for end in box)
        tail = sizes[len(sizes) - len(start) :]
        fits = 0 < len(start) == len(stop) <= len(sizes)
        if not fits or not all(0 <= a < b <= n for a, b, n in zip(start, stop, tail, strict=True)):
            raise value_error(f"hidden[{i}]", f"have 0 <= start < stop <= {tuple(tail)}", (start, stop))
        inside = keep
        for axis, (a, b) in enumerate(zip(start, stop, strict=True)):
            inside = inside.narrow(axis - len(start), a, b - a)
        inside.fill_(False)
    return keep


def ellipsoid(shape: Shape, radius: float = 1.0) -> Tensor:
    """Return the ellipsoid around index N // 2 with half axes `radius` * N / 2."""
    sizes = _shape(shape)
    length = check_number(radius, "radius", positive=True)
    square = torch.zeros((), dtype=torch.float64)
    for axis, n in enumerate(sizes):
        part = (torch.arange(n, dtype=torch.float64) - n // 2) / (length * n / 2)
        square = square + (part**2).reshape(-1, *[1] * (len(sizes) - axis - 1)) * (n > 1)
    return square <= 1


def _uniforms(shape: list[int], seed: int) -> Tensor:
    normals = linalg.normals(tuple(shape), seed=seed, index=0, like=torch.empty(0, dtype=torch.float64))
    values: Tensor = torch.special.ndtr(normals)
    return values


def _share(fraction: float, total: int) -> int:
    share = check_number(fraction, "fraction", positive=True)
    if share > 1:
        raise value_error("fraction", "lie between 0 and 1", fraction)
    return max(1, round(share * total))


def _planes(keep: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    return keep.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape).clone()


def _shape(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(check_count(n, f"shape[{i}]") for i, n in enumerate(_sequence(shape, "shape")))
    if not sizes:
        raise value_error("shape", "have at least one axis", shape)
    return sizes


def _axes(axes: Sequence[int], ndim: int, argument: str) -> tuple[int, ...]:
    found = tuple(_sequence(axes, argument))
    if not all(isinstance(a, int) and -ndim <= a < ndim for a in found):
        raise value_error(argument, f"name axes from {-ndim} to {ndim - 1}", axes)
    return tuple(a % ndim for a in found)


def _sequence(values: Sequence[T], argument: str) -> Sequence[T]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise type_error(argument, "be a sequence", repr(values))
    return values
