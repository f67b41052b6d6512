"""Feldkamp's algorithm against balls and cylinders, and against the fan in the plane of the source."""

from __future__ import annotations

import math

import pytest
import torch

from operators.ct import ConeBeamGeometry, FanBeamGeometry, ParallelBeamGeometry
from operators.ct.diverging import Detector
from operators.grid import Grid
from tests.problems import UNITS
from tests.solver_contract import SolverContract
from tests.workbench.solvers.analytic.ct_cases import MU, chords, distances, flat_posterior
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.solvers.analytic.feldkamp import Feldkamp
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection
from workbench.units import Units

GRID = Grid.from_spacing((17, 56, 56), (2.0, 2.0, 2.0))
DETECTORS = ("flat", "cylindrical")


class TestFeldkamp(SolverContract):
    covers = (Feldkamp,)

    def make(self) -> Feldkamp:
        return Feldkamp("hann")

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        grid = Grid.from_spacing((4, 8, 8), (2.0, 2.0, 2.0))
        scan = ConeBeamGeometry.around(grid, 12, source_to_axis=60, source_to_detector=90)
        factor = UNITS.scale / units.scale
        operator = scan.operator(grid) * factor if factor != 1 else scan.operator(grid)
        data = chords(scan, 6.0, (1.0, 0.0, 0.0), ball=True).to(dtype)
        return flat_posterior(operator, data, units)  # type: ignore[arg-type]

    def posterior_complex(self) -> Posterior:
        pytest.skip("attenuation is real: complex images are refused")


def around(angles: object, detector: Detector = "flat") -> ConeBeamGeometry:
    return ConeBeamGeometry.around(
        GRID,
        angles,  # type: ignore[arg-type]
        source_to_axis=250,
        source_to_detector=400,
        detector=detector,
    )


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("span", [360, 225])
def test_a_ball_comes_back_at_its_centre(detector: Detector, span: int) -> None:
    geometry = around([math.radians(3 * k) for k in range(span // 3)], detector)
    centre = (8.0, -6.0, 2.0)
    data = chords(geometry, 16.0, centre, ball=True)
    image = Feldkamp().image(geometry.operator(GRID), data)
    apart = distances(GRID, centre, ball=True)
    assert abs(image[apart < 5].mean() / MU - 1) < 5e-3
    assert (image[apart < 10] / MU - 1).abs().max() < 0.02
    assert abs(image[(apart > 22) & (apart < 30)].mean()) < 0.01 * MU


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_cylinder_is_exact_at_all_heights(detector: Detector) -> None:
    geometry = around(120, detector)
    data = chords(geometry, 30.0, (5.0, 3.0, 0.0), ball=False)
    image = sample(flat_posterior(geometry.operator(GRID), data), Feldkamp()).tensor()[0]
    inside = distances(GRID, (5.0, 3.0, 0.0)) < 20  # five voxels from the edge, where the ramp ripples
    assert (image[inside] / MU - 1).abs().max() < 0.01


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_plane_of_the_source_is_a_fan(detector: Detector) -> None:
    cone = around(90, detector).with_(rows=1)
    middle = Grid.plane((56, 56), 2.0)
    data = chords(cone, 30.0, (5.0, 3.0, 0.0), ball=True)
    sizes = {name: getattr(cone, name) for name in ("angles", "columns", "column_pitch", "frame")}
    fan = FanBeamGeometry(source_to_axis=250, source_to_detector=400, detector=detector, **sizes)
    first = sample(flat_posterior(cone.operator(middle), data), Feldkamp()).tensor()
    second = sample(flat_posterior(fan.operator(middle), data), FilteredBackProjection()).tensor()
    assert torch.allclose(first, second, rtol=0, atol=1e-12)
    # A cone of one row in that plane is a fan for either of them.
    third = sample(flat_posterior(cone.operator(middle), data), FilteredBackProjection()).tensor()
    assert torch.equal(first, third)


def test_other_scans_are_refused() -> None:
    parallel = ParallelBeamGeometry.around(GRID, 8)
    fan = FanBeamGeometry.around(GRID, 8, source_to_axis=250, source_to_detector=400)
    helix = around([math.radians(3 * k) for k in range(240)]).helical(30.0)
    for geometry, words in (
        (parallel, "Use FilteredBackProjection"),
        (fan, "Use Filtered"),
        (helix, "A helix"),
    ):
        operator = geometry.operator(GRID)
        with pytest.raises(ValueError, match=words):
            sample(flat_posterior(operator, torch.zeros(operator.codomain.shape)), Feldkamp())
