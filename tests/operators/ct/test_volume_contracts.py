"""The contract of operators, for the projector on scans that see a volume."""

import pytest
import torch

from operators.ct import CoverageWarning, Projector
from operators.grid import Grid
from tests.operators.ct.engine_contract import EngineContract
from tests.operators.ct.volume_scans import CONE, CURVED, oblique, path

# Scans as small as these see a part of their grid only, on purpose.
pytestmark = pytest.mark.filterwarnings(f"ignore::{CoverageWarning.__module__}.CoverageWarning")

SMALL = Grid.from_spacing((3, 4, 5), (2.0, 1.0, 1.3), centre=(0.4, -0.7, 0.2))
# The readable engine takes the same time for any scan as small as these, and a solve a step per voxel.
TINY = Grid.from_spacing((2, 3, 3), (2.0, 1.0, 1.3), centre=(0.4, -0.7, 0.2))
CONTRACTED = {
    "cone": (TINY, CONE.with_(angles=(0.1, 2.2, 4.4), columns=5, rows=4, axis_column=2.2)),
    "helix": (SMALL, CURVED.with_(columns=6, rows=3, axis_column=2.7).helical(4.0)),
    "path": (oblique((4, 3, 4)), path(parallel=False).with_(columns=5, rows=4)),
}


class VolumeContract(EngineContract):
    scan: str

    def make(self, dtype: torch.dtype) -> Projector:
        grid, geometry = CONTRACTED[self.scan]
        made = geometry.operator(grid, engine=self.engine)
        assert made.layouts == ("volume",)
        return made


class TestTorchCone(VolumeContract):
    engine, scan = "torch", "cone"


class TestNumbaHelix(VolumeContract):
    engine, scan, compiled = "numba", "helix", True


class TestNumbaPath(VolumeContract):
    engine, scan = "numba", "path"
