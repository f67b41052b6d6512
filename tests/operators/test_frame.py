import numpy as np
import pytest

from operators.frame import DeviceFrame
from operators.grid import Grid

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def test_device_and_world_are_inverse() -> None:
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=(10, 20, -30))
    points = np.random.default_rng(0).normal(size=(5, 3)) * 100
    assert np.abs(frame.points_to_device(frame.points_to_world(points)) - points).max() < 1e-12
    assert np.allclose(frame.from_world @ frame.to_world, np.eye(4))
    assert np.allclose(frame.points_to_world([1, 0, 0]), ROTATION[:, 0] + (10, 20, -30))


def test_a_grid_seen_from_the_device() -> None:
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=(10, 20, -30))
    grid = Grid.from_spacing((3, 4, 5), (3.0, 2.0, 1.0), centre=(7, 8, 9))
    index = np.array([2.0, 1.0, 4.0])
    expected = frame.points_to_device(grid.index_to_world(index))
    assert np.allclose((frame.grid_to_device(grid.affine) @ [*index, 1])[:3], expected)


def test_equality_is_by_value() -> None:
    assert DeviceFrame() == DeviceFrame(np.eye(4))
    assert hash(DeviceFrame()) == hash(DeviceFrame(np.eye(4)))
    assert DeviceFrame() != DeviceFrame.from_axes(*ROTATION.T)


@pytest.mark.parametrize(
    "matrix",
    [np.diag([1, 1, -1, 1]), np.diag([2, 1, 0.5, 1]), np.eye(3), np.full((4, 4), np.nan), 2 * np.eye(4)],
    ids=["mirror", "scale", "shape", "nan", "last row"],
)
def test_only_rigid_transforms(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`to_world` must be"):
        DeviceFrame(matrix)
