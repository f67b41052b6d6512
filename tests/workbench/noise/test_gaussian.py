import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning
from operators.fourier import Fourier
from operators.grid import Grid
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.space import Space
from tests.noise_contract import NoiseContract, keys
from tests.oracles import dense, random_element
from workbench.noise.gaussian import CorrelatedGaussian, Gaussian
from workbench.noise.rician import Rician

REAL = Space((2, 3))
COMPLEX = Space((2, 3), is_complex=True)
FIELD = Space.field(Grid.from_spacing((1, 4, 4), 1.0))
DATUM = torch.linspace(0.2, 1.5, 3, dtype=torch.float64)


class Matrix(LinearOperator):
    """A dense matrix, which knows no closed form."""

    def __init__(self, domain: Space, codomain: Space, matrix: Tensor) -> None:
        super().__init__(domain, codomain)
        self.matrix = matrix

    def _apply(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.to(x.dtype).T).reshape(-1, *self.codomain.shape)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self.matrix.to(y.dtype).conj()).reshape(-1, *self.domain.shape)


def matrix_on(space: Space, rows: int, seed: int = 3) -> Matrix:
    """Return a well-conditioned matrix from `space` to `rows` numbers."""
    values = random_element(Space((rows, space.size), space.is_complex), seed=seed)
    return Matrix(space, Space((rows,), space.is_complex), torch.eye(rows, space.size) + 0.2 * values)


class GaussianContract(NoiseContract):
    def data(self, dtype: torch.dtype) -> Tensor:
        values = random_element(self.space, seed=2)
        return values.to(self.space.dtype_like(torch.empty(0, dtype=dtype)))


class Independent(GaussianContract):
    covers = (Gaussian,)
    sigma: float | Tensor

    def make(self, dtype: torch.dtype) -> Gaussian:
        return Gaussian(self.sigma.to(dtype) if isinstance(self.sigma, Tensor) else self.sigma)

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        sigma = np.asarray(self.sigma)
        total = stats.norm.logpdf(data.real, predicted.real, sigma).sum()
        imaginary = stats.norm.logpdf(data.imag, predicted.imag, sigma).sum()
        return total + (imaginary if self.space.is_complex else 0)


class TestOneSigma(Independent):
    space, sigma = REAL, 0.7


class TestSigmaPerDatum(Independent):
    space, sigma = REAL, DATUM


class TestComplex(Independent):
    space, sigma = COMPLEX, 0.7


class TestComplexPerDatum(Independent):
    space, sigma = COMPLEX, DATUM


class Correlated(GaussianContract):
    covers = (CorrelatedGaussian,)
    separable = False

    def oracle(self, predicted: np.ndarray, data: np.ndarray) -> float:
        """By the covariance of real components, (W^H W)^-1."""
        noise = self.make(torch.float64)
        assert isinstance(noise, CorrelatedGaussian)
        w = dense(noise.whitener).numpy()
        residual = (data - predicted).reshape(-1)
        if not self.space.is_complex:
            precision = (w.conj().T @ w).real
        else:
            # C = a + ib acts on (real, imaginary) as [[a, -b], [b, a]].
            gram = w.conj().T @ w
            precision = np.block([[gram.real, -gram.imag], [gram.imag, gram.real]])
            residual = np.concatenate([residual.real, residual.imag])
        return stats.multivariate_normal.logpdf(residual, cov=np.linalg.inv(precision))


class TestWhitenerWithAKnownDeterminant(Correlated):
    space = REAL

    def make(self, dtype: torch.dtype) -> CorrelatedGaussian:
        w = matrix_on(REAL, 6)
        return CorrelatedGaussian(w, float(torch.linalg.slogdet(w.matrix.double()).logabsdet))


class TestTallWhitenerWithoutADeterminant(Correlated):
    space, normalised = REAL, False

    def make(self, dtype: torch.dtype) -> CorrelatedGaussian:
        return CorrelatedGaussian(matrix_on(REAL, 9))


class TestComplexWhitener(Correlated):
    space = COMPLEX

    def make(self, dtype: torch.dtype) -> CorrelatedGaussian:
        w = matrix_on(COMPLEX, 6)
        return CorrelatedGaussian(w, float(torch.linalg.slogdet(w.matrix).logabsdet))


class TestWhitenerInClosedForm(Correlated):
    space = Space.field(Grid.from_spacing((1, 2, 3), 1.0))

    def make(self, dtype: torch.dtype) -> CorrelatedGaussian:
        return CorrelatedGaussian(Blur(self.space, GaussianPSF(0.9), "periodic"))


class TestComplexWhitenerInClosedForm(Correlated):
    space = COMPLEX

    def make(self, dtype: torch.dtype) -> CorrelatedGaussian:
        return CorrelatedGaussian(
            Diagonal(
                COMPLEX,
                random_element(Space((3,), is_complex=True), seed=4).to(
                    torch.complex64 if dtype == torch.float32 else torch.complex128
                ),
            )
        )


def test_sigma_is_that_of_each_component() -> None:
    noise = Gaussian(0.5)
    drawn = noise.draw(torch.zeros(5000, 2, 3, dtype=torch.complex128), keys(5000))
    for part in (drawn.real, drawn.imag):
        assert part.var().item() == pytest.approx(0.25, rel=0.03)
    m, y = random_element(COMPLEX, seed=1), random_element(COMPLEX, seed=2)
    stacked = Gaussian(0.5).log_likelihood(torch.view_as_real(m), torch.view_as_real(y))
    assert noise.log_likelihood(m, y).item() == pytest.approx(stacked.item(), rel=1e-13)


def test_the_other_convention_states_the_total() -> None:
    noise = Gaussian.from_total(0.5)
    drawn = noise.draw(torch.zeros(5000, 2, 3, dtype=torch.complex128), keys(5000))
    assert drawn.abs().square().mean().item() == pytest.approx(0.25, rel=0.03)
    per_datum = Gaussian.from_total(DATUM)
    assert torch.allclose(torch.as_tensor(per_datum.sigma), DATUM / math.sqrt(2))


def test_a_floor_is_explicit_and_announced() -> None:
    with pytest.warns(UserWarning, match=r"`sigma` is raised from 0 to its floor 0\.001"):
        assert Gaussian(0.0, floor=1e-3).sigma == 1e-3
    with pytest.warns(UserWarning, match="its floor"):
        raised = Gaussian(torch.tensor([0.0, 0.5]), floor=0.1).sigma
    assert isinstance(raised, Tensor)
    assert raised.tolist() == pytest.approx([0.1, 0.5])
    assert Gaussian(0.5, floor=0.1).sigma == 0.5  # nothing raised, nothing said


@pytest.mark.parametrize(
    ("sigma", "floor", "error", "message"),
    [
        (0.0, None, ValueError, r"`sigma` must be finite and > 0, got 0\.0\. .* state a floor"),
        (
            torch.tensor([1.0, 0.0]),
            None,
            ValueError,
            r"`sigma` must be finite and > 0, got 0\.0 to 1\.0\..*floor",
        ),
        (-1.0, None, ValueError, "`sigma` must be finite and > 0"),
        (-1.0, 0.1, ValueError, r"`sigma` must be finite and >= 0, got a minimum of -1\.0"),
        (math.nan, None, ValueError, "`sigma` must be a finite number"),
        (torch.tensor([1.0, math.nan]), 0.1, ValueError, "`sigma` must be finite"),
        (torch.tensor([1.0, math.inf]), None, ValueError, "`sigma` must be finite and > 0"),
        (1j, None, TypeError, "`sigma` must be a finite number"),
        (torch.tensor([1j]), None, TypeError, "`sigma` must be real"),
        ("0.1", None, TypeError, "`sigma` must be a finite number.*One per datum"),
        (torch.tensor([True]), None, TypeError, "`sigma` must have dtype float32"),
        (1.0, 0.0, ValueError, "`floor` must be a finite number > 0"),
    ],
)
def test_bad_deviations(sigma: object, floor: float | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Gaussian(sigma, floor=floor)  # type: ignore[arg-type]


def test_parameters_that_do_not_fit_the_data() -> None:
    y = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"`sigma` must be a number or broadcast to \(2, 3\), got \(2,\)"):
        Gaussian(torch.ones(2)).check(y, REAL)
    with pytest.raises(ValueError, match="`sigma` must be on the device of the data, cpu, got meta"):
        Gaussian(torch.ones(3)).to("meta").check(y, REAL)
    with pytest.raises(ValueError, match="`sigma` must be finite and > 0.*double precision"):
        Gaussian(1e-60).check(y, REAL)
    with pytest.raises(ValueError, match=r"`whitener\.domain` must be"):
        CorrelatedGaussian(Identity(COMPLEX)).check(y, REAL)
    with pytest.raises(TypeError, match=r"`whitener` must be a LinearOperator, got float"):
        CorrelatedGaussian(0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`whitener` must be injective"):
        CorrelatedGaussian(Diagonal(REAL, torch.tensor([1.0, 0.0, 1.0])))
    with pytest.raises(ValueError, match="`log_determinant` must be a finite number"):
        CorrelatedGaussian(matrix_on(REAL, 6), math.nan)


@pytest.mark.parametrize("law", [Gaussian, Rician])
def test_a_sigma_whose_square_is_no_number_is_refused(law: type[Gaussian] | type[Rician]) -> None:
    for sigma in (1e-20, torch.tensor([1.0, 1.0, 1e20])):
        with pytest.raises(ValueError, match=r"`sigma` must lie in \[1e-19, 2e\+19\].*or use float64"):
            law(sigma).check(torch.zeros(2, 3), REAL)
        law(sigma).check(torch.zeros(2, 3, dtype=torch.float64), REAL)


def test_numbers_of_numpy_are_taken() -> None:
    expected = Gaussian(torch.tensor([1.0, 2.0, 3.0])).score(torch.zeros(2, 3), torch.ones(2, 3))
    for sigma in (np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3]), torch.tensor([1, 2, 3])):
        assert torch.equal(Gaussian(sigma).score(torch.zeros(2, 3), torch.ones(2, 3)), expected)


def test_a_correlated_residual_is_taken_in_double_precision() -> None:
    """A signal to noise of 1e6: float32 holds the prediction, not its difference from the data."""
    noise = CorrelatedGaussian(Diagonal(REAL, torch.full((3,), 1e6)), 0.0)
    y = torch.full((2, 3), 1.0, dtype=torch.float64) + 1e-9
    got = noise.log_likelihood(torch.ones(1, 2, 3), y)
    white = noise.log_likelihood(torch.ones(1, 2, 3), torch.ones(2, 3))
    assert float(white - got) == pytest.approx(0.5 * 6 * 1e-6, rel=1e-5)


def test_the_law_keeps_no_graph_and_asks_for_none() -> None:
    sigma = torch.ones(3, requires_grad=True)
    noise = Gaussian(sigma)
    assert not noise.score(torch.zeros(2, 3), torch.ones(2, 3)).requires_grad


@pytest.mark.parametrize(
    "whitener",
    [
        Blur(FIELD, GaussianPSF(1.2), "periodic"),
        2.0 * Fourier(Space.field(Grid.from_spacing((1, 4, 4), 1.0), is_complex=True)),
        3.0 * Fourier(FIELD),
        Diagonal(COMPLEX, torch.tensor([0.5, 2.0, 1j])),
    ],
    ids=["blur", "Fourier", "Fourier of real data", "diagonal"],
)
def test_determinants_in_closed_form(whitener: LinearOperator) -> None:
    w = dense(whitener)
    gram = w.conj().T @ w
    expected = 0.5 * torch.linalg.slogdet(gram if whitener.domain.is_complex else gram.real).logabsdet
    noise = CorrelatedGaussian(whitener)
    assert noise.is_normalised
    assert noise.log_determinant == pytest.approx(float(expected), abs=1e-9)


def test_covariance_of_correlated_draws() -> None:
    w = matrix_on(REAL, 9)
    drawn = CorrelatedGaussian(w).draw(torch.zeros(40000, 2, 3, dtype=torch.float64), keys(40000)).flatten(1)
    expected = torch.linalg.inv(w.matrix.double().T @ w.matrix.double())
    bound = 5 * expected.diagonal().max() * math.sqrt(2 / 40000)
    assert (torch.cov(drawn.T) - expected).abs().max() <= bound


def test_an_unfinished_draw_is_announced() -> None:
    diagonal = torch.logspace(0, -6, 6, dtype=torch.float64).diag()
    noise = CorrelatedGaussian(Matrix(REAL, Space((6,)), diagonal), 0.0)
    with pytest.warns(ConvergenceWarning, match="normal_solve"):
        noise.draw(torch.zeros(1, 2, 3), keys(1))
