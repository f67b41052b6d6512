"""Draws made of other draws, computed when they are read: some of them, or a function of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from operators.checks import COMPLEX_DTYPES, REAL_DTYPES
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.store import Draws, TensorDraws

__all__ = ["MappedDraws", "SelectedDraws"]

_HALF = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


class SelectedDraws(Draws):
    """The draws numbered `indices` of another, in that order."""

    def __init__(self, draws: Draws, indices: Sequence[int]) -> None:
        self._draws = draws
        self._indices = list(indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *space.shape)."""
        return (len(self._indices), *self._draws.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Their dtype."""
        return self._draws.dtype

    @property
    def reads_whole(self) -> bool:
        """As those that they are taken from."""
        return self._draws.reads_whole

    @property
    def sources(self) -> tuple[Path, ...]:
        """Those of the draws that they are taken from."""
        return self._draws.sources

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of them."""
        pieces = [self._draws.read(run, region) for run in _runs(self._indices[draws])]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces) if pieces else self._draws.read(slice(0, 0), region)


class MappedDraws(Draws):
    """`function` of each draw of another, as float32, float64, complex numbers or tokens.

    `tokens` says whether integers and truth values are tokens or numbers. None: integers are tokens,
    truth values and what is one number for the whole draw are numbers.
    """

    def __init__(
        self,
        draws: Draws,
        function: Callable[[Tensor], Tensor | complex],
        pointwise: bool,
        tokens: bool | None = False,
    ) -> None:
        self._draws, self._function, self._pointwise, self._tokens = draws, function, pointwise, tokens
        first = draws.read(slice(0, 1))
        value = self._of(first if pointwise else first[0])
        self._element = tuple(value.shape[1:] if pointwise else value.shape)
        self._dtype = value.dtype
        if pointwise and value.shape != first.shape:
            remedy = "Leave out `pointwise` for a function that changes the shape."
            raise value_error("function", f"keep the shape {tuple(first.shape)}", tuple(value.shape), remedy)

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *shape of the new values)."""
        return (self._draws.shape[0], *self._element)

    @property
    def dtype(self) -> torch.dtype:
        """Their dtype."""
        return self._dtype

    @property
    def reads_whole(self) -> bool:
        """Whether the function needs a draw whole."""
        return not self._pointwise or self._draws.reads_whole

    @property
    def sources(self) -> tuple[Path, ...]:
        """Those of the draws that they are made of."""
        return self._draws.sources

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return the function of some draws, or a region of it."""
        if self._pointwise:
            return self._of(self._draws.read(draws, region))
        chosen = range(self.shape[0])[draws]
        result: Tensor | None = None
        for row, k in enumerate(chosen):
            value = self._of(self._draws.read(slice(k, k + 1))[0])
            if tuple(value.shape) != self._element or value.dtype != self._dtype:
                raise value_error(
                    "function",
                    f"return {self._element}, {self._dtype}, as of the first draw",
                    f"{tuple(value.shape)}, {value.dtype}, of draw {k}",
                )
            piece = value[region]
            if result is None:
                result = piece.new_empty((len(chosen), *piece.shape))
            result[row] = piece
        if result is None:
            return torch.empty((0, *self._element), dtype=self._dtype)[(slice(None), *region)]
        return result

    def _of(self, draw: Tensor) -> Tensor:
        with torch.no_grad():
            value = self._function(draw)
        return _numbers(value, draw, self._tokens, self._pointwise)


def _numbers(value: object, draw: Tensor, tokens: bool | None, pointwise: bool) -> Tensor:
    """Return what a function made of `draw` in a dtype and a shape that draws may have."""
    if isinstance(value, (bool, int, float, complex, np.generic)):
        value = _from_python(value)
    if not isinstance(value, Tensor):
        remedy = "Of an array: torch.from_numpy(array)." if isinstance(value, np.ndarray) else ""
        raise type_error("function", "return a torch.Tensor or a number", type(value).__name__, remedy)
    is_number = value.ndim == 0
    if is_number and not pointwise:
        value = value.reshape(1)
    if value.dtype in _HALF:
        return value.to(_HALF[value.dtype])
    if value.is_floating_point() or value.is_complex():
        return value
    is_truth = value.dtype == torch.bool
    if tokens or (tokens is None and not is_truth and not is_number):
        return value.long()
    if not is_truth:
        return value.double()  # exact up to 2^53: counts of voxels leave float32
    known = draw.is_floating_point() or draw.is_complex()
    return value.to(draw.dtype.to_real() if known else torch.float32)


def _from_python(value: object) -> Tensor:
    number = complex(value)  # type: ignore[call-overload]
    real = not isinstance(value, (complex, np.complexfloating))
    return torch.tensor(number.real if real else number, dtype=torch.float64 if real else torch.complex128)


def _runs(indices: Sequence[int]) -> Iterator[slice]:
    """Yield slices of numbers that follow one another, each read at once."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            yield slice(indices[start], indices[i - 1] + 1)
            start = i


def checked_draws(draws: object, space: Space) -> Draws:
    """Return draws of `space`, from a tensor of them too."""
    if isinstance(draws, Tensor):
        space.check(draws, "draws")
        found: Draws = TensorDraws(draws.detach())
    elif isinstance(draws, Draws):
        found = draws
    else:
        raise type_error("draws", "be a torch.Tensor or a store's draws", type(draws).__name__)
    if found.shape[1:] != space.shape or found.shape[0] < 1:
        expected = ", ".join(str(n) for n in space.shape)
        remedy = "One draw has that axis too: draw[None]." if found.shape == space.shape else ""
        raise value_error("draws", f"have shape (n, {expected}) with n >= 1", found.shape, remedy)
    known = COMPLEX_DTYPES if space.is_complex else REAL_DTYPES
    if found.dtype not in ((torch.int64,) if space.classes is not None else known):
        raise type_error("draws", f"be of a dtype for a {space.kind}", found.dtype)
    return found


def checked_weights(weights: object, count: int) -> Tensor:
    """Return log-weights of `count` draws as float64 on the CPU, the caller's own no more."""
    if not isinstance(weights, Tensor) or weights.is_complex() or tuple(weights.shape) != (count,):
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise value_error("log_weights", f"be a real tensor of shape ({count},)", got)
    checked = weights.detach().to("cpu", torch.float64, copy=True)
    if bool(torch.isnan(checked).any()) or not math.isfinite(float(checked.max())):
        remedy = "A draw of weight 0 has -inf; one at least has more."
        raise value_error(
            "log_weights", "be numbers or -inf, one of them finite", f"a largest of {checked.max()}", remedy
        )
    return checked


def checked_index(index: object, count: int) -> int | list[int]:
    """Return the number of one draw, or those of several, from whatever may stand in brackets."""
    if isinstance(index, slice):
        return checked_indices(range(count)[index], count)
    if isinstance(index, (Tensor, np.ndarray)) and index.ndim == 0:
        index = index.item()
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
        return checked_indices([index], count)[0]
    if isinstance(index, (Tensor, np.ndarray)) or (
        isinstance(index, Sequence) and not isinstance(index, (str, tuple))
    ):
        return checked_indices(index, count)
    remedy = "Several draws: samples[[0, 3]]. A part of one: samples[0] first."
    raise type_error("index", "be an integer, a slice or a list of integers", repr(index), remedy)


def checked_indices(indices: object, count: int) -> list[int]:
    """Return numbers of draws, 0 <= number < `count`, from negative ones and from a mask too."""
    if isinstance(indices, (Tensor, np.ndarray)):
        values = torch.as_tensor(indices)
        if values.dtype == torch.bool:
            if tuple(values.shape) != (count,):
                raise value_error("indices", f"have shape ({count},) as a mask", tuple(values.shape))
            values = values.nonzero()
        indices = values.flatten().tolist()
    if not isinstance(indices, Sequence) or isinstance(indices, str):
        raise type_error("indices", "be a sequence of integers, or a mask", repr(indices))
    if any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) for k in indices):
        raise type_error("indices", "be integers", repr(indices), "A mask is a tensor: torch.tensor(mask).")
    if not indices:
        raise value_error("indices", "name one draw at least", "none")
    for k in indices:
        if not -count <= k < count:
            raise IndexError(f"there is no draw {k}: they are numbered 0..{count - 1}")
    return [int(k) % count for k in indices]
