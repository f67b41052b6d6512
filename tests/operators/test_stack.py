import pytest
import torch

from operators.blur import Blur
from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from operators.stack import BlockDiagonal, SliceWise, Stack
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element

GRID = Grid.from_spacing((2, 4, 5), (3.0, 1.0, 2.0))
REAL = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)


class TestStackOfRealAndComplexData(LinearOperatorContract):
    covers = (Stack,)

    def make(self, dtype: torch.dtype) -> Stack:
        return Stack([Fourier(REAL), 0.3 * FiniteDifferences(REAL)])


class TestStackWithClosedForm(LinearOperatorContract):
    covers = (Stack,)

    def make(self, dtype: torch.dtype) -> Stack:
        blur = Blur(COMPLEX, random_element(Space((3, 3)), seed=2).to(dtype), "periodic")
        return Stack([blur, 0.5 * FiniteDifferences(COMPLEX, boundary="periodic"), 2.0 * Identity(COMPLEX)])


class TestBlockDiagonal(LinearOperatorContract):
    covers = (BlockDiagonal,)

    def make(self, dtype: torch.dtype) -> BlockDiagonal:
        mask = Diagonal(REAL, random_element(REAL, seed=3) > 0)
        return BlockDiagonal([mask, FiniteDifferences(REAL), -1.5 * Identity(Space((7,)))])


class TestSliceWiseAlongSlices(LinearOperatorContract):
    covers = (SliceWise,)

    def make(self, dtype: torch.dtype) -> SliceWise:
        plane = Space.field(GRID.slice_at(0, 0))
        return SliceWise(Blur(plane, random_element(Space((3, 3)), seed=2).to(dtype), "periodic"), GRID)


class TestSliceWiseAlongRowsWithComponents(LinearOperatorContract):
    covers = (SliceWise,)

    def make(self, dtype: torch.dtype) -> SliceWise:
        plane = Space.field(GRID.slice_at(1, 2), is_complex=True, components=(2,))
        return SliceWise(Fourier(plane, axes=(-3, -1)), GRID, axis=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slicewise_is_a_loop_over_slices(axis: int) -> None:
    op = FiniteDifferences(Space.field(GRID.slice_at(axis, 0)))
    lifted = SliceWise(op, GRID, axis=axis)
    x = random_element(lifted.domain, 2)
    for k in range(GRID.shape[axis]):
        assert torch.equal(lifted(x)[:, k], op(x.narrow(axis + 1, k, 1)))
    assert lifted.grid == GRID


def test_slicewise_refuses_another_plane() -> None:
    other = Space.field(Grid.from_spacing((1, 4, 5), (3.0, 1.0, 2.5)))
    with pytest.raises(ValueError, match="`op` must act on one slice of the grid"):
        SliceWise(Identity(other), GRID)


def test_penalised_least_squares_equals_dense() -> None:
    """min |W (A x - y)|^2 + rho |D x|^2 by its stack, against the dense normal equations."""
    grid = Grid.plane((4, 5), (1.0, 2.0))
    space = Space.field(grid)
    blur = Blur(space, random_element(Space((3, 3)), seed=2), "periodic")
    whitener = Diagonal(blur.codomain, random_element(space, seed=3).abs() + 0.5)
    gradient = FiniteDifferences(space)
    rho = 0.7
    stack = Stack([whitener @ blur, rho**0.5 * gradient])
    y = random_element(space, seed=4)
    b = stack.adjoint(stack.join([whitener(y), torch.zeros(gradient.codomain.shape, dtype=y.dtype)]))
    x = stack.normal_solve(b, tolerance=1e-12)

    w, a, d = dense(whitener), dense(blur), dense(gradient)
    normal = a.T @ w.T @ w @ a + rho * d.T @ d
    expected = torch.linalg.solve(normal, a.T @ w.T @ w @ y.flatten())
    assert (x.flatten() - expected).abs().max() < 1e-10


def test_split_undoes_join_and_drops_nothing() -> None:
    stack = Stack([Fourier(REAL), FiniteDifferences(REAL)])
    parts = [random_element(op.codomain, 2, seed=s) for s, op in enumerate(stack.operators)]
    for got, expected in zip(stack.split(stack.join(parts)), parts, strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(ValueError, match="`parts` must be 2 tensors, one per operator"):
        stack.join(parts[:1])
    with pytest.raises(ValueError, match=r"`parts\[1\]` must have shape"):
        stack.join([parts[0], parts[0].real])


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Stack([]), TypeError, "`operators` must be one or more LinearOperators"),
        (
            lambda: Stack([Identity(REAL), Identity(Space((3,)))]),
            ValueError,
            r"\[1\].domain` must be Space",
        ),
        (lambda: BlockDiagonal([Identity(REAL), Identity(COMPLEX)]), TypeError, "all real or all complex"),
    ],
)
def test_bad_parts(build: LinearOperator, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]


def test_equal_shapes_in_different_places_do_not_mix() -> None:
    elsewhere = Space.field(Grid.from_spacing(GRID.shape, GRID.spacing, centre=(0, 0, 5)))
    with pytest.raises(ValueError, match=r"`operators\[1\].domain` must lie on the same grid"):
        Stack([Identity(REAL), Identity(elsewhere)])
