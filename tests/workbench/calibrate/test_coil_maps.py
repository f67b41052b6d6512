"""ESPIRiT maps: those of known coils up to a phase, on any grid, the same from the same seed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from operators.grid import Grid, TimeAxis
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.density import density_weights
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.trajectories import radial
from tests.workbench.calibrate.coil_cases import COILS, alignment, blob, coil_data, true_maps
from workbench.calibrate.coil_maps import espirit_maps, virtual_coil
from workbench.calibration import CoilMaps

PLANE = Grid.from_spacing((1, 40, 36), (5.0, 2.0, 2.0))
REACH = (1e3, 80.0, 72.0)
VOLUME = Grid.from_spacing((16, 20, 18), (2.0, 2.0, 2.0))
REACH_3D = (32.0, 40.0, 36.0)
BOX = {"width": 16, "kernel_width": 5}
#: 1 - |<S, S_true>|: of a kernel of 5 samples on noiseless data; halved angles follow from wider ones.
WORST, MEAN = 4e-3, 1.5e-4


def close(found: CoilMaps, reach: tuple[float, float, float] = REACH) -> None:
    """Assert that the maps are the true ones over the object, of unit norm or zero everywhere."""
    inside = blob(found.grid, reach).abs() > 0
    energy = found.maps.abs().square().sum(0)
    assert torch.allclose(energy, (energy > 0.5).to(energy), atol=1e-5)
    off = 1 - alignment(found.maps.to(torch.complex128), true_maps(found.grid, reach))[inside]
    assert float(off.max()) < WORST and float(off.mean()) < MEAN


def plane_data(geometry: CartesianGeometry | None = None, grid: Grid = PLANE) -> torch.Tensor:
    return coil_data(grid, geometry or CartesianGeometry.around(grid), REACH)


@pytest.mark.parametrize("shape", [(1, 40, 36), (1, 39, 37), (40, 1, 36), (36, 41, 1)])
def test_the_maps_of_known_coils(shape: tuple[int, int, int]) -> None:
    grid = Grid.from_spacing(shape, 2.0)
    reach = tuple(1e3 if n == 1 else 2.0 * n for n in shape)
    data = coil_data(grid, CartesianGeometry.around(grid), reach)  # type: ignore[arg-type]
    found = espirit_maps(data, grid, **BOX)
    close(found, reach)  # type: ignore[arg-type]
    assert found.maps.dtype == data.dtype and found.grid is grid


def test_the_maps_have_no_signal_outside_the_support() -> None:
    found = espirit_maps(plane_data(), PLANE, width=24, kernel_width=6)
    corner = found.maps[:, 0, :4, :4]
    assert bool((corner == 0).all())
    share = float((found.maps.abs().sum(0) > 0).double().mean())
    assert 0.4**2 * np.pi < share < 0.75  # the object, and a margin of kernels


@pytest.mark.parametrize("flip", [(), (1,), (2,), (1, 2)])
def test_a_grid_that_is_flipped_or_moved_has_the_maps_in_their_place(flip: tuple[int, ...]) -> None:
    geometry = CartesianGeometry.around(PLANE).with_(zero_phase=(3.0, -5.0, 0.0))
    found = espirit_maps(plane_data(geometry), PLANE.flip(*flip), geometry=geometry, **BOX)
    close(found)


def test_a_grid_within_a_wider_field_of_view() -> None:
    geometry = CartesianGeometry.around(PLANE, readout_oversampling=2)
    close(espirit_maps(plane_data(geometry), PLANE, geometry=geometry, **BOX))


def test_a_finer_grid_and_the_calibration_block_alone() -> None:
    geometry = CartesianGeometry.around(PLANE)
    data = plane_data()
    fine = PLANE.resample(shape=(1, 80, 72))
    close(espirit_maps(data, fine, geometry=geometry, **BOX))
    block = data[:, :, 20 - 8 : 20 + 8, 18 - 8 : 18 + 8]
    whole = espirit_maps(data, PLANE, **BOX)
    assert torch.allclose(espirit_maps(block, PLANE, **BOX).maps, whole.maps, atol=1e-10)


def test_only_the_calibration_box_of_the_sampled_data_counts() -> None:
    lines = torch.zeros(40, dtype=torch.bool)
    lines[::4] = lines[20 - 8 : 20 + 8] = True
    data = plane_data()
    under = data * lines[:, None]
    expected = espirit_maps(data, PLANE, **BOX).maps
    geometry = SampledCartesianGeometry.lines(CartesianGeometry.around(PLANE), lines)
    assert torch.equal(espirit_maps(under, PLANE, **BOX).maps, expected)
    assert torch.equal(espirit_maps(data, PLANE, mask=lines[:, None], **BOX).maps, expected)
    assert torch.equal(espirit_maps(under, PLANE, geometry=geometry, **BOX).maps, expected)


@pytest.mark.parametrize("volumetric", [False, True])
def test_a_volume(volumetric: bool) -> None:
    data = coil_data(VOLUME, CartesianGeometry.around(VOLUME), REACH_3D)
    settings = {"width": 9, "kernel_width": 3} if volumetric else {"width": 12, "kernel_width": 4}
    found = espirit_maps(data, VOLUME, volumetric=volumetric, **settings)  # type: ignore[arg-type]
    inside = blob(VOLUME, REACH_3D).abs() > 0
    off = 1 - alignment(found.maps, true_maps(VOLUME, REACH_3D))[inside]
    assert float(off.mean()) < 5e-4 and float(off.max()) < 2e-2
    # Planes share one phase reference: the maps are as smooth across planes as within them.
    both = (found.maps[..., 1:].abs().sum(0) > 0) & (found.maps[..., :-1].abs().sum(0) > 0)
    step = (found.maps[..., 1:] - found.maps[..., :-1]).abs().square().sum(0).sqrt()[both & inside[..., 1:]]
    assert float(step.max()) < 0.4


@pytest.mark.parametrize(("level", "share"), [(1e-3, 0.0), (0.03, 0.1)])
def test_planes_without_an_object_have_no_maps(level: float, share: float) -> None:
    data = coil_data(VOLUME, CartesianGeometry.around(VOLUME), REACH_3D)
    noise = torch.randn(data.shape, dtype=data.dtype, generator=torch.Generator().manual_seed(0))
    found = espirit_maps(data + level * noise, VOLUME, width=12, kernel_width=4)
    support = found.maps.abs().sum(0) > 0
    # The object begins in the third plane. A threshold for each plane gives 0.29 at the second level.
    assert float(support[..., :2].double().mean()) <= share
    assert bool(support[8, 10, 5:13].all())


def test_slices_are_calibrated_one_by_one() -> None:
    geometry = CartesianGeometry.around(VOLUME, multislice=True)
    data = coil_data(VOLUME, geometry, REACH_3D)
    found = espirit_maps(data, VOLUME, geometry=geometry, width=14, kernel_width=5)
    inside = blob(VOLUME, REACH_3D).abs() > 0
    off = 1 - alignment(found.maps, true_maps(VOLUME, REACH_3D))[inside]
    assert float(off.mean()) < 5e-4
    backwards = espirit_maps(data, VOLUME.flip(0), geometry=geometry, width=14, kernel_width=5)
    assert torch.allclose(backwards.maps.flip(1), found.maps, atol=1e-12)


def test_the_same_seed_gives_the_same_bits_and_touches_no_global_state() -> None:
    data = plane_data().to(torch.complex64)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first, second = (espirit_maps(data, PLANE, seed=3, **BOX).maps for _ in range(2))
    other = espirit_maps(data, PLANE, seed=4, **BOX).maps
    assert torch.equal(first, second)
    assert not torch.equal(first, other) and torch.allclose(first, other, atol=5e-3)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_the_phase_is_that_of_the_virtual_coil() -> None:
    data = plane_data()
    found = espirit_maps(data, PLANE, **BOX)
    weights = virtual_coil(data[:, :, 20 - 8 : 20 + 8, 18 - 8 : 18 + 8])
    seen = torch.tensordot(weights.conj(), found.maps, dims=1)
    assert float(seen.imag.abs().max()) < 1e-12 and float(seen.real.min()) >= 0
    turned = espirit_maps(data * torch.polar(torch.tensor(1.0), torch.tensor(0.7)).to(data), PLANE, **BOX)
    assert torch.allclose(turned.maps, found.maps, atol=1e-8)  # a phase of the data is one of the image


def test_a_coil_that_is_silent_has_a_map_of_zero() -> None:
    data = plane_data()
    data[0] = 0
    found = espirit_maps(data, PLANE, **BOX).maps
    assert bool(torch.isfinite(found).all()) and float(found[0].abs().max()) < 1e-6
    assert float(found.abs().max()) > 0.5


def test_scale_does_not_matter() -> None:
    data = plane_data()
    first, second = (espirit_maps(data * factor, PLANE, **BOX).maps for factor in (1.0, 1e-6))
    assert torch.allclose(first, second, atol=1e-8)


def test_a_mask_without_a_calibration_box() -> None:
    lines = torch.zeros(40, dtype=torch.bool)
    lines[::4] = True
    with pytest.raises(ValueError, match=r"box of at least 11 samples .* got one of \(1, 1, 36\)"):
        espirit_maps(plane_data() * lines[:, None], PLANE)
    lines[20] = False
    with pytest.raises(ValueError, match="about frequency zero, .* got none"):
        espirit_maps(plane_data() * lines[:, None], PLANE)
    lines[16:24] = True
    with pytest.raises(ValueError, match=r"at least 9 .* got one of \(1, 9, 36\)|Measure more"):
        espirit_maps(plane_data()[:, :, 17:24] * 1, PLANE, **BOX)


def test_a_volume_without_a_fully_sampled_axis() -> None:
    data = coil_data(VOLUME, CartesianGeometry.around(VOLUME), REACH_3D)
    block = data[:, 2:14, 4:16, 3:15]
    with pytest.raises(ValueError, match="fully sampled along an axis.*volumetric=True"):
        espirit_maps(block, VOLUME, width=12, kernel_width=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 8}, "`width` must be an integer >= 11, got 8"),
        ({"kernel_width": 1}, "`kernel_width` must be an integer >= 2"),
        ({"threshold": 1.0}, "`threshold` must lie between 0 and 1"),
        ({"crop": 0.0}, "`crop` must lie between 0 and 1"),
        ({"iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        espirit_maps(plane_data(), PLANE, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kspace", "error", "message"),
    [
        (
            torch.ones(2, 1, 50, 36, dtype=torch.complex64),
            ValueError,
            r"have the encoded matrix \(1, 40, 36\)",
        ),
        (torch.ones(2, 40, 36, dtype=torch.complex64), ValueError, r"have shape \(coils, kz, ky, kx\)"),
        (torch.ones(2, 1, 40, 36), TypeError, "`kspace` must be complex"),
        (torch.full((2, 1, 40, 36), torch.nan + 0j), ValueError, "`kspace` must hold finite values"),
        (torch.zeros(2, 1, 40, 36, dtype=torch.complex64), ValueError, "box of at least 11 samples"),
    ],
)
def test_bad_kspace(kspace: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        espirit_maps(kspace, PLANE)


def test_bad_places() -> None:
    data = plane_data()
    with pytest.raises(ValueError, match="`grid` must have no time axis"):
        espirit_maps(data, PLANE.with_time(TimeAxis(2)), geometry=CartesianGeometry.around(PLANE))
    with pytest.raises(TypeError, match="`geometry` must be a CartesianGeometry, got str"):
        espirit_maps(data, PLANE, geometry="3T")  # type: ignore[arg-type]
    assert data.shape[0] == COILS


@pytest.mark.parametrize(("shape", "zero_filled"), [((40, 1), False), ((2, 1, 40, 1), True)])
def test_lists_and_frames_of_samples(shape: tuple[int, ...], zero_filled: bool) -> None:
    encoding = CartesianGeometry.around(PLANE)
    geometry = SampledCartesianGeometry(encoding, torch.ones(shape, dtype=torch.bool), zero_filled)
    found = f"got zero_filled={zero_filled} and a mask of shape {tuple(geometry.mask.shape)}"
    with pytest.raises(ValueError, match=f"`geometry` must have its samples in place, .*{re.escape(found)}"):
        espirit_maps(plane_data(), PLANE, geometry=geometry)


def test_a_radial_scan_is_calibrated_from_what_it_looks_like_on_a_box() -> None:
    geometry = NonCartesianGeometry(radial(60, 80, 2.0))
    scan, box = (g.operator(PLANE, components=(COILS,)) for g in (geometry, CartesianGeometry.around(PLANE)))
    y = scan(true_maps(PLANE, REACH) * blob(PLANE, REACH))
    images = scan.H(density_weights(geometry, PLANE) * y)
    close(espirit_maps(box(images), PLANE, **BOX))
