"""Filtered back-projection against discs whose line integrals are known in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.ct import (
    ConeBeamGeometry,
    CoverageWarning,
    FanBeamGeometry,
    Geometry,
    ParallelBeamGeometry,
    Projector,
)
from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.identity import Identity
from tests.problems import UNITS, posterior_of
from tests.solver_contract import SolverContract
from tests.workbench.solvers.analytic.ct_cases import MU, chords, distances, flat_posterior
from workbench.calibration import CentreOfRotation
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.measurement import Measurement
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.rician import Rician
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection
from workbench.solvers.analytic.ramp_filter import Window
from workbench.units import Units

GRID = Grid.plane((128, 128), 1.0)
CENTRE, RADIUS = (12.0, -7.0, 0.0), 40.0
DEGREE = math.pi / 180
#: The corners of the square grid are not seen, nor is all of it where a scan is cut on purpose.
SEEN_IN_PART = pytest.mark.filterwarnings("ignore:the detector's columns miss")


class TestFilteredBackProjection(SolverContract):
    covers = (FilteredBackProjection,)

    def make(self) -> FilteredBackProjection:
        return FilteredBackProjection("hann", cutoff=0.9)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        gaussian = posterior_of("ct", dtype=dtype, units=units)
        return Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)

    def posterior_complex(self) -> Posterior:
        pytest.skip("attenuation is real: complex images are refused")


def image_of(operator: Projector, data: Tensor, solver: FilteredBackProjection | None = None) -> Tensor:
    solver = FilteredBackProjection() if solver is None else solver
    return sample(flat_posterior(operator, data), solver).tensor()[0]


def fan(angles: object, **changes: object) -> FanBeamGeometry:
    made = FanBeamGeometry.around(GRID, angles, source_to_axis=250, source_to_detector=400)  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def parallel(angles: object, **changes: object) -> ParallelBeamGeometry:
    made = ParallelBeamGeometry.around(GRID, angles)  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def degrees(count: int, step: float = 1.0) -> list[float]:
    return [step * DEGREE * k for k in range(count)]


SCANS: dict[str, Geometry] = {
    "half turn": parallel(180),
    "half turn, both ends": parallel(np.linspace(0, math.pi, 181)),
    "full turn": parallel(degrees(360)),
    "more than a half turn": parallel(degrees(200)),
    "against the clock": parallel(degrees(180, -1.0)),
    "at random": parallel(np.random.Generator(np.random.Philox(4)).uniform(0, math.pi, 360)),
    "two turns and a half": parallel(degrees(346, 2.6)),
    "golden angle": parallel([2.39996 * k % math.tau for k in range(180)]),
    "uneven": parallel(degrees(90) + [math.pi / 2 + a for a in degrees(180, 0.5)]),
    "parallel, half the detector": parallel(degrees(360), columns=130, axis_column=30.0),
    "fan": fan(360),
    "fan, twice around": fan([k * math.tau / 359.5 for k in range(719)]),
    "fan, short": fan(degrees(225)),
    "fan, shorter turn backwards": fan(degrees(225, -1.0)),
    "fan, long arc": fan(degrees(300)),
    "fan, half the detector": fan(360, columns=180, axis_column=50.0),
    "fan, half, reversed": fan(360, columns=180, axis_column=129.0),
    "cylindrical fan": FanBeamGeometry.around(
        GRID, 360, source_to_axis=250, source_to_detector=400, detector="cylindrical"
    ),
    "cylindrical fan, short": FanBeamGeometry.around(
        GRID, degrees(225), source_to_axis=250, source_to_detector=400, detector="cylindrical"
    ),
    "cylindrical fan, half": FanBeamGeometry.around(
        GRID, 360, source_to_axis=250, source_to_detector=400, detector="cylindrical"
    ).with_(columns=180, axis_column=50.0),
}


@SEEN_IN_PART
@pytest.mark.parametrize("name", SCANS)
def test_a_disc_comes_back_as_it_was(name: str) -> None:
    geometry = SCANS[name]
    image = image_of(geometry.operator(GRID), chords(geometry, RADIUS, CENTRE, ball=False))[0]
    inside = distances(GRID, CENTRE)[0] < RADIUS - 5
    assert abs(image[inside].mean() / MU - 1) < 2e-3
    assert (image[inside] / MU - 1).abs().max() < 0.01
    beside = (distances(GRID, CENTRE)[0] > RADIUS + 6) & (distances(GRID, (0, 0, 0))[0] < 60)
    assert abs(image[beside].mean()) < 2e-3 * MU


@pytest.mark.parametrize("window", ["ramp", "shepp-logan", "cosine", "hamming", "hann"])
def test_windows_keep_the_level_and_quiet_the_noise(window: Window) -> None:
    geometry = parallel(120)
    operator, inside = geometry.operator(GRID), distances(GRID, CENTRE)[0] < RADIUS - 8
    solver = FilteredBackProjection(window, cutoff=0.8)
    clean = image_of(operator, chords(geometry, RADIUS, CENTRE, ball=False), solver)[0]
    assert abs(clean[inside].mean() / MU - 1) < 1e-3
    assert (clean[inside] / MU - 1).abs().max() < 0.02  # the ripples of a sharp cutoff
    noise = torch.from_numpy(np.random.Generator(np.random.Philox(3)).normal(size=operator.codomain.shape))
    loud = image_of(operator, noise)[0].std()
    quiet = image_of(operator, noise, solver)[0].std()
    assert quiet < (0.9 if window == "ramp" else 0.8) * loud


@pytest.mark.parametrize("kind", ["log", "poisson"])
def test_counts_are_taken_for_their_line_integrals(kind: str) -> None:
    geometry = parallel(180)
    counts = 1e6 * torch.exp(-chords(geometry, RADIUS, CENTRE, ball=False))
    noise = LogTransmission(1e6) if kind == "log" else PoissonTransmission(1e6)
    likelihood = Measurement(counts, geometry, noise).likelihood(GRID)
    prior = Flat(likelihood.domain, Units(0.01, 0.015, "1/mm"))
    samples = sample(Posterior(prior, likelihood), FilteredBackProjection())
    inside = distances(GRID, CENTRE)[0] < RADIUS - 5
    assert (samples.tensor()[0, 0][inside] / MU - 1).abs().max() < 0.01
    assert samples.unit == "1/mm"


def test_starved_rays_are_warned_about_and_harm_little() -> None:
    geometry = parallel(180)
    counts = 1e5 * torch.exp(-chords(geometry, RADIUS, CENTRE, ball=False))
    counts[5, 0, 60] = 0
    likelihood = Measurement(counts, geometry, PoissonTransmission(1e5)).likelihood(GRID)
    with pytest.warns(UserWarning, match="counted no photon"):
        x = sample(Posterior(Flat(likelihood.domain), likelihood), FilteredBackProjection()).tensor()[0, 0]
    assert bool(torch.isfinite(x).all())


def test_the_offset_of_a_likelihood_is_taken_away() -> None:
    geometry = parallel(90)
    operator, data = geometry.operator(GRID), chords(geometry, RADIUS, CENTRE, ball=False)
    plain = image_of(operator, data)
    shift = torch.full_like(data, 0.3)
    other = Likelihood(operator, Gaussian(0.01), data + shift, offset=shift)
    assert torch.allclose(
        sample(Posterior(Flat(operator.domain), other), FilteredBackProjection()).tensor()[0], plain
    )


def test_the_residual_is_that_of_the_image() -> None:
    geometry = parallel(90)
    operator, data = geometry.operator(GRID), chords(geometry, RADIUS, CENTRE, ball=False)
    posterior, solver = flat_posterior(operator, data, Units(0.01, 0.02, "1/mm")), FilteredBackProjection()
    keys = Keys(0, (0,))
    state = solver.init(posterior, keys, posterior.like())
    state, info = solver.step(posterior, state, solver.plan(posterior).row(0), keys)
    x = posterior.to_physical(solver.answer(posterior, state))[0]
    assert float(info.values["residual"]) == pytest.approx(float((operator(x) - data).norm() / data.norm()))


def test_a_stack_of_slices_on_an_oblique_anisotropic_grid() -> None:
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    frame = DeviceFrame.from_axes(*turn.T, origin=(30.0, -20.0, 10.0))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0.3, 0.9], [0, 1.1, -0.25], [2.0, 0, 0]])
    affine[:3, 3] = frame.to_world[:3, 3] - affine[:3, :3] @ [1, 40, 44]
    grid = Grid((3, 80, 88), affine)
    geometry = ParallelBeamGeometry(
        angles=degrees(180), columns=150, column_pitch=0.8, rows=5, row_pitch=2.0, frame=frame
    )
    centre = tuple(frame.points_to_world([5.0, 4.0, 0.0]).tolist())
    data = chords(geometry, 25.0, centre, ball=False)
    data[:, 0] = 0  # the slices see rows 1 to 3
    image = image_of(geometry.operator(grid), data)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    device = frame.points_to_device(grid.index_to_world(index.reshape(-1, 3))).reshape(*grid.shape, 3)
    inside = torch.from_numpy(np.hypot(device[..., 0] - 5, device[..., 1] - 4) < 21)
    assert (image[inside] / MU - 1).abs().max() < 0.01


def test_an_axis_off_the_middle_is_found_through_the_calibration() -> None:
    geometry = parallel(180)
    moved = geometry.with_(axis_column=geometry.axis_at + 7.5)
    data = chords(moved, RADIUS, CENTRE, ball=False)
    scan = Measurement(data, geometry, Gaussian(0.01), (CentreOfRotation(moved.axis_at),))
    likelihood = scan.likelihood(GRID)
    x = sample(Posterior(Flat(likelihood.domain), likelihood), FilteredBackProjection()).tensor()[0, 0]
    assert (x[distances(GRID, CENTRE)[0] < RADIUS - 5] / MU - 1).abs().max() < 0.01


@SEEN_IN_PART
def test_cut_off_data_are_warned_about_and_continued() -> None:
    wide = parallel(180)
    geometry = parallel(180, columns=91)  # 40 of 45 mm: the disc, 14 mm off the axis, is cut
    data = chords(geometry, RADIUS, CENTRE, ball=False)
    operator = geometry.operator(GRID)
    with pytest.warns(CoverageWarning, match="the object is cut off"):
        cut = image_of(operator, data)[0]
    kept = image_of(operator, data, FilteredBackProjection(extend=True))[0]
    whole = image_of(wide.operator(GRID), chords(wide, RADIUS, CENTRE, ball=False))[0]
    seen = distances(GRID, (0, 0, 0))[0] < 43
    assert (kept - whole)[seen].abs().mean() < 0.4 * (cut - whole)[seen].abs().mean()


@pytest.mark.parametrize(
    "geometry", [parallel(degrees(120)), fan(degrees(150)), fan(degrees(60, -1.0))], ids=["120", "150", "60"]
)
def test_missing_angles_are_warned_about(geometry: Geometry) -> None:
    with pytest.warns(CoverageWarning, match="degrees that an exact inverse needs"):
        image_of(geometry.operator(GRID), chords(geometry, RADIUS, CENTRE, ball=False))


def test_one_view_of_one_row_is_an_image_with_a_warning() -> None:
    geometry = parallel([0.3])
    with pytest.warns(CoverageWarning, match="the views cover 0.0 of the 180.0 degrees"):
        image = image_of(geometry.operator(GRID), chords(geometry, RADIUS, CENTRE, ball=False))
    assert bool(torch.isfinite(image).all())


def test_what_has_no_such_inverse_is_refused() -> None:
    posterior = posterior_of("ct")
    assert posterior.physical_likelihood is not None
    solver, sizes = FilteredBackProjection(), {"columns": 40, "column_pitch": 8.0, "rows": 3}
    with pytest.raises(CapabilityError, match="`prior` must be a Flat"):
        sample(posterior, solver)
    with pytest.raises(CapabilityError, match="scalar field"):
        coils = posterior_of("coils")
        sample(Posterior(Flat(coils.space), coils.physical_likelihood), solver)
    identity = Identity(posterior.space)
    blur = Posterior(Flat(posterior.space), Likelihood(identity, Gaussian(1.0), torch.zeros(1, 8, 8)))
    with pytest.raises(TypeError, match="`operator` must be a CT Projector"):
        sample(blur, solver)
    cone = ConeBeamGeometry(
        angles=degrees(360), source_to_axis=250, source_to_detector=400, row_pitch=60.0, **sizes
    )
    tilted = ParallelBeamGeometry(angles=degrees(180), tilt=0.1, row_pitch=60.0, **sizes)
    for geometry, words in ((cone, "Use Feldkamp"), (tilted, "tilt")):
        operator = geometry.operator(GRID)
        with pytest.raises(ValueError, match=words):
            image_of(operator, torch.zeros(operator.codomain.shape))
    operator = parallel(8).operator(GRID)
    magnitudes = Likelihood(operator, Rician(1.0), torch.ones(operator.codomain.shape))
    with pytest.raises(CapabilityError, match="`noise` must be gaussian or poisson"):
        sample(Posterior(Flat(operator.domain), magnitudes), solver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "butterworth"}, "`filter` must be one of ramp, shepp-logan, cosine, hamming, hann"),
        ({"cutoff": 1.5}, "`cutoff` must be at most 1"),
        ({"cutoff": 0.0}, "`cutoff` must be .*> 0"),
        ({"extend": 1}, "`extend` must be True or False"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        FilteredBackProjection(**options)  # type: ignore[arg-type]
