"""The readouts of an ISMRMRD file: which there are, what they are for, and their samples.

Headers are read first and samples only of what was chosen, in blocks: raw files are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from operators.errors import value_error
from operators.extras import require
from workbench.io.ismrmrd_header import damaged

__all__ = ["COUNTERS", "Bools", "Readout", "Readouts"]

#: Counters of which a k-space has one value each; averages, segments and encoding steps fill it.
COUNTERS = ("slice", "contrast", "phase", "repetition", "set")

NOISE, CALIBRATION, BOTH, REVERSED = 19, 20, 21, 22
#: Navigators, phase correction, feedback, dummies, surface coil correction, phase stabilisation.
OTHER = (23, 24, 26, 27, 28, 29, 30, 31)
BLOCK = 256

Heads = NDArray[Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Readout:
    """One readout: its number in the file, samples (coils, samples), trajectory (samples, axes)."""

    number: int
    samples: NDArray[np.complex64]
    trajectory: NDArray[np.float32]


class Readouts:
    """An open file; `heads` are the headers of all its readouts."""

    def __init__(self, source: Path, group: str) -> None:
        h5py = require("h5py", feature="Reading ISMRMRD", extra="mri")
        self.source = source
        if not source.exists():
            raise FileNotFoundError(f"{source} does not exist.")
        try:
            self._file = h5py.File(source, "r")
        except OSError as error:
            if error.errno is not None:
                raise
            raise damaged(source, error) from error
        try:
            self._data, self.document, self.heads = self._opened(group)
        except BaseException:
            self._file.close()
            raise
        self.flags = self.heads["flags"].astype(np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def flagged(self, *flags: int) -> Bools:
        """Return which readouts have any of these flags, numbered from 1."""
        bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
        found: Bools = (self.flags & bits) != 0
        return found

    def counter(self, name: str) -> NDArray[np.int64]:
        """Return a counter of all readouts."""
        return np.asarray(self.heads["idx"][name]).astype(np.int64)

    def values(self, name: str, among: Bools) -> tuple[int, ...]:
        """Return the values that a counter takes in the readouts `among` all."""
        return tuple(int(value) for value in np.unique(self.counter(name)[among]))

    def chosen(self, among: Bools, wanted: Mapping[str, int | None]) -> tuple[Bools, dict[str, int]]:
        """Return which readouts `among` all have the wanted counters, and these.

        A counter with several values must be chosen.
        """
        found, values = among.copy(), {}
        for name, value in wanted.items():
            present = self.values(name, among)
            if value is None and len(present) > 1:
                expected = f"be chosen, since {self.source} holds several"
                raise value_error(
                    name, expected, f"None of {_listed(present)}", f"Such as {name}={present[0]}."
                )
            if value is not None and value not in present:
                raise value_error(name, f"be one of {_listed(present)}, which {self.source} holds", value)
            values[name] = present[0] if value is None else value
            found &= self.counter(name) == values[name]
        if not found.any():
            raise value_error("path", f"hold readouts of {values}", self.source, "Choose other counters.")
        return found, values

    def samples(self, chosen: Bools) -> Iterator[Readout]:
        """Yield the chosen readouts in the order of the file."""
        for first in range(0, len(chosen), BLOCK):
            rows = np.flatnonzero(chosen[first : first + BLOCK])
            if not len(rows):
                continue
            try:
                block = self._data[first : first + BLOCK]
            except (OSError, RuntimeError) as error:
                raise damaged(self.source, error) from error
            for row in rows:
                yield self._readout(first + int(row), block[row])

    def _readout(self, number: int, raw: Any) -> Readout:
        head = self.heads[number]
        coils, count = int(head["active_channels"]), int(head["number_of_samples"])
        axes = int(head["trajectory_dimensions"])
        data, path = np.asarray(raw["data"], np.float32), np.asarray(raw["traj"], np.float32)
        if data.size != 2 * coils * count or path.size != axes * count:
            raise damaged(
                self.source,
                f"readout {number} states {count} samples of {coils} coils and {axes} trajectory axes, "
                f"but holds {data.size} and {path.size} numbers",
            )
        if not (np.isfinite(data).all() and np.isfinite(path).all()):
            raise damaged(self.source, f"readout {number} holds NaN or infinity")
        return Readout(number, data.view(np.complex64).reshape(coils, count), path.reshape(count, axes))

    def _opened(self, group: str) -> tuple[Any, bytes, Heads]:
        h5py = require("h5py", feature="Reading ISMRMRD", extra="mri")
        node = self._file.get(group)
        if not isinstance(node, h5py.Group) or "xml" not in node:
            there = [name for name, entry in self._file.items() if isinstance(entry, h5py.Group)]
            expected = "be an ISMRMRD file with a header and readouts"
            fitting = [name for name in there if "xml" in self._file[name]]
            remedy = f"Choose another group: group={fitting[0]!r}." if fitting else ""
            raise value_error(
                "path", expected, f"{self.source}, without {group}/xml; its groups: {there}", remedy
            )
        data = node.get("data")
        if not isinstance(data, h5py.Dataset) or data.dtype.names is None or "head" not in data.dtype.names:
            raise value_error("path", "be an ISMRMRD file with readouts", f"{self.source}, which holds none")
        try:
            document, heads = node["xml"][0], np.asarray(data.fields("head")[:])
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise damaged(self.source, error) from error
        if not len(heads):
            raise value_error("path", "hold at least one readout", self.source)
        return data, document, heads


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(v) for v in values[:8]) + (", ..." if len(values) > 8 else "")
