"""The water correction against line integrals of a spectrum in closed form, and against the cup."""

import numpy as np
import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid
from tests.workbench.solvers.analytic.ct_cases import MU, chords, distances, flat_posterior
from workbench.calibrate.beam_hardening import WaterCorrection, water_line_integrals
from workbench.calibrate.hounsfield import water_attenuation
from workbench.driver import sample
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection

ENERGIES, WEIGHTS = (40.0, 80.0), (0.5, 0.5)


def test_two_energies_by_hand() -> None:
    lengths = torch.tensor([0.0, 10.0, 200.0], dtype=torch.float64)
    soft, hard = (np.exp(-water_attenuation(e) * lengths.numpy()) for e in ENERGIES)
    wanted = -np.log(0.5 * soft + 0.5 * hard)
    assert np.allclose(water_line_integrals(lengths, ENERGIES, (3.0, 3.0)).numpy(), wanted, atol=1e-14)


def test_one_energy_is_a_factor() -> None:
    correction = WaterCorrection.of_spectrum((60.0,), (1.0,), reference=70.0, degree=2)
    p = torch.linspace(-0.1, 12, 50, dtype=torch.float64)  # beyond both ends
    ratio = water_attenuation(70.0) / water_attenuation(60.0)
    assert torch.allclose(correction.apply(p), ratio * p, atol=1e-9)


def test_a_spectrum_is_undone_and_the_correction_rises() -> None:
    correction = WaterCorrection.of_spectrum(ENERGIES, WEIGHTS, reference=70.0, thickness=300.0)
    lengths = torch.linspace(0, 300, 77, dtype=torch.float64)
    found = correction.apply(water_line_integrals(lengths, ENERGIES, WEIGHTS))
    assert (found - water_attenuation(70.0) * lengths).abs().max() < 0.01
    over = correction.apply(torch.linspace(-1, 10, 300, dtype=torch.float64))
    assert bool((over.diff() > 0).all())


def test_the_cup_of_a_water_cylinder_goes() -> None:
    grid = Grid.plane((96, 96), 2.2)
    geometry = ParallelBeamGeometry.around(grid, 150)
    data = water_line_integrals(chords(geometry, 90.0, (0, 0, 0), ball=False) / MU, ENERGIES, WEIGHTS)
    correction = WaterCorrection.of_spectrum(ENERGIES, WEIGHTS, reference=70.0)
    radius, cups = distances(grid, (0, 0, 0))[0], []
    for line_integrals in (data, correction.apply(data)):
        x = sample(
            flat_posterior(geometry.operator(grid), line_integrals), FilteredBackProjection()
        ).tensor()[0, 0]
        cups.append(float(x[(radius > 70) & (radius < 78)].mean() / x[radius < 15].mean() - 1))
    assert cups[0] > 0.03
    assert abs(cups[1]) < 0.01
    assert float(x[radius < 78].mean()) == pytest.approx(water_attenuation(70.0), rel=0.005)


def test_pairs_of_a_wedge() -> None:
    thickness = np.arange(0, 60, 10.0)
    measured = 0.02 * thickness - 4e-5 * thickness**2
    correction = WaterCorrection.fitted(measured, 0.02 * thickness, degree=3)
    assert np.allclose(correction.apply(torch.from_numpy(measured)).numpy(), 0.02 * thickness, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WaterCorrection((1.0, -1.0), 2.0), "`coefficients` must rise over the whole range"),
        (lambda: WaterCorrection((), 2.0), "`coefficients` must be one number or more"),
        (lambda: WaterCorrection.fitted([1.0], [1.0, 2.0]), "`wanted` must be as many finite numbers"),
        (lambda: WaterCorrection.fitted([0.0] * 4, [1.0] * 4), "`measured` must hold line integrals > 0"),
        (lambda: water_line_integrals(torch.ones(2), (60.0,), (1.0, 2.0)), "`weights` must be numbers >= 0"),
        (lambda: water_line_integrals(torch.ones(2), (60.0,), (-1.0,)), "`weights` must be numbers >= 0"),
        (lambda: water_line_integrals(torch.ones(2), (5.0,), (1.0,)), "`energy` must lie in 10 to 1000"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
