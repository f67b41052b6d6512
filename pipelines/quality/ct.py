"""CT: photon counts of few views, from a fine grid, by another projector than solvers use.

ASTRA's `linear` rays through the fine grid, four for each detector column, whose intensities add up:

    N ~ Poisson(I0 mean_i exp(-m_i))

What the voxels of the answer cannot represent is more than the noise where photons are many: solvers are told
how much it is for torsos out of a seed, drawn on both grids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from pipelines.quality.posed import Posed, Problem, Reference, Scan, coarse_of, filled
from pipelines.quality.subjects import ENERGY
from workbench.anatomy import Torso
from workbench.calibrate.discretisation import discretisation_error
from workbench.calibrate.hounsfield import attenuation_of, water_attenuation
from workbench.measurement import Measurement
from workbench.noise.poisson import LogTransmission
from workbench.random import Keys
from workbench.units import Units
from workbench.volume import Volume

__all__ = ["CTProblem", "CountScan", "attenuating", "water_units"]

#: HU that PSNR and SSIM refer to, and above which a voxel belongs to the body.
RANGE, BODY = 2000.0, -500.0
#: Rays per detector column.
RAYS = 4
#: Heights of the slices of a torso that tell of discretisation, in mm: through its belly and its chest.
MADE = (250.0, 400.0)


def water_units() -> Units:
    """Return attenuation in multiples of water's."""
    return Units(water_attenuation(ENERGY), unit="1/mm")


def attenuating(fine: Volume) -> tuple[Volume, Reference]:
    """Return a fine slice in 1/mm, what is below air taken for air, and the truth on the coarse grid."""
    image = fine.with_data(attenuation_of(fine.data.float(), ENERGY, clamp=True), unit="1/mm")
    truth = coarse_of(image).data
    water = water_attenuation(ENERGY)
    inside = filled(truth > water * (1 + BODY / 1000))
    return image, Reference(truth, inside, water * RANGE / 1000)


@dataclass(frozen=True, eq=False)
class CountScan(Scan):
    """Counts, the count without an object, and where they were taken."""

    counts: Tensor
    blank: float
    geometry: ParallelBeamGeometry
    grid: Grid

    def posed(self) -> Posed:
        """Return the Gaussian law of the logarithm of the counts."""
        excess = self._excess()
        measurement = Measurement(self.counts, self.geometry, LogTransmission(self.blank, excess))
        counted = (1 / self.counts.clamp(min=1)).sqrt()  # sd of log N
        told = {
            "counting_sd": float(counted.median()),
            "excess_sd": excess,
            "excess_share": float((counted < excess).float().mean()),
        }
        likelihood = measurement.likelihood(self.grid)
        return Posed(likelihood, self.counts.numel(), water_units(), lower=0.0, told=told)

    def _excess(self) -> float:
        """Return the rms error of line integrals of torsos that stand where the object stood."""
        rows, columns = (2 * n for n in self.grid.shape[1:])
        affine = self.grid.affine @ np.diag([1.0, 0.5, 0.5, 1.0])
        affine[:3, 3] = self.grid.index_to_world((0.0, -0.25, -0.25))
        there = Grid((1, rows, columns), affine)
        errors = [
            discretisation_error(self.geometry, replace(made, grid=there), (1, 2, 2))
            for made in _made(there.shape, there.spacing)
        ]
        return math.sqrt(sum(error**2 for error in errors) / len(errors))


@lru_cache(maxsize=8)
def _made(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Volume, ...]:
    """Return slices of a torso at heights `MADE` in 1/mm."""
    torso = Torso.draw(seed=0)
    slices = []
    for height in MADE:
        grid = Grid.plane(shape[1:], spacing[1:], thickness=spacing[0], centre=(0.0, 0.0, height))
        image = torso.render(grid).image
        slices.append(image.with_data(attenuation_of(image.data.float(), ENERGY, clamp=True), unit="1/mm"))
    return tuple(slices)


@dataclass(frozen=True)
class CTProblem(Problem):
    """`views` evenly over `arc` degrees, `photons` per column without an object."""

    views: int = 60
    arc: float = 180.0
    photons: float = 1e5

    @property
    def title(self) -> str:
        """Return what is measured."""
        return f"CT, {self.views} views of {self.arc:g} degrees, {self.photons:g} photons"

    def measured(self, fine: Volume, keys: Keys) -> tuple[CountScan, Reference]:
        """Return counts."""
        image, reference = attenuating(fine)
        grid = coarse_of(image).grid
        angles = np.arange(self.views) * math.radians(self.arc) / self.views
        geometry = ParallelBeamGeometry.around(grid, angles.tolist())
        denser = geometry.with_(columns=RAYS * geometry.columns, column_pitch=geometry.column_pitch / RAYS)
        integrals = denser.operator(image.grid, engine="astra")(image.data)
        passed = torch.exp(-integrals.double()).reshape(*integrals.shape[:-1], -1, RAYS).mean(dim=-1)
        counts = keys.poisson(self.photons * passed[None], f"{self.name}: counts")[0].float()
        return CountScan(counts, self.photons, geometry, grid), reference
