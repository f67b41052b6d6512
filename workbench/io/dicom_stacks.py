"""One series as stacks: every image at a place of its own, or once for each step of an even time axis.

Images are put together as far as they go together. What lies at another angle or has another shape is another
stack. Where several images lie at one place, the first tag of `KINDS` that parts them into stacks over the
same places makes stacks of them; then time may, as an axis where its steps are even, else as stacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from operators.grid import TimeAxis
from workbench.io.dicom_frames import CLOCKS, COUNTERS, KINDS, PHASES, DicomFile, Frame
from workbench.io.dicom_geometry import Place, along, axes, placed, point
from workbench.io.dicom_refusal import RefusalError

__all__ = ["Stack", "stacks_of"]

#: Two orientations are one within this, and two places within this share of a pixel.
SAME_ANGLE, SAME_PLACE = 1e-4, 0.01
#: Of a time step: how far from even the volumes of a time axis may lie.
EVEN_TIME = 0.05

Columns = list[list[Frame]]


@dataclass(frozen=True)
class Stack:
    """Slices that belong together: `frames[t][z]`, their place or the reason why they have none.

    `facts` says what tells the stack from others of its series. `files` are those it is made of.
    """

    files: tuple[DicomFile, ...]
    facts: dict[str, str]
    frames: tuple[tuple[Frame, ...], ...]
    place: Place | None
    refusal: RefusalError | None
    warnings: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(row) for row in self.frames) or sum(file.count for file in self.files)


@dataclass(frozen=True)
class _Part:
    frames: list[Frame]
    facts: dict[str, str]
    refusal: RefusalError | None = None


def stacks_of(files: Iterable[DicomFile]) -> tuple[Stack, ...]:
    """Return the stacks of the files of one series, those that cannot be read as well."""
    found: list[Stack] = []
    for group in _alike(files):
        refused = next((file.refusal for file in group if file.refusal), None)
        facts = _facts(group[0])
        if refused is not None:
            found.append(Stack(tuple(group), facts, (), None, refused))
            continue
        for orientation, frames in _oriented(frame for file in group for frame in file.frames):
            turned = {**facts, "orientation": orientation}
            found += [_stack(group, part) for part in _parted(_Part(frames, turned), KINDS)]
    varying = {name for stack in found for name in stack.facts if _varies(name, found)}
    return tuple(
        replace(stack, facts={name: value for name, value in stack.facts.items() if name in varying})
        for stack in found
    )


def _varies(name: str, stacks: Sequence[Stack]) -> bool:
    return len({stack.facts.get(name) for stack in stacks}) > 1


def _facts(file: DicomFile) -> dict[str, str]:
    shape = f"{file.shape[0]} x {file.shape[1]}"
    refused = {"refused": file.refusal.name} if file.refusal else {}
    return {"kind": file.kind, "modality": file.modality, "shape": shape, "unit": file.unit, **refused}


def _alike(files: Iterable[DicomFile]) -> list[list[DicomFile]]:
    """Return the files by what is never in one stack, each group in the order of its first file."""
    groups: dict[object, list[DicomFile]] = {}
    for file in files:
        groups.setdefault(tuple(_facts(file).items()), []).append(file)
    return list(groups.values())


def _oriented(frames: Iterable[Frame]) -> list[tuple[str, list[Frame]]]:
    """Return the frames by their orientation and pixel spacing, and the name of each group."""
    groups: list[tuple[np.ndarray, list[Frame]]] = []
    for frame in frames:
        key = np.array([*frame.orientation, *frame.pixel_spacing])
        for other, members in groups:
            if np.abs(other - key).max() < SAME_ANGLE:
                members.append(frame)
                break
        else:
            groups.append((key, [frame]))
    return [(f"{point(key[:3].tolist())} {point(key[3:6].tolist())}", members) for key, members in groups]


def _stack(files: Sequence[DicomFile], part: _Part) -> Stack:
    """Return the stack of a part that has one image at each place, or the same number of times at all."""
    used = {frame.path for frame in part.frames}
    own = tuple(file for file in files if file.path in used)
    frames: tuple[tuple[Frame, ...], ...] = (tuple(part.frames),)
    try:
        if part.refusal is not None:
            raise part.refusal
        columns = _columns(part.frames)
        rows, time, notes = _rows(columns)
        frames = tuple(tuple(row) for row in rows)
        first = rows[0][0]
        place = placed(
            [frame.position for frame in rows[0]],
            first.orientation,
            first.pixel_spacing,
            own[0].shape,
            first.thickness,
            time,
        )
    except RefusalError as error:
        return Stack(own, part.facts, frames, None, error)
    worlds = len({file.world for file in own})
    if worlds > 1:
        # Archives that replace UIDs file by file do that; no other place is known than the one that is
        # stated.
        notes.append(f"states {worlds} frames of reference in one stack: they are taken for one")
    return Stack(own, part.facts, frames, place, None, (*notes, *place.warnings))


def _columns(frames: Sequence[Frame]) -> Columns:
    """Return the frames by place, in order along the normal."""
    depth = [along(frame.position, frames[0].orientation) for frame in frames]
    close = SAME_PLACE * min(frames[0].pixel_spacing)
    columns: Columns = []
    last = -np.inf
    for k in sorted(range(len(depth)), key=depth.__getitem__):
        if depth[k] - last > close:
            columns.append([])
        columns[-1].append(frames[k])
        last = depth[k]
    return columns


def _parted(part: _Part, kinds: Sequence[str]) -> list[_Part]:
    """Return the part, or the parts that `kinds` and time make of it where images share their places."""
    try:
        axes(part.frames[0].orientation)
    except RefusalError as error:
        return [replace(part, refusal=error)]
    columns = _columns(part.frames)
    if len(columns) == len(part.frames):
        return [part]
    for position, name in enumerate(kinds):
        values = {frame.marks.get(name, "") for frame in part.frames}
        if len(values) > 1 and _over_same_places(columns, name):
            found = []
            for value in sorted(values, key=_natural):
                chosen = [frame for frame in part.frames if frame.marks.get(name, "") == value]
                facts = {**part.facts, name: value or "not stated"}
                found += _parted(_Part(chosen, facts), kinds[position + 1 :])
            return found
    return _parted_by_time(part, columns)


def _over_same_places(columns: Columns, name: str) -> bool:
    """Tell whether every value of a tag is found at every place."""
    values = {frozenset(frame.marks.get(name, "") for frame in column) for column in columns}
    return len(values) == 1


def _natural(value: str) -> tuple[float, str]:
    try:
        return float(value.split("\\")[0]), value
    except ValueError:
        return np.inf, value


def _parted_by_time(part: _Part, columns: Columns) -> list[_Part]:
    """Return the part if its images make an even time axis, else one part for each time or phase."""
    order = _in_time(columns)
    if order is None:
        phases = [name for name in PHASES if _over_same_places(columns, name)]
        several = [name for name in phases if len({frame.marks.get(name) for frame in part.frames}) > 1]
        return _parted(part, several) if several else [replace(part, refusal=_shared(columns))]
    name, rows = order
    if _even_times(rows) is not None:
        return [part]
    times = _times(rows)
    found = []
    for k, row in enumerate(rows):
        said = f"{name} {k + 1}" if times is None else f"{times[k] - times[0]:.6g} s"
        found.append(replace(part, frames=row, facts={**part.facts, "time": said}))
    return found


def _rows(columns: Columns) -> tuple[Columns, TimeAxis | None, list[str]]:
    """Return the frames as rows in time, their time axis, and what is to be warned of."""
    if max(len(column) for column in columns) == 1:
        return [[column[0] for column in columns]], None, []
    order = _in_time(columns)
    if order is None:
        raise _shared(columns)
    name, rows = order
    time = _even_times(rows)
    if time is None:
        raise _shared(columns)
    notes = []
    if _times(rows) is None and rows[0][0].interval is None:
        said = f"counts {len(rows)} volumes by {name} and states no times that rise with it"
        notes.append(f"{said}: a step of 1 s is taken")
    return rows, time, notes


def _in_time(columns: Columns) -> tuple[str, Columns] | None:
    """Return the tag that puts the images at every place in order of time, and the volumes in that order.

    A counter must take the same values everywhere; a clock must have every image of a volume before all of
    the next. A number of the acquisition is one of time only where a clock says so.
    """
    counts = {len(column) for column in columns}
    if len(counts) != 1:
        return None
    for name in (*COUNTERS, *CLOCKS):
        read = [[{**frame.clocks, **frame.counts}.get(name) for frame in column] for column in columns]
        values = np.array([[np.nan if value is None else value for value in row] for row in read])
        if np.isnan(values).any():
            continue
        order = np.argsort(values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        before = values[:, :-1].max(axis=0) < values[:, 1:].min(axis=0)
        if before.all() and (name in CLOCKS or (values == values[0]).all()):
            sorted_columns = [[column[k] for k in row] for column, row in zip(columns, order, strict=True)]
            rows = [list(row) for row in zip(*sorted_columns, strict=True)]
            if name != "AcquisitionNumber" or _times(rows) is not None:
                return name, rows
    return None


def _times(rows: Columns) -> list[float] | None:
    """Return the time in s at which each volume begins, by the first clock that runs through all of them."""
    for name in CLOCKS:
        if not all(name in frame.clocks for row in rows for frame in row):
            continue
        begins = [min(frame.clocks[name] for frame in row) for row in rows]
        if all(a < b for a, b in itertools.pairwise(begins)):
            return begins
    return None


def _even_times(rows: Columns) -> TimeAxis | None:
    """Return the time axis of volumes at even times, of 1 s where no time is stated; None if uneven."""
    times = _times(rows)
    if times is None:
        return TimeAxis(len(rows), rows[0][0].interval or 1.0)
    step = (times[-1] - times[0]) / (len(times) - 1)
    off = np.abs(np.array(times) - times[0] - step * np.arange(len(times))).max()
    return TimeAxis(len(rows), step) if off <= EVEN_TIME * step else None


def _shared(columns: Columns) -> RefusalError:
    """Return the refusal of images at shared places that nothing parts cleanly."""
    counts = [len(column) for column in columns]
    worst = columns[int(np.argmax(counts))]
    names = (*KINDS, *PHASES, *COUNTERS, *CLOCKS)
    marks = [{**frame.marks, **frame.counts, **frame.clocks} for frame in worst]
    differing = [name for name in names if len({str(mark.get(name)) for mark in marks}) > 1]
    many = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    tell = (
        f"which differ there in {', '.join(differing)}, not alike at all places"
        if differing
        else ("and nothing that is looked at tells them apart")
    )
    return RefusalError(
        "several images at one place",
        "hold one image at each place, or one for each of even times",
        f"{many} at each of {len(columns)} places, such as {point(worst[0].position)} mm (LPS), {tell}",
        "Read the files of each volume from a folder of its own.",
    )
