"""Slices of real subjects on the fine grid that their data are simulated from, twice as fine as the answer's.

Whoever is reconstructed was never trained on (split "test" of the manifests); whoever parameters are tuned on
was trained on, so that nothing of the held-out subjects is known to any solver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid
from pipelines.config.loading import load
from pipelines.config.manifest import Manifest, VolumeEntry
from pipelines.training.files import read_entry
from workbench.calibrate.hounsfield import hounsfield_of
from workbench.phantoms import chest_phantom
from workbench.priors.slice_frame import SliceAxis
from workbench.training.volumes import SliceVolume
from workbench.volume import Volume

__all__ = ["ENERGY", "FINE", "Library", "Modality", "Place", "held_out", "others", "stand_in"]

Modality = Literal["ct", "mr"]
#: Voxels of the fine grid along each side.
FINE = 256
#: Photon energy in keV at which HU become attenuation.
ENERGY = 70.0
#: What lies beyond a volume: air in HU, no signal.
FILL: dict[Modality, float] = {"ct": -1000.0, "mr": 0.0}
#: Where the manifests lie.
MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"
#: A head that is longer than the field of view is cut off below, this many mm above its top.
MARGIN = 6.0
#: What stands in for the real data, and its field of view in mm.
PHANTOM = "phantom"
WIDTH: dict[Modality, float] = {"ct": 384.0, "mr": 230.4}


@dataclass(frozen=True)
class Place:
    """A slice: of which volume, across which axis, and how far along the object, from 0 to 1.

    `spacing` is that of the fine grid in mm, None where the volume is stored on such a grid. `number` keys
    the noise of its data.
    """

    modality: Modality
    volume: str
    share: float
    number: int
    axis: SliceAxis = SliceAxis.AXIAL
    spacing: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return it for a record."""
        return {**vars(self), "axis": str(self.axis)}


def held_out(modality: Modality) -> tuple[Place, ...]:
    """Return the 24 slices of the test; the first four are those of the small cells."""
    if modality == "ct":
        whole = [(i + 0.5) / 12 for i in range(12)]
        chest = [Place("ct", "nsclc_radiogenomics_R01_001", share, i) for i, share in enumerate(whole)]
        belly = [Place("ct", "totalseg_example", share, 12 + i, spacing=1.5) for i, share in enumerate(whole)]
        few = [chest[3], belly[3], chest[8], belly[8]]
        return (*few, *(place for place in (*chest, *belly) if place not in few))
    places: list[Place] = []
    # Between the base and the top of the brain; between the ears; between brow and neck.
    for axis, low, high in (
        (SliceAxis.AXIAL, 0.40, 0.90),
        (SliceAxis.CORONAL, 0.15, 0.85),
        (SliceAxis.SAGITTAL, 0.20, 0.80),
    ):
        for i in range(8):
            share = low + (high - low) * (i + 0.5) / 8
            places.append(Place("mr", "studyforrest_t1", share, len(places), axis, 0.9))
    few = [places[3], places[12], places[19], places[6]]
    return (*few, *(place for place in places if place not in few))


def others(modality: Modality) -> tuple[Place, ...]:
    """Return the slices that parameters are tuned on: of two subjects of the training split."""
    if modality == "ct":
        return (
            Place("ct", "lidc_0314", 0.5, 1000),
            Place("ct", "4dlung_113", 0.3, 1001, spacing=1.5),
        )
    return (
        Place("mr", "ch2", 0.65, 1002, SliceAxis.AXIAL, 0.9),
        Place("mr", "clinical_t2", 0.5, 1003, SliceAxis.SAGITTAL, 0.9),
    )


def stand_in(modality: Modality, number: int) -> Place:
    """Return a slice of a phantom, for where the real data are not at hand."""
    return Place(modality, PHANTOM, 0.5, number, spacing=WIDTH[modality] / FINE)


@dataclass
class Library:
    """The volumes of the manifests below a folder, read when they are first asked for."""

    root: Path
    _sources: dict[str, _Source] = field(default_factory=dict, repr=False)
    _entries: dict[str, VolumeEntry] = field(default_factory=dict, repr=False)

    def entries(self) -> Mapping[str, VolumeEntry]:
        """Return the entries of the manifests, by name."""
        if not self._entries:
            for modality in FILL:
                manifest = load(Manifest, MANIFESTS / f"{modality}.toml", env={})
                self._entries |= {entry.name: entry for entry in manifest.volumes}
        return self._entries

    def entry(self, place: Place) -> VolumeEntry:
        """Return the entry of the manifest that a slice is of."""
        if place.volume not in self.entries():
            raise value_error("volume", f"be one of {', '.join(self._entries)}", repr(place.volume))
        return self._entries[place.volume]

    def identity(self, place: Place) -> str:
        """Return what says which values a slice has: the hash of its file."""
        if place.volume == PHANTOM:
            return PHANTOM
        return self.entry(place).sha256 or hashlib.sha256(self.entry(place).path.encode()).hexdigest()

    def holds(self, places: tuple[Place, ...]) -> bool:
        """Return whether the files of all these slices are there."""
        return all(
            place.volume == PHANTOM or (self.root / self.entry(place).path).exists() for place in places
        )

    def fine(self, place: Place) -> Volume:
        """Return a slice on its fine grid: HU, or magnitudes."""
        if place.volume == PHANTOM:
            return _phantom(place)
        if place.volume not in self._sources:
            entry = self.entry(place)
            volume = read_entry(entry, self.root)
            self._sources[place.volume] = _Source.of(volume, entry, FILL[place.modality])
        return self._sources[place.volume].slice(place)


@dataclass(frozen=True, eq=False)
class _Source:
    """A volume stored along (S, A, R), the ends of the object along them in mm, and what is beyond."""

    volume: Volume
    box: tuple[tuple[float, float], ...]
    fill: float

    @classmethod
    def of(cls, volume: Volume, entry: VolumeEntry, fill: float) -> _Source:
        turned = volume.canonical()
        found = SliceVolume.of(turned, subject=entry.subject, name=entry.name, fill=fill)
        return cls(turned, found.box, fill)

    def slice(self, place: Place) -> Volume:
        normal = 2 - place.axis.world
        rows, columns = (axis for axis in range(3) if axis != normal)
        turned = self.volume.permute((normal, rows, columns))
        low, high = self.box[normal]
        at = (low + place.share * (high - low)) / turned.grid.spacing[0]
        index = min(max(round(at), 0), turned.grid.shape[0] - 1)
        plane = turned.crop((index, 0, 0), (index + 1, *turned.grid.shape[1:]))
        if place.spacing is None:
            if plane.grid.shape[1:] != (FINE, FINE):
                raise value_error("spacing", f"be given: {place.volume} has no {FINE} x {FINE} slices", None)
            return plane
        starts = [self._start(axis, place.spacing) for axis in (rows, columns)]
        return _interpolated(plane, starts, place.spacing, self.fill)

    def _start(self, axis: int, step: float) -> float:
        """Return where the fine grid begins along an axis of the volume, in mm."""
        low, high = self.box[axis]
        width = (FINE - 1) * step
        if axis == 0 and high - low > width:
            return high + MARGIN - width
        return (low + high - width) / 2


def _interpolated(plane: Volume, starts: list[float], step: float, fill: float) -> Volume:
    """Return a slice by cubic splines on a grid of `step` mm that begins at `starts`, in mm from its own."""
    images: Any = require("scipy.ndimage", feature="Interpolating slices", extra="io")
    lengths = plane.grid.spacing[1:]
    first = [start / length for start, length in zip(starts, lengths, strict=True)]
    at = [f + np.arange(FINE) * step / length for f, length in zip(first, lengths, strict=True)]
    points = np.meshgrid(*at, indexing="ij")
    values = plane.data[0].double().numpy()
    found = images.map_coordinates(values, points, order=3, mode="constant", cval=fill)
    affine = plane.grid.affine.copy()
    affine[:3, 1:3] = plane.grid.directions[:, 1:] * step
    affine[:3, 3] = plane.grid.index_to_world((0.0, *first))
    return replace(
        plane,
        data=torch.from_numpy(found).clamp(min=fill).float()[None],
        grid=Grid((1, FINE, FINE), affine),
    )


def _phantom(place: Place) -> Volume:
    step = place.spacing or WIDTH[place.modality] / FINE
    grid = Grid.plane((FINE, FINE), step, thickness=step)
    chest = chest_phantom(grid, seed=place.number)
    if place.modality == "ct":
        return chest.with_data(hounsfield_of(chest.data, ENERGY), unit="HU")
    return chest.with_data(chest.data / chest.data.max(), unit="")
