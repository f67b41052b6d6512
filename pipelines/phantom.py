"""`workbench phantom`: synthetic subjects as NIfTI, with label maps, known lesions and known motion."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from operators.checks import check_count, check_spacing
from operators.errors import value_error

if TYPE_CHECKING:
    from operators.grid import Grid
    from workbench.anatomy import Brain
    from workbench.anatomy.motion import Movement
    from workbench.anatomy.subject import Subject
    from workbench.volume import Volume


class SubjectKind(StrEnum):
    """What can be drawn."""

    TORSO = "torso"
    BRAIN = "brain"


class Motion(StrEnum):
    """How a subject can move."""

    BREATHING = "breathing"
    BEATING = "beating"
    BOTH = "both"


class Plane(StrEnum):
    """What is rendered of a moving subject: a slice through the part that moves, or all of it."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"
    VOLUME = "volume"


#: Where a slice is put.
LANDMARKS = {Motion.BREATHING: "dome", Motion.BEATING: "heart", Motion.BOTH: "heart"}
#: World axis (R, A, S) across each slice.
ACROSS = {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}
#: What fits into the memory of a usual machine, at 6 bytes a voxel.
MOST_VOXELS = 2**30


def phantom(
    kind: Annotated[SubjectKind, typer.Argument(help="What to draw.")] = SubjectKind.TORSO,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("phantom"),
    seed: Annotated[int, typer.Option(help="Seed of the first subject; the next ones count up.")] = 0,
    count: Annotated[int, typer.Option(help="How many subjects.")] = 1,
    spacing: Annotated[str, typer.Option(help="Voxel size in mm: one number, or z,y,x.")] = "2.5",
    contrast: Annotated[
        str | None,
        typer.Option(
            help="none, arterial or venous; of a brain t1, t2, flair, pd, t1c, t2s. Else drawn by the seed."
        ),
    ] = None,
    lesions: Annotated[int, typer.Option(help="How many lesions, of all kinds in turn.")] = 0,
    lesion_kind: Annotated[
        list[str] | None,
        typer.Option(help="Of this kind alone, such as 'lung nodule' or ms; may be given again."),
    ] = None,
    supersample: Annotated[
        int,
        typer.Option(help="Points along each side of a voxel: 2 smooths edges, in 8 times as long."),
    ] = 1,
    phase: Annotated[bool, typer.Option(help="A brain's image is complex, with a smooth phase.")] = False,
    motion: Annotated[Motion | None, typer.Option(help="Render frames of a movement.")] = None,
    frames: Annotated[int, typer.Option(help="Frames in one period of the movement.")] = 8,
    plane: Annotated[
        Plane | None,
        typer.Option(help="What to render of a movement: a slice (else coronal) or all."),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(help="Where that slice lies, in mm along R, A or S; else through what moves."),
    ] = None,
) -> None:
    """Draw synthetic subjects: images with label maps and known lesions.

    Each is a function of its seed alone. Writes NIfTI and a record with the seed, the parameters, the names
    of the labels and what is known of the lesions; with --lesions also which lesion each voxel is of. With
    --motion it writes frames, 4D, and their displacements in mm along R, A and S, u in x(r + u), one file for
    each component. Files of the same names are replaced.
    """
    if motion is None and (plane is not None or at is not None):
        given = "plane" if plane is not None else "at"
        raise value_error(given, "be left out of what does not move", str(plane or at), "Or name a --motion.")
    check_count(seed, "seed", minimum=0)
    check_count(count, "count")
    sizes = check_spacing(_numbers(spacing), "spacing")
    check_count(lesions, "lesions", minimum=0)
    check_count(supersample, "supersample")
    check_count(frames, "frames")
    for number in range(seed, seed + count):
        subject = _draw(kind, number, contrast, lesions, tuple(lesion_kind or ()))
        files = write(
            subject,
            out,
            f"{kind}-{number:04d}",
            spacing=sizes,
            supersample=supersample,
            motion=motion,
            frames=frames,
            plane=Plane.CORONAL if plane is None else plane,
            at=at,
            phase=phase,
        )
        for file in files:
            typer.echo(out / file)


def write(
    subject: Subject,
    out: Path,
    name: str,
    *,
    spacing: Sequence[float] | float,
    supersample: int = 1,
    motion: Motion | None = None,
    frames: int = 8,
    plane: Plane = Plane.CORONAL,
    at: float | None = None,
    phase: bool = False,
) -> list[str]:
    """Render `subject` into files of the folder `out` whose names begin with `name`; return their names.

    The record comes last, so that one that is there speaks of files that are whole.
    """
    from operators.extras import require
    from workbench.anatomy.subject import Rendered
    from workbench.io.nifti import write_nifti
    from workbench.volume import Volume

    require("nibabel", feature="Writing phantoms", extra="io")
    grid = subject.grid(spacing)
    _check_size(grid)
    moved = None if motion is None else _movement(subject, motion, grid, frames, plane, at)
    _check_phase(subject, phase, motion)
    out.mkdir(parents=True, exist_ok=True)
    record_file = out / f"{name}.json"
    record_file.unlink(missing_ok=True)
    lesions = [_plain(lesion) for lesion in subject.lesions]
    facts: dict[str, Any] = {}
    if moved is None or motion is None:
        rendered = subject.render(grid, supersample=supersample)
        image = rendered.image
        if phase:
            image = cast("Brain", subject).complex_image(grid, supersample=supersample)
        volumes = {name: image, f"{name}-labels": rendered.labels}
        if lesions:
            numbers = rendered.numbered(subject.lesion_labels)
            volumes[f"{name}-lesions"] = numbers
            # None, where a voxel's middle hits no part of it.
            lesions = [
                {"number": i, **fact, "voxels": int((numbers.data == i).sum())}
                for i, fact in enumerate(lesions, start=1)
            ]
    else:
        movement, moving = moved
        volumes = dict(_frames(subject, movement, moving, name, supersample))
        told = {"kind": str(motion), "plane": str(plane), "frames": frames, "period": movement.period}
        if plane is not Plane.VOLUME:
            told["at_mm"] = float(moving.centre[ACROSS[plane]])
        facts["motion"] = told | _plain(movement)
        # A lesion moves with what it is in: r + u(r, t) is the place that is told, and the first frame's.
        first = Volume(volumes[f"{name}-frames-labels"].data[0], moving.with_time(None))
        rest = Rendered(first, first, subject.lesions)
        numbers = rest.numbered(subject.lesion_labels)
        lesions = [
            {**fact, "place": "at rest", "voxels": int((numbers.data == i).sum())}
            for i, fact in enumerate(lesions, start=1)
        ]
    files = [write_nifti(out / f"{stem}.nii.gz", volume).name for stem, volume in volumes.items()]
    record = {
        "subject": type(subject).__name__.lower(),
        "seed": subject.seed,
        "unit": subject.unit,
        "spacing_mm": list(grid.spacing),
        "supersample": supersample,
        "parameters": {
            key: value for key, value in _plain(subject).items() if key not in ("seed", "lesions")
        },
        "label_names": {str(label): text for label, text in subject.label_names.items()},
        "lesions": lesions,
        "lesions_are": f"centre (R, A, S) and radius in mm, contrast in {subject.unit or 'image units'}",
        **facts,
        "voxels_sha256": {
            f"{stem}.nii.gz": hashlib.sha256(volume.data.numpy().tobytes()).hexdigest()
            for stem, volume in volumes.items()
        },
        "note": "synthetic: nobody looks like this",
    }
    _write_text(record_file, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return [*files, record_file.name]


def _numbers(spacing: str) -> Sequence[float] | float:
    try:
        numbers = [float(part) for part in spacing.split(",")]
    except ValueError:
        raise value_error("spacing", "be a number in mm, or three: z,y,x", repr(spacing)) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _check_size(grid: Grid) -> None:
    voxels = math.prod(grid.shape)
    if voxels > MOST_VOXELS:
        text = " x ".join(str(n) for n in grid.shape)
        raise value_error("spacing", f"give at most {MOST_VOXELS} voxels", f"{text} of them", "Coarser ones.")
    if min(grid.shape) < 2:
        sizes = ", ".join(f"{length:g}" for length in grid.spacing)
        raise value_error("spacing", "give two voxels or more along each axis", f"{sizes} mm", "Finer ones.")


def _draw(
    kind: SubjectKind, seed: int, contrast: str | None, lesions: int, kinds: tuple[str, ...]
) -> Subject:
    from workbench.anatomy import Brain, Torso

    if kind is SubjectKind.TORSO:
        # A number of them is shared out among the kinds, in turn.
        shares = {name: len(range(lesions)[i :: len(kinds)]) for i, name in enumerate(kinds)}
        return Torso.draw(seed, contrast=contrast, lesions=shares or lesions)
    if kinds:
        return Brain.draw(seed, contrast=contrast, lesions=lesions, lesion_kinds=kinds)
    return Brain.draw(seed, contrast=contrast, lesions=lesions)


def _check_phase(subject: Subject, phase: bool, motion: Motion | None) -> None:
    from workbench.anatomy import Brain

    if phase and (motion is not None or not isinstance(subject, Brain)):
        kind = type(subject).__name__.lower()
        raise value_error("phase", "be left out: only a brain at rest has one", kind, "Leave it out.")


def _movement(
    subject: Subject, motion: Motion, grid: Grid, frames: int, plane: Plane, at: float | None
) -> tuple[Movement, Grid]:
    """Return the movement of `subject`, and the grid of its frames."""
    from operators.grid import Grid, TimeAxis
    from workbench.anatomy.motion import Together
    from workbench.anatomy.torso import Beating, Breathing, Torso

    if not isinstance(subject, Torso):
        got = f"{motion} of a {type(subject).__name__.lower()}"
        raise value_error(
            "motion", "be left out: only a torso breathes and beats", got, "Leave --motion out."
        )
    place = subject.landmarks[LANDMARKS[motion]]
    breathing, beating = Breathing(subject.landmarks["diaphragm"]), Beating(subject.landmarks["heart"])
    movement: Movement = {
        Motion.BREATHING: breathing,
        Motion.BEATING: beating,
        Motion.BOTH: Together(breathing, beating),
    }[motion]
    still = grid
    if plane is not Plane.VOLUME:
        axis = 2 - ACROSS[plane]
        shape, centre = list(grid.shape), grid.centre.copy()
        shape[axis], centre[ACROSS[plane]] = 1, place[ACROSS[plane]] if at is None else at
        still = Grid.from_spacing(shape, grid.spacing, centre=tuple(centre))
    return movement, still.with_time(TimeAxis(frames, movement.period / frames))


def _frames(
    subject: Subject, movement: Movement, grid: Grid, name: str, supersample: int
) -> Iterator[tuple[str, Volume]]:
    """Yield the frames, their labels and each component of the displacements, all over time."""
    import torch

    from workbench.anatomy.motion import render_frames
    from workbench.volume import Volume

    rendered = render_frames(subject, movement, grid, supersample=supersample)
    yield f"{name}-frames", rendered.image
    yield f"{name}-frames-labels", rendered.labels
    for i, component in enumerate("RAS"):
        along = torch.stack([field.data[i] for field in rendered.fields])
        yield f"{name}-displacement-{component}", Volume(along, grid, "mm")


def _plain(value: Any) -> Any:
    """Return dataclasses, mappings and sequences as JSON has them; what else there is by its repr."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def _write_text(path: Path, text: str) -> None:
    from workbench.io.whole import written_whole

    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
