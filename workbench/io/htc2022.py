"""The files of the Helsinki Tomography Challenge 2022: fan-beam sinograms of discs with holes, as .mat.

    CtDataLimited or CtDataFull: sinogram (angles, detector elements), already -log; parameters

(Meaney et al., Zenodo 6984868.) A fan in the middle plane of a cone beam, with lengths in mm and angles in
degrees. Reference images of the challenge have 512 x 512 pixels of the size of a detector element at the
axis, y upwards: images on `HtcScan.grid` lie on them, row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count
from operators.ct import FanBeamGeometry
from operators.errors import NonFiniteError, describe, value_error
from operators.extras import require
from operators.grid import Grid
from workbench.calibration import Calibration, calibrations
from workbench.io.checks import checked_path
from workbench.measurement import Measurement, Provenance
from workbench.noise.base import Noise
from workbench.noise.gaussian import Gaussian

__all__ = ["HtcScan", "read_htc2022"]

STRUCTURES = ("CtDataLimited", "CtDataFull")
PARAMETERS = ("distanceSourceOrigin", "distanceSourceDetector", "pixelSizePost", "numDetectorsPost", "angles")
#: What scipy raises where the bytes make no sense.
DAMAGE = (ValueError, TypeError, OSError, EOFError, NotImplementedError, IndexError, KeyError)
#: Median of |w| for a standard normal w.
MEDIAN = 0.6744897501960817


@dataclass(frozen=True, eq=False)
class HtcScan:
    """A `sinogram` (views, 1, columns) of line integrals, and where it was taken."""

    sinogram: Tensor
    geometry: FanBeamGeometry
    provenance: Provenance = field(default_factory=Provenance)

    def grid(self, size: int = 512) -> Grid:
        """Return the pixels of the challenge's images: an element as seen at the axis, rows along -y."""
        number = check_count(size, "size")
        step = self.geometry.column_pitch / self.geometry.magnification
        middle = (number - 1) / 2 * step
        affine = np.array([[0, 0, step, -middle], [0, -step, 0, middle], [1, 0, 0, 0], [0, 0, 0, 1.0]])
        return Grid((1, number, number), affine)

    def sd(self) -> Tensor:
        """Return the sd of each line integral, that of photons behind it: s exp(m / 2).

        s is the median of |second difference over views| of m exp(-m / 2), where neighbouring views see much
        the same: over 0.674 and the root of 6. What changes as the object turns makes it rather too large.
        """
        if len(self.sinogram) < 3:
            raise value_error("sinogram", "have three views or more", len(self.sinogram))
        m = self.sinogram.double()
        bend = (m[:-2] - 2 * m[1:-1] + m[2:]) / math.sqrt(6) * torch.exp(-m[1:-1] / 2)
        in_air = float(bend.abs().median()) / MEDIAN
        if not in_air > 0:
            raise value_error("sinogram", "hold noise", "views that repeat each other")
        return (in_air * torch.exp(m.clamp(min=0) / 2)).to(self.sinogram.dtype)

    def measurement(
        self, noise: Noise | None = None, calibration: Calibration | tuple[Calibration, ...] = ()
    ) -> Measurement:
        """Return the measurement; its noise is Gaussian with the sd that the data show unless stated."""
        law = Gaussian(self.sd()) if noise is None else noise
        return Measurement(self.sinogram, self.geometry, law, calibrations(calibration), self.provenance)


def read_htc2022(path: str | Path) -> HtcScan:
    """Return the scan in a .mat file of the challenge."""
    scipy_io = require("scipy.io", feature="Reading .mat files", extra="io")
    source = checked_path(path)
    with source.open("rb"):
        pass  # absent or forbidden: the system's own words
    try:
        content = scipy_io.loadmat(str(source), squeeze_me=True, struct_as_record=False)
    except (*DAMAGE, scipy_io.matlab.MatReadError) as error:
        remedy = "The challenge's files are of version 5."
        raise value_error("path", "be an undamaged .mat file", f"{source}: {error}", remedy) from error
    found = [content[name] for name in STRUCTURES if name in content]
    if not found:
        there = ", ".join(name for name in content if not name.startswith("_")) or "nothing"
        raise value_error("path", f"hold {' or '.join(STRUCTURES)}", f"{source} with {there}")
    return _scan(found[0], source)


def _scan(data: Any, source: Path) -> HtcScan:
    values: Any = getattr(data, "parameters", None)
    lacking = [name for name in PARAMETERS if not hasattr(values, name)]
    if not hasattr(data, "sinogram") or lacking:
        missing = ", ".join(["sinogram"] * (not hasattr(data, "sinogram")) + lacking)
        raise value_error("path", f"state {missing}", f"{source} without")
    unit = str(getattr(values, "distanceUnit", "mm"))
    if unit != "mm":
        raise value_error("path", "state lengths in mm", f"{source} in {unit}")
    sinogram = np.atleast_2d(np.asarray(data.sinogram, dtype=np.float64))
    angles = np.atleast_1d(np.asarray(values.angles, dtype=np.float64))
    shape = (len(angles), int(values.numDetectorsPost))
    if sinogram.shape != shape:
        raise value_error("path", f"hold a sinogram of shape {shape}", f"{source} with {sinogram.shape}")
    if not np.isfinite(sinogram).all():
        count = int((~np.isfinite(sinogram)).sum())
        raise NonFiniteError(describe("path", "hold finite line integrals", f"{source} with {count} others"))
    geometry = FanBeamGeometry(
        angles=tuple(np.deg2rad(angles).tolist()),
        columns=shape[1],
        column_pitch=float(values.pixelSizePost),
        source_to_axis=float(values.distanceSourceOrigin),
        source_to_detector=float(values.distanceSourceDetector),
    )
    details = {"format": "HTC 2022", "project": str(getattr(values, "projectName", ""))}
    return HtcScan(
        torch.from_numpy(sinogram[:, None]).float(), geometry, Provenance(source.name, (), details)
    )
