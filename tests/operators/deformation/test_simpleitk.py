"""The conventions against SimpleITK: warp, composition, inverse, Jacobian determinant, points."""

import numpy as np
import pytest
import torch

from operators.deformation import (
    BSplineField,
    compose,
    invert,
    jacobian_determinant,
    points_to_moving,
    warp,
    warp_labels,
)
from operators.grid import Grid
from operators.space import Space
from tests.operators.deformation.cases import (
    KINDS,
    itk_displacements,
    itk_field,
    itk_image,
    itk_transform,
    kinds,
    margin,
    oblique,
    sitk,
    spacing_norm,
    upright,
    waves,
)
from tests.oracles import random_element

SHAPE = (9, 11, 10)


def grid_of(kind: str) -> Grid:
    return Grid.plane((14, 12), (1.0, 1.5), thickness=2.0) if kind == "plane" else kinds(SHAPE)[kind]


def resampled(image: object, like: object, transform: object, interpolator: int) -> torch.Tensor:
    out = sitk().Resample(image, like, transform, interpolator, 0.0)
    return torch.from_numpy(sitk().GetArrayFromImage(out))


@pytest.mark.parametrize("kind", [*KINDS, "plane"])
def test_warp(kind: str) -> None:
    itk = sitk()
    grid = grid_of(kind)
    x = random_element(Space.field(grid))  # white noise: nothing but the same interpolation agrees
    u = waves(grid, 4.0)
    expected = resampled(itk_image(x, grid), itk_image(x, grid), itk_transform(u, grid), itk.sitkLinear)
    got = warp(x, u, grid)
    assert (got == 0).double().mean() < 0.5
    assert (got - expected).abs().max() < 1e-9


def test_warp_of_a_moving_image_on_another_grid() -> None:
    itk = sitk()
    moving, grid = oblique((9, 12, 11)).flip(0), upright((8, 9, 7))
    moving = Grid(
        moving.shape, moving.affine + np.outer(np.append(grid.centre - moving.centre, 0), [0, 0, 0, 1])
    )
    x, u = random_element(Space.field(moving)), waves(grid, 4.0)
    like = itk_image(torch.zeros(grid.shape), grid)
    expected = resampled(itk_image(x, moving), like, itk_transform(u, grid), itk.sitkLinear)
    got = warp(x, u, grid, moving_grid=moving)
    assert got.count_nonzero() > 100
    assert (got - expected).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["oblique", "left-handed", "plane"])
def test_labels(kind: str) -> None:
    itk = sitk()
    grid = grid_of(kind)
    labels = (10 * random_element(Space.field(grid)).abs()).to(torch.int16)
    u = waves(grid, 4.0)
    image = itk_image(labels, grid)
    expected = resampled(image, image, itk_transform(u, grid), itk.sitkNearestNeighbor)
    assert torch.equal(warp_labels(labels, u, grid), expected)


@pytest.mark.parametrize("kind", [*KINDS, "plane"])
def test_composition(kind: str) -> None:
    itk = sitk()
    grid = grid_of(kind)
    u, v = waves(grid, 3.0), waves(grid, 2.0, seed=4)
    # A CompositeTransform applies the transform added last first.
    both = itk.CompositeTransform([itk_transform(u, grid), itk_transform(v, grid)])
    expected = itk_displacements(both, grid)
    got = compose(u, v, grid, boundary="zero")
    assert (got - expected).abs().max() < 1e-9
    assert (compose(v, u, grid, boundary="zero") - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_inverse(kind: str) -> None:
    itk = sitk()
    grid = grid_of(kind)
    u = waves(grid, 1.5)
    image = itk.Cast(itk_image(u, grid, is_vector=True), itk.sitkVectorFloat64)
    theirs = itk_field(
        itk.InvertDisplacementField(
            image,
            maximumNumberOfIterations=100,
            maxErrorToleranceThreshold=1e-6,
            meanErrorToleranceThreshold=1e-7,
        )
    )
    # Theirs keeps the border at zero.
    assert margin(spacing_norm(invert(u, grid) - theirs, grid), grid, 3).max() < 0.01


@pytest.mark.parametrize("kind", [*KINDS, "plane"])
def test_jacobian_determinant(kind: str) -> None:
    itk = sitk()
    grid = grid_of(kind)
    u = waves(grid, 3.0)
    # ITK's filter knows spacings, not directions: components along the image's own axes (x, y, z).
    turned = torch.einsum("ia,izyx->azyx", torch.from_numpy(grid.directions.copy()), u).flip(0)
    image = itk.GetImageFromArray(turned.movedim(0, -1).contiguous().numpy(), isVector=True)
    image.SetSpacing(grid.spacing[::-1])
    theirs = torch.from_numpy(itk.GetArrayFromImage(itk.DisplacementFieldJacobianDeterminant(image)))
    got = jacobian_determinant(u, grid)
    assert (got - 1).abs().max() > 0.1
    assert margin(got - theirs, grid, 1).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_points(kind: str) -> None:
    grid = grid_of(kind)
    u = waves(grid, 3.0)
    transform = itk_transform(u, grid)
    index = 1 + np.random.default_rng(2).random((6, 3)) * (np.array(grid.shape) - 3)
    points = grid.index_to_world(index)
    signs = np.array([-1.0, -1.0, 1.0])
    expected = [np.array(transform.TransformPoint((p * signs).tolist())) * signs for p in points]
    got = points_to_moving(u, grid, torch.from_numpy(points))
    assert np.abs(got.numpy() - np.array(expected)).max() < 1e-9


def test_b_spline_field() -> None:
    itk = sitk()
    grid = upright((8, 12, 14))
    control = BSplineField.control_grid(grid, (6.0, 4.0, 5.0))
    op = BSplineField(control, grid)
    coefficients = random_element(op.domain)
    images = [
        itk_image(c, control) for c in coefficients * torch.tensor([-1.0, -1.0, 1.0])[:, None, None, None]
    ]
    transform = itk.BSplineTransform(images, 3)
    assert (op(coefficients) - itk_displacements(transform, grid)).abs().max() < 1e-9
