"""Grids and fields the deformation tests share, and the same in SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.grid import RAS_TO_LPS, REVERSE_AXES, Grid

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def oblique(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (3.0, 1.5, 2.0)) -> Grid:
    """Return a turned, anisotropic grid off the world's origin."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION[:, ::-1] * np.array(spacing)
    affine[:3, 3] = (11.0, -7.0, 23.0)
    return Grid(shape, affine)


def upright(shape: tuple[int, int, int]) -> Grid:
    return Grid.from_spacing(shape, (2.0, 1.0, 1.5), centre=(4.0, -3.0, 1.0))


#: How a grid may lie: the names in `kinds`.
KINDS = ("upright", "oblique", "left-handed", "permuted")


def kinds(shape: tuple[int, int, int]) -> dict[str, Grid]:
    """Return grids of one shape that differ in how they lie."""
    return {
        "upright": upright(shape),
        "oblique": oblique(shape),
        "left-handed": oblique(shape).flip(2),
        "permuted": oblique((shape[1], shape[2], shape[0])).permute((2, 0, 1)),
    }


def about_centre(linear: np.ndarray, grid: Grid, shift: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the 4x4 map r -> c + L (r - c) + shift about the centre c of `grid`."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = grid.centre - linear @ grid.centre + np.array(shift)
    return matrix


def positions(grid: Grid) -> Tensor:
    """Return the world point of every voxel, (3, z, y, x) in double precision."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return torch.from_numpy(np.moveaxis(grid.index_to_world(index), -1, 0).copy())


def waves(grid: Grid, size: float, *, cycles: float = 1.0, seed: int = 0) -> Tensor:
    """Return a smooth field in double precision, at most `size` mm long, with `cycles` over the grid."""
    generator = np.random.default_rng(seed)
    lengths = np.array(grid.shape) * np.array(grid.spacing)
    along = torch.from_numpy(grid.directions / lengths)  # turns per mm along each array axis
    centred = positions(grid) - torch.from_numpy(grid.centre)[:, None, None, None]
    turns = torch.einsum("ia,izyx->azyx", along, centred)
    field = torch.zeros_like(centred)
    for i in range(3):
        for a in range(3):
            if grid.shape[a] > 1:
                field[i] += torch.sin(2 * math.pi * (cycles * turns[a] + generator.random()))
    if grid.shape[0] == 1:  # a single slice moves in its plane
        normal = torch.from_numpy(grid.directions[:, 0].copy())[:, None, None, None]
        field = field - normal * (normal * field).sum(0)
    return size * field / field.norm(dim=0).max()


def smooth_image(grid: Grid, *, cycles: float = 1.0, seed: int = 5) -> Tensor:
    return waves(grid, 1.0, cycles=cycles, seed=seed).sum(0) + 2.0


def margin(values: Tensor, grid: Grid, width: int) -> Tensor:
    """Return `values` (..., z, y, x) without `width` voxels at each end of every axis that has them."""
    for axis, n in enumerate(grid.shape):
        if n > 1:
            values = values.narrow(axis - 3, width, n - 2 * width)
    return values


def spacing_norm(field: Tensor, grid: Grid) -> Tensor:
    """Return the length of displacements in voxels: of the vector of index components."""
    inverse = torch.from_numpy(np.linalg.inv(grid.affine[:3, :3]))
    return torch.einsum("aj,...jzyx->...azyx", inverse, field.double()).norm(dim=-4)


# -- SimpleITK: (x, y, z), LPS --------------------------------------------------------------------


def sitk() -> Any:
    return pytest.importorskip("SimpleITK")


def itk_image(values: Tensor, grid: Grid, *, is_vector: bool = False) -> Any:
    """Return a SimpleITK image of (z, y, x) values or of a field (3, z, y, x) in RAS."""
    array = values.numpy()
    if is_vector:
        array = np.moveaxis(array * np.array([-1.0, -1.0, 1.0])[:, None, None, None], 0, -1)
    image = sitk().GetImageFromArray(np.ascontiguousarray(array), isVector=is_vector)
    affine = RAS_TO_LPS @ grid.affine @ REVERSE_AXES
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def itk_field(image: Any) -> Tensor:
    """Return a SimpleITK displacement image as a field (3, z, y, x) in RAS."""
    array = np.moveaxis(sitk().GetArrayFromImage(image), -1, 0)
    return torch.from_numpy(array * np.array([-1.0, -1.0, 1.0])[:, None, None, None])


def itk_displacements(transform: Any, grid: Grid) -> Tensor:
    """Return what a SimpleITK transform does to the voxels of `grid`, as a field in RAS."""
    like = itk_image(torch.zeros(grid.shape), grid)
    frame = like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    return itk_field(sitk().TransformToDisplacementField(transform, sitk().sitkVectorFloat64, *frame))


def itk_transform(field: Tensor, grid: Grid) -> Any:
    image = sitk().Cast(itk_image(field, grid, is_vector=True), sitk().sitkVectorFloat64)
    return sitk().DisplacementFieldTransform(image)
