"""Siemens mosaics: the slices of a volume as tiles of one image, in the place that the CSA header states.

The file's ImagePositionPatient is that of a slice as large as the whole mosaic, around the same centre. Tile
k, row after row from the top left, lies k * SpacingBetweenSlices along the header's SliceNormalVector:

    p_k = p + r dx (M_x - N_x) / 2 + c dy (M_y - N_y) / 2 + k s n      M: mosaic, N: tile, in pixels
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.io.dicom_files import numbers
from workbench.io.dicom_refusal import RefusalError

__all__ = ["Tile", "csa_items", "mosaic_tiles"]

_EXPECTED = "state the places of the slices of a mosaic"
_REMEDY = "Convert it with dcm2niix and read the NIfTI file."
_MOST_TAGS = 1000


@dataclass(frozen=True)
class Tile:
    """One slice of a mosaic: its first row and column there, its shape, and its position in LPS mm."""

    corner: tuple[int, int]
    shape: tuple[int, int]
    position: tuple[float, ...]


def mosaic_tiles(dataset: Any, shape: tuple[int, int], frames: int) -> tuple[Tile, ...]:
    """Return the slices of a mosaic of `shape`, or raise a RefusalError."""
    stated = csa_items(_image_header(dataset))
    count, normal = _one(stated, "NumberOfImagesInMosaic"), stated.get("SliceNormalVector", [])
    spacing = numbers(dataset, "SpacingBetweenSlices", 1)
    position, cosines = (
        numbers(dataset, "ImagePositionPatient", 3),
        numbers(dataset, "ImageOrientationPatient", 6),
    )
    pixels = numbers(dataset, "PixelSpacing", 2)
    if count is None or len(normal) != 3 or None in (spacing, position, cosines, pixels) or frames != 1:
        got = "no NumberOfImagesInMosaic, SliceNormalVector or SpacingBetweenSlices, or several frames"
        raise _refused(got)
    if (_one(stated, "ProtocolSliceNumber") or 0) > 0:
        raise _refused("tiles in the reverse order of the slices (ProtocolSliceNumber above 0)")
    side = math.ceil(math.sqrt(count))
    if side < 1 or shape[0] % side or shape[1] % side:
        raise _refused(f"{count:g} tiles in {shape[0]} x {shape[1]} pixels")
    rows, columns = shape[0] // side, shape[1] // side
    along_row, along_column = np.array(cosines, dtype=float).reshape(2, 3)
    dy, dx = np.array(pixels, dtype=float)
    first = np.array(position, dtype=float)
    first += along_row * dx * (shape[1] - columns) / 2 + along_column * dy * (shape[0] - rows) / 2
    step = np.array(spacing, dtype=float) * np.array([float(part) for part in normal])
    return tuple(
        Tile((k // side * rows, k % side * columns), (rows, columns), tuple((first + k * step).tolist()))
        for k in range(int(count))
    )


def csa_items(data: bytes) -> dict[str, list[str]]:
    """Return the entries of a Siemens CSA header by name, each as the texts it holds."""
    found: dict[str, list[str]] = {}
    second = data[:4] == b"SV10"
    place = 8 if second else 0
    base = 0
    try:
        count = struct.unpack_from("<I", data, place)[0]
        place += 8
        for number in range(min(count, _MOST_TAGS)):
            name, _, _, _, items, _ = struct.unpack_from("<64si4siii", data, place)
            place += 84
            base = items if number == 0 else base
            values = []
            for _ in range(items):
                lengths = struct.unpack_from("<4i", data, place)
                length = lengths[1] if second else lengths[0] - base
                place += 16
                if not 0 <= length <= len(data) - place:
                    raise _refused("a damaged CSA header")
                values.append(data[place : place + length].split(b"\0")[0].decode("latin-1").strip())
                place += -(-length // 4) * 4
            found[name.split(b"\0")[0].decode("latin-1")] = [value for value in values if value]
    except struct.error as error:
        raise _refused("a damaged CSA header") from error
    return found


def _image_header(dataset: Any) -> bytes:
    try:
        element = dataset.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]
    except KeyError:
        element = dataset.get((0x0029, 0x1010))  # anonymised: the block lost its creator
    if element is None or not isinstance(element.value, bytes) or len(element.value) < 100:
        raise _refused("no CSA image header, (0029,1010), which anonymisers take away")
    return element.value


def _one(stated: dict[str, list[str]], name: str) -> float | None:
    try:
        return float(stated[name][0])
    except (KeyError, IndexError, ValueError):
        return None


def _refused(got: str) -> RefusalError:
    return RefusalError("a Siemens mosaic", _EXPECTED, got, _REMEDY)
