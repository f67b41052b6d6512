import pytest
import torch

from operators.ct import FanBeamGeometry, Projector
from operators.grid import Grid
from tests.contracts import LinearOperatorContract

pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")


class FanContract(LinearOperatorContract):
    covers = (Projector,)
    traceable = False
    engine: str
    detector: str

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        package = {"matrix": "numba"}.get(self.engine, self.engine)
        pytest.importorskip(package, reason="the engine needs the [ct] extra")

    def make(self, dtype: torch.dtype) -> Projector:
        grid = Grid.from_spacing((2, 3, 4), (2.0, 1.2, 0.8))
        scan = FanBeamGeometry.around(
            grid, 4, source_to_axis=9.0, source_to_detector=14.0, detector=self.detector, columns=7
        )
        return scan.operator(grid, engine=self.engine)

    @pytest.mark.skip(reason="a CPU engine")
    def test_cuda_agrees_with_cpu(self) -> None:  # type: ignore[override]
        """Skip: not declared for CUDA."""


class TestNumbaFlat(FanContract):
    engine, detector = "numba", "flat"


class TestNumbaCylindrical(FanContract):
    engine, detector = "numba", "cylindrical"


class TestMatrixCylindrical(FanContract):
    engine, detector = "matrix", "cylindrical"


class TestTorchCylindrical(FanContract):
    engine, detector = "torch", "cylindrical"
    test_cuda_agrees_with_cpu = LinearOperatorContract.test_cuda_agrees_with_cpu


class TestAstraFlat(FanContract):
    engine, detector = "astra", "flat"
    dtypes = (torch.float32,)
