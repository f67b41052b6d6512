"""The volumes of manifests, read and made: what a training run cuts its slices from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pipelines
from operators.errors import value_error
from pipelines.config.loading import load
from pipelines.config.manifest import GeneratorEntry, Manifest, VolumeEntry, check_splits
from pipelines.training.files import read_entry, sha256_of_files
from workbench.priors.slice_frame import SliceAxis
from workbench.training.contrast import Contrast
from workbench.training.volumes import SliceVolume
from workbench.volume import Volume

__all__ = [
    "check_contrast",
    "check_copies",
    "counted",
    "fingerprint_of",
    "hold_out",
    "made_volumes",
    "measured_volumes",
    "mixed",
    "read_manifests",
    "spacing_of",
]

#: Where the workbench's own manifests are: in a checkout, in what is installed.
SHIPPED = (
    Path(pipelines.__file__).parents[1] / "data_manifests",
    Path(pipelines.__file__).parent / "data_manifests",
)
#: How a generated subject comes: from a cache or made anew.
Make = Callable[[GeneratorEntry, int], Volume]


def read_manifests(paths: Sequence[str]) -> list[Manifest]:
    """Return the manifests, checked against one another: of one unit, and nobody in two splits."""
    if not paths:
        raise value_error("data.manifests", "name one manifest or more", "none")
    manifests = [load(Manifest, _place(path), env={}) for path in paths]
    shared = check_splits(manifests)
    if shared:
        raise value_error("data.manifests", "have splits that share nobody", "; ".join(shared))
    units = sorted({unit for manifest in manifests for unit in manifest.units})
    if len(units) > 1:
        listed = ", ".join(repr(unit) for unit in units)
        remedy = "Train a prior for each, or convert the volumes first."
        raise value_error("data.manifests", "hold values of one unit", listed, remedy)
    return manifests


def check_contrast(manifests: Sequence[Manifest], contrast: Contrast) -> None:
    """Refuse values in another unit than images are made of."""
    wanted = contrast.units.unit
    for unit in sorted({unit for manifest in manifests for unit in manifest.units} - {wanted}):
        expected = f"hold values in {wanted or 'no unit, as magnitudes of MR are'}"
        remedy = 'data.contrast = "hounsfield" makes images of HU, "magnetisation" of magnitudes.'
        raise value_error("data.manifests", expected, repr(unit), remedy)


def check_copies(manifests: Sequence[Manifest], root: Path) -> None:
    """Refuse a file of one split that is, byte for byte, one of another; names and subjects may differ."""
    entries = [entry for manifest in manifests for entry in manifest.volumes]
    sized: dict[int, list[VolumeEntry]] = defaultdict(list)
    for entry in entries:
        if (root / entry.path).is_file():
            sized[(root / entry.path).stat().st_size].append(entry)
    for alike in sized.values():
        if len({entry.split for entry in alike}) < 2:
            continue
        first: dict[str, VolumeEntry] = {}
        for entry in alike:
            other = first.setdefault(sha256_of_files(root / entry.path), entry)
            if other.split != entry.split:
                found = f"{other.path} in {other.split}, and its copy {entry.path} in {entry.split}"
                remedy = "Give all of a subject to one split."
                raise value_error("data.manifests", "have splits that share no file", found, remedy)


def spacing_of(volumes: Sequence[SliceVolume], stated: tuple[float, float]) -> tuple[float, float]:
    """Return the shortest and longest side of the voxels that slices will have; the finest volume decides."""
    low, high = stated
    finest = min(volume.finest(axis) for volume in volumes for axis in volume.axes)
    if finest > high:
        remedy = "Finer voxels would show interpolation alone."
        expected = f"reach {finest:.3g} mm, the finest that there is to see"
        raise value_error("data.spacing", expected, f"{low:g} to {high:g} mm", remedy)
    return max(low, finest), high


def hold_out(manifests: Sequence[Manifest], subjects: Sequence[str]) -> list[Manifest]:
    """Return the manifests with some subjects of "train" in "validate", for a comparison of runs."""
    trained = {
        entry.subject for manifest in manifests for entry in manifest.volumes if entry.split == "train"
    }
    strange = sorted({*subjects} - trained)
    if strange:
        known = ", ".join(sorted(trained))
        raise value_error("data.hold_out", f"name subjects that train: {known}", ", ".join(strange))

    def moved(entry: VolumeEntry) -> VolumeEntry:
        return entry.model_copy(update={"split": "validate"}) if entry.subject in subjects else entry

    return [m.model_copy(update={"volumes": tuple(moved(entry) for entry in m.volumes)}) for m in manifests]


def measured_volumes(
    manifests: Sequence[Manifest], split: str, root: Path, contrast: Contrast
) -> Iterator[SliceVolume]:
    """Return the measured volumes of a split, read from below `root`."""
    for entry in (entry for manifest in manifests for entry in manifest.volumes if entry.split == split):
        volume = read_entry(entry, root)
        _check_unit(entry, volume)
        yield SliceVolume.of(
            volume,
            subject=entry.subject,
            name=entry.name,
            fill=contrast.fill,
            axes=tuple(SliceAxis(axis) for axis in entry.axes) or None,
            weight=entry.weight,
        )


def made_volumes(
    manifests: Sequence[Manifest], split: str, contrast: Contrast, make: Make
) -> Iterator[SliceVolume]:
    """Return the generated volumes of a split."""
    for entry in (entry for manifest in manifests for entry in manifest.generators if entry.split == split):
        for seed in range(entry.first_seed, entry.first_seed + entry.count):
            name = f"{entry.name} {seed}"
            yield SliceVolume.of(
                make(entry, seed), subject=name, name=name, fill=contrast.fill, weight=entry.weight
            )


def mixed(
    measured: Sequence[SliceVolume], made: Sequence[SliceVolume], share: float
) -> tuple[SliceVolume, ...]:
    """Return both, the made ones with `share` of all weight; where there is one kind alone, that."""
    if not measured and not made:
        remedy = "Name a split that has volumes, or add some to the manifest."
        raise value_error("data", "hold one volume or more", "none", remedy)
    if not measured or not made:
        return (*measured, *made)
    return (*_scaled(measured, 1 - share), *_scaled(made, share))


def fingerprint_of(volumes: Sequence[SliceVolume]) -> str:
    """Return the SHA-256 of what is trained on: values, voxels, weights."""
    digest = hashlib.sha256()
    for volume in volumes:
        axes = ",".join(volume.axes)
        facts = f"{volume.name}|{volume.spacing}|{axes}|{volume.weight!r}|{tuple(volume.above.shape)}"
        digest.update(facts.encode())
        digest.update(volume.above.numpy().data)
    return digest.hexdigest()


def counted(measured: Sequence[SliceVolume], made: Sequence[SliceVolume]) -> str:
    """Return how much was measured, and how much made."""
    subjects = len({volume.subject for volume in measured})
    kinds = (
        f"{len(measured)} measured volumes of {subjects} subjects" if measured else "",
        f"{len(made)} generated subjects" if made else "",
    )
    return " and ".join(kind for kind in kinds if kind)


def _place(path: str) -> Path:
    """Return where a manifest is: from the folder of the call, or one that comes with the workbench."""
    shipped = [folder / Path(path).name for folder in SHIPPED if path.startswith("data_manifests/")]
    return next((place for place in (Path(path), *shipped) if place.is_file()), Path(path))


def _scaled(volumes: Sequence[SliceVolume], share: float) -> list[SliceVolume]:
    total = sum(volume.weight for volume in volumes)
    return [replace(volume, weight=volume.weight / total * share) for volume in volumes if share > 0]


def _check_unit(entry: VolumeEntry, volume: Volume) -> None:
    """Refuse a file that states another unit than its manifest."""
    if volume.unit and volume.unit != entry.unit:
        expected = f"hold values in {entry.unit or 'no unit'}, as its manifest says"
        raise value_error(entry.name, expected, f"{entry.path} in {volume.unit}", "Correct the manifest.")
