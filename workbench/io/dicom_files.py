"""Which files of a folder are DICOM, and their elements with every failure named.

A file is known by its content and never by its name: by the letters DICM after 128 bytes, or, where a file
was written without that preamble, by a first element of group 2 or 8.
"""

from __future__ import annotations

import filecmp
import struct
import warnings
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from operators.errors import value_error
from operators.extras import require
from workbench.io.dicom_refusal import RefusalError

__all__ = [
    "damage",
    "files_below",
    "header",
    "numbers",
    "pydicom",
    "quiet",
    "text",
    "whole",
    "without_copies",
]

_DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_MARK = slice(128, 132)
_DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR


def pydicom(feature: str = "Reading DICOM") -> ModuleType:
    """Return the package, or say how to install it."""
    return require("pydicom", feature=feature, extra="dicom")


def damage() -> tuple[type[Exception], ...]:
    """Return what parsing damaged bytes raises, in pydicom and below it."""
    errors = pydicom().errors
    return (errors.BytesLengthException, errors.InvalidDicomError, *_DAMAGE)


@contextmanager
def quiet() -> Generator[None]:
    """Silence pydicom's remarks on elements that nothing here reads; those that are read are checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def files_below(source: Path) -> list[Path]:
    """Return the files of a folder and of all folders in it, by name, or the file `source` itself."""
    if not source.is_dir():
        source.stat()  # says what is wrong with a path that is none
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file())


def header(path: Path) -> Any | None:
    """Return the elements before the pixels, or None where `path` is no DICOM file or a DICOMDIR.

    A DICOM file that cannot be read is a ValueError in the house form.
    """
    with path.open("rb") as file:
        begin = file.read(_MARK.stop)
    marked = begin[_MARK] == b"DICM"
    if not marked and not _begins_as_data(begin):
        return None
    try:
        dataset = _parsed(path, stop_before_pixels=True, force=not marked)
    except ValueError:
        if marked:
            raise
        return None
    if not marked and not any(name in dataset for name in ("SOPClassUID", "SOPInstanceUID", "Rows")):
        return None
    try:
        stated = text(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")
    except RefusalError as error:
        raise _damaged(path, error) from error
    return None if stated == _DIRECTORY or "DirectoryRecordSequence" in dataset else dataset


def whole(path: Path) -> Any:
    """Return all elements of a DICOM file, with a transfer syntax where it states none."""
    dataset = _parsed(path, stop_before_pixels=False, force=True)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom().dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        uid = pydicom().uid
        implicit, little = dataset.original_encoding
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return dataset


def without_copies(found: Iterable[tuple[Path, str]]) -> tuple[list[Path], list[Path]]:
    """Return the paths that differ in their instance UID or in their bytes, and the copies of these."""
    kept: list[Path] = []
    copies: list[Path] = []
    seen: dict[str, list[Path]] = {}
    for path, instance in found:
        others = seen.setdefault(instance, [])
        if instance and any(filecmp.cmp(path, other, shallow=False) for other in others):
            copies.append(path)
        else:
            others.append(path)
            kept.append(path)
    return kept, copies


def text(element: Any, keyword: str) -> str:
    """Return an element as text, several values joined by backslashes; empty where it is absent."""
    with quiet():
        try:
            value = element.get(keyword)
            if value is None:
                return ""
            several = not isinstance(value, str) and hasattr(value, "__iter__")
            return "\\".join(str(v).strip() for v in value) if several else str(value).strip()
        except damage() as error:
            raise _unusable(keyword, error) from error


def numbers(element: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return `count` finite numbers of an element, or None where it is absent or empty."""
    with quiet():
        try:
            value = element.get(keyword)
            if value is None or value == "":
                return None
            several = not isinstance(value, str) and hasattr(value, "__iter__")
            found = tuple(float(v) for v in value) if several else (float(value),)
        except damage() as error:
            raise _unusable(keyword, error) from error
    if not found:
        return None
    if len(found) != count or not np.isfinite(found).all():
        said = ", ".join(f"{number:g}" for number in found)
        raise RefusalError("an unusable header", f"state {count} finite numbers as {keyword}", f"({said})")
    return found


def _unusable(keyword: str, error: Exception) -> RefusalError:
    # The value itself is not repeated: it may be anything, a name included.
    got = f"{keyword}, which cannot be read ({type(error).__name__})"
    return RefusalError("an unusable header", f"state {keyword} as the standard does", got)


def _begins_as_data(begin: bytes) -> bool:
    little = begin[:2] in (b"\x02\x00", b"\x08\x00") and begin[3:4] == b"\x00"
    big = begin[:2] in (b"\x00\x02", b"\x00\x08") and begin[2:3] == b"\x00"
    return len(begin) >= 8 and (little or big)


def _parsed(path: Path, *, stop_before_pixels: bool, force: bool) -> Any:
    dicom = pydicom()
    try:
        with quiet():
            return dicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=force)
    except OSError as error:
        # Files that are absent or may not be read say so by number; a damaged one does not.
        if error.errno is None:
            raise _damaged(path, error) from error
        raise
    except damage() as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return value_error("path", "be an undamaged DICOM file", f"{path} ({type(error).__name__})")
