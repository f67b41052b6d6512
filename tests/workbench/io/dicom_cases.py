"""DICOM files as scanners write them, small, of numbers that tell every voxel from every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SERIES = "1.2.826.0.1.3680043.10.777.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
#: Rows run along r, columns along c: unit vectors in LPS, oblique.
OBLIQUE = (0.36, -0.8, 0.48, 0.48, 0.6, 0.64)
SHAPE = (4, 5, 6)
SPACING = (2.5, 0.75, 0.5)
CORNER = (-31.0, 12.5, 77.0)


def ramp(shape: Sequence[int] = SHAPE) -> NDArray[np.int16]:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def places(orientation: Sequence[float] = AXIAL, count: int = SHAPE[0]) -> NDArray[np.float64]:
    """The positions of slices along the normal, in LPS mm."""
    return np.array(CORNER) + np.outer(np.arange(count) * SPACING[0], normal(orientation))


def image(pixels: NDArray[Any], tags: Mapping[str, object] | None = None) -> FileDataset:
    """A file of one slice, an axial one of CT unless `tags` say more; a tag of None is left out."""
    number = pydicom.uid.generate_uid()
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    bits = pixels.dtype.itemsize * 8
    values: dict[str, object] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": number,
        "SeriesInstanceUID": SERIES,
        "StudyInstanceUID": SERIES + ".9",
        "FrameOfReferenceUID": SERIES + ".8",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "Modality": "CT",
        "SeriesDescription": "thorax",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": list(CORNER),
        "PixelSpacing": list(SPACING[1:]),
        "SliceThickness": SPACING[0],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **(tags or {}),
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    dataset.file_meta.MediaStorageSOPClassUID = UID(str(values["SOPClassUID"]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def stack(
    volume: NDArray[Any] | None = None,
    positions: NDArray[np.float64] | None = None,
    tags: Mapping[str, object] | None = None,
) -> list[FileDataset]:
    """One file for each slice of `volume`, at `positions`."""
    slices = ramp() if volume is None else volume
    where = places(count=len(slices)) if positions is None else positions
    return [
        image(pixels, {"ImagePositionPatient": [float(f"{x:.10g}") for x in place], **(tags or {})})
        for pixels, place in zip(slices, where, strict=True)
    ]


def saved(folder: Path, datasets: Sequence[Dataset], name: str = "a") -> Path:
    """Write files in an order of names that is not that of their places."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(datasets)
    for k, dataset in enumerate(datasets):
        dataset.save_as(folder / f"{name}{(k * 7 + 3) % 101:03d}of{count}.dcm", enforce_file_format=True)
    return folder


def enhanced(volume: NDArray[Any], frames: Sequence[Mapping[str, object]]) -> FileDataset:
    """A multi-frame MR file: `frames` gives position, time index or slope of each."""
    tags: dict[str, object] = {
        "SOPClassUID": ENHANCED_MR,
        "Modality": "MR",
        "NumberOfFrames": len(frames),
        "ImagePositionPatient": None,
        "ImageOrientationPatient": None,
        "PixelSpacing": None,
        "SliceThickness": None,
        "RescaleSlope": None,
        "RescaleIntercept": None,
    }
    dataset = image(volume, tags)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = list(SPACING[1:])
    shared.PixelMeasuresSequence[0].SliceThickness = SPACING[0]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(OBLIQUE)
    dataset.SharedFunctionalGroupsSequence = [shared]
    items = []
    for frame in frames:
        item = Dataset()
        item.PlanePositionSequence = [Dataset()]
        item.PlanePositionSequence[0].ImagePositionPatient = [float(f"{x:.10g}") for x in frame["position"]]
        item.PixelValueTransformationSequence = [Dataset()]
        rescale = item.PixelValueTransformationSequence[0]
        rescale.RescaleSlope, rescale.RescaleIntercept = frame.get("slope", 1), frame.get("intercept", 0)
        rescale.RescaleType = "US"
        item.FrameContentSequence = [Dataset()]
        content = item.FrameContentSequence[0]
        for name in ("TemporalPositionIndex", "FrameReferenceDateTime", "StackID"):
            if name in frame:
                setattr(content, name, frame[name])
        if "echo" in frame:
            item.MREchoSequence = [Dataset()]
            item.MREchoSequence[0].EffectiveEchoTime = frame["echo"]
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = items
    return dataset
