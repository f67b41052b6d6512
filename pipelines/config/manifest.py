"""The schema of a data manifest: what volumes there are, whose they are, and what they may be used for.

    manifest = load(Manifest, "data_manifests/ct.toml")

Splits are by subject: whoever is tested on was never trained on, not in another scan, not in another slab.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from typing import Annotated, Literal

from pipelines.config.loading import Config, Field, model_validator

__all__ = ["GeneratorEntry", "Manifest", "VolumeEntry"]

Axis = Literal["axial", "coronal", "sagittal"]
Split = Literal["train", "validate", "test"]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
#: What generators make.
UNITS = {"torso": "HU", "brain": ""}


class VolumeEntry(Config):
    """One volume of one subject."""

    name: Text = Field(description="What it is called in messages and records.")
    subject: Text = Field(description="Who was imaged; the same text wherever it is the same person.")
    split: Split = Field(description="What it is for.")
    kind: Literal["nifti", "dicom", "nrrd", "metaimage", "hdf5", "zarr"] = Field(description="Of file.")
    path: Text = Field(description="Of the file, or of a series' folder, below the data folder.")
    unit: str = Field(description="Of its values: HU, or empty for the magnitude of MR.")
    sha256: str = Field(
        default="",
        pattern="^([0-9a-f]{64})?$",
        description="Of the file; of a folder, or a header with its data: of what sha256sum prints.",
    )
    slope: float = Field(default=1.0, description="Physical values are slope * stored + intercept.")
    intercept: float = Field(default=0.0, description="See slope.")
    orientation: str = Field(
        default="",
        pattern="^([SIARLP]{3})?$",
        description="Where the file states no frame: the world's direction of each array axis, such as SAR.",
    )
    array: str = Field(default="", description="HDF5 and zarr: the name of the array, (z, y, x).")
    is_complex: bool = Field(default=False, description="MetaImage: its two channels are one complex number.")
    spacing: tuple[Positive, Positive, Positive] | None = Field(
        default=None,
        description="HDF5 and zarr: voxel size along z, y, x [mm], if no attribute affine says it.",
    )
    axes: tuple[Axis, ...] = Field(
        default=(), description="Slices are cut across these; empty: wherever voxels are short enough."
    )
    weight: Positive = Field(default=1.0, description="How often it is chosen beside others of its split.")
    origin: str = Field(default="", description="The public address it comes from.")
    licence: str = Field(default="", description="Of the images, as their publisher states it.")
    attribution: str = Field(default="", description="Whom to name.")
    derived: str = Field(default="", description="What was done to it since.")


class GeneratorEntry(Config):
    """Subjects that are made, not measured."""

    name: Text = Field(description="What they are called in messages and records.")
    split: Split = Field(description="What they are for; the seeds of two splits may not meet.")
    kind: Literal["torso", "brain"] = Field(description="Of anatomy.")
    unit: Literal["HU", ""] = Field(description="Of the values: HU for torsos, empty for brains.")
    first_seed: int = Field(default=0, ge=0, description="Of the first subject; the next has the next.")
    count: int = Field(ge=1, description="How many subjects.")
    spacing: Positive = Field(default=2.0, description="Voxel size [mm].")
    weight: Positive = Field(default=1.0, description="How often each is chosen beside volumes of its split.")

    @model_validator(mode="after")
    def _unit_is_the_kinds(self) -> GeneratorEntry:
        if self.unit != UNITS[self.kind]:
            raise ValueError(f"the unit of a {self.kind} must be {UNITS[self.kind]!r}, got {self.unit!r}")
        return self


class Manifest(Config):
    """A data set."""

    format: Literal[1] = Field(default=1, description="Of this schema.")
    name: Text = Field(description="Of the data set.")
    about: str = Field(default="", description="What is in it, in a sentence or two.")
    volumes: tuple[VolumeEntry, ...] = Field(default=(), description="What was measured.")
    generators: tuple[GeneratorEntry, ...] = Field(default=(), description="What is made.")

    @model_validator(mode="after")
    def _splits_share_nobody(self) -> Manifest:
        found = check_splits([self])
        if found:
            raise ValueError("; ".join(found))
        names = [v.name for v in self.volumes] + [made.name for made in self.generators]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must each be used once, got {', '.join(twice)} more often")
        return self

    @property
    def units(self) -> set[str]:
        """The units of all entries."""
        return {volume.unit for volume in self.volumes} | {made.unit for made in self.generators}


def check_splits(manifests: list[Manifest]) -> list[str]:
    """Return a sentence for each subject, file or seed that is in two splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for manifest in manifests:
        for entry in manifest.volumes:
            splits[f"the subject {' '.join(entry.subject.split()).casefold()!r}"].add(entry.split)
            splits[f"the file {posixpath.normpath(entry.path)!r}"].add(entry.split)
            if entry.sha256:
                splits[f"the file of SHA-256 {entry.sha256[:12]}"].add(entry.split)
        for made in manifest.generators:
            for seed in range(made.first_seed, made.first_seed + made.count):
                splits[f"the {made.kind} of seed {seed}"].add(made.split)
    return [
        f"{who} must be in one split, got {' and '.join(sorted(found))}: give all of it to one"
        for who, found in splits.items()
        if len(found) > 1
    ]
