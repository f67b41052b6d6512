"""A chest and its simulated CT scan: the measurement to reconstruct, and the truth to compare it with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from operators.ct import ParallelBeamGeometry, Projector
from operators.grid import Grid
from pipelines.config.demo import DemoConfig
from workbench import Measurement, Volume
from workbench.measurement import Provenance
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.phantoms import chest_phantom
from workbench.random import Keys

__all__ = ["SimulatedScan", "simulated_scan"]


@dataclass(frozen=True)
class SimulatedScan:
    """Photon counts with the law that a reconstruction assumes, the truth, and facts for the record."""

    measurement: Measurement
    truth: Volume
    facts: dict[str, object]


def simulated_scan(config: DemoConfig) -> SimulatedScan:
    """Return Poisson counts behind the phantom, every random number keyed by the seed.

    The counts come from an object with half the voxel size in the plane: a reconstruction that inverts its
    own discretisation would look better than any real one.
    """
    grid = Grid.from_spacing(config.phantom.shape, config.phantom.spacing)
    geometry = ParallelBeamGeometry.around(grid, config.scan.views)
    slices, rows, columns = grid.shape
    fine = grid.resample(shape=(slices, 2 * rows, 2 * columns))
    chest = chest_phantom(fine, seed=config.seed)
    integrals = geometry.operator(fine)(chest.data).double()
    keys, photons = Keys(config.seed, (0,)), config.scan.photons
    counts = PoissonTransmission(photons).draw(integrals[None], keys, "demo: counts")[0].float()
    projector = geometry.operator(grid)
    facts = {
        "engine": projector.engine_for(counts.device),
        "adjoint_mismatch": _adjoint_mismatch(projector, keys),
        "starved_rays": float((counts == 0).double().mean()),
    }
    source = Provenance("chest phantom", ("projected on half the voxel size", "Poisson counts drawn"))
    measurement = Measurement(counts, geometry, LogTransmission(photons), provenance=source)
    return SimulatedScan(measurement, chest.downsample((1, 2, 2)), facts)


def _adjoint_mismatch(projector: Projector, keys: Keys) -> float:
    """Return |<A x, y> - <x, A^T y>| / (|A x| |y|) for random x and y."""
    like = torch.empty(0, dtype=torch.float32)
    x = keys.normals(projector.domain.shape, "demo: image", like=like)[0]
    y = keys.normals(projector.codomain.shape, "demo: data", like=like)[0]
    image, back = projector(x).double(), projector.adjoint(y).double()
    apart = (image * y).sum() - (x * back).sum()
    return float(apart.abs() / (image.norm() * y.double().norm()))
