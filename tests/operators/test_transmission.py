import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from operators.fourier import Fourier
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from operators.transmission import TransmissionCounts
from tests.contracts import OperatorContract
from tests.oracles import random_element
from workbench.noise.poisson import PoissonTransmission

FIELD = Space.field(Grid.plane((3, 4), 1.0))
RAYS = Space((2, 5))
BLANK = torch.tensor([900.0, 50.0, 0.0, 1e4, 3.0], dtype=torch.float64)
SCATTER = torch.tensor([[20.0], [0.0]], dtype=torch.float64)


def rays(dtype: torch.dtype = torch.float64) -> LinearOperator:
    return Matrix(FIELD, RAYS, random_element(Space((10, 12)), seed=4).abs().to(dtype) / 5)


class TestCounts(OperatorContract):
    covers = (TransmissionCounts,)

    def make(self, dtype: torch.dtype) -> TransmissionCounts:
        return TransmissionCounts(rays(dtype), BLANK.to(dtype), SCATTER.to(dtype))


def test_is_the_law_of_beer_and_lambert_with_its_derivatives() -> None:
    op, matrix = TransmissionCounts(rays(), BLANK, SCATTER), rays()
    x, v, r = (random_element(FIELD, 2, seed=s) for s in (1, 2, 3))
    r = random_element(RAYS, 2, seed=3)
    through = BLANK * torch.exp(-matrix(x))
    assert (op(x) - through - SCATTER).abs().max() < 1e-12 * op(x).max()
    assert (op.jvp(x, v) + through * matrix(v)).abs().max() < 1e-12 * op(x).max()
    assert (op.vjp(x, r) + matrix.adjoint(through * r)).abs().max() < 1e-11 * op(x).max()
    assert torch.equal(op(x)[..., 2], SCATTER[:, 0].expand(2, 2))  # a dead ray


def test_a_plain_poisson_law_on_it_is_the_transmission_law_on_line_integrals() -> None:
    x = random_element(FIELD).abs()
    counts = torch.tensor([[800.0, 40.0, 7.0, 9e3, 0.0]] * 2, dtype=torch.float64)
    blank = torch.where(BLANK > 0, BLANK, 10.0)
    plain = stats.poisson.logpmf(counts.numpy(), TransmissionCounts(rays(), blank)(x).numpy()).sum()
    law = PoissonTransmission(blank).log_likelihood(rays()(x), counts)
    assert float(law) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("blank", [1e-3, 1.0, 1e6])
def test_far_below_zero_it_rises_along_its_tangent(blank: float, dtype: torch.dtype) -> None:
    """Beyond e^T of T = log(max) / 2 the exponential goes on as a line: finite, with its slope."""
    space = Space((1,))
    op = TransmissionCounts(Matrix(space, space, torch.ones(1, 1, dtype=dtype)), blank)
    top = 0.5 * math.log(torch.finfo(dtype).max)
    begin = top - math.log(blank)
    for beyond in (0.0, 1.0, 10.0, 500.0):
        x = torch.tensor([-begin - beyond], dtype=dtype)
        expected = math.exp(top) * (1 + beyond)
        bound = 200 * top * torch.finfo(dtype).eps  # rounding of x, of size T, in the exponent
        assert float(op(x)) == pytest.approx(expected, rel=bound * (1 + beyond))
        one = torch.ones(1, dtype=dtype)
        assert float(op.vjp(x, one)) == pytest.approx(-math.exp(top), rel=bound)
        assert float(op.jvp(x, one)) == pytest.approx(-math.exp(top), rel=bound)
    assert float(op(torch.tensor([1e4], dtype=dtype))) == 0.0


def test_counts_in_single_precision_are_as_exact_as_it_allows() -> None:
    """The blank stays outside the exponent: its logarithm would cost digits."""
    op = TransmissionCounts(rays(), 1e7)
    x = random_element(FIELD).abs()
    error = (op(x.float()) - op(x)).abs() / op(x)
    # Three roundings of a sum of twelve terms, of size m, in the exponent.
    assert error.max() < 20 * torch.finfo(torch.float32).eps * (1 + rays()(x).max())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TransmissionCounts(rays(), 0.0), ValueError, "`blank` must be above 0 for one ray at least"),
        (lambda: TransmissionCounts(rays(), -1.0), ValueError, "`blank` must be a finite number >= 0"),
        (lambda: TransmissionCounts(rays(), -BLANK), ValueError, "`blank` must be >= 0, got -10000"),
        (
            lambda: TransmissionCounts(rays(), torch.ones(4)),
            ValueError,
            r"`blank` must broadcast to \(2, 5\)",
        ),
        (lambda: TransmissionCounts(rays(), BLANK * 1j), TypeError, "`blank` must be real"),
        (lambda: TransmissionCounts(rays(), "1e5"), TypeError, "`blank` must be a finite number"),  # type: ignore[arg-type]
        (
            lambda: TransmissionCounts(rays(), 1.0, -2.0),
            ValueError,
            "`background` must be a finite number >= 0",
        ),
        (
            lambda: TransmissionCounts(rays(), 1.0, torch.ones(1, 2, 5)),
            ValueError,
            "`background` must broadcast",
        ),
        (
            lambda: TransmissionCounts(rays(), torch.full((5,), math.inf)),
            ValueError,
            "`blank` must hold finite",
        ),
        (lambda: TransmissionCounts(Fourier(FIELD), 1.0), TypeError, "`inner` must give real line integrals"),
        (lambda: TransmissionCounts(1.0, 1.0), TypeError, "`inner` must be a LinearOperator"),  # type: ignore[arg-type]
    ],
)
def test_bad_counts(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
