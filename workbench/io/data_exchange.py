"""Data Exchange (DXchange), the HDF5 layout of synchrotron tomography: raw projections, flats and darks.

    /exchange/data (theta, y, x)    /exchange/data_white    /exchange/data_dark    /exchange/theta

(De Carlo et al., J. Synchrotron Rad. 2014.) Columns are the file's x, rows its y, and a view at theta is one
of a ParallelBeamGeometry, whose rows run along +z. Where a file's rows run downwards, or its stage turned
the other way round, the image is a mirror image, which `clockwise` undoes. The file seldom says which.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_number, replaced
from operators.ct import ParallelBeamGeometry
from operators.errors import value_error
from operators.extras import require
from operators.grid import Grid
from workbench.calibrate.flat_field import Law, Transmission, numbers_per_photon, transmission
from workbench.calibration import Calibration
from workbench.io.checks import checked_path
from workbench.measurement import Measurement, Provenance

__all__ = ["ProjectionScan", "read_data_exchange"]

#: rad per unit, mm per unit.
ANGLES = {"deg": math.pi / 180, "degree": math.pi / 180, "degrees": math.pi / 180, "rad": 1.0, "radians": 1.0}
LENGTHS = {"m": 1e3, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
#: Where a file may say what a pixel is at the sample, behind any lens; that of the camera is not it.
PIXELS = (
    "measurement/instrument/detector/actual_pixel_size_x",
    "measurement/instrument/detection_system/objective/resolution",
)


@dataclass(frozen=True, eq=False)
class ProjectionScan:
    """Raw `projections` (views, rows, columns) with frames of `flats` and `darks`; `angles` in rad.

    `pixel` is the size of a pixel at the sample in mm, None where the file does not say.
    """

    projections: Tensor
    flats: Tensor
    darks: Tensor | None
    angles: tuple[float, ...]
    pixel: float | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def with_(self, **changes: object) -> ProjectionScan:
        """Return the same scan with some values changed, such as the angles."""
        return replaced(self, changes)

    def geometry(self, *, pixel: float | None = None, clockwise: bool = False) -> ParallelBeamGeometry:
        """Return the scan about the middle column; `pixel` in mm where the file does not say."""
        size = self._pixel(pixel)
        _, rows, columns = self.projections.shape
        angles = tuple(-a for a in self.angles) if clockwise else self.angles
        return ParallelBeamGeometry(angles, columns, size, rows, size)

    def grid(self, *, pixel: float | None = None, columns: int | None = None) -> Grid:
        """Return cubic voxels of the size of a pixel about the axis, one slice per detector row."""
        size, (_, rows, wide) = self._pixel(pixel), self.projections.shape
        side = wide if columns is None else columns
        return Grid.from_spacing((rows, side, side), (size, size, size))

    def transmission(self, **options: Any) -> Transmission:
        """Return the counts and their beam, `options` as for calibrate.flat_field.transmission."""
        return transmission(self.projections, self.flats, self.darks, **options)

    def measurement(
        self,
        calibration: Calibration | tuple[Calibration, ...] = (),
        *,
        law: Law = "poisson",
        gain: float | None = None,
        pixel: float | None = None,
        clockwise: bool = False,
    ) -> Measurement:
        """Return the measurement of the counts; `gain` as the flats tell it unless stated."""
        found = numbers_per_photon(self.flats, self.darks) if gain is None else gain
        counts = transmission(self.projections, self.flats, self.darks, gain=found)
        geometry = self.geometry(pixel=pixel, clockwise=clockwise)
        steps = self.provenance.then(f"flats and darks: medians; {found:.4g} numbers per photon")
        return counts.measurement(geometry, law, calibration, steps)

    def _pixel(self, pixel: float | None) -> float:
        if pixel is None and self.pixel is None:
            remedy = (
                "The file does not say it: pixel=0.001 is a micrometre, 1 makes columns the unit of length."
            )
            raise value_error("pixel", "be the size of a pixel at the sample in mm", "None", remedy)
        return check_number(self.pixel if pixel is None else pixel, "pixel", positive=True)


def read_data_exchange(path: str | Path, *, rows: slice | None = None) -> ProjectionScan:
    """Return the scan in a Data Exchange file, or some of its detector `rows`.

    Angles are those of the file; `find_centre` tells where they and the views disagree.
    """
    h5py = require("h5py", feature="Reading Data Exchange", extra="io")
    source = checked_path(path)
    try:
        with h5py.File(source, "r") as file:
            return _scan(file, source, slice(None) if rows is None else rows)
    except OSError as error:
        # Files that are absent or may not be read say so by number; a damaged one does not.
        if error.errno is None:
            raise value_error("path", "be an undamaged HDF5 file", f"{source}: {error}") from error
        raise


def _scan(file: Any, source: Path, rows: slice) -> ProjectionScan:
    names = ("data", "data_white", "theta")
    missing = [name for name in names if f"exchange/{name}" not in file]
    if missing:
        there = ", ".join(sorted(file["exchange"])) if "exchange" in file else "no /exchange"
        remedy = "Data Exchange 1.0 has data, data_white, data_dark and theta in /exchange."
        lacking = ", ".join(f"/exchange/{name}" for name in missing)
        raise value_error("path", f"hold {lacking}", f"{source} with {there}", remedy)
    arrays = {name: _frames(file, source, name, rows) for name in ("data", "data_white")}
    dark = None
    if "exchange/data_dark" in file:
        dark = _frames(file, source, "data_dark", rows)
    else:
        warnings.warn(
            f"{source} has no /exchange/data_dark: darks are taken for zero.", UserWarning, stacklevel=4
        )
    for name, frames in (("data_white", arrays["data_white"]), ("data_dark", dark)):
        if frames is not None and frames.shape[1:] != arrays["data"].shape[1:]:
            expected = f"hold /exchange/{name} of the pixels of the data, {tuple(arrays['data'].shape[1:])}"
            raise value_error("path", expected, f"{source} with {tuple(frames.shape[1:])}")
    angles = _angles(file["exchange/theta"], source, len(arrays["data"]))
    provenance = Provenance(str(source.name), (), {"format": "Data Exchange"})
    return ProjectionScan(
        arrays["data"], arrays["data_white"], dark, angles, _pixel_size(file, source), provenance
    )


def _frames(file: Any, source: Path, name: str, rows: slice) -> Tensor:
    node = file[f"exchange/{name}"]
    shape = getattr(node, "shape", None)
    if shape is None or len(shape) != 3 or min(shape) < 1 or node.dtype.kind not in "fiu":
        expected = f"hold numbers (frames, rows, columns) in /exchange/{name}"
        raise value_error("path", expected, f"{source} with shape {shape}")
    values = node[:, rows, :]
    if values.shape[1] == 0:
        raise value_error("rows", f"take some of the {shape[1]} rows", rows)
    kind = np.float64 if values.dtype.kind != "f" and values.dtype.itemsize > 2 else np.float32
    return torch.from_numpy(values.astype(np.float64 if values.dtype == np.float64 else kind))


def _angles(node: Any, source: Path, views: int) -> tuple[float, ...]:
    unit = _text(node.attrs.get("units", "degrees")).strip().lower()
    if unit not in ANGLES:
        raise value_error("path", f"state theta in {', '.join(ANGLES)}", f"{source} in {unit!r}")
    theta = np.asarray(node[()], dtype=np.float64).reshape(-1)
    if len(theta) != views or not np.isfinite(theta).all():
        found = f"{source} with {len(theta)}, {int((~np.isfinite(theta)).sum())} of them not finite"
        raise value_error("path", f"hold {views} finite angles, one per view", found)
    if "units" not in node.attrs and 1 < np.ptp(theta) < 2 * np.pi * (1 + 1 / views):
        warnings.warn(
            f"{source} has no unit of theta, which spans {np.ptp(theta):.3g}: taken for degrees. "
            "If it is in rad: scan.with_(angles=np.degrees(scan.angles)).",
            UserWarning,
            stacklevel=4,
        )
    return tuple((theta * ANGLES[unit]).tolist())


def _pixel_size(file: Any, source: Path) -> float | None:
    for place in PIXELS:
        if place in file:
            value = float(np.asarray(file[place][()]).reshape(-1)[0])
            unit = _text(file[place].attrs.get("units", "m")).strip().lower()
            if unit in LENGTHS and math.isfinite(value) and value > 0:
                return value * LENGTHS[unit]
            warnings.warn(
                f"{source} states a pixel of {value} {unit!r}, which is none.", UserWarning, stacklevel=5
            )
    return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
