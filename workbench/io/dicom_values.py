"""Whether a DICOM file stores one measured quantity for each pixel, and in which bits and unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.io.dicom_files import numbers, text
from workbench.io.dicom_refusal import RefusalError

__all__ = ["Stored", "check_quantity", "extent", "stored_as", "unit_of"]

_OTHER_VALUES = {
    "Segmentation": "labels of segments",
    "Label Map Segmentation": "labels of segments",
    "RT Dose": "a dose with a scaling of its own",
    "Parametric Map": "a map with units of its own",
}
_ACTIVITY = {"BQML": "Bq/mL", "GML": "g/mL", "CNTS": "counts", "NONE": ""}


@dataclass(frozen=True)
class Stored:
    """How a number lies in its bits, and which numbers stand for no measurement."""

    bits: int
    high_bit: int
    signed: bool
    padding: tuple[int, int] | None = None


def extent(dataset: Any, kind: str) -> tuple[tuple[int, int], int]:
    """Return the shape of a frame (rows, columns) and how many frames there are."""
    rows, columns = numbers(dataset, "Rows", 1), numbers(dataset, "Columns", 1)
    if rows is None or columns is None or rows[0] * columns[0] == 0 or "BitsAllocated" not in dataset:
        raise RefusalError("no image", "hold images", kind)
    (count,) = numbers(dataset, "NumberOfFrames", 1) or (1.0,)
    return (int(rows[0]), int(columns[0])), max(int(count), 1)


def check_quantity(dataset: Any, kind: str) -> None:
    """Raise where the stored numbers are not one measured quantity for each pixel."""
    if kind in _OTHER_VALUES:
        raise RefusalError(
            f"the class {kind}",
            "hold images of one measured quantity",
            _OTHER_VALUES[kind],
            "highdicom or pydicom read it.",
        )
    samples = (numbers(dataset, "SamplesPerPixel", 1) or (1.0,))[0]
    shown = text(dataset, "PhotometricInterpretation") or "MONOCHROME2"
    if samples != 1 or shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusalError(
            "colours",
            "hold one number for each pixel",
            f"PhotometricInterpretation {shown}, {samples:g} samples",
        )
    if shown == "MONOCHROME1":
        raise RefusalError(
            "MONOCHROME1",
            "show high values bright",
            "images whose low values are shown bright, which leaves open whether the quantity or its "
            "negative is stored",
            "Find out from the device; write it as MONOCHROME2, with RescaleSlope -1 if it is the negative.",
        )
    if "ModalityLUTSequence" in dataset:
        raise RefusalError(
            "a modality lookup table",
            "make values of stored numbers by a slope and an intercept",
            "a table in place of them",
            "Apply it with pydicom.pixels.apply_modality_lut.",
        )


def stored_as(dataset: Any) -> Stored:
    """Return how the file's numbers lie in their bits."""
    (allocated,) = numbers(dataset, "BitsAllocated", 1) or (16.0,)
    (bits,) = numbers(dataset, "BitsStored", 1) or (allocated,)
    (high,) = numbers(dataset, "HighBit", 1) or (bits - 1,)
    (signed,) = numbers(dataset, "PixelRepresentation", 1) or (0.0,)
    if allocated not in (8, 16, 32) or not 1 <= bits <= high + 1 <= allocated:
        raise RefusalError(
            "numbers of unusual bits",
            "store whole numbers of 8, 16 or 32 bits",
            f"BitsAllocated {allocated:g}, BitsStored {bits:g}, HighBit {high:g}",
        )
    padding = None
    value = numbers(dataset, "PixelPaddingValue", 1)
    if value is not None:
        # A negative one is often written without its sign: as the bits that it is stored in.
        limit = numbers(dataset, "PixelPaddingRangeLimit", 1) or value
        ends = [_as_stored(int(end[0]), int(bits), bool(signed)) for end in (value, limit)]
        padding = (min(ends), max(ends))
    return Stored(int(bits), int(high), bool(signed), padding)


def _as_stored(value: int, bits: int, signed: bool) -> int:
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) if signed and low >= 1 << (bits - 1) else low


def unit_of(said: Any, dataset: Any, modality: str) -> str:
    """Return "HU" where it is said, or not denied of a CT with a rescale; the unit of a PET; else none."""
    kind = text(said, "RescaleType").upper()
    counts = "LOCALIZER" in text(dataset, "ImageType")  # a projection: its numbers follow no scale
    if kind == "HU" or (modality == "CT" and not kind and not counts and text(said, "RescaleSlope")):
        return "HU"
    activity = text(dataset, "Units") if modality == "PT" else ""
    return _ACTIVITY.get(activity, activity)
