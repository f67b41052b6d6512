"""The scale of an image out of its calibration signal: it follows the data, and looks at nothing else."""

from __future__ import annotations

import pytest
import torch

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from tests.workbench.calibrate.coil_cases import blob, coil_data, true_maps
from workbench.calibrate.signal_scale import low_resolution_image, signal_scale
from workbench.calibration import CoilMaps
from workbench.posterior import Posterior
from workbench.priors.flat import Flat

GRID = Grid.from_spacing((1, 48, 40), (5.0, 2.0, 2.0))
REACH = (1e3, 96.0, 80.0)
GEOMETRY = CartesianGeometry.around(GRID)
DATA = coil_data(GRID, GEOMETRY, REACH)
IMAGE = blob(GRID, REACH)
MAPS = CoilMaps(true_maps(GRID, REACH) * (IMAGE != 0), GRID)
LINES = torch.zeros(48, dtype=torch.bool)
LINES[::4] = LINES[24 - 9 : 24 + 9] = True


def test_all_of_k_space_gives_the_image_itself() -> None:
    assert torch.allclose(low_resolution_image(DATA, MAPS), IMAGE, atol=1e-12)
    magnitude = IMAGE[IMAGE != 0].abs()
    for quantile in (0.5, 0.9, 1.0):
        expected = float(torch.quantile(magnitude, quantile))
        assert signal_scale(DATA, MAPS, quantile=quantile).scale == pytest.approx(expected)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_centre_of_k_space_nearly_does(quantile: float) -> None:
    # The texture of the object has 2 cycles in the field of view, the box 18 lines: edges alone are lost.
    full = signal_scale(DATA, MAPS, quantile=quantile).scale
    geometry = SampledCartesianGeometry.lines(GEOMETRY, LINES)
    under = DATA * LINES[:, None]
    found = signal_scale(under, MAPS, geometry=geometry, quantile=quantile).scale
    assert found == pytest.approx(full, rel=0.05)
    # Nothing but the fully sampled box is looked at.
    changed = torch.where((torch.arange(48) % 4 == 0)[:, None] & ~_box(), 50 * under, under)
    assert not torch.equal(changed, under)
    assert signal_scale(changed, MAPS, geometry=geometry, quantile=quantile).scale == pytest.approx(found)


def _box() -> torch.Tensor:
    box = torch.zeros(48, 1, dtype=torch.bool)
    box[24 - 9 : 24 + 10] = True
    return box


@pytest.mark.parametrize("factor", [1e-6, 3.0, -2.0, 1e6j])
def test_it_follows_the_units_of_the_data(factor: complex) -> None:
    first = signal_scale(DATA * LINES[:, None], MAPS)
    assert signal_scale(factor * DATA * LINES[:, None], MAPS).scale == pytest.approx(
        abs(factor) * first.scale
    )


def test_a_posterior_takes_it() -> None:
    units = signal_scale(DATA, MAPS, unit="a.u.")
    posterior = Posterior(Flat(GEOMETRY.operator(GRID).domain), units=units)
    assert posterior.units.unit == "a.u." and posterior.units.offset == 0
    normalised = posterior.units.normalised(IMAGE).abs()
    assert float(torch.quantile(normalised[IMAGE != 0], 0.99)) == pytest.approx(1.0)


def test_maps_of_any_norm_and_a_flipped_grid_give_the_same() -> None:
    expected = signal_scale(DATA, MAPS).scale
    flipped = CoilMaps(MAPS.maps.flip(-1), GRID.flip(2))
    assert signal_scale(DATA, flipped, geometry=GEOMETRY).scale == pytest.approx(expected)
    doubled = CoilMaps(2 * MAPS.maps, GRID)
    assert signal_scale(DATA, doubled).scale == pytest.approx(expected / 2)


def test_slices() -> None:
    grid = Grid.from_spacing((3, 24, 20), 2.0)
    reach = (24.0, 48.0, 40.0)
    geometry = CartesianGeometry.around(grid, multislice=True)
    data = coil_data(grid, geometry, reach)
    maps = CoilMaps(true_maps(grid, reach), grid)
    assert torch.allclose(low_resolution_image(data, maps, geometry=geometry), blob(grid, reach), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": 0.0}, "`quantile` must be a finite number > 0"),
        ({"quantile": 1.2}, "`quantile` must be at most 1"),
        ({"kspace": DATA[:2]}, "`kspace` must have the coils of the maps, 5, got 2. Compress or whiten both"),
        ({"kspace": torch.zeros_like(DATA)}, "fully sampled box about frequency zero, .* got none"),
        ({"mask": (torch.arange(48) % 4 == 0)[:, None]}, r"at least 2 samples wide, got one of \(1, 1, 40\)"),
        ({"maps": CoilMaps(0 * MAPS.maps, GRID)}, "`maps` must not be zero everywhere"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    given = {"kspace": DATA, "maps": MAPS} | arguments
    with pytest.raises(ValueError, match=message):
        signal_scale(**given)  # type: ignore[arg-type]


def test_maps_are_asked_for() -> None:
    with pytest.raises(TypeError, match="`maps` must be CoilMaps, got Tensor. From espirit_maps"):
        signal_scale(DATA, MAPS.maps)  # type: ignore[arg-type]
