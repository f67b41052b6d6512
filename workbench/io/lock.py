"""One process at a time writes to a folder; the system forgets the lock with the process that held it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["FolderLock"]


class FolderLock:
    """A lock on the file `path`, held by this process from `take` to `release`, or to its end.

    Of one process, any number of stores may hold it: they are told apart by nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def take(self, folder: str) -> None:
        """Take the lock, or say which process has it; a folder that cannot be written to needs none."""
        if self._handle is not None:
            return
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 20).decode("ascii", errors="replace").strip() or "unknown"
            os.close(handle)
            text = f"process {holder} is running in {folder}. Wait for its end, or choose another folder."
            raise RuntimeError(text) from error
        except OSError:  # a file system without locks
            os.close(handle)
            return
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
