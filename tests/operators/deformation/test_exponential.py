"""Scaling and squaring: the contract, closed forms, the group property, and enough squarings."""

import math

import pytest
import torch
from torch import Tensor

from operators.deformation import (
    Exponential,
    compose,
    exponentiate,
    folded_share,
    jacobian_determinant,
    squarings_for,
)
from operators.grid import Grid
from tests.contracts import OperatorContract
from tests.operators.deformation.cases import (
    KINDS,
    kinds,
    margin,
    oblique,
    positions,
    spacing_norm,
    waves,
)


class TestExponential(OperatorContract):
    covers = (Exponential,)

    def make(self, dtype: torch.dtype) -> Exponential:
        return Exponential(oblique((1, 4, 5)), squarings=1)  # torch.compile unrolls each squaring


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_velocity_is_a_translation(kind: str) -> None:
    grid = kinds((5, 6, 7))[kind]
    v = torch.tensor([3.0, -2.0, 4.0], dtype=torch.float64)[:, None, None, None].expand(3, *grid.shape)
    assert (exponentiate(v, grid) - v).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_velocity_gives_the_matrix_exponential(kind: str) -> None:
    grid = kinds((15, 17, 16))[kind]
    generator = torch.tensor([[0.05, -0.2, 0.1], [0.2, -0.1, 0.05], [0.0, 0.1, 0.03]], dtype=torch.float64)
    r = positions(grid) - torch.from_numpy(grid.centre)[:, None, None, None]
    exact = torch.einsum("ij,jzyx->izyx", torch.linalg.matrix_exp(generator) - torch.eye(3), r)
    middle = tuple(slice(n // 2 - 2, n // 2 + 3) for n in grid.shape)
    error = {}
    for squarings in (4, 5):
        got = exponentiate(torch.einsum("ij,jzyx->izyx", generator, r), grid, squarings=squarings)
        error[squarings] = float((got - exact)[(slice(None), *middle)].abs().max())
    # Linear fields are interpolated exactly; the midpoint step leaves |A|^3 4^-K / 6 of r.
    assert error[4] < 0.3**3 / 6 / 4**4 * 15 * 2
    assert 3.5 < error[4] / error[5] < 4.5


@pytest.mark.parametrize("grid", [oblique((24, 26, 28)), Grid.plane((64, 60), (1.0, 1.5))], ids=["3d", "2d"])
def test_acceptance_of_scaling_and_squaring(grid: Grid) -> None:
    v = waves(grid, 0.05 * max(n * s for n, s in zip(grid.shape, grid.spacing, strict=True)))
    there, back = exponentiate(v, grid), exponentiate(-v, grid)
    assert spacing_norm(there, grid).max() > 1.0
    assert margin(spacing_norm(compose(there, back, grid), grid), grid, 4).max() < 0.05
    count = squarings_for(v, grid)
    assert spacing_norm(exponentiate(v, grid, squarings=count + 1) - there, grid).max() < 1e-2
    assert folded_share(there, grid, strict=True) == 0
    assert jacobian_determinant(there, grid).min() > 0


def test_the_automatic_number_keeps_the_roughest_velocity_from_folding() -> None:
    for grid in (oblique((7, 8, 9)), Grid.plane((12, 13), (1.0, 2.0))):
        signs = torch.from_numpy(sum(torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij")).numpy())
        inverse = torch.from_numpy(grid.affine[:3, :3].copy())
        step = (signs % 2 * 2 - 1) * torch.ones(3, 1, 1, 1)
        if grid.shape[0] == 1:
            step[0] = 0
        v = 3.0 * torch.einsum("ia,azyx->izyx", inverse, step.double())  # +-3 voxels, alternating
        n = 2 if grid.shape[0] == 1 else 3
        count = squarings_for(v, grid)
        assert count == math.ceil(math.log2(3 * 4 * n))
        first = exponentiate(v / 2**count, grid, squarings=0)
        assert folded_share(first, grid, strict=True) == 0
        assert folded_share(v / 2 ** (count - 3), grid, strict=True) > 0.5


def test_numbers_of_squarings() -> None:
    grid = Grid.from_spacing((4, 4, 4), 2.0)
    v = torch.zeros(3, 4, 4, 4)
    assert squarings_for(v, grid) == 0
    v[0] = 1.999 / 12  # a twelfth of a voxel in three dimensions
    assert squarings_for(v, grid) == 0
    assert squarings_for(2 * v, grid) == 1
    assert squarings_for(torch.stack([v, 64 * v]), grid) == 6
    assert torch.equal(exponentiate(64 * v, grid), Exponential(grid, squarings=6)(64 * v))


def test_gradient_through_the_exponential() -> None:
    grid = oblique((2, 3, 3))
    v = waves(grid, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: exponentiate(a, grid, squarings=2), v, eps=1e-7, fast_mode=True)


def test_a_graph_keeps_the_fields_and_no_interpolation() -> None:
    grid = oblique((6, 7, 8))
    v = waves(grid, 0.5).requires_grad_()
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        exponentiate(v, grid, squarings=5)
    assert sum(kept.values()) <= (5 + 2) * v.nbytes  # each squaring its argument, the first step v and v / 2


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda g, v: exponentiate(v[..., :2], g), "`v` must have shape"),
        (lambda g, v: exponentiate(v, g, squarings=-1), "`squarings` must be an integer >= 0"),
        (lambda g, v: exponentiate(v + math.inf, g), "`v` must hold finite values"),
        (lambda g, v: exponentiate(v, g, boundary="wrap"), "`boundary` must be"),
        (lambda g, v: Exponential(g, boundary="wrap"), "`boundary` must be"),
    ],
)
def test_bad_arguments_are_named(attempt, message: str) -> None:
    grid = oblique((2, 3, 4))
    with pytest.raises(ValueError, match=message):
        attempt(grid, torch.zeros(3, *grid.shape))
