"""What one DICOM file states, as values: its place in the world, its numbers, and what tells it from others.

An image is a list of frames: one of a classic file, one for each item of the per-frame functional groups of
an enhanced file, one for each tile of a Siemens mosaic. Names, dates and numbers of patients are not taken
up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.io.dicom_files import damage, numbers, pydicom, quiet, text
from workbench.io.dicom_mosaic import Tile, mosaic_tiles
from workbench.io.dicom_refusal import RefusalError
from workbench.io.dicom_values import Stored, check_quantity, extent, stored_as, unit_of

__all__ = ["CLOCKS", "COUNTERS", "KINDS", "PHASES", "DicomFile", "Frame", "described"]

Floats = tuple[float, ...]

#: Tags that make images at one place different images, in the order in which stacks are split by them.
KINDS = (
    "FrameOfReferenceUID",
    "ImageType",
    "FrameType",
    "ComplexImageComponent",
    "StackID",
    "MetaboliteMapDescription",
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "SequenceName",
    "KVP",
    "ConvolutionKernel",
    "ReceiveCoilName",
)
#: Tags that count the images at one place in their order in time.
COUNTERS = ("TemporalPositionIndex", "TemporalPositionIdentifier", "AcquisitionNumber")
#: Tags that state a time, and what makes seconds of it; dates and times of day are made into seconds.
CLOCKS = {
    "TemporalPositionTimeOffset": 1.0,
    "TriggerTime": 1e-3,
    "NominalCardiacTriggerDelayTime": 1e-3,
    "FrameReferenceTime": 1e-3,
    "FrameReferenceDateTime": None,
    "FrameAcquisitionDateTime": None,
    "AcquisitionDateTime": None,
    "AcquisitionTime": None,
}
#: Phases of a gated scan and passes without times: what parts the images where time does not.
PHASES = ("NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase", "AcquisitionNumber")

_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "TemporalPositionSequence",
    "CardiacSynchronizationSequence",
    "RespiratorySynchronizationSequence",
    "MRImageFrameTypeSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence",
    "MRMetaboliteMapSequence",
    "MRDiffusionSequence",
    "DiffusionGradientDirectionSequence",
    "MRReceiveCoilSequence",
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CTXRayDetailsSequence",
    "PETFrameTypeSequence",
)


@dataclass(frozen=True)
class Frame:
    """One slice: where it lies (LPS mm), how numbers are made of what is stored, and its marks."""

    path: Path
    index: int
    orientation: Floats
    position: Floats
    pixel_spacing: Floats
    thickness: float | None
    slope: float
    intercept: float
    unit: str
    marks: Mapping[str, str]
    counts: Mapping[str, float]
    clocks: Mapping[str, float]
    interval: float | None
    tile: Tile | None = None


@dataclass(frozen=True)
class DicomFile:
    """What a file is. `refusal` says why its frames are no part of a volume; there are none then."""

    path: Path
    uid: str
    instance: str
    modality: str
    description: str
    kind: str
    world: str
    shape: tuple[int, int]
    count: int
    unit: str
    stored: Stored
    frames: tuple[Frame, ...]
    refusal: RefusalError | None

    @property
    def is_image(self) -> bool:
        """Whether the file holds pixels of any sort."""
        return self.count > 0


def described(dataset: Any, path: Path) -> DicomFile:
    """Return what the header of a DICOM file states; what makes it unreadable is kept as its refusal."""
    uid, instance, modality, description, kind, world = _said(dataset)
    shape, count, stored = (0, 0), 0, Stored(16, 15, False)
    frames: tuple[Frame, ...] = ()
    refusal = None
    try:
        shape, count = extent(dataset, kind)
        check_quantity(dataset, kind)
        stored = stored_as(dataset)
        if "MOSAIC" in text(dataset, "ImageType"):
            tiles = mosaic_tiles(dataset, shape, count)
            shape, count = tiles[0].shape, len(tiles)
            first = _frame(dataset, path, 0, dataset)
            frames = tuple(replace(first, position=tile.position, tile=tile) for tile in tiles)
        else:
            frames = _frames(dataset, path, count)
        if len({frame.unit for frame in frames}) > 1:
            got = ", ".join(sorted({repr(frame.unit) for frame in frames}))
            raise RefusalError("several units", "state one unit of all its frames", got)
    except RefusalError as error:
        refusal, frames = error, ()
    unit = frames[0].unit if frames else ""
    return DicomFile(
        path, uid, instance, modality, description, kind, world, shape, count, unit, stored, frames, refusal
    )


def _said(dataset: Any) -> tuple[str, ...]:
    """Return series, instance, modality, description, class and frame of reference, empty if unreadable."""

    def said(keyword: str) -> str:
        try:
            return text(dataset, keyword)
        except RefusalError:
            return ""

    sop_class = said("SOPClassUID")
    kind = (pydicom().uid.UID(sop_class).name if sop_class else "no SOP class").removesuffix(" Storage")
    named = ("SeriesInstanceUID", "SOPInstanceUID", "Modality", "SeriesDescription")
    return *(said(keyword) for keyword in named), kind, said("FrameOfReferenceUID")


def _frames(dataset: Any, path: Path, count: int) -> tuple[Frame, ...]:
    items = dataset.get("PerFrameFunctionalGroupsSequence")
    if items is None:
        if count > 1:
            raise RefusalError(
                "several frames without their places",
                "state the place of each of its frames",
                f"{count} frames and no PerFrameFunctionalGroupsSequence",
            )
        return (_frame(dataset, path, 0, dataset),)
    if len(items) != count:
        raise RefusalError(
            "an unusable header",
            "describe each of its frames",
            f"NumberOfFrames {count}, and {len(items)} items in PerFrameFunctionalGroupsSequence",
        )
    shared = _functional((dataset.get("SharedFunctionalGroupsSequence") or [None])[0])
    return tuple(_frame({**shared, **_functional(item)}, path, i, dataset) for i, item in enumerate(items))


def _functional(groups: Any) -> Mapping[str, Any]:
    """Return the elements of functional groups by keyword."""
    found: dict[str, Any] = {}
    waiting = [] if groups is None else [groups]
    try:
        with quiet():
            while waiting:
                for element in waiting.pop():
                    if element.VR == "SQ":
                        waiting += element.value[:1] if element.keyword in _GROUPS else []
                    elif element.keyword:
                        found[element.keyword] = element.value
    except damage() as error:
        got = f"functional groups that cannot be read ({type(error).__name__})"
        raise RefusalError("an unusable header", "describe each of its frames", got) from error
    return found


def _frame(said: Any, path: Path, index: int, dataset: Any) -> Frame:
    orientation = numbers(said, "ImageOrientationPatient", 6)
    position = numbers(said, "ImagePositionPatient", 3)
    spacing = numbers(said, "PixelSpacing", 2)
    needed = {
        "ImageOrientationPatient": orientation,
        "ImagePositionPatient": position,
        "PixelSpacing": spacing,
    }
    absent = [name for name, value in needed.items() if value is None]
    if orientation is None or position is None or spacing is None:
        raise RefusalError(
            "no place in the world", f"state {', '.join(needed)}", f"images without {', '.join(absent)}"
        )
    if min(spacing) <= 0:
        got = f"({spacing[0]:g}, {spacing[1]:g})"
        raise RefusalError("an unusable header", "state a PixelSpacing > 0", got)
    (slope,) = numbers(said, "RescaleSlope", 1) or (1.0,)
    (intercept,) = numbers(said, "RescaleIntercept", 1) or (0.0,)
    if slope == 0:
        raise RefusalError("an unusable header", "state a RescaleSlope other than zero", "0")
    marks = {name: text(said, name) for name in (*KINDS, *PHASES)}
    # Of an enhanced file, which states them once for all its frames.
    marks |= {name: text(dataset, name) for name in ("FrameOfReferenceUID", "ImageType")}
    counts = {name: numbers(said, name, 1) for name in COUNTERS}
    interval = numbers(dataset, "TemporalResolution", 1)
    thickness = (numbers(said, "SliceThickness", 1) or (0.0,))[0]
    return Frame(
        path,
        index,
        orientation,
        position,
        spacing,
        thickness if thickness > 0 else None,
        slope,
        intercept,
        unit_of(said, dataset, text(dataset, "Modality")),
        {name: value for name, value in marks.items() if value},
        {name: value[0] for name, value in counts.items() if value is not None},
        _clocks(said),
        interval[0] * 1e-3 if interval is not None and interval[0] > 0 else None,
    )


def _clocks(said: Any) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for name, unit in CLOCKS.items():
        try:
            if unit is not None:
                value = numbers(said, name, 1)
                seconds = None if value is None else value[0] * unit
            else:
                day = text(said, name.replace("Time", "Date")) if "Date" not in name else ""
                seconds = _seconds(day + text(said, name))
        except RefusalError:
            continue  # a time that nobody can read is none
        if seconds is not None:
            found[name] = seconds
    return found


def _seconds(stamp: str) -> float | None:
    """Return seconds from any fixed instant, of [YYYYMMDD]HHMMSS[.FFFFFF] with or without a zone."""
    digits, _, fraction = stamp.split("+")[0].split("-")[0].partition(".")
    digits = digits.replace(":", "")
    day, time = (digits[:8], digits[8:]) if len(digits) > 8 else ("19700101", digits)
    if len(time) not in (2, 4, 6) or not (day + time + fraction).isdigit():
        return None
    try:
        start = datetime.strptime(day, "%Y%m%d")
    except ValueError:
        return None
    hours, minutes, seconds = (int(time[i : i + 2] or 0) for i in (0, 2, 4))
    days = (start - datetime(1970, 1, 1)).days
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + float(f"0.{fraction or 0}")
