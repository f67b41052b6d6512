import math

import pytest
import torch

from operators.blur import Blur, GaussianPSF
from operators.circulant import PeriodicFilter
from operators.diagonal import Diagonal
from operators.grid import Grid
from operators.identity import Identity
from operators.space import Space
from tests.contracts import LinearOperatorContract
from tests.oracles import dense, random_element

GRID = Grid.from_spacing((3, 4, 5), (4.0, 2.0, 1.0))
FIELD = Space.field(GRID)


def even(*shape: int) -> torch.Tensor:
    """Return a real response that is even in frequency, with both signs and a zero."""
    response = torch.fft.fftn(random_element(Space(shape), seed=6)).real
    response[(0,) * len(shape)] = 0
    return response


class TestSelfAdjoint(LinearOperatorContract):
    covers = (PeriodicFilter,)

    def make(self, dtype: torch.dtype) -> PeriodicFilter:
        return PeriodicFilter(FIELD, even(3, 4, 5).to(dtype))


class TestWithPhasesInPlane(LinearOperatorContract):
    covers = (PeriodicFilter,)

    def make(self, dtype: torch.dtype) -> PeriodicFilter:
        response = torch.fft.fftn(random_element(Space((4, 5)), seed=6))
        kind = torch.complex64 if dtype == torch.float32 else torch.complex128
        return PeriodicFilter(Space.field(GRID, components=(2,)), response.to(kind))


class TestOfComplexImages(LinearOperatorContract):
    covers = (PeriodicFilter,)

    def make(self, dtype: torch.dtype) -> PeriodicFilter:
        response = random_element(Space((4, 5)), seed=6)  # not even: complex images allow it
        return PeriodicFilter(Space.field(GRID, is_complex=True), response.to(dtype))


class TestAllPass(LinearOperatorContract):
    covers = (PeriodicFilter,)

    def make(self, dtype: torch.dtype) -> PeriodicFilter:
        return PeriodicFilter(FIELD, even(3, 4, 5).sign() + (even(3, 4, 5) == 0))


def test_is_the_equation() -> None:
    response = even(4, 5)
    x = random_element(FIELD, 2)
    expected = torch.fft.ifftn(torch.fft.fftn(x, dim=(-2, -1)) * response, dim=(-2, -1))
    assert expected.imag.abs().max() < 1e-14
    assert (PeriodicFilter(FIELD, response)(x) - expected.real).abs().max() < 1e-13


def test_a_real_response_is_self_adjoint_with_its_values_as_eigenvalues() -> None:
    op = PeriodicFilter(FIELD, even(3, 4, 5))
    assert op.H is op
    matrix = dense(op)
    assert (matrix - matrix.T).abs().max() < 1e-14
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert (eigenvalues - even(3, 4, 5).flatten().sort().values).abs().max() < 1e-12


def test_a_blur_is_the_filter_of_its_transfer() -> None:
    psf = random_element(Space((3, 3, 3)), seed=2)
    padded = torch.zeros(FIELD.shape, dtype=torch.float64)
    padded[:3, :3, :3] = psf
    response = torch.fft.fftn(padded.roll((-1, -1, -1), (0, 1, 2)))
    x = random_element(FIELD)
    filtered = PeriodicFilter(FIELD, response)(x)
    assert (filtered - Blur(FIELD, psf, "periodic")(x)).abs().max() < 1e-13
    assert isinstance(PeriodicFilter(FIELD, response).H, PeriodicFilter)


def test_products_keep_the_closed_form() -> None:
    op = 2.0 * Blur(FIELD, GaussianPSF(3.0), "periodic") @ PeriodicFilter(FIELD, even(3, 4, 5))
    assert op.has_closed_form
    assert (op.H @ Diagonal(FIELD, torch.tensor(0.5))).has_closed_form
    assert (PeriodicFilter(FIELD, torch.ones(5)) @ Identity(FIELD)).is_unitary


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (
            torch.ones(4, 4),
            ValueError,
            r"`response` must have the shape of the last axes of \(3, 4, 5\), got \(4, 4\)",
        ),
        (torch.ones(1, 3, 4, 5), ValueError, "`response` must have the shape of the last axes"),
        (torch.tensor(1.0), ValueError, "`response` must have the shape of the last axes"),
        (torch.arange(5.0), ValueError, r"`response` must be even: .* torch\.fft\.fftn"),
        (torch.ones(5) * 1j, ValueError, "`response` must be even"),
        (torch.full((5,), math.inf), ValueError, "`response` must hold finite values"),
        ([1.0], TypeError, r"`response` must be a torch\.Tensor"),
    ],
)
def test_bad_responses(response: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PeriodicFilter(FIELD, response)
