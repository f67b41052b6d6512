"""What the XML header of an ISMRMRD file says of one encoding; nothing of the patient is kept."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operators.errors import value_error
from operators.extras import require

__all__ = ["EncodingHeader", "damaged", "read_header"]

Counts = tuple[int, int, int]
Lengths = tuple[float, float, float]


@dataclass(frozen=True)
class EncodingHeader:
    """One encoding, in array order (z, y, x), lengths in mm; None where the header does not say.

    `centres` are the encoding steps (kz, ky) of frequency zero. `calibration` is how calibration lines
    were taken ("embedded", "separate", ...), `receiver_bandwidth` the share of the sampled band that
    holds noise.
    """

    matrix: Counts
    field_of_view: Lengths
    recon_matrix: Counts
    recon_field_of_view: Lengths
    centres: tuple[int | None, int | None]
    trajectory: str
    calibration: str | None = None
    receiver_bandwidth: float | None = None
    details: dict[str, str] = field(default_factory=dict)


def read_header(document: bytes | str, source: Path, encoding: int | None) -> tuple[EncodingHeader, int]:
    """Return the header of an encoding, and its number; it must be chosen where there are several."""
    header = _parsed(document, source)
    known = list(header.encoding)
    if not known:
        raise damaged(source, "its header describes no encoding")
    if encoding is None and len(known) > 1:
        raise value_error("encoding", f"be chosen out of 0..{len(known) - 1} in {source}", "None")
    number = 0 if encoding is None else encoding
    if not 0 <= number < len(known):
        raise value_error("encoding", f"be one of the {len(known)} of {source}, from 0", encoding)
    chosen = known[number]
    limits = chosen.encodingLimits
    parallel = chosen.parallelImaging
    mode = None if parallel is None or parallel.calibrationMode is None else parallel.calibrationMode.value
    system = header.acquisitionSystemInformation
    details = {}
    for key, name in (
        ("vendor", "systemVendor"),
        ("model", "systemModel"),
        ("field", "systemFieldStrength_T"),
    ):
        value = getattr(system, name, None)
        if value is not None:
            details[key] = f"{value} T" if key == "field" else str(value)
    protocol = getattr(header.measurementInformation, "protocolName", None)
    if protocol:
        details["protocol"] = str(protocol)
    return EncodingHeader(
        _counts(chosen.encodedSpace, source),
        _lengths(chosen.encodedSpace),
        _counts(chosen.reconSpace, source),
        _lengths(chosen.reconSpace),
        (_centre(limits, "kspace_encoding_step_2"), _centre(limits, "kspace_encoding_step_1")),
        str(chosen.trajectory.value),
        mode,
        getattr(system, "relativeReceiverNoiseBandwidth", None),
        details,
    ), number


def damaged(source: Path, what: object) -> ValueError:
    """Return the error for a file that is not, or no longer, ISMRMRD."""
    return value_error("path", "be an undamaged ISMRMRD file", f"{source}: {what}")


def _parsed(document: bytes | str, source: Path) -> Any:
    xsd = require("ismrmrd.xsd", feature="Reading ISMRMRD", extra="mri")
    try:
        with warnings.catch_warnings():
            # A value of the wrong type is a warning there, and stays text.
            warnings.simplefilter("error")
            return xsd.CreateFromDocument(document)
    except (ValueError, TypeError, Warning) as error:
        raise damaged(source, f"its header cannot be read ({error})") from error


def _counts(space: Any, source: Path) -> Counts:
    size = space.matrixSize
    counts = (int(size.z), int(size.y), int(size.x))
    if min(counts) < 1:
        raise damaged(source, f"its header states a matrix (z, y, x) of {counts}")
    return counts


def _lengths(space: Any) -> Lengths:
    size = space.fieldOfView_mm
    return float(size.z), float(size.y), float(size.x)


def _centre(limits: Any, name: str) -> int | None:
    limit = getattr(limits, name, None)
    return None if limit is None else int(limit.center)
