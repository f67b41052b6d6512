import math

import pytest
import torch

from operators.base import Composed, Operator
from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import Adjoint, Gram, LinearOperator, Product, Scaled, Sum
from operators.space import Space
from tests.contracts import LinearOperatorContract, OperatorContract
from tests.oracles import dense, normal_matrix, random_element

GRID = Grid.from_spacing((2, 4, 5), (3.0, 1.0, 2.0))
REAL = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)


def mask(space: Space) -> Diagonal:
    return Diagonal(space, random_element(Space(space.shape), seed=3) > -0.3)


class Cubed(Operator):
    """x -> x^3, the nonlinear operator of these tests."""

    def __init__(self) -> None:
        super().__init__(REAL, REAL)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x**3


class TestNonlinear(OperatorContract):
    covers = (Operator,)

    def make(self, dtype: torch.dtype) -> Operator:
        return Cubed()


class TestNonlinearInsideLinear(OperatorContract):
    covers = (Composed,)

    def make(self, dtype: torch.dtype) -> Operator:
        return Fourier(REAL) @ Cubed()


class TestLinearInsideNonlinear(OperatorContract):
    covers = (Composed,)

    def make(self, dtype: torch.dtype) -> Operator:
        return Cubed() @ mask(REAL)


class TestAdjoint(LinearOperatorContract):
    covers = (Adjoint,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return FiniteDifferences(REAL).H


class TestAdjointOfComplexValuesOnRealImages(LinearOperatorContract):
    covers = (Adjoint,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return Fourier(REAL).H


class TestGramLinearOverTheRealsOnly(LinearOperatorContract):
    covers = (Gram,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return Fourier(REAL).H.gram


class TestGram(LinearOperatorContract):
    covers = (Gram,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return (mask(COMPLEX) @ Fourier(COMPLEX)).gram


class TestGramWithoutClosedForm(LinearOperatorContract):
    covers = (Gram,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return FiniteDifferences(REAL).gram


class TestMaskedFourier(LinearOperatorContract):
    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return mask(COMPLEX) @ Fourier(COMPLEX)


class TestMaskedFourierWithSignsAndPhase(LinearOperatorContract):
    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        turned = Fourier(COMPLEX, zero_phase=(0.5, 1.25, -2.0), signs=(-1, 1, -1))
        return Diagonal(COMPLEX, random_element(Space(COMPLEX.shape), seed=3).to(dtype)) @ turned


class TestMaskedFourierOfRealImages(LinearOperatorContract):
    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return mask(COMPLEX) @ Fourier(REAL)


class TestWhitenedBlur(LinearOperatorContract):
    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return mask(REAL) @ Blur(REAL, random_element(Space((3, 3)), seed=2).to(dtype), "periodic")


class TestTwoBlurs(LinearOperatorContract):
    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        flat = Blur(REAL, random_element(Space((3, 3)), seed=2).to(dtype), "periodic")
        return flat @ Blur(REAL, random_element(Space((2, 3, 3)), seed=4).to(dtype), "periodic")


class TestBlurInFrequencySpace(LinearOperatorContract):
    """Exact through its singular values alone: no transform known here diagonalises A^H A."""

    covers = (Product,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        kernel = random_element(Space((3, 3)), seed=2).to(dtype)
        return Blur(COMPLEX, kernel, "periodic") @ Fourier(COMPLEX)


class TestSum(LinearOperatorContract):
    covers = (Sum,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return mask(REAL) + 0.5 * Blur(REAL, random_element(Space((3, 3)), seed=2).to(dtype), "periodic")


class TestScaledByAComplexNumber(LinearOperatorContract):
    covers = (Scaled,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return (1 - 2j) * Fourier(COMPLEX)


class TestScaledRealImages(LinearOperatorContract):
    covers = (Scaled,)

    def make(self, dtype: torch.dtype) -> LinearOperator:
        return 1j * Fourier(REAL)


def test_algebra_is_the_algebra_of_matrices() -> None:
    a, b = mask(REAL), Blur(REAL, random_element(Space((3, 3)), seed=2), "periodic")
    one, two = dense(a), dense(b)
    assert torch.allclose(dense(a @ b), one @ two)
    assert torch.allclose(dense(a + b), one + two)
    assert torch.allclose(dense(a - b), one - two)
    assert torch.allclose(dense(3 * a), 3 * one)
    assert torch.allclose(dense(a * torch.tensor(3.0)), 3 * one)
    assert torch.allclose(dense(torch.tensor(3.0) * a), 3 * one)
    assert torch.allclose(dense(b / 4), two / 4)
    assert torch.allclose(dense(-b), -two)
    assert torch.allclose(dense((a @ b).H), (one @ two).T)
    assert torch.allclose(dense(b.gram), two.T @ two)


def test_real_images_with_complex_values_solve_the_real_normal_equations() -> None:
    op = mask(COMPLEX) @ Fourier(REAL)
    matrix = dense(op)
    assert torch.allclose(normal_matrix(op), (matrix.conj().T @ matrix).real)
    b = random_element(REAL)
    x = op.normal_solve(b, 0.1, max_iterations=1)  # closed form: one iteration would not do
    assert (op.gram(x) + 0.1 * x - b).abs().max() < 1e-12


def test_singular_values_alone_make_a_solve_exact() -> None:
    op = Blur(COMPLEX, random_element(Space((3, 3)), seed=2), "periodic") @ Fourier(COMPLEX)
    assert op._gram_spectrum is None
    b = random_element(COMPLEX)
    x = op.normal_solve(b, 0.1, max_iterations=1)  # one iteration of conjugate gradients would not do
    assert (op.gram(x) + 0.1 * x - b).abs().max() < 1e-12


def test_a_singular_system_without_a_solution_is_no_worse_than_its_start() -> None:
    op = FiniteDifferences(REAL)
    b = random_element(REAL)
    with pytest.warns(ConvergenceWarning, match="stopped at relative residual"):
        x = op.normal_solve(b)
    assert (op.gram(x) - b).norm() <= b.norm()


def test_pinv_of_single_precision_data_does_not_square_the_condition_number() -> None:
    space = Space.field(Grid.from_spacing((1, 32, 32), 1.0))
    blur = Blur(space, GaussianPSF((0.0, 2.5, 2.5)), "periodic")
    x = random_element(space)
    error = (blur.pinv(blur(x).float()) - x).norm() / x.norm()
    assert error < 0.01


def test_each_sample_has_its_own_shift_and_stop() -> None:
    op = FiniteDifferences(REAL)
    b = random_element(REAL, 3)
    b[1] *= 1e-6
    shifts = torch.tensor([1e-3, 1.0, 1e3])
    together = op.normal_solve(b, shifts)
    for row, c, got in zip(b, shifts, together, strict=True):
        assert (op.normal_solve(row, float(c)) - got).abs().max() <= 1e-9 * got.abs().max()


def test_an_unfinished_solve_says_so() -> None:
    op = FiniteDifferences(REAL)
    with pytest.warns(ConvergenceWarning, match="stopped at relative residual .* after 2 iterations. Raise"):
        op.normal_solve(random_element(REAL), 1e-6, max_iterations=2)


@pytest.mark.parametrize(
    ("c", "error", "message"),
    [
        (-1.0, ValueError, r"`c` must be a finite number >= 0, got -1\.0"),
        (math.nan, ValueError, "`c` must be a finite number >= 0, got nan"),
        (torch.tensor([0.1, -0.1]), ValueError, "`c` must be a finite number >= 0, got -0.1"),
        (torch.tensor([0.1, 0.1, 0.1]), ValueError, r"`c` must broadcast to \(2,\), got \(3,\)"),
        ("1", TypeError, "`c` must be a finite number >= 0, got '1'"),
    ],
)
def test_bad_shifts(c: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FiniteDifferences(REAL).normal_solve(random_element(REAL, 2), c)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Identity(REAL) @ Identity(COMPLEX), ValueError, "`inner.codomain` must be Space"),
        (lambda: Identity(REAL) + Identity(COMPLEX), ValueError, "`second.domain` must be Space"),
        (lambda: Identity(REAL) @ torch.ones(3), TypeError, r"`other` must be an Operator.*A\(x\)"),
        (lambda: 1j * Identity(REAL), TypeError, "`factor` must be real"),
        (lambda: math.nan * Identity(REAL), ValueError, "`factor` must be finite"),
        (lambda: "2" * Identity(REAL), TypeError, "`factor` must be one number"),
        (lambda: Identity(REAL) / 0, ValueError, "`divisor` must not be zero"),
    ],
)
def test_bad_algebra(build: LinearOperator, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]


def test_equal_shapes_in_different_places_do_not_compose() -> None:
    elsewhere = Space.field(Grid.from_spacing(GRID.shape, GRID.spacing, centre=(0, 0, 5)))
    with pytest.raises(ValueError, match="silently misaligned"):
        _ = Identity(REAL) @ Identity(elsewhere)
    with pytest.raises(ValueError, match="`second.domain` must lie on the same grid"):
        _ = Identity(REAL) + Identity(elsewhere)


def test_operators_split_over_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="must live on one device, got cpu and meta"):
        _ = mask(REAL) @ mask(REAL).to("meta")


def test_second_derivatives_pass_through() -> None:
    op = FiniteDifferences(REAL)
    x = random_element(REAL).requires_grad_()
    (gradient,) = torch.autograd.grad((op(x) ** 4).sum(), x, create_graph=True)
    assert torch.autograd.gradgradcheck(lambda z: (op(z) ** 4).sum(), (x,))
    assert gradient.requires_grad
    hessian_row = torch.func.hessian(lambda z: (op(z) ** 2).sum() / 2)(x.detach())
    matrix = hessian_row.reshape(REAL.size, REAL.size)
    assert torch.allclose(matrix, normal_matrix(op))


def test_a_solution_has_no_derivative_in_where_it_began() -> None:
    op = FiniteDifferences(REAL)
    b, start = (random_element(REAL, seed=seed) for seed in (1, 2))
    assert not op.normal_solve(b, 1.0, start=start.requires_grad_()).requires_grad
    assert op.normal_solve(b.requires_grad_(), 1.0, start=start).requires_grad
