"""NIfTI's one free text, 79 bytes: the unit of the values and the kind of answer, which it has no fields for.

    kind=exact sample;statistic=mean;unit=1/mm

Each part is there if there is something to say; the unit comes last and may hold any text.
"""

from __future__ import annotations

from typing import NamedTuple

from operators.errors import value_error
from workbench.kinds import Kind
from workbench.volume import Volume

__all__ = ["Description", "described", "description_of"]

LONGEST = 79


class Description(NamedTuple):
    """What the text says of a volume."""

    unit: str
    kind: Kind | None
    statistic: str


def described(volume: Volume) -> bytes:
    """Return the text for `volume`."""
    front = "" if volume.kind is None else f"kind={volume.kind};"
    front += f"statistic={volume.statistic};" if volume.statistic else ""
    text = front + f"unit={volume.unit}" if volume.unit else front.removesuffix(";")
    if description_of(text) != (volume.unit, volume.kind, volume.statistic):
        raise value_error("statistic", "be text without ';'", repr(volume.statistic))
    try:
        encoded = text.encode("latin-1")
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded or len(encoded) > LONGEST:
        room = max(LONGEST - len(front) - len("unit="), 0)
        raise value_error("unit", f"fit NIfTI: at most {room} characters of Latin-1", repr(volume.unit))
    return encoded


def description_of(text: str) -> Description:
    """Return what `text` says; nothing, where somebody else wrote it."""
    rest, kind, statistic = text, None, ""
    found, after = _part(rest, "kind=")
    if found in tuple(Kind):
        kind, rest = Kind(found), after
    found, after = _part(rest, "statistic=")
    if found:
        statistic, rest = found, after
    return Description(rest.removeprefix("unit=") if rest.startswith("unit=") else "", kind, statistic)


def _part(text: str, name: str) -> tuple[str, str]:
    """Return the value of the part that `text` begins with, if its name is `name`, and what is left."""
    if not text.startswith(name):
        return "", text
    value, _, rest = text.removeprefix(name).partition(";")
    return value, rest
