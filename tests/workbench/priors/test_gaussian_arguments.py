import math

import pytest
import torch

from operators.blur import Blur, GaussianPSF
from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.grid import Grid, TimeAxis
from operators.space import Space
from tests.gaussian_cases import COMPLEX, GRID, REAL, covariance_of, mean_of, power_of
from tests.oracles import random_element
from workbench.priors.gaussian import DenseGaussian, Gaussian, SpectralGaussian
from workbench.units import Units


def test_numbers_serve_as_means() -> None:
    prior = SpectralGaussian(COMPLEX, 1 - 2j, power_of(1, 3, 4))
    assert torch.equal(prior.mean, torch.full(COMPLEX.shape, 1 - 2j, dtype=torch.complex128))
    assert prior.mean_like(torch.ones(1)).dtype == torch.complex64
    assert SpectralGaussian(COMPLEX, 1.0, power_of(1, 3, 4)).mean.is_complex()
    with pytest.raises(TypeError, match="`mean` must be real on a real space"):
        SpectralGaussian(REAL, 1j, power_of(1, 3, 4))


def test_closed_forms_survive_the_physics() -> None:
    prior = SpectralGaussian.smooth(REAL, sd=2.0, length=2.0)
    blur = Blur(REAL, GaussianPSF(2.0), "periodic")
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
    prior = DenseGaussian(REAL, mean_of(REAL), covariance_of(REAL))
    z = random_element(REAL, 2)
    with pytest.raises(ValueError, match=r"`v` must have shape \(2, 1, 3, 4\), beside z"):
        prior.covariance(z, 1.0, z[0])
    with pytest.raises(ValueError, match="`v` must have shape"):
        prior.covariance_product(z[..., :3])
    with pytest.raises(TypeError, match="`u` must be real"):
        prior.log_density(z * 1j)


def test_a_single_precision_covariance_keeps_its_small_variances() -> None:
    variances = torch.full((200,), 1e-3)
    variances[0] = 1.0
    prior = DenseGaussian(Space((200,)), 0.0, torch.diag(variances))
    assert torch.allclose(prior.marginal_sd(), variances.double().sqrt(), rtol=1e-5)


def test_a_negative_level_is_refused_in_a_tensor_too() -> None:
    prior = DenseGaussian(Space((2,)), 0.0, torch.eye(2))
    with pytest.raises(ValueError, match="`sigma` must be >= 0"):
        prior.denoise(torch.ones(3, 2), torch.tensor([1.0, -1.0, 1.0]))
