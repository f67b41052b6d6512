import math
from typing import Any

import pytest
import torch

from operators.diagonal import Diagonal
from operators.grid import Grid, TimeAxis
from operators.linear import LinearOperator
from operators.mri import filters
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import CoilImaging, Coils
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.trajectories import kooshball
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import as_vectors, normal_matrix, random_element

GRID = Grid.from_spacing((2, 4, 5), (3.0, 1.0, 2.0))
FIELD = Space.field(GRID, is_complex=True)
COILS = Space.field(GRID, is_complex=True, components=(3,))
MAPS = random_element(COILS, seed=8)


class TestCoils(LinearOperatorContract):
    covers = (Coils,)

    def make(self, dtype: torch.dtype) -> Coils:
        return Coils(FIELD, MAPS.to(torch.complex64 if dtype == torch.float32 else torch.complex128))


class TestRealMapsWithAVoxelThatNoneSees(LinearOperatorContract):
    covers = (Coils,)

    def make(self, dtype: torch.dtype) -> Coils:
        maps = MAPS.real.clone().to(dtype)
        maps[:, 0, 1, 2] = 0
        return Coils(FIELD, maps)


LINES = torch.tensor([True, False, True, True])
PLANES = torch.stack([LINES, LINES.flip(0)])


class TestCoilImaging(LinearOperatorContract):
    covers = (CoilImaging,)

    def make(self, dtype: torch.dtype) -> CoilImaging:
        maps = MAPS.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
        lines = SampledCartesianGeometry.lines(CartesianGeometry.around(GRID), LINES, zero_filled=False)
        op = lines.operator(GRID, components=(3,)) @ Coils(FIELD, maps)
        assert isinstance(op, CoilImaging)
        return op


def imaging(weights: torch.Tensor | None = None) -> LinearOperator:
    """Return multi-coil Fourier imaging, k-space weighted where weights are given."""
    fourier = CartesianGeometry.around(GRID).operator(GRID, components=(3,))
    op = fourier @ Coils(FIELD, MAPS)
    return op if weights is None else Diagonal(fourier.codomain, weights) @ op


def solved_densely(op: LinearOperator, b: torch.Tensor, c: float) -> torch.Tensor:
    normal = normal_matrix(op)
    return torch.linalg.solve(normal + c * torch.eye(len(normal), dtype=normal.dtype), as_vectors(op, b).T).T


def test_each_coil_sees_the_image_through_its_map() -> None:
    x = random_element(FIELD, 2)
    y = Coils(FIELD, MAPS)(x)
    for coil in range(3):
        assert torch.equal(y[1, coil], MAPS[coil] * x[1])


def test_every_coil_is_transformed_alike() -> None:
    geometry = CartesianGeometry.around(GRID)
    x = random_element(COILS)
    y = geometry.operator(GRID, components=(3,))(x)
    assert torch.equal(y[1], geometry.operator(GRID)(x[1]))


@pytest.mark.parametrize("weight", [None, torch.tensor(0.5)])
def test_fully_sampled_imaging_is_solved_in_closed_form(weight: torch.Tensor | None) -> None:
    op = imaging(weight)
    assert op.has_closed_form
    x = random_element(FIELD, 2)
    assert (op.normal_solve(op.gram(x)) - x).abs().max() < 1e-12
    got = as_vectors(op, op.normal_solve(x, 0.2))
    assert (got - solved_densely(op, x, 0.2)).abs().max() < 1e-12


def test_lines_left_out_agree_with_dense() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    op = imaging(mask)
    assert not op.has_closed_form
    x = random_element(FIELD, 2)
    got = as_vectors(op, op.normal_solve(x, 0.2, tolerance=1e-12))
    assert (got - solved_densely(op, x, 0.2)).abs().max() < 1e-10


@pytest.mark.parametrize("cached_bytes", [1, 700, 1 << 22])
@pytest.mark.parametrize("multislice", [True, False])
@pytest.mark.parametrize(
    "mask", [LINES[:, None], torch.tensor([[True] * 4, [False, True, True, True]])[..., None]]
)
def test_the_normal_operator_does_not_depend_on_the_blocks(
    monkeypatch: pytest.MonkeyPatch, cached_bytes: int, multislice: bool, mask: torch.Tensor
) -> None:
    monkeypatch.setattr(filters, "CACHED_BYTES", cached_bytes)
    geometry = SampledCartesianGeometry(CartesianGeometry.around(GRID, multislice=multislice), mask)
    op = geometry.operator(GRID, components=(3,)) @ Coils(FIELD, MAPS)
    x = random_element(FIELD, 2)
    expected = op.adjoint(op(x))
    assert (op.gram(x) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 1, 3, 2), (1, 2, 3, 0)])
@pytest.mark.parametrize("sampling", ["samples", "radial"])
def test_the_normal_operator_does_not_depend_on_the_order_in_memory(
    sampling: str, order: tuple[int, ...]
) -> None:
    """Maps in Fortran's order, images transposed: what other packages hand over."""
    scattered = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    scan: Any = SampledCartesianGeometry(CartesianGeometry.around(GRID), scattered)
    if sampling == "radial":
        scan = NonCartesianGeometry(kooshball(5, 8, 3.0))

    def laid_out(values: torch.Tensor) -> torch.Tensor:
        back = [order.index(axis) for axis in range(4)]
        return values.permute(order).contiguous().permute(back)

    x = random_element(FIELD, 2)
    alone = scan.operator(GRID)
    op = scan.operator(GRID, components=(3,)) @ Coils(FIELD, laid_out(MAPS))
    for each in (alone, op):
        expected = each.adjoint(each(x))
        for images in (x, laid_out(x)):
            assert (each.gram(images) - expected).abs().max() < 1e-11 * expected.abs().max()


@pytest.mark.parametrize("frames", [1, 3])
def test_maps_serve_every_frame(frames: int) -> None:
    series = GRID.with_time(TimeAxis(frames))
    mask = torch.rand((frames, 1, 4, 1), generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, :, 2] = True
    geometry = SampledCartesianGeometry(CartesianGeometry.around(GRID), mask)
    space = Space.field(series, is_complex=True)
    encoding = geometry.operator(series, components=(3,))
    op = encoding @ Coils(space, MAPS)
    spelled_out = encoding @ Coils(space, MAPS[:, None].repeat(1, frames, 1, 1, 1))
    x = random_element(space, 2)
    assert torch.equal(op(x), spelled_out(x))
    expected = op.adjoint(op(x))
    for each in (op, spelled_out):
        assert (each.gram(x) - expected).abs().max() < 1e-12


def test_another_number_of_coils_is_named() -> None:
    encoding = CartesianGeometry.around(GRID).operator(GRID, components=(4,))
    with pytest.raises(ValueError, match="`maps` must have 4 coils, got 3 coils. The coils of the maps"):
        _ = encoding @ Coils(FIELD, MAPS)


def test_weights_per_coil_stay_closed() -> None:
    weights = torch.tensor([0.5, 1.0, 0.0]).reshape(3, 1, 1, 1)
    op = Diagonal(COILS, weights) @ Coils(FIELD, MAPS)
    assert op.has_closed_form
    x = random_element(FIELD, 2)
    assert (as_vectors(op, op.normal_solve(x, 0.2)) - solved_densely(op, x, 0.2)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("domain", "maps", "error", "message"),
    [
        (Space.field(GRID), MAPS, TypeError, "`domain` must be complex"),
        (COILS, MAPS, ValueError, "`domain` must be a field on a Grid without component axes"),
        (Space((2, 4, 5), is_complex=True), MAPS, ValueError, "`domain` must be a field on a Grid"),
        (FIELD, MAPS[0], ValueError, r"`maps` must have shape \(coils, 2, 4, 5\), got \(2, 4, 5\)"),
        (FIELD, MAPS[..., :4], ValueError, "`maps` must have shape"),
        (FIELD, MAPS * math.nan, ValueError, "`maps` must hold finite values"),
        (FIELD, None, TypeError, r"`maps` must be a torch\.Tensor"),
    ],
)
def test_bad_coils(domain: Space, maps: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Coils(domain, maps)
