"""Files and folders appear under their name only once they are whole."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["folder_written_whole", "sync", "written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield another name in the same folder to write to; it becomes `path` once on the disk.

    What stood there before stays until then. A symbolic link stays one; the file it leads to changes.
    What a process that was killed left of the same file is removed.
    """
    target = _checked_target(path)
    partial = _partial(target, target.name.lower())  # who writes goes by the suffix
    try:
        with _named(path, partial):
            yield partial
            sync(partial)
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; it becomes `path`, which is new or an empty folder, as a file does."""
    target = _checked_target(path)
    partial = _partial(target, target.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _named(path, partial):
            partial.mkdir()
            yield partial
            if target.exists():
                target.rmdir()
            partial.replace(target)
            sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checked_target(path: Path) -> Path:
    target = path.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist. Make it first.")
    return target


def _partial(target: Path, name: str) -> Path:
    """Return the name to write to; leftovers of processes that are gone leave the folder."""
    form = re.compile(r"\.partial-([1-9][0-9]*)-" + re.escape(name))
    # Leftovers that cannot be listed or removed are in nobody's way.
    with contextlib.suppress(OSError):
        for rest in target.parent.iterdir():
            found = form.fullmatch(rest.name)
            if found is None or _runs(int(found[1])):
                continue
            if rest.is_dir() and not rest.is_symlink():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink()
    return target.with_name(f".partial-{os.getpid()}-{name}")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks and does nothing
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Let an error of the system name `path`: a full disk names no file, and `partial` nobody knows."""
    try:
        yield
    except OSError as error:
        unknown = error.filename is None or str(error.filename).startswith(str(partial))
        if error.errno is not None and unknown:
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2  # None would be printed: "a -> None"
        raise
