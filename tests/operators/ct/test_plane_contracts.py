"""The contract of operators, for the projector on fans, whose rows see one slice each."""

import pytest
import torch

from operators.ct import CoverageWarning, FanBeamGeometry, Projector
from operators.grid import Grid
from tests.operators.ct.engine_contract import EngineContract

pytestmark = pytest.mark.filterwarnings(f"ignore::{CoverageWarning.__module__}.CoverageWarning")


class FanContract(EngineContract):
    detector: str

    def make(self, dtype: torch.dtype) -> Projector:
        grid = Grid.from_spacing((2, 3, 4), (2.0, 1.2, 0.8))
        scan = FanBeamGeometry.around(
            grid, 4, source_to_axis=9.0, source_to_detector=14.0, detector=self.detector, columns=7
        )
        return scan.operator(grid, engine=self.engine)


class TestNumbaFlat(FanContract):
    engine, detector, compiled = "numba", "flat", True


class TestNumbaCylindrical(FanContract):
    engine, detector = "numba", "cylindrical"


class TestMatrixCylindrical(FanContract):
    engine, detector = "matrix", "cylindrical"


class TestTorchCylindrical(FanContract):
    engine, detector = "torch", "cylindrical"


class TestAstraFlat(FanContract):
    engine, detector = "astra", "flat"
    dtypes = (torch.float32,)
