"""What is asked of every path, and of the samples that lie there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from operators.errors import type_error, value_error

__all__ = ["check_not_read_from", "check_unit", "checked_path"]


def checked_path(path: object) -> Path:
    """Return `path` with a leading `~` written out, or say that it is none."""
    if not isinstance(path, (str, Path)):
        raise type_error("path", "be a path", f"{path!r} ({type(path).__name__})")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        remedy = "Write the folder out; a name that begins with ~ itself: './~name'."
        raise value_error("path", "begin with the home of somebody known", repr(str(path)), remedy) from error


def check_not_read_from(sources: Iterable[Path], target: Path) -> None:
    """Raise if writing `target` would destroy one of `sources`, which lazy samples still read."""
    resolved = target.resolve()
    for source in sources:
        same = target.exists() and source.exists() and target.samefile(source)
        if same or source == resolved or source in resolved.parents:
            raise value_error(
                "path",
                "be another place than the one that the samples are read from",
                str(target),
                "They are lazy: their draws still lie there. Choose another name.",
            )


def check_unit(path: Path, said: object, unit: str) -> None:
    """Raise unless the attribute `units` of the variable says what the header's `unit` says.

    One that is missing contradicts nothing.
    """
    if said is not None and str(said) != unit:
        raise value_error(
            "path",
            "state one unit of its draws",
            f"{path}, where the attribute `units` of the variable `draws` says {str(said)!r} "
            f"and the attribute `unit` of the header says {unit!r}",
            "Find out which is true, and write it into both.",
        )
