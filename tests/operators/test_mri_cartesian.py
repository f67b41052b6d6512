"""K-space belongs to the scanner: moving or flipping the grid changes the phase the equation gives."""

import math

import numpy as np
import pytest
import torch

from operators.fourier import Fourier
from operators.frame import DeviceFrame
from operators.grid import Grid
from operators.mri_cartesian import CartesianGeometry
from tests.contracts import LinearOperatorContract
from tests.oracles import random_element

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def scan(shape: tuple[int, int, int]) -> tuple[Grid, CartesianGeometry]:
    """Return an oblique, anisotropic grid and a geometry whose isocentre lies off its centre."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION[:, ::-1] * np.array([3.0, 1.5, 2.0])
    affine[:3, 3] = (11.0, -7.0, 23.0)
    grid = Grid(shape, affine)
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=grid.index_to_world([1, 2, 1]))
    extent = [n * s for n, s in zip(shape, grid.spacing, strict=True)]
    return grid, CartesianGeometry(shape, (extent[0], extent[1], extent[2]), frame=frame)


def direct(geometry: CartesianGeometry, grid: Grid, x: torch.Tensor) -> torch.Tensor:
    """Return the defining sum over voxels, evaluated at their world positions."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    position = geometry.frame.points_to_device(grid.index_to_world(index)).reshape(-1, 3)[:, ::-1]
    m = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in geometry.matrix], indexing="ij"), axis=-1)
    k = m.reshape(-1, 3) / np.array(geometry.field_of_view)
    kernel = np.exp(-2j * math.pi * k @ (position - np.array(geometry.zero_phase[::-1])).T)
    return torch.from_numpy(kernel @ x.numpy().ravel() / math.sqrt(x.numel())).reshape(geometry.matrix)


class TestCartesianGeometry(LinearOperatorContract):
    covers = (Fourier,)

    def make(self, dtype: torch.dtype) -> Fourier:
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


def test_grids_it_cannot_encode_are_named() -> None:
    grid, geometry = scan((4, 6, 8))
    with pytest.raises(ValueError, match=r"`grid` must have the encoded matrix \(4, 6, 8\), got"):
        geometry.operator(grid.crop((0, 0, 0), (4, 6, 7)))
    with pytest.raises(ValueError, match="`grid` must have voxels of field of view / matrix"):
        geometry.with_(field_of_view=(12.0, 9.0, 17.0)).operator(grid)
    tilted = Grid.from_spacing((4, 6, 8), grid.spacing, centre=grid.centre)
    with pytest.raises(ValueError, match="axes .* along the device axes"):
        geometry.operator(tilted)
