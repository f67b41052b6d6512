"""A run kept on disk, in a folder that zarr and xarray read: `workbench.io.zarr_folder` says how.

How far the run has come is in one file, `draws/progress.pt`, replaced in one step after all that it
vouches for has reached the disk: a kill or a power cut leaves the old one or the new one, and `begin`
goes on from either.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from operators.errors import value_error
from workbench.export import to_array
from workbench.interrupts import interrupts_wait
from workbench.io.checks import checked_path
from workbench.io.lock import FolderLock
from workbench.io.whole import sync, written_whole
from workbench.io.zarr_folder import (
    ZarrDraws,
    create_folder,
    enlarge_folder,
    finish_folder,
    open_for_writing,
    read_zarr,
    zarr_module,
)
from workbench.store import (
    Draws,
    Header,
    Progress,
    Store,
    StoreFull,
    check_draws,
    check_finished,
    check_same_run,
    complete,
    grown,
    json_text,
)

__all__ = ["ZarrStore"]

#: What torch.load raises on files that are not whole.
DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ELSEWHERE = "Choose another folder for this run."


class ZarrStore(Store):
    """Keeps one run in the folder `path`, which is made; its parent is there already."""

    def __init__(self, path: str | Path) -> None:
        self.path = checked_path(path).resolve()
        self._draws = self.path / "draws"
        # Beside the chunks, where no reader of the group looks for arrays.
        self._progress = self._draws / "progress.pt"
        self._kept: Header | None = None
        self._count = 0
        self._written = torch.zeros(0, dtype=torch.bool)
        self._unsynced: set[int] = set()
        self._finished = False
        self._lock = FolderLock(self._draws / "run.lock")

    def __repr__(self) -> str:
        return f"ZarrStore({str(self.path)!r})"

    def begin(self, header: Header) -> Progress | None:
        """Make the folder, or return the last progress of the same run in it."""
        zarr_module()
        progress, written = None, torch.zeros(0, dtype=torch.bool)
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            kept = header
            with self._room(header):
                create_folder(self.path, header)
            self._lock.take(str(self.path))
        else:
            if not (self.path / "zarr.json").is_file():
                expected = "be a new folder or one that holds this run"
                raise value_error("path", expected, f"{self.path} with other files", _ELSEWHERE)
            kept, _, _, self._finished = read_zarr(self.path)
            check_same_run(kept, header, str(self.path), _ELSEWHERE)
            self._lock.take(str(self.path))
            self._tidy()
            progress, written = self._last()
            if header.count > kept.count:
                kept, self._finished = header, False
                with self._room(header):
                    enlarge_folder(self.path, header)
        self._kept, self._count = kept, header.count
        self._written, self._unsynced = grown(written, kept.count), set()
        return progress

    def write(self, first: int, draws: Tensor) -> None:
        """Write finished draws, each whole or not at all."""
        header = self._header()
        stop = check_draws(header, first, draws)
        values = to_array(draws)
        with self._room(header):
            array = open_for_writing(self.path)
            for k in range(first, stop):
                self._written[k] = False
                array[k] = values[k - first]
                self._written[k] = True
                self._unsynced.add(k)

    def save(self, progress: Progress) -> None:
        """Replace the progress, after the draws written before it have reached the disk."""
        header = self._header()
        content = {
            "facts": json_text(progress.facts, "facts"),
            "tensors": {name: _compact(tensor) for name, tensor in progress.tensors.items()},
            "written": self._written,
        }
        with self._room(header):
            self._sync_draws()
            # To an open file: of a name torch says of a full disk only that a position is unexpected.
            with written_whole(self._progress) as partial, partial.open("wb") as file, interrupts_wait():
                torch.save(content, file)
            sync(self._draws)

    def finish(self, log_weights: Tensor | None, record: Mapping[str, Any]) -> None:
        """Keep the weights and the record, and mark the run as finished.

        The progress saved last stays: a call with a larger count goes on from it. A driver that no longer
        needs its tensors saves a progress without them before.
        """
        header = self._header()
        weights = check_finished(self._count, complete(self._written), log_weights)
        json_text(record, "record")
        if self._count == header.count and not self._finished:
            with self._room(header):
                self._sync_draws()
                finish_folder(self.path, header, weights, record)
            self._finished = True

    def draws(self) -> Draws:
        """Return the draws written so far."""
        self._header()
        return ZarrDraws(self.path, min(self._count, complete(self._written)))

    def leave(self) -> None:
        """Let other processes have the folder."""
        self._lock.release()

    def holds_run(self) -> bool:
        """Tell whether the folder holds a run."""
        return (self.path / "zarr.json").is_file()

    def room(self) -> int:
        """Return the bytes free for draws, with those that are here."""
        files = (self._draws / "c").rglob("*")
        return self._free() + sum(file.stat().st_size for file in files if file.is_file())

    def _header(self) -> Header:
        if self._kept is None:
            raise RuntimeError("the store keeps no run yet. Call begin(header) first.")
        return self._kept

    def _tidy(self) -> None:
        """Remove what a kill left of files that were being written: ours and zarr's."""
        for folder in (self.path, self._draws):
            for rest in folder.glob(".partial-*"):
                rest.unlink()
        # zarr writes the metadata of the group beside every new array of it: its own lie anywhere.
        for rest in self.path.rglob("*.partial"):
            rest.unlink()

    def _last(self) -> tuple[Progress | None, Tensor]:
        if not self._progress.exists():
            return None, torch.zeros(0, dtype=torch.bool)
        try:
            with zipfile.ZipFile(self._progress) as whole:
                # torch reads what the archive holds without comparing it with its checksums.
                if (bad := whole.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{bad} has another checksum")
            content = torch.load(self._progress, map_location="cpu", weights_only=True)
            return Progress(json.loads(content["facts"]), content["tensors"]), content["written"]
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EIO):
                raise
            got = f"{self._progress}: {error}"
            raise value_error(
                "path", "hold the progress of a run", got, "Remove that file to begin the run again."
            ) from error

    def _sync_draws(self) -> None:
        for k in sorted(self._unsynced):
            folder = self._draws / "c" / str(k)
            for path in (folder, *folder.rglob("*")):
                sync(path)
        if self._unsynced:
            sync(self._draws / "c")
        self._unsynced.clear()

    def _free(self) -> int:
        return shutil.disk_usage(next(p for p in (self.path, *self.path.parents) if p.exists())).free

    @contextmanager
    def _room(self, header: Header) -> Iterator[None]:
        """Turn the error of a full disk into one that says what is kept and how to go on."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as a RuntimeError; the system's own error is its context.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError) or cause.errno not in _FULL:
                raise
            size = header.space.size * torch.empty(0, dtype=header.dtype).element_size()
            raise StoreFull(
                cause.errno,
                f"{self.path} takes no more ({os.strerror(cause.errno)}): {complete(self._written)} of "
                f"{header.count} draws are complete, {self._free() / 2**20:.1f} MiB are free, a draw takes "
                f"{size / 2**20:.1f} MiB. Make room, then make the same call again: it goes on from "
                "its last progress.",
            ) from error


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, without the rest of a larger one that it is a view of."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
