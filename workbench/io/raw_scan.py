"""What a raw data file holds, placed in the world: k-space on a matrix, or along a trajectory.

Device axes x, y, z are the readout, first and second encoding directions, and the device origin is the
stated position, the centre of the field of view: there the signal has zero phase, so that on the
encoded grid it is voxel N // 2. k-space is kept in the file's unit; nothing is estimated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from torch import Tensor

from operators.checks import replaced
from operators.errors import value_error
from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.noncartesian import NonCartesianGeometry
from workbench.calibrate.coil_matrix import averaged
from workbench.calibration import Calibration, CoilMaps, calibrations
from workbench.measurement import Geometry, Measurement, Provenance
from workbench.noise.base import Noise

__all__ = ["RawScan", "RawTrajectory", "Shared"]

Counts = tuple[int, int, int]
Lengths = tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """What a file says whatever the sampling is; what it does not say is None.

    `matrix` and `field_of_view` are those of the encoding, the `recon_` ones what the header wants shown,
    all (z, y, x), mm. `counters` are the slice, contrast and so on that were read. `noise_scan` has
    shape (coils, samples); dwell times are in s.
    """

    matrix: Counts
    field_of_view: Lengths
    frame: DeviceFrame
    recon_matrix: Counts
    recon_field_of_view: Lengths
    counters: Mapping[str, int] = field(default_factory=dict)
    noise_scan: Tensor | None = None
    noise_dwell: float | None = None
    dwell: float | None = None
    receiver_bandwidth: float | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def grid(self) -> Grid:
        """The encoded box: voxel N // 2 of each axis at the device origin."""
        spacing = np.array(self.field_of_view) / np.array(self.matrix)
        affine = np.eye(4)
        affine[:3, :3] = self.frame.to_world[:3, 2::-1] * spacing
        affine[:3, 3] = self.frame.to_world[:3, 3] - affine[:3, :3] @ (np.array(self.matrix) // 2)
        return Grid(self.matrix, affine)

    @property
    def recon_grid(self) -> Grid:
        """The part of `grid` that the header wants shown: the voxels that fill its field of view.

        An operator on it takes the object for zero outside.
        """
        shares = zip(self.matrix, self.recon_field_of_view, self.field_of_view, strict=True)
        counts = [min(n, max(1, round(n * shown / extent))) for n, shown, extent in shares]
        start = [n // 2 - count // 2 for n, count in zip(self.matrix, counts, strict=True)]
        return self.grid.crop(start, [a + count for a, count in zip(start, counts, strict=True)])

    @property
    def shared(self) -> Shared:
        """These values alone."""
        return Shared(**{entry.name: getattr(self, entry.name) for entry in fields(Shared)})


@dataclass(frozen=True, eq=False, kw_only=True)
class RawScan(Shared):
    """Cartesian k-space (coils, kz, ky, kx), zero where nothing was measured, the mean of `averages`.

    `averages` (kz, ky, kx) counts the measurements of each sample. `calibration` is the k-space of
    calibration readouts, with the counts `calibration_averages`, where the file marks such. With
    `multislice` the axis kz is one of slices, each in its place, not of frequencies.
    """

    kspace: Tensor
    averages: Tensor
    calibration: Tensor | None = None
    calibration_averages: Tensor | None = None
    multislice: bool = False

    @property
    def sampled(self) -> Tensor:
        """Which frequencies were measured, (kz, ky, kx)."""
        return self.averages > 0

    @property
    def geometry(self) -> CartesianGeometry | SampledCartesianGeometry:
        """The encoding, of the samples that were measured where these are not all."""
        encoding = CartesianGeometry(
            self.matrix, self.field_of_view, frame=self.frame, multislice=self.multislice
        )
        sampled = self.sampled
        return encoding if bool(sampled.all()) else SampledCartesianGeometry(encoding, sampled)

    def with_(self, **changes: object) -> RawScan:
        """Return the same scan with some values changed."""
        return replaced(self, changes)

    def measurement(
        self, noise: Noise, calibration: Calibration | tuple[Calibration, ...] = ()
    ) -> Measurement:
        """Return the measurement of these data under a law of `noise`, seen through coil maps.

        Without maps each coil would have an image of its own: of several, they must be given. The noise
        is that of the means: `CoilMatrix.noise(averages=scan.averages)`, or Gaussian(scan.sd(sigma)).
        """
        return _measured(self.kspace, self.geometry, noise, calibration, self.provenance)

    def sd(self, sigma: float | Tensor) -> float | Tensor:
        """Return the sd of each real component of these means, of the `sigma` of one measurement."""
        return averaged(sigma, self.averages)


@dataclass(frozen=True, eq=False, kw_only=True)
class RawTrajectory(Shared):
    """k-space (coils, readouts, samples) along `trajectory` (readouts, samples, axes), in 1/mm.

    The axes of the trajectory are the device axes x, y and, of three, z.
    """

    kspace: Tensor
    trajectory: Tensor

    @property
    def geometry(self) -> NonCartesianGeometry:
        """The samples along the trajectory."""
        return NonCartesianGeometry(self.trajectory.numpy(), frame=self.frame)

    def with_(self, **changes: object) -> RawTrajectory:
        """Return the same scan with some values changed."""
        return replaced(self, changes)

    def measurement(
        self, noise: Noise, calibration: Calibration | tuple[Calibration, ...] = ()
    ) -> Measurement:
        """Return the measurement of these data under a law of `noise`, seen through coil maps."""
        return _measured(self.kspace, self.geometry, noise, calibration, self.provenance)


def _measured(
    kspace: Tensor,
    geometry: Geometry,
    noise: Noise,
    calibration: Calibration | tuple[Calibration, ...],
    provenance: Provenance,
) -> Measurement:
    given = calibrations(calibration)
    maps = [part for part in given if isinstance(part, CoilMaps)]
    coils = kspace.shape[0]
    if coils > 1 and not maps:
        remedy = (
            "From espirit_maps(scan.kspace, scan.grid, geometry=scan.geometry) of a Cartesian scan; "
            "along a trajectory see workbench.calibrate.coil_maps."
        )
        raise value_error("calibration", f"hold the maps of the {coils} coils", given, remedy)
    if maps and maps[0].maps.shape[0] != coils:
        expected = f"hold the maps of as many coils as k-space, {coils}"
        raise value_error("calibration", expected, maps[0].maps.shape[0])
    return Measurement(kspace if maps else kspace[0], geometry, noise, given, provenance)
