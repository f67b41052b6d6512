"""NRRD: read attached and detached headers onto a grid in RAS mm.

    world = space origin + sum_i index_i direction_i, axis 0 the fastest; the array is turned to (t, z, y, x)

A frame along the patient's axes (RAS, LPS, LAS) is the space "scanner". Others are "unknown": their vectors
are taken for LPS, as ITK does, or for LAS where the space is said to be left-handed: nothing is mirrored.
Fields that are not named here and all key/value pairs are dropped: they may name the patient.
"""

from __future__ import annotations

import bz2
import gzip
import math
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from operators.grid import Grid, TimeAxis
from workbench.io.metaimage import (
    LONGEST_LINE,
    Fields,
    checked_source,
    data_files,
    fitted,
    in_dtype,
    placed,
    refused,
)
from workbench.volume import Volume

__all__ = ["read_nrrd"]

#: An integer type by its many names; the group that matched tells how long it is.
_INTEGER = re.compile(
    r"(u|unsigned )?(?:signed )?(?:(char|int8(?:_t)?)|(short(?: int)?|int16(?:_t)?)|(int|int32(?:_t)?)"
    r"|(long ?long(?: int)?|int64(?:_t)?))"
)
_ENCODINGS = {"raw": "raw", "txt": "text", "text": "text", "ascii": "text"}
_ENCODINGS |= {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_PATIENT = {
    "right-anterior-superior": "RAS",
    "left-anterior-superior": "LAS",
    "left-posterior-superior": "LPS",
}
_PATIENT |= {"ras": "RAS", "las": "LAS", "lps": "LPS"}
_OTHERS = {"scanner-xyz": "LPS", "3d-right-handed": "LPS", "3d-left-handed": "LAS", "": "LPS"}
_LENGTHS = {"": 1.0, "???": 1.0, "mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3, "µm": 1e-3, "micron": 1e-3}
_LENGTHS |= {"millimeter": 1.0, "millimeters": 1.0, "microns": 1e-3, "micrometer": 1e-3, "micrometers": 1e-3}
_TIMES = {"": 1.0, "???": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6}
_PIECE = 2**24
_Directions = list[list[float] | None] | None


def read_nrrd(path: str | Path, *, dtype: torch.dtype | None = None) -> Volume:
    """Return the image of a .nrrd or .nhdr file on its grid in RAS mm, in the file's type or in `dtype`.

    Axes of the kinds domain and space are the grid's, `time` its time axis, `complex` the two parts of a
    number; others are refused. Time starts at 0 unless the space has a time. A 2D image is one slice, 1 mm
    thick: it states no depth.
    """
    source = checked_source(path, (".nrrd", ".nhdr"), dtype)
    header = _header(source)
    sizes = header.numbers("sizes", int)
    if not sizes or min(sizes) < 1 or header.numbers("dimension", int) != [len(sizes)]:
        got = f"dimension {header.fields.get('dimension')}, sizes {header.fields.get('sizes')}"
        raise refused(source, "state a size of at least 1 for each dimension", got)
    directions = _directions(header, len(sizes))
    axes = _axes(header, sizes, directions)
    grid, space, notes = _frame(header, sizes, directions, axes)
    values = _turned(header, _values(header, sizes), axes)
    data = in_dtype(torch.from_numpy(values.reshape(grid.array_shape)), dtype)
    for note in notes:
        warnings.warn(f"{path} {note}", UserWarning, stacklevel=2)
    return Volume(data, grid, space=space)


def _header(source: Path) -> Fields:
    fields: dict[str, str] = {}
    listed: list[str] = []
    with source.open("rb") as file:
        magic = file.readline(16).strip()
        if not re.fullmatch(rb"NRRD(?:000[1-6]|00\.01)", magic):
            raise refused(source, "begin with NRRD0001 to NRRD0006", repr(magic[:12].decode("latin-1")))
        while line := file.readline(LONGEST_LINE).decode("utf-8", "surrogateescape"):
            text = line.strip()
            name, colon, value = text.partition(":")
            key = name.lower().replace(" ", "")
            if not text:
                return Fields(source, fields, listed, file.tell())
            if fields.get("datafile", "").split()[:1] == ["LIST"]:
                listed.append(text)
            elif not text.startswith("#") and ":=" not in text:
                if not colon or key in fields:
                    got = f"{key[:40]} twice" if colon else "another line"
                    raise refused(source, "have lines such as dimension: 3, each field once", got)
                fields[key] = value.strip()
    if "datafile" not in fields:
        remedy = "Is it whole? A detached header names its data: data file: name.raw."
        raise refused(source, "have data after an empty line", "a header alone", remedy)
    return Fields(source, fields, listed)


# -- numbers -----------------------------------------------------------------------------------


def _values(header: Fields, sizes: list[int]) -> NDArray[Any]:
    """Return the numbers in the machine's own byte order, the slowest axis in front."""
    source, fields = header.source, header.fields
    name = " ".join(fields.get("type", "").lower().split())
    integer = _INTEGER.fullmatch(name)
    if integer is None and name not in ("float", "double"):
        raise refused(source, "hold integers or floating point numbers", f"type {name[:40]!r}", "Convert it.")
    letters = {"float": "f4", "double": "f8"}.get(name, "")
    if integer is not None:
        letters = f"{'u' if integer[1] else 'i'}{2 ** (cast(int, integer.lastindex) - 2)}"
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        got = f"the encoding {fields.get('encoding', '')[:40]!r}"
        raise refused(source, "be encoded as raw, text, gzip or bzip2", got, "Such as by unu save -e gzip.")
    kind = np.dtype("=" + letters)
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and encoding != "text" and kind.itemsize > 1:
        got = f"endian {fields.get('endian', '')[:40]!r}"
        raise refused(source, "state the order of its bytes", got, "Write endian: little or endian: big.")
    said = fields.get("datafile")
    places = [source] if said is None else data_files(header, said, sizes)
    count = math.prod(sizes) // len(places)
    if encoding == "text":
        return np.concatenate([_numbers(header, place, count, kind) for place in places]).reshape(sizes[::-1])
    data = bytearray()
    for place in places:
        data += _bytes(header, place, count * kind.itemsize, encoding)
    values = np.frombuffer(data, np.dtype((order or "=") + letters))
    return values.astype(kind, copy=False).reshape(sizes[::-1])


def _begun(header: Fields, file: IO[bytes]) -> int:
    """Move to where the data begin, lines skipped, and return how many bytes are to be skipped yet."""
    lines, skip = header.number("lineskip", 0), header.number("byteskip", 0)
    if lines < 0 or skip < -1:
        raise refused(
            header.source, "skip no lines and bytes or more", f"line skip {lines}, byte skip {skip}"
        )
    if "datafile" not in header.fields:
        file.seek(header.data_at)
    for _ in range(lines):
        if not file.readline():
            raise refused(header.source, "have as many lines as are skipped", f"line skip {lines}")
    return skip


def _bytes(header: Fields, place: Path, wanted: int, encoding: str) -> memoryview:
    with place.open("rb") as file:
        skip = _begun(header, file)
        # Who says what to skip may mean a part: only else is what follows an error.
        exactly = skip == 0 == header.number("lineskip", 0)
        if encoding == "raw":
            left = place.stat().st_size - file.tell()
            file.seek(max(left - wanted, 0) if skip == -1 else min(skip, max(left, 0)), 1)
            return fitted(place, file.read(min(wanted + 1, max(left, 0))), wanted, exactly=exactly)
        if skip == -1:
            raise refused(place, "be raw for a byte skip of -1", encoding, "Say how many bytes to skip.")
        data = bytearray()
        try:
            with gzip.open(file) if encoding == "gzip" else bz2.open(file) as stream:
                # Bytes are skipped of what is unpacked. The checksum is compared at the very end.
                while len(data) <= skip + wanted and (piece := stream.read(_PIECE)):
                    data += piece
        except (EOFError, zlib.error, ValueError, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # the disk, not the data
            raise refused(place, f"be undamaged {encoding} data", error) from error
    return fitted(place, memoryview(data)[skip:], wanted, exactly=exactly)


def _numbers(header: Fields, place: Path, count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    with place.open("rb") as file:
        skip = _begun(header, file)
        if skip == -1:
            raise refused(place, "be raw for a byte skip of -1", "text", "Say how many bytes to skip.")
        words = file.read()[skip:].replace(b",", b" ").split()
    if len(words) != count:
        raise refused(place, f"hold the {count} numbers that the header states", len(words))
    try:
        with np.errstate(over="raise"):
            return np.array([float(w) if kind.kind == "f" else int(w) for w in words], kind)
    except (ValueError, ArithmeticError) as error:
        raise refused(place, f"hold numbers of the type {kind}", error) from error


def _turned(header: Fields, values: NDArray[Any], axes: _Axes) -> NDArray[Any]:
    """Return `values` with axes (t, z, y, x), complex where the parts of a number are an axis."""
    order = [*axes.time, *axes.space[::-1], *axes.dropped, *axes.parts]
    turned = np.ascontiguousarray(values.transpose([values.ndim - 1 - i for i in order]))
    if not axes.parts:
        return turned
    if turned.dtype.kind != "f" and turned.dtype.itemsize == 8:
        raise refused(header.source, "have complex numbers of parts that a double holds", turned.dtype)
    number = np.result_type(turned, np.complex64)
    return turned.astype(f"f{number.itemsize // 2}", copy=False).view(number)


# -- axes and frame ----------------------------------------------------------------------------


class _Axes(NamedTuple):
    """The axes in space, of time, of the parts of a complex number, and those of one entry."""

    space: list[int]
    time: list[int]
    parts: list[int]
    dropped: list[int]


def _axes(header: Fields, sizes: list[int], directions: _Directions) -> _Axes:
    n = len(sizes)
    kinds = header.fields.get("kinds", "").lower().split() or ["???"] * n
    if len(kinds) != n:
        raise refused(header.source, f"state {n} kinds", kinds)
    axes = _Axes([], [], [], [])
    for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        unsaid, directed = kind in ("???", "none"), directions is not None and directions[i] is not None
        if kind in ("domain", "space") or (unsaid and (directed or (directions is None and n <= 3))):
            axes.space.append(i)
        elif kind == "time":
            axes.time.append(i)
        elif kind == "complex" and size == 2:
            axes.parts.append(i)
        elif kind in ("stub", "scalar") and size == 1:
            (axes.space if directed else axes.dropped).append(i)
        else:
            remedy = "Take one of its entries (unu slice), or state its kind: domain, time or complex."
            got = f"axis {i} with {size} entries of the kind {kind[:40]!r}"
            raise refused(header.source, "have axes in space, one of time, one of complex parts", got, remedy)
    if len(axes.space) not in (2, 3) or len(axes.time) > 1 or len(axes.parts) > 1:
        got = f"{len(axes.space)}, {len(axes.time)} and {len(axes.parts)}"
        remedy = "A fourth axis that is time says so: kinds: domain domain domain time."
        expected = "have 2 or 3 axes in space, at most one of time and one of complex parts"
        raise refused(header.source, expected, got, remedy)
    return axes


@np.errstate(all="ignore")  # Grid refuses what is not finite
def _frame(
    header: Fields, sizes: list[int], directions: _Directions, axes: _Axes
) -> tuple[Grid, str, list[str]]:
    """Return the grid, the space, and what to warn about."""
    source, space = header.source, header.fields.get("space", "").lower()
    name = re.sub(r"-time$|(?<=s)t$", "", space)
    world = _PATIENT.get(name) or _OTHERS.get(name)
    if world is None:
        raise refused(source, "state a space that the format knows", repr(space[:40]), "Such as space: RAS.")
    reason, notes = "", []
    if name not in _PATIENT:
        reason = f"the space {space} is not the patient's" if space else "no space is stated"
    elif directions is None or "spaceorigin" not in header.fields:
        reason = f"no space {'origin' if directions else 'directions'} stated"
    n = len(sizes)
    stated = np.array(header.numbers("spacings", float, n) or [math.nan] * n)
    stated *= _scales(header, "units", n, axes.time)
    if directions is None:
        thick = header.numbers("thicknesses", float, n) or [math.nan] * n
        for i in axes.space:
            if math.isnan(stated[i]):
                stated[i] = 1.0 if math.isnan(thick[i]) else thick[i]
                notes.append(f"states no spacing of axis {i}: {stated[i]:g} mm is taken.")
        steps, origin = np.diag(stated[axes.space]), np.zeros(3)
    else:
        steps, origin = _directed(header, directions, axes, 3 if space else len(axes.space))
    if reason:
        notes.append(f"states no frame ({reason}): its place and orientation are a guess.")
    named = cast(Literal["RAS", "LPS", "LAS"], world)
    grid = placed(source, [sizes[i] for i in axes.space], steps[: len(axes.space), :3], origin[:3], named)
    if not axes.time:
        return grid, "unknown" if reason else "scanner", notes
    step, start, count = stated[axes.time[0]], 0.0, sizes[axes.time[0]]
    if len(origin) == 4:
        step, start = steps[-1, 3], origin[3]
    if math.isnan(step):
        notes += ["states no time step: 1 s is taken."] if count > 1 else []
        step = 1.0
    try:
        grid = grid.with_time(TimeAxis(count, float(step), float(start)))
    except ValueError as error:
        raise refused(source, "state a usable time axis", error) from error
    return grid, "unknown" if reason else "scanner", notes


def _directed(
    header: Fields, directions: list[list[float] | None], axes: _Axes, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the directions in mm as rows, that of time last where it has one, and the origin."""
    found = [directions[i] or [] for i in axes.space]
    n, said = len(found[0]), header.fields.get("spaceorigin")
    if n == 4:
        found += [directions[i] or [] for i in axes.time]
    origin = np.array(_vector(header, said) if said else [0.0] * n)
    apart = not any(directions[i] for i in axes.parts + (axes.time if n < 4 else []))
    if {n, len(origin)} != {len(v) for v in found} or not least <= n <= 3 + len(axes.time) or not apart:
        got = f"{header.fields['spacedirections'][:200]!r} and the origin {said!r}"
        raise refused(header.source, "state directions of the axes in space, and an origin like them", got)
    scales = np.array(_scales(header, "spaceunits", n, [3]))
    steps, origin = np.array(found) * scales, origin * scales
    if n == 4 and (steps[:-1, 3].any() or steps[-1, :3].any()):
        raise refused(header.source, "keep space and time apart", header.fields["spacedirections"][:200])
    return steps, origin


def _scales(header: Fields, name: str, count: int, times: Sequence[int]) -> list[float]:
    """Return what each unit is in mm, or in s for the entries `times`."""
    text = header.fields.get(name, "")
    said = re.findall(r'"([^"]*)"', text) or text.split() or [""] * count
    scales = []
    for i, unit in enumerate(said):
        known = _TIMES if i in times else _LENGTHS
        if len(said) != count or unit.strip().lower() not in known:
            got, remedy = f"{name} {text[:100]!r}", "Write lengths in mm and times in s."
            raise refused(header.source, f"state {count} units that are known", got, remedy)
        scales.append(known[unit.strip().lower()])
    return scales


def _directions(header: Fields, n: int) -> _Directions:
    text = header.fields.get("spacedirections")
    if text is None:
        return None
    words = re.findall(r"\([^()]*\)|[^\s()]+", text)
    found = [None if word.lower() == "none" else _vector(header, word) for word in words]
    if len(found) != n:
        raise refused(header.source, f"state {n} space directions, each a vector or none", repr(text[:200]))
    # Some writers fill the place of "none" with NaN.
    return [None if vector is None or all(map(math.isnan, vector)) else vector for vector in found]


def _vector(header: Fields, text: str) -> list[float]:
    try:
        return [float(word) for word in re.fullmatch(r"\((.*)\)", text.strip())[1].split(",")]  # type: ignore[index]
    except (TypeError, ValueError) as error:
        raise refused(header.source, "write vectors as (1,0,0)", repr(text[:100])) from error
