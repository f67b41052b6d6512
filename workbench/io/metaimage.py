"""MetaImage: read .mha and .mhd onto a grid in RAS mm. And what readers of plain voxels share.

    world = Offset + sum_i index_i ElementSpacing_i row_i(TransformMatrix), in LPS mm

as ITK has it. AnatomicalOrientation names the side that each axis comes from: RAI is the identity. A file
that states it, and the same by its matrix, is in the space "scanner"; others are "unknown", by the matrix.
All keys that are not named here are dropped: they may name the patient.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from operators.errors import describe, type_error, value_error
from operators.grid import Grid
from workbench.io.checks import checked_path
from workbench.volume import Volume

__all__ = ["LONGEST_LINE", "Fields", "checked_source", "data_files", "fitted", "in_dtype", "placed"]
__all__ += ["read_metaimage", "refused"]

Number = TypeVar("Number", int, float)
LONGEST_LINE, MOST_FILES = 2**20, 10**5
_TO_RAS = {"RAS": (1.0, 1.0, 1.0), "LPS": (-1.0, -1.0, 1.0), "LAS": (-1.0, 1.0, 1.0)}
_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"}
_TYPES |= {"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
_LENGTHS = {"mm": 1.0, "cm": 10.0, "um": 1e-3, "?": 1.0, "": 1.0}
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_SAME = {"position": "offset", "origin": "offset", "rotation": "transformmatrix"}
_SAME |= {"orientation": "transformmatrix", "elementbyteordermsb": "binarydatabyteordermsb"}
#: What another value would do to the numbers or to their place is told nowhere, or differs between readers.
_ONLY = {
    "objecttype": "image",
    "elementtointensityfunctionslope": "1",
    "elementtointensityfunctionoffset": "0",
}
_ONLY |= {"centerofrotation": "0"}
_FROM = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "I": (2, 1), "S": (2, -1)}


def read_metaimage(
    path: str | Path, *, channels: Literal["complex"] | None = None, dtype: torch.dtype | None = None
) -> Volume:
    """Return the image of a .mha or .mhd file on its grid in RAS mm, in the file's type or in `dtype`.

    The format does not say what several channels are: `channels="complex"` says that two of floating point
    are the real and the imaginary part. A 2D image is one slice, 1 mm thick: it states no depth.
    """
    source = checked_source(path, (".mha", ".mhd"), dtype)
    if channels not in (None, "complex"):
        raise value_error("channels", "be 'complex' or None", repr(channels))
    header = _header(source)
    sizes = header.numbers("dimsize", int)
    if len(sizes) not in (2, 3) or min(sizes) < 1 or header.numbers("ndims", int) != [len(sizes)]:
        got = f"NDims {header.fields.get('ndims')}, DimSize {header.fields.get('dimsize')}"
        remedy = "The format names no axis of time: write a file for each frame."
        raise refused(source, "have 2 or 3 axes, each with its size", got, remedy)
    grid, space, notes = _frame(header, sizes)
    values = _values(header, sizes, channels)
    data = in_dtype(torch.from_numpy(values.reshape(grid.shape)), dtype)
    for note in notes:
        warnings.warn(f"{path} {note}", UserWarning, stacklevel=2)
    return Volume(data, grid, space=space)


def _header(source: Path) -> Fields:
    fields: dict[str, str] = {}
    listed: list[str] = []
    with source.open("rb") as file:
        while "elementdatafile" not in fields and (line := file.readline(LONGEST_LINE)):
            key, equals, value = line.decode("utf-8", "surrogateescape").strip().partition("=")
            key = _SAME.get(key.strip().lower(), key.strip().lower())
            if not equals or not key.isprintable() or not key or key in fields:
                if not line.strip():
                    continue
                got = f"{key[:40]} twice" if equals and key in fields else "another line"
                raise refused(source, "begin with lines such as NDims = 3, each key once", got)
            fields[key] = value.strip()
        data_at = file.tell()
        if fields.get("elementdatafile", "").split()[:1] == ["LIST"]:
            listed = [line.strip() for line in file.read().decode("utf-8", "surrogateescape").splitlines()]
    header = Fields(source, fields, [name for name in listed if name], data_at)
    for key, known in _ONLY.items():
        if key in fields and any(_plain(word) != known for word in fields[key].split()):
            remedy = "Convert it first."
            if key == "centerofrotation":
                remedy = "ITK passes over it: write 0 if ITK wrote the file."
            raise refused(source, f"leave {key} out or say {known}", repr(fields[key][:40]), remedy)
    if "binarydata" in fields and not _truth(header, "binarydata"):
        raise refused(source, "hold binary data", "numbers as text", "Convert it first: BinaryData = True.")
    return header


def _plain(word: str) -> str:
    """Return `word` in small letters, numbers of the same value alike."""
    try:
        return f"{float(word) + 0.0:g}"
    except ValueError:
        return word.lower()


@np.errstate(all="ignore")  # Grid refuses what is not finite
def _frame(header: Fields, sizes: list[int]) -> tuple[Grid, str, list[str]]:
    """Return the grid, the space, and what to warn about."""
    source, n = header.source, len(sizes)
    unit = header.fields.get("distanceunits", "").lower()
    if unit not in _LENGTHS:
        raise refused(source, "be in mm, cm or um", f"DistanceUnits {unit[:40]!r}", "Write it in mm.")
    spacing, offset = header.numbers("elementspacing", float, n), header.numbers("offset", float, n)
    said = header.numbers("transformmatrix", float, n * n)
    if spacing and not min(spacing) > 0:
        raise refused(source, "have an ElementSpacing above 0", spacing)
    notes = [] if spacing else ["states no ElementSpacing: 1 mm is taken."]
    rows = np.reshape(said, (n, n)) if said else np.eye(n)
    code = header.fields.get("anatomicalorientation", "").upper()
    reason = ""
    if n == 2 or not re.fullmatch("[RLAPIS]{3}", code) or not offset:
        which = "AnatomicalOrientation" if offset else "Offset"
        reason = "it has 2 dimensions" if n == 2 else f"no {which} is stated"
    elif any(rows[i, axis] * sign <= 0 for i, (axis, sign) in enumerate(_FROM[c] for c in code)):
        reason = f"its AnatomicalOrientation, {code}, is another than its TransformMatrix, which is taken"
    if reason:
        notes.append(f"states no frame ({reason}): its place and orientation are a guess.")
    scale = _LENGTHS[unit]
    steps = rows * np.array(spacing or [1.0] * n)[:, None] * scale
    grid = placed(source, sizes, steps, np.array(offset or [0.0] * n) * scale, "LPS")
    return grid, "unknown" if reason else "scanner", notes


def _values(header: Fields, sizes: list[int], channels: str | None) -> NDArray[Any]:
    """Return the numbers in the machine's own byte order, the slowest axis in front."""
    source, name = header.source, header.fields.get("elementtype", "")
    if name.removeprefix("MET_") not in _TYPES:
        raise refused(source, "hold integers or floating point numbers", f"ElementType {name[:40]!r}")
    kind = np.dtype(_TYPES[name.removeprefix("MET_")])
    count = header.number("elementnumberofchannels", 1)
    if channels is not None and (count != 2 or kind.kind != "f"):
        got = f"{count} of type {kind} in {source}"
        raise value_error("channels", "be None but for two channels of floating point", got)
    if channels is None and count != 1:
        remedy = "Write one file for each channel."
        if count == 2 and kind.kind == "f":
            remedy = "The format does not say what they are. If real and imaginary parts: channels='complex'."
        raise refused(source, "hold one number for each voxel", f"{count} channels", remedy)
    kind = kind.newbyteorder(">" if _truth(header, "binarydatabyteordermsb") else "<")
    said = header.fields.get("elementdatafile", "")
    if not said:
        raise refused(source, "say where its data are", "no ElementDataFile")
    local = said.upper() == "LOCAL"
    places = [source] if local else data_files(header, said, sizes)
    data = bytearray()
    for place in places:
        data += _bytes(header, place, math.prod(sizes) * count * kind.itemsize // len(places), local)
    values = np.frombuffer(data, kind).astype(kind.newbyteorder("="), copy=False)
    return values if channels is None else values.view(np.result_type(values, np.complex64))


def _truth(header: Fields, key: str) -> bool:
    text = header.fields.get(key, "false").lower()
    if text not in _TRUTHS:
        raise refused(header.source, f"say True or False as its {key}", repr(text[:40]))
    return _TRUTHS[text]


def _bytes(header: Fields, place: Path, wanted: int, local: bool) -> memoryview:
    skip, compressed = header.number("headersize", 0), _truth(header, "compresseddata")
    if skip < -1 or (skip != 0 and (local or (skip == -1 and compressed))):
        remedy = "Leave HeaderSize out, and the bytes that it skips."
        raise refused(header.source, "skip bytes of raw data in their own files only", skip, remedy)
    with place.open("rb") as file:
        size = place.stat().st_size
        file.seek(header.data_at if local else max(size - wanted, 0) if skip == -1 else min(skip, size))
        if not compressed:
            return fitted(place, file.read(min(wanted + 1, size)), wanted, exactly=skip == 0)
        inflate = zlib.decompressobj(15 + 32)  # 32: zlib's or gzip's, as MetaIO accepts both
        try:
            data = inflate.decompress(file.read(), min(wanted + 1, sys.maxsize))
        except zlib.error as error:
            raise refused(place, "be undamaged zlib data", error) from error
    if len(data) == wanted and not inflate.eof:
        raise refused(place, "be undamaged zlib data", "data without their end")
    return fitted(place, data, wanted)


# -- what readers of plain voxels behind a header of text share ---------------------------------


@dataclass(frozen=True)
class Fields:
    """The fields of a header by their names in small letters, and where the data are."""

    source: Path
    fields: dict[str, str]
    listed: list[str] = field(default_factory=list)
    data_at: int = 0

    def numbers(self, name: str, kind: Callable[[str], Number], count: int | None = None) -> list[Number]:
        """Return the numbers of a field, `count` of them where that is given; none where it is not there."""
        text = self.fields.get(name, "")
        try:
            found = [kind(word) for word in text.split()]
        except ValueError:
            found, count = [], -1
        if count is not None and len(found) != count and (name in self.fields):
            many = f"{count} " if count > 0 else ""
            raise refused(self.source, f"state {many}numbers as its {name}", repr(text[:100]))
        return found

    def number(self, name: str, default: int) -> int:
        """Return the one whole number of a field."""
        return (self.numbers(name, int, 1) or [default])[0]


def refused(source: Path, expected: str, got: object, remedy: str = "") -> ValueError:
    """Return the error of a file that is not as it must be; the caller raises it."""
    return value_error("path", expected, f"{source}: {got}", remedy)


def checked_source(path: object, suffixes: tuple[str, ...], dtype: object) -> Path:
    """Return the path of a file with one of `suffixes`; raise unless `dtype` is a torch.dtype or None."""
    source = checked_path(path)
    if source.suffix.lower() not in suffixes:
        raise value_error("path", f"end in {' or '.join(suffixes)}", repr(str(path)))
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise type_error("dtype", "be a torch.dtype", repr(dtype), "Such as torch.float32.")
    return source


def data_files(header: Fields, said: str, sizes: Sequence[int]) -> list[Path]:
    """Return the files of `name`, `name%03d.raw first last step [n]` or `LIST [n]`, n the axes in each."""
    source, axes = header.source, len(sizes)
    found = re.fullmatch(r"([^%]*)%(0?\d?)d([^%]*?)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)((?:\s+\d+)?)", said)
    names, words = [said], [str(axes)]
    if said.split()[:1] == ["LIST"]:
        names, words = header.listed, said.split()[1:]
    elif found is not None:
        first, last, step = (int(found[i]) for i in (4, 5, 6))
        count = (last - first) // step + 1 if step else 0
        if not 1 <= count <= MOST_FILES:
            raise refused(
                source, f"name 1 to {MOST_FILES} data files, as first, last, step", repr(said[:100])
            )
        names, words = (
            [f"{found[1]}{first + i * step:{found[2]}d}{found[3]}" for i in range(count)],
            found[7].split(),
        )
    held = int(words[0]) if len(words) == 1 and words[0].isdecimal() else 0 if words else axes - 1
    whole = held == axes and len(names) > 0 and sizes[-1] % len(names) == 0
    if not whole and not (1 <= held < axes and len(names) == math.prod(sizes[held:])):
        got = f"{len(names)} of {' '.join(words) or held} dimensions for the sizes {list(sizes)}"
        raise refused(source, "name as many data files as its sizes need", got)
    places = [source.parent / name for name in names]
    for place in places:
        if not place.is_file():
            remedy = "Keep the header and its data files together, under the names that it gives."
            raise FileNotFoundError(
                describe("path", "name data files that exist", f"{source}: {place}", remedy)
            )
    return places


def fitted(place: Path, data: bytes | memoryview, wanted: int, *, exactly: bool = True) -> memoryview:
    """Return `wanted` bytes; raise if there are fewer, or, where that is asked, more."""
    if len(data) < wanted or (exactly and len(data) > wanted):
        got = f"{len(data)} bytes" if len(data) < wanted else "more"
        remedy = "Is it whole, and are the header's sizes and type those of the data?"
        raise refused(place, f"hold the {wanted} bytes that the header states", got, remedy)
    return memoryview(data)[:wanted]


def placed(
    source: Path,
    sizes: Sequence[int],
    steps: ArrayLike,
    origin: ArrayLike,
    world: Literal["RAS", "LPS", "LAS"],
) -> Grid:
    """Return the grid whose 2 or 3 axes, the fastest first, take the `steps` (rows) in mm from `origin`."""
    rows, start, affine = np.asarray(steps, np.float64), np.asarray(origin, np.float64), np.eye(4)
    affine[: rows.shape[1], : len(rows)], affine[: len(start), 3] = rows.T, start
    if len(rows) == 2:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    affine[:3] *= np.array(_TO_RAS[world])[:, None]
    try:
        return Grid.from_nifti((*sizes, 1)[:3], affine)
    except ValueError as error:
        raise refused(source, "state a usable frame", error) from error


def in_dtype(data: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return `data` in `dtype`, or raise if that cannot hold its values."""
    if dtype is None or dtype == data.dtype:
        return data
    if torch.can_cast(data.dtype, dtype):
        result = data.to(dtype)
        if dtype.is_floating_point or dtype.is_complex:
            lost = ~result.isfinite()
            if data.is_floating_point() or data.is_complex():
                lost &= data.isfinite()
            kept = not bool(lost.any())
        else:
            kept = np.array_equal(result.numpy(), data.numpy())
        if kept:
            return result
    remedy = "Read it without dtype and round, clip or take a part of the values yourself."
    raise type_error("dtype", f"hold the file's values, of {data.dtype}", dtype, remedy)
