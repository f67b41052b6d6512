import pytest
import torch

from operators.diagonal import Diagonal
from operators.errors import NoClosedFormError
from operators.fourier import Fourier
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import as_vectors, dense, normal_matrix, random_element

FIELD = Space.field(Grid.from_spacing((1, 3, 4), 1.0))
COMPLEX = Space.field(Grid.from_spacing((1, 3, 4), 1.0), is_complex=True)


def entries(rows: int, columns: int, *, is_complex: bool = False, rank: int | None = None) -> torch.Tensor:
    value = random_element(Space((rows, columns), is_complex), seed=31)
    if rank is None:
        return value
    u, s, vh = torch.linalg.svd(value, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def cast(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return matrix.to(torch.promote_types(dtype, torch.complex32) if matrix.is_complex() else dtype)


class TestTall(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(FIELD, Space((4, 5)), cast(entries(20, 12), dtype))


class TestWide(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(COMPLEX, Space((7,), is_complex=True), cast(entries(7, 12, is_complex=True), dtype))


class TestSquareOfLowRank(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(FIELD, FIELD, cast(entries(12, 12, rank=8), dtype))


class TestRealEntriesBetweenComplexSpaces(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(COMPLEX, COMPLEX, cast(entries(12, 12), dtype))


class TestComplexValuesOfRealImages(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(FIELD, Space((5,), is_complex=True), cast(entries(5, 12, is_complex=True), dtype))


class TestRealEntriesToComplexValues(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        return Matrix(FIELD, Space((15,), is_complex=True), cast(entries(15, 12), dtype))


class TestUnitary(LinearOperatorContract):
    covers = (Matrix,)

    def make(self, dtype: torch.dtype) -> Matrix:
        q = torch.linalg.qr(entries(12, 12, is_complex=True)).Q
        return Matrix(COMPLEX, COMPLEX, cast(q, dtype), unitary=True)


def test_is_the_matrix_in_c_order() -> None:
    m = entries(20, 12)
    x = random_element(FIELD, 2)
    y = Matrix(FIELD, Space((4, 5)), m)(x)
    assert torch.allclose(y[1], (m @ x[1].flatten()).reshape(4, 5))
    assert torch.allclose(dense(Matrix(FIELD, Space((4, 5)), m)), m)


@pytest.mark.parametrize("make", [TestTall, TestWide, TestComplexValuesOfRealImages])
def test_its_adjoint_is_closed_too_and_what_is_derived_stays_true(make: type[LinearOperatorContract]) -> None:
    op = make().make(torch.float64)
    for derived in (op, 2.0 * op, op.H, (2.0 * op).H, (0.5 * op.H).H, op.gram):
        normal = normal_matrix(derived)
        b = random_element(derived.domain, 2)
        shifted = normal + 0.3 * torch.eye(len(normal), dtype=normal.dtype)
        expected = torch.linalg.solve(shifted, as_vectors(derived, b).T).T
        got = as_vectors(derived, derived.normal_solve(b, 0.3))
        assert (got - expected).norm() <= 1e-8 * expected.norm(), derived
    assert op.has_svd


def test_least_squares_of_a_multiple_needs_no_shift() -> None:
    op = 3.0 * TestTall().make(torch.float64)
    y = random_element(op.codomain)
    expected = torch.linalg.lstsq(dense(op), y.reshape(-1, 1)).solution[:, 0]
    assert (op.normal_solve(op.adjoint(y)).flatten() - expected).norm() <= 1e-7 * expected.norm()


def test_the_adjoint_holds_no_third_copy() -> None:
    op = TestTall().make(torch.float64)
    assert isinstance(op.H, Matrix)
    assert op.H.H is op
    assert op.device == torch.device("cpu")  # the search for tensors ends


def test_products_with_unitary_factors_keep_the_closed_form() -> None:
    unitary: LinearOperator = TestUnitary().make(torch.float64)
    product = Fourier(COMPLEX) @ unitary @ Diagonal(COMPLEX, random_element(FIELD)) @ unitary.H
    assert product.has_svd
    with pytest.raises(NoClosedFormError):
        (Diagonal(COMPLEX, random_element(FIELD)) @ unitary @ Diagonal(COMPLEX, random_element(FIELD))).svd()


@pytest.mark.parametrize(
    ("domain", "codomain", "matrix", "error", "message"),
    [
        (
            FIELD,
            FIELD,
            entries(12, 11),
            ValueError,
            r"`matrix` must have shape .* = \(12, 12\), got \(12, 11\)",
        ),
        (
            FIELD,
            FIELD,
            entries(12, 12, is_complex=True),
            TypeError,
            "`matrix` must be real for a real codomain",
        ),
        (COMPLEX, FIELD, entries(12, 12), TypeError, "`codomain` must be complex, as the domain is"),
        (FIELD, FIELD, entries(12, 12) / 0, ValueError, "`matrix` must hold finite values"),
        (FIELD, FIELD, entries(12, 12).tolist(), TypeError, r"`matrix` must be a torch\.Tensor, got list"),
        (FIELD, FIELD, entries(12, 12).requires_grad_(), ValueError, "`matrix` must not require a gradient"),
    ],
)
def test_bad_matrices(
    domain: Space, codomain: Space, matrix: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Matrix(domain, codomain, matrix)


def test_a_false_claim_of_unitarity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`matrix` must be unitary, as stated, .* Leave out unitary=True"):
        Matrix(FIELD, FIELD, entries(12, 12), unitary=True)
    with pytest.raises(ValueError, match="`matrix` must be square"):
        Matrix(FIELD, Space((20,)), entries(20, 12), unitary=True)
