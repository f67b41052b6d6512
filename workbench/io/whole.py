"""Files appear under their name only once they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield another name in the same folder to write to; it becomes `path` when nothing failed.

    What stood there before stays until then. A symbolic link stays one; the file it leads to changes.
    """
    target = path.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist. Make it first.")
    partial = target.with_name(
        f".partial-{os.getpid()}-{target.name.lower()}"
    )  # who writes goes by the suffix
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        if error.errno is not None:  # a full disk names no file, and the partial one nobody knows
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)
