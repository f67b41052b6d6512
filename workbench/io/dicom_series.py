"""DICOM: the series of a folder listed, and one of them read as a volume in its place.

A series is read whole or refused by name: missing slices, uneven gaps, several images at one place, colours,
damaged files. `dicom_series` says for each whether it can be read; `read_dicom_series` reads it. Nothing that
names a patient is returned or written into a message: of the header only UIDs, modality and the series'
description are passed on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from operators.checks import check_number
from operators.errors import type_error, value_error
from workbench.io.checks import checked_path
from workbench.io.dicom_files import files_below, header, pydicom, without_copies
from workbench.io.dicom_frames import DicomFile, described
from workbench.io.dicom_pixels import stack_values
from workbench.io.dicom_refusal import RefusalError
from workbench.io.dicom_stacks import Stack, stacks_of
from workbench.volume import Volume

__all__ = ["SeriesList", "SeriesSummary", "dicom_series", "read_dicom_series"]

NOT_DICOM, DAMAGED, COPIES = "not DICOM images", "damaged", "copies of others"
_SHOWN = 20
_AIR = -1024.0  # HU: nothing attenuates less, and the lowest number of most tables


@dataclass(frozen=True)
class SeriesSummary:
    """One stack of a series: a volume, or the reason why it is none.

    `name` chooses it in `read_dicom_series`: the series' UID, and "/1", "/2", ... where one UID holds several
    stacks, which differ in `split`. `files` and `images` count what it is made of. `shape` is (z, y, x), or
    (t, z, y, x); `spacing` is (z, y, x) in mm; `tilt` is the angle in degrees between the steps from slice to
    slice and the slices' normal. `problem` is empty where the stack can be read.
    """

    name: str
    uid: str
    modality: str
    description: str
    split: str
    files: int
    images: int
    shape: tuple[int, ...] | None
    spacing: tuple[float, float, float] | None
    tilt: float
    unit: str
    problem: str

    @property
    def readable(self) -> bool:
        """Whether it can be read as a volume, as far as headers tell."""
        return not self.problem

    def __str__(self) -> str:
        parts = [self.modality or "no modality", repr(self.description), self.split]
        if self.shape is not None and self.spacing is not None:
            parts.append(f"{' x '.join(str(n) for n in self.shape)} voxels")
            parts.append(f"{' x '.join(f'{length:.4g}' for length in self.spacing)} mm")
            parts.append(f"tilted by {self.tilt:.3g} degrees" if self.tilt >= 0.01 else "")
        else:
            parts.append(f"{self.images} images in {self.files} files")
        parts.append(f"not a volume: {self.problem}" if self.problem else "")
        return f"series={self.name!r}: " + ", ".join(part for part in parts if part)


class SeriesList(tuple[SeriesSummary, ...]):
    """The series of a folder, and in `left_out` the files that belong to none, by the reason."""

    left_out: Mapping[str, tuple[Path, ...]]

    def __new__(
        cls, found: Iterable[SeriesSummary], left_out: Mapping[str, tuple[Path, ...]] | None = None
    ) -> SeriesList:
        """Return a tuple of `found` that knows what was left out."""
        series = super().__new__(cls, found)
        series.left_out = dict(left_out or {})
        return series

    def __str__(self) -> str:
        out = [f"{len(paths)} {reason}" for reason, paths in self.left_out.items() if paths]
        lines = [str(summary) for summary in self]
        return "\n".join([*lines, f"left out: {', '.join(out)}" if out else "no file left out"])


def dicom_series(folder: str | Path) -> SeriesList:
    """Return the series of the files in `folder` and in the folders below it, headers read alone.

    Stacks that are no volumes are listed with the reason. Files that are no DICOM images (a DICOMDIR, a
    licence), damaged ones and copies of others are counted in `left_out`.
    """
    stacks, left_out = _found(checked_path(folder))
    return SeriesList((summary for summary, _ in stacks), left_out)


def read_dicom_series(
    path: str | Path,
    *,
    series: str | SeriesSummary | None = None,
    dtype: torch.dtype | None = None,
    padding: float | None = None,
) -> Volume:
    """Return a series of DICOM files as a volume in the scanner's space, RAS mm.

    Slices are placed by their ImagePositionPatient and ImageOrientationPatient alone, array axis z along the
    normal of the slices; a tilted gantry becomes a sheared affine, which is exact, and which
    `Volume.resample` straightens. Several images at each place become a time axis where they are at even
    times.

    Parameters
    ----------
    path
        A folder, looked through with all below it, or one file.
    series
        Which, where there are several images series: the name or the UID that `dicom_series` lists.
    dtype
        Of the values. By default whole numbers stay whole where the rescaling is whole, all else is float32.
    padding
        What the pixels get that the header marks as padding (PixelPaddingValue: outside the field of view).
        By default they keep what is stored, rescaled like all others, which is warned about where it is
        below -1024 HU. -1000.0 is air; NaN says that nothing was measured there.
    """
    source = checked_path(path)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise type_error("dtype", "be a torch.dtype", repr(dtype), "Such as torch.float32.")
    if padding is not None and not (isinstance(padding, float) and np.isnan(padding)):
        check_number(padding, "padding", remedy="NaN for what nobody measured.")
    found, left_out = _found(source)
    stack = _chosen(found, series, source, left_out)
    if stack.place is None:
        raise (stack.refusal or RefusalError("no place", "hold a volume", "none")).error(source)
    if left_out[DAMAGED]:
        damaged = left_out[DAMAGED]
        _warn(
            f"{source} holds {len(damaged)} damaged DICOM files, such as {damaged[0].name}: if one of them "
            "was the first or the last slice, the volume is shorter than the series."
        )
    for note in stack.warnings:
        _warn(f"{source} {note}.")
    data, padded = stack_values(stack.files, stack.frames, dtype, padding)
    unit = stack.files[0].unit
    if unit == "HU" and padding is None and padded.any():
        lowest = float(data[torch.from_numpy(padded)].min())
        if lowest < _AIR:
            _warn(
                f"{source} marks {padded.mean():.1%} of its pixels as padding, which come as down to "
                f"{lowest:g} HU, less than any attenuation: padding=-1000.0 makes air of them, "
                "padding=float('nan') says that nothing was measured there."
            )
    grid = stack.place.grid
    return Volume(data if grid.time is not None else data[0], grid, unit, "scanner")


def _found(source: Path) -> tuple[list[tuple[SeriesSummary, Stack]], dict[str, tuple[Path, ...]]]:
    """Return all stacks below `source` with their summaries, and the files that belong to none."""
    pydicom()
    files: dict[Path, DicomFile] = {}
    instances: list[tuple[Path, str]] = []
    others: list[Path] = []
    damaged: list[Path] = []
    for path in files_below(source):
        try:
            dataset = header(path)
        except ValueError:
            if path == source:
                raise
            damaged.append(path)
            continue
        if dataset is None:
            others.append(path)
            continue
        files[path] = described(dataset, path)
        instances.append((path, files[path].instance))
    kept, copies = without_copies(instances)
    series: dict[str, list[DicomFile]] = {}
    for path in kept:
        series.setdefault(files[path].uid, []).append(files[path])
    found = [pair for uid, members in series.items() for pair in _summed(uid, stacks_of(members))]
    return found, {NOT_DICOM: tuple(others), DAMAGED: tuple(damaged), COPIES: tuple(copies)}


def _summed(uid: str, stacks: tuple[Stack, ...]) -> list[tuple[SeriesSummary, Stack]]:
    found = []
    for number, stack in enumerate(stacks, 1):
        first, place = stack.files[0], stack.place
        name = uid or "no UID"
        summary = SeriesSummary(
            name=name if len(stacks) == 1 else f"{name}/{number}",
            uid=uid,
            modality=first.modality,
            description=first.description,
            split=", ".join(f"{fact} {value}" for fact, value in stack.facts.items()),
            files=len(stack.files),
            images=stack.count,
            shape=None if place is None else place.grid.array_shape,
            spacing=None if place is None else place.grid.spacing,
            tilt=0.0 if place is None else place.tilt,
            unit=first.unit,
            problem="" if stack.refusal is None else str(stack.refusal),
        )
        found.append((summary, stack))
    return found


def _chosen(
    found: list[tuple[SeriesSummary, Stack]],
    series: object,
    source: Path,
    left_out: Mapping[str, tuple[Path, ...]],
) -> Stack:
    """Return the stack that `series` names; without it the only one that has images."""
    if not found:
        listed = str(SeriesList((), left_out))
        raise value_error("path", "hold DICOM images", f"{source}, {listed}")
    if series is None:
        images = [pair for pair in found if any(file.is_image for file in pair[1].files)]
        choice = images or found
    elif isinstance(series, (str, SeriesSummary)):
        wanted = series.name if isinstance(series, SeriesSummary) else series
        choice = [pair for pair in found if wanted in (pair[0].name, pair[0].uid)]
        if not choice:
            raise value_error("series", "be one of those listed", repr(wanted), _listed(found))
    else:
        raise type_error("series", "be a name that dicom_series lists", repr(series))
    if len(choice) > 1:
        got = f"{'None' if series is None else repr(series)}, with {len(choice)} in {source}"
        raise value_error("series", "choose one of several", got, _listed(choice))
    return choice[0][1]


def _listed(found: list[tuple[SeriesSummary, Stack]]) -> str:
    lines = [str(summary) for summary, _ in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN} more: dicom_series lists them"] if len(found) > _SHOWN else []
    return "\n  ".join(["Choose one:", *lines, *more])


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
