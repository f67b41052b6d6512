"""K-space belongs to the scanner: moving or flipping the grid changes the phase the equation gives."""

import math

import numpy as np
import pytest
import torch

from operators.fourier import Fourier
from operators.frame import DeviceFrame
from operators.grid import Grid, TimeAxis
from operators.mri.cartesian import CartesianGeometry
from operators.mri.encoding import CartesianEncoding
from tests.contracts import LinearOperatorContract
from tests.operators.mri.kspace_oracle import ROTATION, defining_sum, oblique
from tests.oracles import random_element


def scan(shape: tuple[int, int, int]) -> tuple[Grid, CartesianGeometry]:
    """Return an oblique, anisotropic grid and a geometry whose isocentre lies off its centre."""
    grid = oblique(shape)
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=grid.index_to_world([1, 2, 1]))
    extent = [n * s for n, s in zip(shape, grid.spacing, strict=True)]
    return grid, CartesianGeometry(shape, (extent[0], extent[1], extent[2]), frame=frame)


def direct(geometry: CartesianGeometry, grid: Grid, x: torch.Tensor) -> torch.Tensor:
    """Return the defining sum over voxels, evaluated at their world positions."""
    m = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in geometry.matrix], indexing="ij"), axis=-1)
    k = (m / np.array(geometry.field_of_view))[..., ::-1]
    ratio = np.array(geometry.field_of_view) / np.array(grid.spacing)
    voxels = math.prod(round(r) for r, n in zip(ratio, geometry.matrix, strict=True) if n > 1)
    return defining_sum(k, grid, geometry.frame, geometry.zero_phase, x, voxels=voxels)


class TestCartesianGeometry(LinearOperatorContract):
    covers = (CartesianEncoding,)

    def make(self, dtype: torch.dtype) -> CartesianEncoding:
        grid, geometry = scan((3, 4, 5))
        return geometry.operator(grid.flip(1))


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (1, 6, 5)])
@pytest.mark.parametrize("flips", [(), (2,), (1, 2), (0, 1, 2)])
def test_equals_the_defining_sum_for_any_flip(shape: tuple[int, int, int], flips: tuple[int, ...]) -> None:
    grid, geometry = scan(shape)
    turned = grid.flip(*flips)
    op = geometry.operator(turned)
    x = random_element(op.domain)
    assert (op(x) - direct(geometry, turned, x)).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7)])
def test_flipping_grid_and_image_together_changes_nothing(shape: tuple[int, int, int]) -> None:
    grid, geometry = scan(shape)
    x = random_element(geometry.operator(grid).domain)
    expected = geometry.operator(grid)(x)
    for axes in ((0,), (1,), (0, 2)):
        got = geometry.operator(grid.flip(*axes))(x.flip(axes))
        assert (got - expected).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7)])
@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -2, 1), (1, 2, -3)])
def test_shifting_the_grid_by_voxels_gives_the_linear_phase(
    shape: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    grid, geometry = scan(shape)
    moved = grid.pad([max(s, 0) for s in shift], [max(-s, 0) for s in shift])
    start = [max(-s, 0) for s in shift]
    moved = moved.crop(start, [a + n for a, n in zip(start, shape, strict=True)])
    x = random_element(geometry.operator(grid).domain)
    m = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij"), axis=-1)
    # The same image values lie `shift` voxels earlier: r -> r - shift.
    phase = torch.from_numpy(np.exp(2j * math.pi * (m * np.array(shift) / np.array(shape)).sum(-1)))
    assert (geometry.operator(moved)(x) - phase * geometry.operator(grid)(x)).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (1, 8, 5)])
def test_zero_phase_lies_at_the_fft_centre_not_the_geometric_centre(shape: tuple[int, int, int]) -> None:
    grid, _ = scan(shape)
    op = CartesianGeometry.around(grid).operator(grid)
    point = torch.zeros(shape, dtype=torch.complex128)
    point[tuple(n // 2 for n in shape)] = 1
    assert (op(point) - 1 / math.sqrt(point.numel())).abs().max() < 1e-13
    x = random_element(op.domain)
    assert (op(x) - Fourier(op.domain)(x)).abs().max() < 1e-13


def test_a_left_handed_grid_is_read_with_one_axis_reversed() -> None:
    grid, _ = scan((4, 5, 6))
    mirrored = grid.flip(2)
    geometry = CartesianGeometry.around(mirrored)
    op = geometry.operator(mirrored)
    x = random_element(op.domain)
    assert (op(x) - direct(geometry, mirrored, x)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("shape", "matrix", "field"),
    [
        ((4, 5, 6), (4, 5, 12), (12.0, 7.5, 24.0)),  # readout oversampling
        ((4, 5, 6), (4, 5, 6), (12.0, 7.5, 24.0)),  # and of a lower resolution too
        ((4, 6, 8), (3, 5, 4), (12.0, 9.0, 16.0)),  # fewer frequencies on a finer grid
        ((3, 6, 7), (4, 9, 10), (12.0, 13.5, 20.0)),  # a crop of a larger field of view
        ((1, 5, 6), (1, 4, 9), (3.0, 7.5, 18.0)),
    ],
)
@pytest.mark.parametrize("flips", [(), (2,), (1,)])
def test_a_field_of_view_and_a_matrix_of_their_own(
    shape: tuple[int, int, int],
    matrix: tuple[int, int, int],
    field: tuple[float, float, float],
    flips: tuple[int, ...],
) -> None:
    grid, whole = scan(shape)
    geometry = whole.with_(matrix=matrix, field_of_view=field, zero_phase=(1.0, -2.5, 4.0))
    turned = grid.flip(*flips)
    op = geometry.operator(turned)
    x = random_element(op.domain)
    assert op.codomain.shape == matrix
    assert (op(x) - direct(geometry, turned, x)).abs().max() < 1e-12


def test_readout_oversampling_encodes_the_same_image_twice_as_densely() -> None:
    grid, _ = scan((3, 4, 6))
    x = random_element(CartesianGeometry.around(grid).operator(grid).domain)
    once = CartesianGeometry.around(grid).operator(grid)(x)
    twice = CartesianGeometry.around(grid, readout_oversampling=2).operator(grid)
    # Every other frequency is the plain one; N of N^-1/2 has doubled.
    assert (math.sqrt(2) * twice(x)[..., ::2] - once).abs().max() < 1e-12
    assert (twice.gram(x) - x).abs().max() < 1e-12
    assert twice.has_closed_form


@pytest.mark.parametrize("flips", [(), (0,), (0, 2)])
def test_slices_excited_one_by_one_have_each_their_own_k_space(flips: tuple[int, ...]) -> None:
    grid, geometry = scan((3, 4, 5))
    volume = geometry.with_(multislice=True, zero_phase=(0.0, 0.0, 0.0))
    turned = grid.flip(*flips)
    x = random_element(volume.operator(turned).domain)
    y = volume.operator(turned)(x)
    upright = x.flip(flips)
    for j in range(3):
        # The frame stands on voxel 1, the middle one: slice j lies at (j - 1) * 3 mm.
        cut = grid.slice_at(0, j)
        alone = geometry.with_(matrix=(1, 4, 5)).operator(cut)
        assert (y[j] - alone(upright[j : j + 1])[0]).abs().max() < 1e-12


def test_a_time_axis_has_every_frame_encoded() -> None:
    grid, geometry = scan((2, 4, 5))
    series = grid.with_time(TimeAxis(3))
    op = geometry.operator(series, components=(2,))
    x = random_element(op.domain)
    assert op.codomain.shape == (2, 3, 2, 4, 5)
    assert torch.equal(op(x)[1, 2], geometry.operator(grid)(x[1, 2]))


def test_grids_it_cannot_encode_are_named() -> None:
    grid, geometry = scan((4, 6, 8))
    with pytest.raises(ValueError, match=r"`grid` must have the encoded matrix \(4, 6, 8\) .* folds into"):
        geometry.operator(grid.pad(0, (0, 0, 1)))
    with pytest.raises(ValueError, match="`grid` must have voxels of field of view / matrix"):
        geometry.with_(field_of_view=(12.0, 9.0, 17.0)).operator(grid)
    with pytest.raises(ValueError, match="8 samples along x reach beyond the Nyquist frequency"):
        geometry.operator(grid.resample(shape=(4, 6, 4)))
    with pytest.raises(ValueError, match=r"`grid` must have the encoded matrix \(1, 6, 8\)"):
        geometry.with_(matrix=(1, 6, 8)).operator(grid)
    tilted = Grid.from_spacing((4, 6, 8), grid.spacing, centre=grid.centre)
    with pytest.raises(ValueError, match="axes .* along the device axes"):
        geometry.operator(tilted)
    with pytest.raises(ValueError, match="`grid` must have its slices at the device z"):
        geometry.with_(multislice=True, zero_phase=(0.0, 0.0, 0.5)).operator(grid)
