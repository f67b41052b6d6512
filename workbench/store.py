"""Where the draws of a run lie and how far it has come: a protocol, and the one that needs no disk.

The driver writes draws as they are finished and, now and then, its progress: a small JSON-able
record and the tensors it needs to go on. A draw counts once the progress that follows it says so;
what a kill left half-written is written again, bit by bit the same. Stores on disk are in
`workbench/io`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from operators.space import Space
from workbench.kinds import Kind

__all__ = ["Draws", "Header", "Progress", "Store", "TensorStore"]


@dataclass(frozen=True)
class Header:
    """What a run's draws are: enough to read them back without the run.

    `dtype` is the draws' own, complex for a complex space. `frame` names the world of the grid's
    affine, as `Volume.space` does. `fingerprint` is the hash of everything that the values depend
    on; only a run with the same one may be continued.
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

    @abstractmethod
    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of their first axes, as a tensor of the caller's own."""


class Store(ABC):
    """Keeps one run."""

    @abstractmethod
    def begin(self, header: Header) -> Progress | None:
        """Make room for a run, or return the progress of the same run if it is here already.

        Raises ValueError if another run is here: its fingerprint differs.
        """

    @abstractmethod
    def write(self, first: int, draws: Tensor) -> None:
        """Write finished draws, the first of them number `first`."""

    @abstractmethod
    def save(self, progress: Progress) -> None:
        """Replace the progress kept so far, whole or not at all."""

    @abstractmethod
    def finish(self, log_weights: Tensor | None, record: Mapping[str, Any]) -> None:
        """Keep the weights and the record; what only an unfinished run needs may go."""

    @abstractmethod
    def draws(self) -> Draws:
        """Return the draws written so far, to be read lazily."""
