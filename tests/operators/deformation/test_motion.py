"""Motion-resolved CT and MRI as operator products: contract, equivalence, and what motion costs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.deformation import FoldingWarning, WarpField, identity_field, motion_resolved, warp
from operators.diagonal import Diagonal
from operators.grid import Grid, TimeAxis
from operators.linear import LinearOperator
from operators.mri.cartesian import CartesianGeometry
from operators.space import Space
from operators.stack import Stack
from tests.contracts import LinearOperatorContract
from tests.operators.deformation.cases import margin, positions, upright, waves
from tests.oracles import adjoint_mismatch, random_element

SMALL = upright((2, 5, 6))


def gated_ct(grid: Grid, states: int, views: int, engine: str = "torch") -> list[LinearOperator]:
    """Return a projector per state: every `states`-th view belongs to one of them."""
    whole = ParallelBeamGeometry.around(grid, views)
    return [whole.with_(angles=whole.angles[t::states]).operator(grid, engine=engine) for t in range(states)]


def gated_mri(grid: Grid, states: int) -> list[LinearOperator]:
    """Return k-space per state, with every `states`-th line measured."""
    fourier = CartesianGeometry.around(grid).operator(grid)
    lines = torch.arange(grid.shape[1])[:, None] % states
    return [Diagonal(fourier.codomain, (lines == t).float()) @ fourier for t in range(states)]


class TestMotionResolvedCT(LinearOperatorContract):
    covers = (Stack,)
    traceable = False  # the projector is not

    def make(self, dtype: torch.dtype) -> Stack:
        grid = upright((1, 4, 5))
        return motion_resolved(gated_ct(grid, 2, 2), [None, waves(grid, 0.3).to(dtype)], grid)


class TestMotionResolvedMRI(LinearOperatorContract):
    covers = (Stack,)

    def make(self, dtype: torch.dtype) -> Stack:
        grid = SMALL.slice_at(0, 1)
        fields = [None, waves(grid, 0.4, seed=1).to(dtype)]
        return motion_resolved(gated_mri(grid, 2), fields, grid, boundary="edge")


def breathing(grid: Grid, states: int) -> list[Tensor]:
    """Return fields that stretch the object along A by up to 12 per cent."""
    r = positions(grid)
    fields = []
    for t in range(states):
        u = torch.zeros_like(r)
        u[1] = 0.12 * np.sin(2 * np.pi * t / states) * (r[1] - float(grid.centre[1]))
        fields.append(u)
    return fields


def discs(grid: Grid) -> Tensor:
    """Return three soft discs in a larger one."""
    r = positions(grid) - torch.from_numpy(grid.centre)[:, None, None, None]
    image = torch.sigmoid((26 - r[:2].norm(dim=0)) / 1.5)
    for x, y, radius in ((-10, 6, 6), (8, 10, 5), (4, -12, 7)):
        image = image + torch.sigmoid((radius - (r[:2] - torch.tensor([[[[x]]], [[[y]]]])).norm(dim=0)) / 1.5)
    return image


def test_each_state_sees_the_warped_image() -> None:
    operators = gated_ct(SMALL, 3, 6)
    fields = [waves(SMALL, 0.4, seed=s) for s in range(3)]
    op = motion_resolved(operators, fields, SMALL)
    x = random_element(op.domain, 2)
    for part, state, field in zip(op.split(op(x)), operators, fields, strict=True):
        assert torch.equal(part, state(warp(x, field, SMALL)))


def test_no_motion_is_the_whole_scan() -> None:
    still = identity_field(SMALL)
    op = motion_resolved(gated_mri(SMALL, 2), [None, still], SMALL)
    x = random_element(op.domain)
    fourier = CartesianGeometry.around(SMALL).operator(SMALL)
    assert (sum(op.split(op(x))) - fourier(x)).abs().max() < 1e-12


def test_the_reference_may_lie_on_another_grid() -> None:
    reference = SMALL.pad((0, 2, 2))
    op = motion_resolved(gated_ct(SMALL, 2, 4), [waves(SMALL, 0.4)] * 2, reference)
    assert op.domain == Space.field(reference)
    assert adjoint_mismatch(op, torch.float64, "correlated") < 1e-13
    with pytest.raises(ValueError, match=r"`operators\[1\]\.domain` must be"):
        motion_resolved(gated_ct(SMALL, 2, 4), [waves(SMALL, 0.4), None], reference)


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_knowing_the_motion_recovers_the_reference_image(modality: str) -> None:
    grid = Grid.plane((32, 32), 2.0, thickness=4.0)
    states = 4
    operators = gated_ct(grid, states, 48) if modality == "ct" else gated_mri(grid, states)
    fields = breathing(grid, states)
    op = motion_resolved(operators, fields, grid)
    truth = discs(grid)
    truth = truth if modality == "ct" else torch.complex(truth, 0.3 * truth)
    blurred = motion_resolved(operators, [None] * states, grid)
    # Data of an object that moves continuously: four times as fine as what is reconstructed.
    fine = grid.resample(shape=(1, 128, 128))
    image = discs(fine)
    image = image if modality == "ct" else torch.complex(image, 0.3 * image)
    data = op.join(
        [a(warp(image, u, grid, moving_grid=fine)) for a, u in zip(operators, fields, strict=True)]
    )
    c = 1e-3 * op.norm(tolerance=1e-2) ** 2
    errors = {}
    for name, model in (("with", op), ("without", blurred)):
        answer = model.normal_solve(model.adjoint(data), c, tolerance=1e-3)
        errors[name] = float(margin(answer - truth, grid, 4).norm() / margin(truth, grid, 4).norm())
    assert errors["with"] < 0.06
    assert errors["without"] > 2.5 * errors["with"]


def test_data_of_one_state_are_differentiable_in_its_field() -> None:
    # y_t = A_t x(r + u_t(r)) in u_t, for the image at hand: the other half of joint estimation.
    grid = SMALL
    x = random_element(Space.field(grid))
    model = gated_ct(grid, 2, 4)[0] @ WarpField(x, grid)
    u, r = waves(grid, 1.0), random_element(model.codomain, seed=3)
    step = 1e-6 * waves(grid, 1.0, seed=8)
    quotient = ((model(u + step) - model(u - step)) * r).sum() / 2
    assert abs((model.vjp(u, r) * step).sum() / quotient - 1) < 1e-6


def test_a_field_that_folds_is_told_with_its_share() -> None:
    folds = torch.zeros(3, *SMALL.shape)
    folds[0] = -2 * positions(SMALL)[0]
    with pytest.warns(FoldingWarning, match=r"`fields\[1\]` must have a positive Jacobian .* share of 1\."):
        motion_resolved(gated_ct(SMALL, 2, 4), [None, folds], SMALL)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda o, u: motion_resolved(o, [u], SMALL),
            ValueError,
            "`fields` must have one entry per operator",
        ),
        (
            lambda o, u: motion_resolved([], [], SMALL),
            ValueError,
            "`fields` must have one entry per operator",
        ),
        (lambda o, u: motion_resolved(o[0], u, SMALL), TypeError, "`operators, fields` must be two lists"),
        (
            lambda o, u: motion_resolved([u, u], [u, u], SMALL),
            TypeError,
            r"`operators\[0\]` must be a Linear",
        ),
        (lambda o, u: motion_resolved(o, [u, u[:2]], SMALL), ValueError, r"`fields\[1\]` must have shape"),
        (lambda o, u: motion_resolved(o, [u, u], SMALL.with_time(TimeAxis(2))), ValueError, "no time axis"),
    ],
)
def test_bad_arguments_are_named(attempt, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt(gated_ct(SMALL, 2, 4), waves(SMALL, 1.0))
