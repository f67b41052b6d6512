"""X-ray CT: scans as values, and the projector that each makes on a grid, with an exactly matched adjoint."""

from operators.ct.coverage import CoverageWarning
from operators.ct.diverging import ConeBeamGeometry, FanBeamGeometry
from operators.ct.geometry import Geometry
from operators.ct.orbit import OrbitGeometry
from operators.ct.parallel import ParallelBeamGeometry
from operators.ct.projector import Projector

__all__ = [
    "ConeBeamGeometry",
    "CoverageWarning",
    "FanBeamGeometry",
    "Geometry",
    "OrbitGeometry",
    "ParallelBeamGeometry",
    "Projector",
]
