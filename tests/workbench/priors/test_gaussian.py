import pytest
import torch
from torch import Tensor

from operators.blur import Blur
from operators.circulant import PeriodicFilter
from operators.diagonal import Diagonal
from operators.errors import NoClosedFormError
from operators.fourier import Fourier
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from tests.contracts import close
from tests.gaussian_cases import (
    COMPLEX,
    GRID,
    REAL,
    VECTORS,
    cast,
    covariance_of,
    density,
    mean_of,
    power_of,
)
from tests.oracles import dense, random_element
from tests.prior_contract import PriorContract
from workbench.priors.gaussian import DenseGaussian, Gaussian, SpectralGaussian
from workbench.random import Keys


def root_covariance(root: LinearOperator) -> Tensor:
    matrix = dense(root)
    return matrix @ matrix.mH


class GaussianContract(PriorContract):
    """The battery with the oracle of all Gaussians: mean and covariance in full."""

    is_affine = True
    space = REAL

    def full_mean(self) -> Tensor:
        return mean_of(self.space)

    def full_covariance(self) -> Tensor:
        """Return S, from what the prior was made of."""
        raise NotImplementedError

    def smoothed_log_density(self, z: Tensor, sigma: float) -> Tensor:
        covariance = self.full_covariance()
        noisy = covariance + sigma**2 * torch.eye(len(covariance), dtype=covariance.dtype)
        return density(self.space, self.full_mean(), noisy, z)

    def mean_and_sd(self) -> tuple[Tensor, Tensor]:
        sd = self.full_covariance().diagonal().real.sqrt()
        return self.full_mean(), sd.reshape(self.space.shape)


class TestDense(GaussianContract):
    covers = (DenseGaussian,)

    def full_covariance(self) -> Tensor:
        return covariance_of(self.space)

    def make(self, dtype: torch.dtype) -> DenseGaussian:
        covariance = cast(self.full_covariance(), dtype)
        return DenseGaussian(self.space, cast(mean_of(self.space), dtype), covariance)

    def other(self) -> DenseGaussian:
        return DenseGaussian(self.space, mean_of(self.space), 2 * self.full_covariance())


class TestDenseOnComplexFields(TestDense):
    space = COMPLEX


class TestRealCovarianceOnComplexFields(TestDense):
    space = COMPLEX

    def full_covariance(self) -> Tensor:
        return covariance_of(REAL)


class TestDenseOnVectorFields(TestDense):
    space = VECTORS


class TestDenseSingular(TestDense):
    has_density = False

    def full_covariance(self) -> Tensor:
        return covariance_of(self.space, rank=7)


class TestSpectral(GaussianContract):
    covers = (SpectralGaussian,)
    power = power_of(1, 3, 4)

    def full_covariance(self) -> Tensor:
        # F^H diag(power) F with the matrix of the unitary FFT over the last axes, written out.
        axes = tuple(range(1, 1 + self.space.ndim))[-self.power.ndim :]
        eye = torch.eye(self.space.size, dtype=torch.complex128).reshape(-1, *self.space.shape)
        fourier = torch.fft.fftn(eye, dim=axes, norm="ortho").flatten(1).T
        values = self.power.expand(self.space.shape).flatten().to(torch.complex128)
        covariance = fourier.mH @ (values[:, None] * fourier)
        return covariance if self.space.is_complex else covariance.real

    def make(self, dtype: torch.dtype) -> SpectralGaussian:
        return SpectralGaussian(self.space, cast(mean_of(self.space), dtype), self.power.to(dtype))

    def other(self) -> SpectralGaussian:
        return SpectralGaussian(self.space, 0.0, self.power)


class TestSpectralOnComplexComponents(TestSpectral):
    space = Space.field(GRID, is_complex=True, components=(2,))
    power = power_of(3, 4)


class TestSpectralOnVectorFields(TestSpectral):
    space = VECTORS


class TestSpectralSingular(TestSpectral):
    has_density = False
    power = power_of(1, 3, 4) * (torch.arange(4) != 0)


class TestOfARoot(GaussianContract):
    covers = (Gaussian,)

    def root(self, dtype: torch.dtype) -> LinearOperator:
        return 2.0 * Blur(self.space, cast(random_element(Space((2, 3)), seed=44), dtype), "periodic")

    def full_covariance(self) -> Tensor:
        return root_covariance(self.root(torch.float64))

    def make(self, dtype: torch.dtype) -> Gaussian:
        return Gaussian(cast(mean_of(self.space), dtype), self.root(dtype))

    def other(self) -> Gaussian:
        return Gaussian(mean_of(self.space), 2 * self.root(torch.float64))


class TestOfAMatrix(TestOfARoot):
    space = COMPLEX

    def root(self, dtype: torch.dtype) -> LinearOperator:
        values = torch.linspace(0.4, 2, 12, dtype=torch.float64)
        q = torch.linalg.qr(random_element(Space((12, 12), is_complex=True), seed=45)).Q
        return Fourier(COMPLEX) @ Matrix(COMPLEX, COMPLEX, cast(values[:, None] * q, dtype))


class TestOfASdThatVaries(TestOfARoot):
    """Not diagonal in any known basis: solved by conjugate gradients."""

    has_density = False
    solved_to = {torch.float32: 1e-3, torch.float64: 1e-7}  # noqa: RUF012

    def root(self, dtype: torch.dtype) -> LinearOperator:
        sd = 0.5 + random_element(self.space, seed=46).abs()
        return Diagonal(self.space, sd.to(dtype)) @ PeriodicFilter(self.space, power_of(1, 3, 4).sqrt())


@pytest.mark.parametrize("space", [REAL, COMPLEX, VECTORS], ids=["real", "complex", "vectors"])
def test_dense_and_spectral_agree_on_the_same_covariance(space: Space) -> None:
    spectral = SpectralGaussian(space, mean_of(space), power_of(1, 3, 4))
    whole = DenseGaussian(space, mean_of(space), root_covariance(spectral.root))
    z, v = random_element(space, 3), random_element(space, 3, seed=2)
    sigma = torch.tensor([0.0, 0.3, 4.0], dtype=torch.float64)
    for one, other in (
        (spectral.denoise(z, sigma), whole.denoise(z, sigma)),
        (spectral.covariance(z, sigma, v), whole.covariance(z, sigma, v)),
        (spectral.covariance_product(v), whole.covariance_product(v)),
        (spectral.log_density(z), whole.log_density(z)),
        (spectral.marginal_sd(), whole.marginal_sd()),
        # The symmetric root is unique, so that the same keys give the same draws.
        (spectral.draw(Keys(1, (0, 1)), like=z), whole.draw(Keys(1, (0, 1)), like=z)),
    ):
        assert close(one, other, 1e-10)


@pytest.mark.parametrize("contract", [TestDense, TestDenseOnComplexFields, TestSpectral, TestDenseSingular])
def test_mean_sd_and_covariance_are_what_was_given(contract: type[GaussianContract]) -> None:
    prior = contract().make(torch.float64)
    assert isinstance(prior, Gaussian)
    expected = contract().full_covariance()
    product = prior.covariance_product(
        torch.eye(prior.space.size).to(expected.dtype).reshape(-1, *prior.space.shape)
    )
    assert (product.flatten(1).T - expected).abs().max() < 1e-12
    assert (root_covariance(prior.root) - expected).abs().max() < 1e-12
    assert close(prior.marginal_sd(), contract().mean_and_sd()[1], 1e-12)
    assert torch.equal(prior.mean, mean_of(prior.space))
    assert prior.exact


def test_a_singular_covariance_keeps_to_its_range() -> None:
    prior = TestDenseSingular().make(torch.float64)
    matrix = covariance_of(REAL, rank=7)
    projector = matrix @ torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True)
    z = random_element(REAL)
    inside = prior.mean.flatten() + projector @ (z - prior.mean).flatten()
    assert close(prior.denoise(z, 0.0).flatten(), inside, 1e-10)
    with pytest.raises(
        ValueError, match=r"`prior` must have a covariance without zero eigenvalues.*5 zero of 12"
    ):
        prior.log_density(z)


def test_what_has_no_closed_form_says_so() -> None:
    prior = TestOfASdThatVaries().make(torch.float64)
    with pytest.raises(NoClosedFormError, match="marginal standard deviation .* DenseGaussian"):
        prior.marginal_sd()
    with pytest.raises(NoClosedFormError, match="marginal standard deviation"):
        TestOfAMatrix().make(torch.float64).marginal_sd()
    expected = TestOfARoot().mean_and_sd()[1]
    assert close(TestOfARoot().make(torch.float64).marginal_sd(), expected, 1e-12)
