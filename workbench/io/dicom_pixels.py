"""The numbers of a DICOM stack: decoded, freed of foreign bits, rescaled slice by slice.

    value = RescaleSlope * stored + RescaleIntercept          each slice with its own two numbers

Stored numbers have BitsStored bits up to HighBit; what lies beside them, such as old overlays, is masked, and
the sign is taken from HighBit. Whole numbers stay whole where every slope and intercept is whole, in the
smallest of uint8, int16, int32, int64 that holds all that the bits could mean; else float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import type_error, value_error
from operators.extras import DISTRIBUTION, MissingExtraError
from workbench.io.dicom_files import damage, pydicom, quiet, whole
from workbench.io.dicom_frames import DicomFile, Frame
from workbench.io.dicom_values import Stored

__all__ = ["decoded", "stack_values"]

Whole = NDArray[np.integer[Any]]

_WHOLE = (np.uint8, np.int16, np.int32, np.int64)


def stack_values(
    files: Sequence[DicomFile],
    frames: Sequence[Sequence[Frame]],
    dtype: torch.dtype | None,
    padding: float | None,
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return values (t, z, y, x) of `frames[t][z]`, and where they are padding (t, z, y, x).

    Padded pixels get the value `padding`, or, where that is None, what is stored, rescaled like all others.
    """
    kind = _kind(files, frames, padding) if dtype != torch.float64 else np.dtype(np.float64)
    rows, columns = files[0].shape
    values = np.empty((len(frames), len(frames[0]), rows, columns), dtype=kind)
    padded = np.zeros(values.shape, dtype=bool)
    by_file: dict[Path, list[tuple[int, int, Frame]]] = {}
    for t, row in enumerate(frames):
        for z, frame in enumerate(row):
            by_file.setdefault(frame.path, []).append((t, z, frame))
    stated = {file.path: file.stored for file in files}
    for path, wanted in by_file.items():
        stored = stated[path]
        images = decoded(path, stored)
        for t, z, frame in wanted:
            image = _part(images, frame, path, (rows, columns))
            values[t, z] = _rescaled(image, frame, kind)
            if stored.padding is not None:
                low, high = stored.padding
                padded[t, z] = (image >= low) & (image <= high)
    if padding is not None and padded.any():
        values[padded] = padding
    tensor = torch.from_numpy(values)
    return (tensor if dtype is None else _converted(tensor, dtype)), padded


def decoded(path: Path, stored: Stored) -> Whole:
    """Return the stored numbers of a file (frame, row, column), of each the bits that count alone."""
    dataset = whole(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pydicom().pixels.get_decoder(syntax)
    except NotImplementedError as error:
        name = syntax.name or str(syntax)
        remedy = "Export it uncompressed, or as JPEG-LS, JPEG 2000 or RLE."
        raise value_error(
            "path", "be compressed in a way that pydicom decodes", f"{path} in {name}", remedy
        ) from error
    if not decoder.is_available:
        raise MissingExtraError(
            f"Reading {path}, compressed as {syntax.name}, needs a decoder that is not installed. "
            f"Install it with: pip install '{DISTRIBUTION}[dicom]'"
        )
    try:
        with quiet():
            # pydicom's own correction takes the lowest bits for the stored ones, wherever HighBit is.
            images = pydicom().pixels.pixel_array(dataset, raw=True, correct_unused_bits=False)
            images = images.astype(images.dtype.newbyteorder("="), copy=False)  # of big-endian files
    except damage() as error:
        raise value_error(
            "path",
            "hold all the pixels that its header states",
            f"{path}, damaged or cut short: {' '.join(str(error).split())[:300]}",
            "Fetch the file again.",
        ) from error
    images = images.reshape(-1, *images.shape[-2:])
    unsigned = images.view(np.dtype(f"u{images.dtype.itemsize}"))
    as_stored = decoder.is_native or syntax == pydicom().uid.RLELossless
    shifted = unsigned >> (stored.high_bit + 1 - stored.bits) if as_stored else unsigned
    wide = np.int64 if images.dtype.itemsize > 2 else np.int32
    masked: Whole = (shifted & unsigned.dtype.type(2**stored.bits - 1)).astype(wide)
    if not stored.signed:
        return masked
    sign = wide(1 << (stored.bits - 1))
    signed: Whole = (masked ^ sign) - sign
    return signed


def _part(images: Whole, frame: Frame, path: Path, shape: tuple[int, int]) -> Whole:
    """Return the image of one frame, out of its mosaic where it is a tile."""
    index = 0 if frame.tile is not None else frame.index
    image = images[index] if index < len(images) else images[:0]
    if frame.tile is not None:
        row, column = frame.tile.corner
        image = image[row : row + shape[0], column : column + shape[1]]
    if image.shape != shape:
        got = f"{path} with {len(images)} images of {images.shape[1:]}"
        raise value_error("path", f"hold the images of {shape} pixels that its header states", got)
    return image


def _rescaled(image: Whole, frame: Frame, kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind in "iu":
        return (image.astype(np.int64) * int(frame.slope) + int(frame.intercept)).astype(kind)
    # In double precision first: a slope of many digits is rounded once, with the value.
    return (image * float(frame.slope) + float(frame.intercept)).astype(kind)


def _kind(
    files: Sequence[DicomFile], frames: Sequence[Sequence[Frame]], padding: float | None
) -> np.dtype[Any]:
    """Return the type that holds all values which the bits, the rescaling and the padding allow."""
    every = [frame for row in frames for frame in row]
    numbers = [number for frame in every for number in (frame.slope, frame.intercept)]
    numbers += [] if padding is None else [padding]
    if not all(float(number).is_integer() for number in numbers):
        return np.dtype(np.float32)
    ends = [] if padding is None else [int(padding)]
    bits = {file.path: file.stored for file in files}
    for path, slope, intercept in {(frame.path, frame.slope, frame.intercept) for frame in every}:
        stored = bits[path]
        low = -(2 ** (stored.bits - 1)) if stored.signed else 0
        high = low + 2**stored.bits - 1
        ends += [int(slope) * end + int(intercept) for end in (low, high)]
    for kind in _WHOLE:
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def _converted(data: Tensor, dtype: torch.dtype) -> Tensor:
    kept = torch.can_cast(data.dtype, dtype)
    if kept and not dtype.is_floating_point and not dtype.is_complex:
        kept = torch.equal(data.to(dtype).to(torch.int64), data.to(torch.int64))
    if not kept:
        raise type_error(
            "dtype",
            f"hold the file's values, of {data.dtype}",
            dtype,
            "Read it without dtype and round, clip or take a part of the values yourself.",
        )
    return data.to(dtype)
