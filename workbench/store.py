"""Where the draws of a run lie and how far it has come: a protocol, and the one that needs no disk.

The driver writes draws as they are finished and, now and then, its progress: a small JSON-able
record and the tensors it needs to go on. A draw counts once the progress that follows it says so;
what a kill left half-written is written again, bit by bit the same. Stores on disk are in
`workbench/io`.

One store keeps one run, known by its fingerprint. The same run may begin again with another count:
a larger one makes room for more draws; a smaller one is a look at the first of them, and the longer
run stays as it is, its weights and record included.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from operators.errors import type_error, value_error
from operators.space import Space
from workbench.kinds import Kind

__all__ = ["Draws", "Header", "Progress", "Store", "StoreFull", "TensorDraws", "TensorStore"]


class StoreFull(OSError):
    """The disk is full: what is complete stays, and the same call goes on once there is room."""


@dataclass(frozen=True)
class Header:
    """What a run's draws are: enough to read them back without the run.

    `dtype` is the draws' own, complex for a complex space. `frame` names the world of the grid's
    affine, as `Volume.space` does. `fingerprint` is the hash of everything that the values depend
    on; only a run with the same one may be continued. One made of parts, "prior=3fa9 seed=88c1", lets
    the error name those that differ.
    """

    space: Space
    count: int
    dtype: torch.dtype
    kind: Kind
    unit: str = ""
    frame: str = "scanner"
    fingerprint: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: JSON-able `facts`, and the tensors of what is under way."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Draws(ABC):
    """Draws (count, *space.shape), read when they are asked for."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(count, *space.shape)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Their dtype."""

    @property
    def reads_whole(self) -> bool:
        """Whether a region costs as much as the whole draw: then fewer, larger regions are asked for."""
        return False

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files and folders that they are read from, which must stay; none for draws in memory."""
        return ()

    @abstractmethod
    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of their first axes, as a tensor of the caller's own.

        The slices of a region have no step.
        """


class TensorDraws(Draws):
    """Draws in memory; the tensor is kept, not copied."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *space.shape)."""
        return tuple(self._tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Their dtype."""
        return self._tensor.dtype

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return a copy."""
        return self._tensor[(draws, *region)].detach().clone()


class Store(ABC):
    """Keeps one run."""

    @abstractmethod
    def begin(self, header: Header) -> Progress | None:
        """Make room for a run, or return the last progress of the same run if it is here already.

        None says that there is nothing to go on from: the run starts with its first draw. A finished
        run, too, returns what it saved last, so that more draws can follow. Raises ValueError if
        another run is here: its fingerprint differs.
        """

    @abstractmethod
    def write(self, first: int, draws: Tensor) -> None:
        """Write finished draws, the first of them number `first`."""

    @abstractmethod
    def save(self, progress: Progress) -> None:
        """Replace the progress kept so far, whole or not at all."""

    @abstractmethod
    def finish(self, log_weights: Tensor | None, record: Mapping[str, Any]) -> None:
        """Keep the weights and the record of a run whose draws are all written."""

    @abstractmethod
    def draws(self) -> Draws:
        """Return the draws to be read lazily: those from the first to the last before one is missing.

        No more than the count that the run began with last.
        """

    def leave(self) -> None:
        """Take note that the run writes no more, finished or not; nothing to do for most stores."""
        return

    def holds_run(self) -> bool:
        """Tell whether a run is here already, which the next one would go on with."""
        return False

    def room(self) -> int | None:
        """Return how many bytes of draws fit in, those here already included; None where nobody knows."""
        return None


class TensorStore(Store):
    """Keeps a run in memory for as long as it lives."""

    def __init__(self) -> None:
        self._kept: Header | None = None
        self._count = 0
        self._draws = torch.empty(0)
        self._written = torch.zeros(0, dtype=torch.bool)
        self._progress: tuple[str, dict[str, Tensor]] | None = None
        self.log_weights: Tensor | None = None
        self.record: dict[str, Any] | None = None

    def begin(self, header: Header) -> Progress | None:
        """Make room, or return the last progress of the same run."""
        if self._kept is not None:
            check_same_run(self._kept, header, "this TensorStore", "Make another TensorStore().")
        if self._kept is None or header.count > self._kept.count:
            larger = torch.empty((header.count, *header.space.shape), dtype=header.dtype)
            if self._kept is not None:
                larger[: len(self._written)] = self._draws
            self._draws, self._kept = larger, header
            self._written = grown(self._written, header.count)
            self.log_weights = self.record = None
        self._count = header.count
        if self._progress is None:
            self._written[:] = False
            return None
        facts, tensors = self._progress
        return Progress(json.loads(facts), {name: tensor.clone() for name, tensor in tensors.items()})

    def write(self, first: int, draws: Tensor) -> None:
        """Copy finished draws."""
        stop = check_draws(self._header(), first, draws)
        self._draws[first:stop] = draws.detach().to("cpu")
        self._written[first:stop] = True

    def save(self, progress: Progress) -> None:
        """Replace the progress by a copy of this one."""
        self._header()
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in progress.tensors.items()}
        self._progress = json_text(progress.facts, "facts"), tensors

    def finish(self, log_weights: Tensor | None, record: Mapping[str, Any]) -> None:
        """Keep the weights and the record."""
        header = self._header()
        weights = check_finished(self._count, complete(self._written), log_weights)
        text = json_text(record, "record")
        if self._count == header.count:
            self.log_weights, self.record = weights, json.loads(text)

    def draws(self) -> Draws:
        """Return the draws written so far."""
        self._header()
        return TensorDraws(self._draws[: min(self._count, complete(self._written))])

    def holds_run(self) -> bool:
        """Tell whether a run is in memory."""
        return self._kept is not None

    def _header(self) -> Header:
        if self._kept is None:
            raise RuntimeError("the store keeps no run yet. Call begin(header) first.")
        return self._kept


# -- what every store asks ---------------------------------------------------------------------------


def check_same_run(kept: Header, asked: Header, where: str, remedy: str) -> None:
    """Raise unless `asked` is the run that is kept `where`."""
    if not asked.fingerprint:
        raise value_error(
            "header.fingerprint", f"be given to go on with what is in {where}", "an empty one", remedy
        )
    if kept.fingerprint != asked.fingerprint:
        changed = _changed_parts(kept.fingerprint, asked.fingerprint)
        if changed:
            *most, last = changed
            which = f"{', '.join(most)} and {last} differ" if most else f"{last} differs"
            raise value_error("header", f"be that of the run in {where}", f"another: {which}", remedy)
        raise value_error(
            "header",
            f"be that of the run in {where}, whose fingerprint is {kept.fingerprint!r}",
            repr(asked.fingerprint),
            f"Something that the values depend on has changed since. {remedy}",
        )
    if replace(asked, count=kept.count) != kept:
        raise value_error("header", f"be that of the run in {where}, {kept}", asked, remedy)


def _changed_parts(kept: str, asked: str) -> list[str]:
    """Return the names of the parts that differ between fingerprints "name=hash name=hash", else nothing."""
    form = re.compile(r"\w+=\w+( \w+=\w+)*")
    if not (form.fullmatch(kept) and form.fullmatch(asked)):
        return []
    old, new = (dict(part.split("=") for part in text.split(" ")) for text in (kept, asked))
    return [name for name in old | new if old.get(name) != new.get(name)]


def check_draws(header: Header, first: int, draws: Tensor) -> int:
    """Return the number after the last of `draws`, or say why they do not belong to the run."""
    if not isinstance(draws, Tensor):
        raise type_error("draws", "be a torch.Tensor", type(draws).__name__)
    if draws.dtype != header.dtype:
        raise type_error("draws", f"have the run's dtype {header.dtype}", draws.dtype)
    if draws.ndim == 0 or tuple(draws.shape[1:]) != header.space.shape:
        expected = ", ".join(str(n) for n in header.space.shape)
        raise value_error("draws", f"have shape (n, {expected})", tuple(draws.shape))
    stop = first + len(draws)
    if first < 0 or stop > header.count:
        raise value_error("first", f"put the draws within the {header.count} of the run", f"{first}..{stop}")
    return stop


def check_finished(count: int, done: int, log_weights: Tensor | None) -> Tensor | None:
    """Return the weights as float64 on the CPU, or say why a run of `count` cannot be finished."""
    if done < count:
        raise RuntimeError(f"{done} of {count} draws are written: a run is finished after its last draw.")
    if log_weights is None:
        return None
    if not isinstance(log_weights, Tensor) or tuple(log_weights.shape) != (count,):
        got = tuple(log_weights.shape) if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise value_error("log_weights", f"be a tensor of shape ({count},)", got)
    return log_weights.detach().to("cpu", torch.float64, copy=True)


def complete(written: Tensor) -> int:
    """Return how many draws come before the first that is missing."""
    return int(written.long().cumprod(0).sum())


def grown(written: Tensor, count: int) -> Tensor:
    """Return the marks of the written draws with room for `count`."""
    more = torch.zeros(max(0, count - len(written)), dtype=torch.bool)
    return torch.cat([written, more])


def json_text(value: Mapping[str, Any], argument: str) -> str:
    """Return `value` as JSON, or say that it cannot be."""
    try:
        text = json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        remedy = "Keep to text, numbers, truth values, None, lists and dicts with text as keys."
        raise type_error(argument, "be JSON-able", error, remedy) from error
    _check_keys(value, argument)
    return text


def _check_keys(value: object, place: str) -> None:
    """Raise where a key is not text: JSON would make text of it, and 1 and "1" the same key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                got = f"{key!r} ({type(key).__name__})"
                raise type_error(place, "have text as keys", got, f"Write it as text: {str(key)!r}.")
            _check_keys(item, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_keys(item, f"{place}[{i}]")


# -- pieces of a draw --------------------------------------------------------------------------------


def slab_shape(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the box (1, .., n, full, ..) of at most `most` entries, at least one, that cuts `shape`."""
    box = list(shape)
    for axis, length in enumerate(shape):
        inner = math.prod(shape[axis + 1 :])
        box[axis] = min(length, max(1, most // inner))
        if inner <= most:
            break
    return tuple(box)


def slabs(shape: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Yield the regions of at most `most` entries that tile `shape`, in the order of memory."""
    box = slab_shape(shape, most)
    axes = (
        [slice(i, min(i + n, length)) for i in range(0, length, n)]
        for n, length in zip(box, shape, strict=True)
    )
    yield from itertools.product(*axes)
