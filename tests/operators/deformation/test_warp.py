"""Warping: the contract, exact cases, boundaries, other grids, determinism, derivatives in the field."""

import math

import pytest
import torch
from torch import Tensor

from operators.deformation import (
    FoldingWarning,
    Warp,
    WarpField,
    affine_field,
    identity_field,
    warp,
    warp_labels,
)
from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.contracts import LinearOperatorContract, OperatorContract
from tests.operators.deformation.cases import kinds, oblique, positions, smooth_image, upright, waves
from tests.oracles import adjoint_mismatch, random_element

# Rough fields fold, and are warped by here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*a field that folds:operators.deformation.FoldingWarning")

SHAPE = (3, 4, 5)
GRID = oblique(SHAPE)


def rough(grid: Grid, size: float = 3.0, seed: int = 3) -> Tensor:
    """Return a field without any smoothness, in double precision."""
    return size * random_element(Space.vectors(grid), seed=seed)


class TestWarp(LinearOperatorContract):
    covers = (Warp,)

    def make(self, dtype: torch.dtype) -> Warp:
        grid = GRID.slice_at(0, 1)
        return Warp(Space.field(grid), rough(grid, 1.5).to(dtype))


class TestWarpToAnotherGridHeldAtTheEdge(LinearOperatorContract):
    covers = (Warp,)

    def make(self, dtype: torch.dtype) -> Warp:
        target = upright((4, 3, 3))
        moving = oblique((4, 5, 4))
        shift = torch.from_numpy(moving.centre - target.centre)[:, None, None, None]
        domain = Space.field(moving, is_complex=True, components=(2,))
        return Warp(domain, (rough(target, 1.0) + shift).to(dtype), grid=target, boundary="edge")


class TestWarpFieldOfComplexCoils(OperatorContract):
    covers = (WarpField,)

    def make(self, dtype: torch.dtype) -> WarpField:
        moving = oblique((4, 5, 4))
        image = random_element(Space.field(moving, is_complex=True, components=(2,)), dtype=dtype, seed=4)
        return WarpField(image, moving, grid=GRID, boundary="edge")


def test_no_displacement_is_the_identity_to_the_bit() -> None:
    for grid in kinds(SHAPE).values():
        x = random_element(Space.field(grid))
        assert torch.equal(Warp(Space.field(grid), identity_field(grid, dtype=torch.float64))(x), x)


@pytest.mark.parametrize("kind", ["upright", "oblique", "left-handed", "permuted"])
def test_a_linear_image_is_read_at_r_plus_u(kind: str) -> None:
    # Trilinear interpolation is exact for x(r) = g . r, whatever the axes: the convention itself.
    grid = kinds((9, 10, 11))[kind]
    slope = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)[:, None, None, None]
    r = positions(grid)
    u = waves(grid, 2.0)
    index = torch.from_numpy(grid.world_to_index((r + u).movedim(0, -1).numpy()))
    within = ((index >= 0) & (index <= torch.tensor(grid.shape) - 1)).all(-1)
    got = Warp(Space.field(grid), u)((slope * r).sum(0))
    assert within.double().mean() > 0.5
    assert ((slope * (r + u)).sum(0) - got)[within].abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["upright", "oblique", "left-handed", "permuted"])
def test_a_shift_by_whole_voxels_rolls_the_image(kind: str) -> None:
    grid = kinds((4, 5, 6))[kind]
    step = torch.from_numpy(grid.affine[:3, 1] * 2 - grid.affine[:3, 2])[:, None, None, None]
    x = random_element(Space.field(grid))
    got = Warp(Space.field(grid), step.expand(3, *grid.shape).contiguous())(x)
    expected = torch.zeros_like(x)
    expected[:, :-2, 1:] = x[:, 2:, :-1]
    assert (got - expected).abs().max() < 1e-12


def test_storing_the_arrays_another_way_changes_nothing() -> None:
    grid = oblique((4, 5, 6))
    x, u = random_element(Space.field(grid)), rough(grid)
    expected = warp(x, u, grid)
    flipped = warp(x.flip(0, 2), u.flip(1, 3), grid.flip(0, 2))
    assert (flipped.flip(0, 2) - expected).abs().max() < 1e-12
    order = (2, 0, 1)
    turned = warp(x.permute(order), u.permute(0, 3, 1, 2), grid.permute(order))
    assert (turned - expected.permute(order)).abs().max() < 1e-12


def test_outside_is_zero_beyond_the_faces_and_held_up_to_them() -> None:
    grid = Grid.from_spacing((1, 1, 4), (5.0, 1.0, 2.0))
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 1, 4)

    def moved(across: float, up: float, boundary: str) -> list[float]:
        u = torch.zeros(3, 1, 1, 4, dtype=torch.float64)
        u[0], u[2] = across, up
        return warp(x, u, grid, boundary=boundary).flatten().tolist()

    assert moved(1.0, 0.0, "zero") == [1.5, 2.5, 3.5, 4.0]  # half a voxel: the last value lies on the face
    assert moved(1.1, 0.0, "zero")[-1] == 0.0
    assert moved(-2.2, 0.0, "edge") == pytest.approx([1.0, 1.0, 1.9, 2.9])
    assert moved(0.0, 2.5, "zero") == [1.0, 2.0, 3.0, 4.0]  # the slice reaches its faces
    assert moved(0.0, 2.6, "zero") == [0.0] * 4
    assert moved(0.0, 99.0, "edge") == [1.0, 2.0, 3.0, 4.0]


def test_adjointness_in_single_precision_on_a_volume() -> None:
    grid = oblique((24, 25, 26))
    for boundary in ("zero", "edge"):
        op = Warp(Space.field(grid), waves(grid, 6.0).float(), boundary=boundary)
        assert adjoint_mismatch(op, torch.float32, "correlated") < 1e-6
        assert adjoint_mismatch(op, torch.float64, "correlated") < 1e-14


@pytest.mark.parametrize("boundary", ["zero", "edge"])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(boundary: str) -> None:
    grid = Grid.from_spacing((40, 48, 48), 1.0)  # beyond the size from which torch uses threads
    op = Warp(Space.field(grid), 20 * random_element(Space.vectors(grid)).float(), boundary=boundary)
    x = random_element(op.domain, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append((op(x), op.adjoint(x)))
    finally:
        torch.set_num_threads(threads)
    for values, back in results[1:]:
        assert torch.equal(values, results[0][0])
        assert torch.equal(back, results[0][1])


@pytest.mark.parametrize("boundary", ["zero", "edge"])
def test_frames_and_components_of_a_slice_move_alike(boundary: str) -> None:
    grid = Grid.plane((5, 6), (1.0, 2.0), thickness=5.0)
    u = waves(grid, 3.0)
    op = Warp(Space.field(grid.with_time(TimeAxis(3)), components=(2,)), u, boundary=boundary)
    assert op.codomain == op.domain
    x = random_element(op.domain, 2)
    alone = Warp(Space.field(grid), u, boundary=boundary)
    assert torch.equal(op(x), alone(x))
    assert adjoint_mismatch(op, torch.float64, "correlated") < 1e-14
    vectors = Warp(Space.vectors(grid), u, boundary=boundary)
    assert vectors.codomain == Space.vectors(grid)
    assert torch.equal(vectors(u), alone(u))


def test_the_function_and_both_operators_agree() -> None:
    x, u = random_element(Space.field(GRID)), rough(GRID)
    expected = Warp(Space.field(GRID), u)(x)
    assert torch.equal(warp(x, u, GRID), expected)
    assert torch.equal(WarpField(x, GRID)(u), expected)


def test_batch_axes_of_images_and_fields_broadcast() -> None:
    images = random_element(Space.field(GRID, is_complex=True), 2, 1, 3)
    fields = rough(GRID) * torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=torch.float64)[:, None, None, None, None]
    got = warp(images, fields.unsqueeze(1), GRID)
    assert got.shape == (2, 4, 3, *SHAPE)
    for i, j, k in ((0, 1, 2), (1, 3, 0), (1, 0, 1)):
        assert (got[i, j, k] - warp(images[i, 0, k], fields[j], GRID)).abs().max() < 1e-14


def test_gradients_of_image_and_field_against_difference_quotients() -> None:
    grid = oblique((2, 3, 3))
    x = random_element(Space.field(grid), 2).requires_grad_()
    u = torch.stack([rough(grid, seed=s) for s in (6, 7)]).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda a, b: warp(a, b, grid, boundary="edge"), (x, u), eps=1e-7, fast_mode=True)


def test_the_derivative_in_the_field_is_the_gradient_of_a_linear_image() -> None:
    grid = oblique((6, 7, 8))
    slope = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)[:, None, None, None]
    op = WarpField((slope * positions(grid)).sum(0), grid)
    v = rough(grid)
    u = waves(grid, 0.4)
    got = op.jvp(u, v)[1:-1, 1:-1, 1:-1]
    assert (got - (slope * v).sum(0)[1:-1, 1:-1, 1:-1]).abs().max() < 1e-12


def test_function_transforms_of_image_and_field_together() -> None:
    images, fields = (
        random_element(Space.field(GRID), 3),
        torch.stack([rough(GRID, seed=s) for s in (6, 7, 8)]),
    )

    def moved(x: Tensor, u: Tensor) -> Tensor:
        return warp(x, u, GRID, boundary="edge")

    expected = moved(images, fields)
    assert (torch.func.vmap(moved)(images, fields) - expected).abs().max() < 1e-14
    assert (
        torch.func.vmap(moved, (0, None))(images, fields[0]) - moved(images, fields[0])
    ).abs().max() < 1e-14
    assert (
        torch.func.vmap(moved, (None, 0))(images[0], fields) - moved(images[0], fields)
    ).abs().max() < 1e-14

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return moved(x, u).square().sum()

    rows = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(images, fields)
    _, tangent = torch.func.jvp(loss, (images[1], fields[1]), (images[2], fields[2]))
    slope = (rows[0][1] * images[2]).sum() + (rows[1][1] * fields[2]).sum()
    assert abs(float(slope / tangent) - 1) < 1e-12


def test_second_derivatives_in_the_field_by_every_mode() -> None:
    grid = oblique((1, 2, 3))
    x, u = random_element(Space.field(grid)), rough(grid)

    def loss(field: Tensor) -> Tensor:
        return warp(x, field, grid, boundary="edge").square().sum()

    expected = torch.autograd.functional.hessian(loss, u)
    assert expected.abs().max() > 0.1
    batched = torch.autograd.functional.hessian(loss, u, vectorize=True)
    reverse = torch.func.jacrev(torch.func.jacrev(loss))(u)
    forward = torch.func.jacfwd(torch.func.jacfwd(loss))(u)
    for got in (batched, reverse, forward, torch.func.hessian(loss)(u)):
        assert (got - expected).abs().max() < 1e-13 * expected.abs().max()


def test_single_precision_holds_far_from_the_first_voxel() -> None:
    grid = Grid.from_spacing((1, 1, 4000), 0.5, centre=(5000.0, 0.0, 0.0))
    x = (positions(grid)[0] - 5000.0) / 1000.0  # within -1 .. 1
    u = torch.zeros(3, 1, 1, 4000, dtype=torch.float64)
    u[0] = 0.3 * torch.sin(torch.arange(4000) * 0.1)
    got = warp(x.float(), u.float(), grid, boundary="edge").double()
    # The image itself is rounded to 6e-8; a position kept as one number would be off by 1e-4 voxels.
    assert (got - warp(x, u, grid, boundary="edge")).abs().max() < 3e-7


def test_gradient_descent_on_the_field_finds_a_shift() -> None:
    grid = upright((1, 24, 26))
    fixed = smooth_image(grid, cycles=1.5)
    shift = torch.tensor([0.8, -0.6, 0.0], dtype=torch.float64)
    moving = warp(fixed, -shift[:, None, None, None].expand(3, *grid.shape), grid, boundary="edge")
    registration = WarpField(moving, grid, boundary="edge")
    t = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([t], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        difference = registration(t[:, None, None, None].expand(3, *grid.shape)) - fixed
        value = difference[:, 3:-3, 3:-3].square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert (t.detach() - shift)[:2].abs().max() < 0.05  # a twentieth of a voxel: it was interpolated twice


def test_labels_take_the_nearest_voxel() -> None:
    grid = Grid.from_spacing((1, 1, 4), (5.0, 1.0, 2.0))
    labels = torch.tensor([7, 0, 3, 9]).reshape(1, 1, 4)
    u = torch.zeros(3, 1, 1, 4)
    u[0] = 1.2
    assert warp_labels(labels, u, grid).flatten().tolist() == [0, 3, 9, 0]
    assert warp_labels(labels, u, grid, outside=-1).flatten().tolist() == [0, 3, 9, -1]
    u[0] = -0.9
    assert warp_labels(labels.to(torch.uint8), u, grid).flatten().tolist() == [7, 0, 3, 9]
    mask = warp_labels(labels > 0, u + 0.9 * torch.eye(3)[0][:, None, None, None], grid)
    assert mask.dtype == torch.bool
    assert mask.flatten().tolist() == [True, False, True, True]


def test_an_affine_map_between_two_grids_meets_the_same_world_points() -> None:
    moving, target = oblique((9, 10, 11)), upright((5, 6, 4))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] += 0.1 * torch.tensor([[0.0, 1, 2], [-1, 0.5, 0], [1, 0, -1]], dtype=torch.float64)
    middle = torch.from_numpy(moving.centre) - matrix[:3, :3] @ torch.from_numpy(target.centre)
    matrix[:3, 3] = middle
    u = affine_field(matrix.numpy(), target, dtype=torch.float64)
    slope = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)[:, None, None, None]
    got = Warp(Space.field(moving), u, grid=target)((slope * positions(moving)).sum(0))
    there = torch.einsum("ij,jzyx->izyx", matrix[:3, :3], positions(target)) + middle[:, None, None, None]
    index = torch.from_numpy(moving.world_to_index(there.movedim(0, -1).numpy()))
    within = ((index >= 0) & (index <= torch.tensor(moving.shape) - 1)).all(-1)
    assert within.sum() > 10
    assert (got - (slope * there).sum(0))[within].abs().max() < 1e-11


FIELD = Space.field(GRID)
ZERO = identity_field(GRID)


def test_a_field_that_folds_is_told_with_its_share() -> None:
    folds = ZERO.double()
    folds[:2] = -2 * positions(GRID)[:2]  # turns half round: no fold
    Warp(FIELD, folds, boundary="edge")
    folds[2] = -2 * positions(GRID)[2]  # and mirrors
    with pytest.warns(FoldingWarning, match=r"`field` must have a positive Jacobian .* share of 1\."):
        Warp(FIELD, folds, boundary="edge")


def test_a_field_that_leads_out_of_the_image_everywhere_is_told() -> None:
    far = ZERO.double() + 1e3  # micrometres, say
    with pytest.warns(UserWarning, match=r"`field` leads out of the image from every voxel: .* in mm"):
        Warp(FIELD, far)
    Warp(FIELD, far, boundary="edge")


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: Warp(Space(SHAPE), ZERO), ValueError, "`domain` must lie on a Grid"),
        (lambda: Warp(Space.tokens(GRID, 3), ZERO), TypeError, "`domain` must hold numbers.*warp_labels"),
        (lambda: Warp(FIELD, ZERO[:2]), ValueError, r"`field` must have shape \(\.\.\., 3, 3, 4, 5\)"),
        (lambda: Warp(FIELD, ZERO[None]), ValueError, "`field` must have shape .* without batch axes"),
        (lambda: Warp(FIELD, ZERO + math.nan), ValueError, "`field` must hold finite values"),
        (
            lambda: Warp(FIELD, ZERO.clone().requires_grad_()),
            ValueError,
            "`field` must not require a gradient",
        ),
        (lambda: Warp(FIELD, ZERO, boundary="wrap"), ValueError, "`boundary` must be 'zero' or 'edge'"),
        (lambda: Warp(FIELD, ZERO, grid=GRID.with_time(TimeAxis(2))), ValueError, "`grid` must have no time"),
        (lambda: WarpField(torch.zeros(3, 4, 4), GRID), ValueError, "`image` must have shape"),
        (lambda: WarpField(torch.full(SHAPE, math.inf), GRID), ValueError, "`image` must hold finite"),
        (lambda: WarpField(torch.zeros(SHAPE), FIELD), TypeError, "`moving_grid` must be a Grid"),
        (lambda: warp(torch.zeros(3, 4, 4), ZERO, GRID), ValueError, "`image` must have shape .*moving_grid"),
        (lambda: warp(torch.zeros(2, *SHAPE), ZERO.expand(3, *ZERO.shape), GRID), ValueError, "`field` must"),
        (lambda: warp_labels(torch.zeros(SHAPE), ZERO, GRID), TypeError, "`labels` must be .* integers"),
        (lambda: warp_labels(torch.zeros(2, 2, 2).int(), ZERO, GRID), ValueError, "`labels` must have shape"),
        (lambda: warp_labels(torch.zeros(SHAPE).byte(), ZERO, GRID, outside=-1), ValueError, "`outside`"),
    ],
)
def test_bad_arguments_are_named(attempt, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()
