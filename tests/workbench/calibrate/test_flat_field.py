"""Flats, darks, dead pixels, starved rays, drift; and the gain that flats tell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.errors import NonFiniteError
from operators.grid import Grid
from workbench.calibrate.flat_field import numbers_per_photon, transmission
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission

VIEWS, ROWS, COLUMNS = 5, 2, 12
DARK, GAIN = 100.0, 2.0
INTEGRALS = torch.linspace(0, 2, VIEWS * ROWS * COLUMNS, dtype=torch.float64).reshape(VIEWS, ROWS, COLUMNS)
BEAM = 1e4 * (1 + 0.2 * torch.linspace(-1, 1, ROWS * COLUMNS, dtype=torch.float64).reshape(ROWS, COLUMNS))


def raw() -> tuple[Tensor, Tensor, Tensor]:
    """Return noiseless projections, flats and darks of INTEGRALS."""
    flats = (DARK + GAIN * BEAM).expand(3, ROWS, COLUMNS).clone()
    return DARK + GAIN * BEAM * torch.exp(-INTEGRALS), flats, torch.full((3, ROWS, COLUMNS), DARK).double()


@pytest.mark.parametrize("average", ["mean", "median"])
def test_counts_and_line_integrals_come_back(average: str) -> None:
    found = transmission(*raw(), average=average, gain=GAIN)  # type: ignore[arg-type]
    assert torch.allclose(found.blank, BEAM)
    assert torch.allclose(found.counts, BEAM * torch.exp(-INTEGRALS))
    assert torch.allclose(found.line_integrals(), INTEGRALS, atol=1e-12)
    assert torch.allclose(found.weights(), found.counts)
    assert not bool(found.bad.any())


def test_a_median_ignores_one_flash_and_integers_are_counted() -> None:
    projections, flats, darks = raw()
    flats[1, 0, 3] = 1e6
    found = transmission(projections, flats, darks, gain=GAIN)
    assert torch.allclose(found.line_integrals(), INTEGRALS, atol=1e-12)
    for kind in (torch.int32, torch.uint16):  # as detectors write them
        frames = [values.round().to(kind) for values in (projections, flats, darks[0])]
        assert (transmission(*frames).line_integrals() - INTEGRALS).abs().max() < 1e-3


def test_without_darks_they_are_zero() -> None:
    projections, flats, _ = raw()
    assert torch.allclose(transmission(projections - DARK, flats - DARK).line_integrals(), INTEGRALS)


@pytest.mark.parametrize("value", [DARK, 0.0, math.nan])
def test_flats_that_say_nothing_are_an_error_with_their_number_or_repaired(value: float) -> None:
    projections, flats, darks = raw()
    flats[:, 1, 4], flats[:, 0, 0] = value, value
    projections[:, 1, 4] = math.nan
    with pytest.raises(
        ValueError, match=r"got 2 of 24 pixels that do not, the first at row, column \[0, 0\]"
    ):
        transmission(projections, flats, darks)
    found = transmission(projections, flats, darks, gain=GAIN, repair=True)
    assert int(found.bad.sum()) == 2
    assert bool((found.weights()[:, 1, 4] == 0).all())
    # Line integrals are linear in the column here, transmissions nearly so.
    assert (found.line_integrals() - INTEGRALS)[:, 1, 4].abs().max() < 1e-3
    assert torch.allclose(found.line_integrals()[:, 0, 0], INTEGRALS[:, 0, 1])


def test_a_dead_pixel_with_the_noise_of_the_darks_is_no_beam() -> None:
    generator = torch.Generator().manual_seed(1)
    projections, flats, _ = raw()
    darks = DARK + 3 * torch.randn(8, ROWS, COLUMNS, dtype=torch.float64, generator=generator)
    # 2 of sd: above the dark, as half of all dead pixels are.
    flats[:, 1, 4] = darks.quantile(0.5, dim=0)[1, 4] + 2 * 3 * math.sqrt(1 / 3 + 1 / 8)
    with pytest.raises(ValueError, match=r"got 1 of 24 pixels .* the first at row, column \[1, 4\]"):
        transmission(projections, flats, darks, gain=GAIN)
    found = transmission(projections, flats, darks, gain=GAIN, repair=True)
    assert bool((found.weights()[:, 1, 4] == 0).all())
    # Of a single dark, nobody knows the noise.
    assert not bool(transmission(projections, flats, darks.quantile(0.5, dim=0)).bad.any())


def test_rows_of_bad_pixels_have_no_neighbours() -> None:
    projections, flats, darks = raw()
    flats[:, 1] = 0
    with pytest.raises(ValueError, match="1 of 2 rows of bad ones, the first row 1. Leave such rows out"):
        transmission(projections, flats, darks, repair=True)


def test_saturated_pixels_are_bad() -> None:
    with pytest.raises(ValueError, match="12 of 24 pixels"):
        transmission(*raw(), saturation=float(DARK + GAIN * BEAM.flatten()[12]))


def test_holes_in_projections_are_an_error() -> None:
    projections, flats, darks = raw()
    projections[2, 0, 3], projections[2, 1, 3] = math.nan, math.inf
    with pytest.raises(NonFiniteError, match="2 NaN or infinite values in 1 views"):
        transmission(projections, flats, darks)


def test_starved_rays_count_nothing_weigh_nothing_and_are_warned_about() -> None:
    projections, flats, darks = raw()
    projections[1, 1, 5] = DARK - 30
    found = transmission(projections, flats, darks, gain=GAIN)
    assert found.counts[1, 1, 5] == 0
    assert found.weights()[1, 1, 5] == 0
    with pytest.warns(UserWarning, match=r"0\.83% of the rays counted no photon"):
        assert found.line_integrals()[1, 1, 5] == pytest.approx(math.log(2 * float(BEAM[1, 5])))


def test_a_beam_that_fades_is_scaled_by_its_air() -> None:
    projections, flats, darks = raw()
    fade = torch.linspace(1, 0.8, VIEWS, dtype=torch.float64)[:, None, None]
    integrals = INTEGRALS.clone()
    integrals[..., :3] = 0
    faded = DARK + fade * GAIN * BEAM * torch.exp(-integrals)
    found = transmission(faded, flats, darks, gain=GAIN, air=slice(0, 3))
    assert torch.allclose(found.line_integrals(), integrals, atol=1e-12)
    with pytest.warns(UserWarning, match="something in front of them"):
        transmission(projections, flats, darks, air=slice(9, 12))
    with pytest.raises(TypeError, match="`air` must be a slice"):
        transmission(faded, flats, darks, air=3)  # type: ignore[arg-type]


def test_the_gain_is_what_photons_make_of_flats() -> None:
    generator = torch.Generator().manual_seed(3)
    beam = 3000 * (1 + 0.3 * torch.linspace(-1, 1, 400, dtype=torch.float64)).expand(8, 20, 400)
    flicker = torch.linspace(0.9, 1.1, 8, dtype=torch.float64)[:, None, None]
    photons = torch.poisson(beam * flicker, generator=generator)
    read = 5 * torch.randn(8, 20, 400, dtype=torch.float64, generator=generator)
    dark = DARK + 5 * torch.randn(8, 20, 400, dtype=torch.float64, generator=generator)
    # Of 56 000 squares of differences, neighbouring ones dependent: at most 2 / sqrt(64 000) of sd.
    assert numbers_per_photon(DARK + 1.7 * photons + read, dark) == pytest.approx(1.7, rel=5 * 0.008)
    with pytest.raises(ValueError, match="`flats` must be two frames or more"):
        numbers_per_photon(photons[:1])
    with pytest.raises(ValueError, match="differ by more than the darks"):
        numbers_per_photon(photons[:1].expand(3, 20, 400), dark)


@pytest.mark.parametrize("read", [0.0, 40.0])
def test_a_beam_that_flickers_by_half_has_the_same_gain(read: float) -> None:
    generator = torch.Generator().manual_seed(4)
    beam = torch.full((8, 50, 400), 3000.0, dtype=torch.float64)
    flicker = 1 + 0.5 * (-1.0) ** torch.arange(8, dtype=torch.float64)[:, None, None]
    photons = torch.poisson(beam * flicker, generator=generator)
    noise = read * torch.randn(2, 8, 50, 400, dtype=torch.float64, generator=generator)
    found = numbers_per_photon(DARK + 1.7 * photons + noise[0], DARK + noise[1])
    # Frames are scaled by 2 and 2 / 3, and the variance of the noise by (4 + 4 / 9) / 2.
    added = 2.3 * read**2 / (1.7**2 * 3000)
    assert found == pytest.approx(1.7, rel=5 * 2 / math.sqrt(8 * 50 * 400) * (1 + added))


def test_measurements_under_three_laws() -> None:
    projections, flats, darks = raw()
    projections[1, 1, 5] = 0
    found = transmission(projections, flats, darks, gain=GAIN)
    geometry = ParallelBeamGeometry(tuple(torch.linspace(0, 3, VIEWS).tolist()), COLUMNS, 1.0, ROWS, 1.0)
    for law, kind in (("poisson", PoissonTransmission), ("log", LogTransmission)):
        measurement = found.measurement(geometry, law)  # type: ignore[arg-type]
        assert isinstance(measurement.noise, kind)
        assert torch.equal(measurement.data, found.counts)
    assert (
        measurement.operator(Grid.from_spacing((2, 4, 4), (1.0, 1.0, 1.0))).codomain.shape == INTEGRALS.shape
    )
    with pytest.warns(UserWarning, match="counted no photon"):
        gaussian = found.measurement(geometry, "gaussian")
    assert isinstance(gaussian.noise, Gaussian)
    sd = gaussian.noise.sigma
    assert isinstance(sd, Tensor)
    assert torch.allclose(sd[0], found.counts[0].rsqrt())
    assert sd[1, 1, 5] > 1e3
    with pytest.raises(ValueError, match="`law` must be one of poisson, log, gaussian"):
        found.measurement(geometry, "rician")  # type: ignore[arg-type]


def test_shapes_are_checked() -> None:
    projections, flats, darks = raw()
    with pytest.raises(ValueError, match=r"`flats` must have shape \(frames, 2, 12\)"):
        transmission(projections, flats[..., :-1], darks)
    with pytest.raises(ValueError, match=r"`projections` must have shape \(frames, rows, columns\)"):
        transmission(projections[0], flats, darks)
    with pytest.raises(ValueError, match="`average` must be one of mean, median"):
        transmission(projections, flats, darks, average="mode")  # type: ignore[arg-type]
