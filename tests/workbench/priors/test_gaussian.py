import math

import pytest
import torch
from torch import Tensor

from operators.blur import PeriodicBlur
from operators.circulant import PeriodicFilter
from operators.diagonal import Diagonal
from operators.errors import NoClosedFormError
from operators.fourier import Fourier
from operators.grid import Grid, TimeAxis
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from tests.contracts import close
from tests.oracles import dense, random_element
from tests.prior_contract import PriorContract
from workbench.priors.gaussian import DenseGaussian, Gaussian, SpectralGaussian
from workbench.random import Keys
from workbench.units import Units

GRID = Grid.from_spacing((1, 3, 4), (3.0, 2.0, 1.0))
REAL = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)
VECTORS = Space.vectors(GRID)


def mean_of(space: Space) -> Tensor:
    return 0.5 * random_element(space, seed=41)


def covariance_of(space: Space, *, rank: int | None = None) -> Tensor:
    """Return a random covariance with eigenvalues between 0.2 and 2, some of them zero for a rank."""
    q = torch.linalg.qr(random_element(Space((space.size,) * 2, space.is_complex), seed=42)).Q
    values = torch.linspace(0.2, 2, space.size, dtype=torch.float64)
    if rank is not None:
        values[rank:] = 0
    return (q * values) @ q.mH


def power_of(*shape: int) -> Tensor:
    """Return positive powers, even in frequency."""
    return torch.fft.fftn(random_element(Space(shape), seed=43)).abs() + 0.2


def root_covariance(root: LinearOperator) -> Tensor:
    matrix = dense(root)
    return matrix @ matrix.mH


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(torch.promote_types(dtype, torch.complex32) if value.is_complex() else dtype)


def density(space: Space, mean: Tensor, covariance: Tensor, u: Tensor) -> Tensor:
    """Return the log density of u over its real components, by torch.distributions."""
    rows, centre = u.reshape(-1, space.size), mean.reshape(space.size)
    if space.is_complex:
        rows = torch.cat([rows.real, rows.imag], dim=1)
        centre = torch.cat([centre.real, centre.imag])
        re, im = covariance.real, covariance.imag if covariance.is_complex() else 0 * covariance
        covariance = torch.cat([torch.cat([re, -im], dim=1), torch.cat([im, re], dim=1)])
    return torch.distributions.MultivariateNormal(centre, covariance).log_prob(rows)


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
        return 2.0 * PeriodicBlur(self.space, cast(random_element(Space((2, 3)), seed=44), dtype))

    def full_covariance(self) -> Tensor:
        return root_covariance(self.root(torch.float64))

    def make(self, dtype: torch.dtype) -> Gaussian:
        return Gaussian(cast(mean_of(self.space), dtype), self.root(dtype))


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


def test_numbers_serve_as_means() -> None:
    prior = SpectralGaussian(COMPLEX, 1 - 2j, power_of(1, 3, 4))
    assert torch.equal(prior.mean, torch.full(COMPLEX.shape, 1 - 2j, dtype=torch.complex128))
    assert prior.mean_like(torch.ones(1)).dtype == torch.complex64
    assert SpectralGaussian(COMPLEX, 1.0, power_of(1, 3, 4)).mean.is_complex()
    with pytest.raises(TypeError, match="`mean` must be real on a real space"):
        SpectralGaussian(REAL, 1j, power_of(1, 3, 4))


def test_closed_forms_survive_the_physics() -> None:
    prior = SpectralGaussian.smooth(REAL, sd=2.0, length=2.0)
    blur = PeriodicBlur.gaussian(REAL, 2.0)
    half = Diagonal(REAL, torch.tensor(0.5))
    assert (half @ blur @ prior.root).has_closed_form
    assert prior.root.H is prior.root
    whole = DenseGaussian(REAL, 0.0, covariance_of(REAL))
    assert whole.root.has_svd
    assert (half @ whole.root).has_svd is False
    assert (3.0 * whole.root).has_svd


def matern(r: float, nu: float) -> float:
    """Return the Matern correlation at r in units of its length."""
    a = math.sqrt(2 * nu) * r
    if nu == math.inf:
        return math.exp(-(r**2) / 2)
    return {0.5: 1.0, 1.5: 1 + a, 2.5: 1 + a + a**2 / 3}[nu] * math.exp(-a)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, math.inf])
@pytest.mark.parametrize(
    "grid",
    [Grid.plane((80, 64), (1.5, 2.0)), Grid.from_spacing((16, 32, 40), (5.0, 2.0, 2.0))],
    ids=["plane", "volume"],
)
def test_smooth_has_the_stated_sd_and_the_matern_correlation_in_mm(grid: Grid, nu: float) -> None:
    prior = SpectralGaussian.smooth(Space.field(grid), sd=3.0, length=8.0, smoothness=nu)
    assert (prior.marginal_sd() - 3.0).abs().max() < 1e-12
    point = torch.zeros(grid.shape, dtype=torch.float64)
    point[0, 0, 0] = 1
    covariance = prior.covariance_product(point)
    for index in ((0, 0, 0), (0, 4, 0), (0, 0, 3), (0, 3, 2), (1, 0, 0), (1, 2, 2)):
        if index[0] >= grid.shape[0]:
            continue
        r = math.hypot(*(i * s for i, s in zip(index, grid.spacing, strict=True)))
        assert float(covariance[index]) / 9 == pytest.approx(matern(r / 8.0, nu), abs=0.004), index


def test_smooth_draws_are_independent_between_frames_and_components() -> None:
    grid = Grid.plane((6, 8), 1.0).with_time(TimeAxis(3, 1.0))
    prior = SpectralGaussian.smooth(Space.field(grid, components=(2,)), sd=1.0, length=2.0, mean=5.0)
    point = torch.zeros(2, 3, 1, 6, 8)
    point[1, 2, 0, 3, 3] = 1
    spread = prior.covariance_product(point)
    assert spread[1, 2].abs().min() > 0
    spread[1, 2] = 0
    assert not spread.any()
    assert prior.mean.unique().tolist() == [5.0]
    single = SpectralGaussian.smooth(Space.field(Grid.from_spacing((1, 1, 1), 1.0)), sd=2.0, length=1.0)
    assert single.marginal_sd().item() == pytest.approx(2.0)


def test_what_has_no_closed_form_says_so() -> None:
    prior = TestOfASdThatVaries().make(torch.float64)
    with pytest.raises(NoClosedFormError, match="marginal standard deviation .* DenseGaussian"):
        prior.marginal_sd()
    with pytest.raises(NoClosedFormError, match="marginal standard deviation"):
        TestOfAMatrix().make(torch.float64).marginal_sd()
    expected = TestOfARoot().mean_and_sd()[1]
    assert close(TestOfARoot().make(torch.float64).marginal_sd(), expected, 1e-12)


def test_it_moves_whole() -> None:
    prior = DenseGaussian(REAL, 1.0, covariance_of(REAL), Units(2.0, 0.0, "HU"))
    prior.denoise(random_element(REAL), 1.0)
    there = prior.to("meta")
    assert there.device == torch.device("meta")
    assert there.root.device == torch.device("meta")
    assert there.marginal_sd().device == torch.device("meta")
    assert there.units == prior.units
    assert prior.device == torch.device("cpu")


def test_later_changes_of_what_was_given_do_nothing() -> None:
    mean, power, matrix = mean_of(REAL), power_of(1, 3, 4), covariance_of(REAL)
    priors = SpectralGaussian(REAL, mean, power), DenseGaussian(REAL, mean, matrix)
    z = random_element(REAL)
    before = [prior.denoise(z, 0.5) for prior in priors]
    for value in (mean, power, matrix):
        value.mul_(3)
    for prior, expected in zip(priors, before, strict=True):
        assert torch.equal(prior.denoise(z, 0.5), expected)


ONES = torch.ones(4)
EYE = torch.eye(12)
TOKENS = Space.tokens(GRID, 3)
SHEARED = Space.field(Grid((1, 3, 4), [[0, 0.5, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]))
META = torch.ones(REAL.shape, device="meta")
smooth = SpectralGaussian.smooth


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: DenseGaussian(REAL, 0, EYE[:9]), ValueError, r"`covariance` must have shape \(12, 12\)"),
        (lambda: DenseGaussian(REAL, 0, EYE.roll(1, 0)), ValueError, r"must be symmetric .*C\.mH"),
        (lambda: DenseGaussian(REAL, 0, -EYE), ValueError, "be positive semi-definite, got .* -1"),
        (lambda: DenseGaussian(REAL, 0, EYE * 1j), TypeError, "`covariance` must be real on a real"),
        (lambda: DenseGaussian(REAL, 0, EYE / 0), ValueError, "`covariance` must hold finite values"),
        (lambda: DenseGaussian(REAL, 0, None), TypeError, r"`covariance` must be a torch\.Tensor"),
        (lambda: DenseGaussian(REAL, ONES, EYE), ValueError, "`mean` must have shape"),
        (lambda: DenseGaussian(REAL, torch.ones(2, 1, 3, 4), EYE), ValueError, "`mean` must be a number"),
        (lambda: DenseGaussian(REAL, "0", EYE), TypeError, "`mean` must be one number"),
        (lambda: DenseGaussian(REAL, math.nan, EYE), ValueError, "`mean` must be finite"),
        (lambda: DenseGaussian(TOKENS, 0, EYE), TypeError, "`space` must be of real, complex or vector"),
        (lambda: SpectralGaussian(REAL, 0, ONES[:3]), ValueError, "`power` must have the shape of the"),
        (lambda: SpectralGaussian(REAL, 0, -ONES), ValueError, r"`power` must be >= 0, got -1\.0"),
        (lambda: SpectralGaussian(REAL, 0, ONES.cumsum(0)), ValueError, "`power` must be even"),
        (lambda: SpectralGaussian(COMPLEX, 0, ONES * 1j), TypeError, "`power` must be real"),
        (lambda: smooth(Space((4,)), sd=1, length=1), ValueError, "`space` must lie on a Grid"),
        (lambda: smooth(REAL, sd=0, length=1), ValueError, "`sd` must be a finite number > 0"),
        (lambda: smooth(REAL, sd=1, length=-1), ValueError, "`length` must be a finite number > 0"),
        (lambda: smooth(REAL, sd=1, length=1, smoothness=0), ValueError, "`smoothness` must be a finite"),
        (lambda: smooth(SHEARED, sd=1, length=1), ValueError, "`grid` must have perpendicular axes"),
        (lambda: Gaussian(0, EYE), TypeError, "`root` must be a LinearOperator"),
        (lambda: Gaussian(0, Fourier(REAL)), ValueError, "`root.domain` must be Space"),
        (lambda: Gaussian(0, Fourier(REAL) @ Fourier(REAL).H), TypeError, "`root` must be linear over"),
        (lambda: Gaussian(META, Diagonal(REAL, ONES)), ValueError, "`mean`"),
    ],
)
def test_bad_arguments_are_named(attempt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()  # type: ignore[operator]


def test_bad_arguments_of_methods_are_named() -> None:
    prior = TestDense().make(torch.float64)
    z = random_element(REAL, 2)
    with pytest.raises(ValueError, match=r"`v` must have shape \(2, 1, 3, 4\), beside z"):
        prior.covariance(z, 1.0, z[0])
    with pytest.raises(ValueError, match="`v` must have shape"):
        prior.covariance_product(z[..., :3])
    with pytest.raises(TypeError, match="`u` must be real"):
        prior.log_density(z * 1j)
