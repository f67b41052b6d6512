"""Total variation against solutions known in closed form and against its dual."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
from operators.space import Space
from tests.problems import UNITS, posterior_of
from tests.solver_contract import SolverContract
from workbench.callbacks import Callback, StepEvent
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.noise.rician import Rician
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.classical.total_variation import TotalVariation
from workbench.units import Units

SHORT = pytest.mark.filterwarnings("ignore:TotalVariation stopped at a residual")


@SHORT
class TestTotalVariation(SolverContract):
    covers = (TotalVariation,)

    def make(self) -> TotalVariation:
        return TotalVariation(0.5, iterations=40, tolerance=1e-6, warm=3)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        gaussian = posterior_of("ct", dtype=dtype, units=units)
        return Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)

    def posterior_complex(self) -> Posterior:
        gaussian = posterior_of("coils")
        return Posterior(Flat(gaussian.space, UNITS), gaussian.physical_likelihood)


def line(values: Tensor, spacing: float, sigma: float) -> Posterior:
    """Return the denoising of a row of voxels."""
    space = Space.field(Grid.plane((1, len(values)), (1.0, spacing)))
    data = values.double().reshape(space.shape)
    return Posterior(Flat(space), Likelihood(Identity(space), Gaussian(sigma), data))


def test_a_step_loses_weight_over_length_on_each_side() -> None:
    # |u - z|^2 / (2 sigma^2) + weight |jump| / spacing: each plateau moves by weight sigma^2 / (n spacing).
    step = torch.cat([torch.zeros(10), torch.ones(20)])
    x = sample(line(step, 2.0, 0.5), TotalVariation(4.0, iterations=3000, tolerance=1e-7)).tensor().flatten()
    move = 4.0 * 0.25 / 2.0
    assert torch.allclose(x[:10], torch.full((10,), move / 10, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(x[10:], torch.full((20,), 1 - move / 20, dtype=torch.float64), atol=1e-4)


def test_a_large_weight_leaves_the_mean() -> None:
    values = torch.linspace(0, 1, 12) ** 2
    samples = sample(line(values, 1.0, 1.0), TotalVariation(100.0, iterations=3000, tolerance=1e-6))
    x = samples.tensor()
    assert samples.record["last_step"]["residual"] <= 1e-6  # it knows that it has arrived
    assert torch.allclose(x, values.double().mean(), atol=1e-4)


def test_without_weight_it_is_the_data() -> None:
    values = torch.linspace(-1, 1, 12) ** 3
    x = (
        sample(line(values, 1.0, 1.0), TotalVariation(0.0, iterations=2000, tolerance=1e-8))
        .tensor()
        .flatten()
    )
    assert torch.allclose(x, values.double(), atol=1e-6)


def dual_denoised(z: Tensor, gradient: FiniteDifferences, weight: float) -> Tensor:
    """Return argmin |u - z|^2 / 2 + weight |grad u| as z - D^H p by projected, accelerated ascent in p."""
    p = torch.zeros(gradient.codomain.shape, dtype=torch.float64)
    q, t, step = p, 1.0, 1 / gradient.norm() ** 2
    for _ in range(4000):
        ahead = q + step * gradient(z - gradient.adjoint(q))
        new = ahead / (ahead.norm(dim=0) / weight).clamp(min=1)
        t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        q, p = new + (before - 1) / t * (new - p), new
    return z - gradient.adjoint(p)


def test_an_image_agrees_with_its_dual_solution() -> None:
    space = Space.field(Grid.plane((9, 11), (1.0, 2.0)))
    z = torch.sin(torch.arange(99.0, dtype=torch.float64) * 1.7).reshape(space.shape)
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(1.0), z))
    x = sample(posterior, TotalVariation(0.3, iterations=3000, tolerance=1e-6)).tensor()[0]
    expected = dual_denoised(z, FiniteDifferences(space), 0.3)
    assert float((x - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", ["ct", "blur"])
def test_the_objective_is_lowest_where_it_says(name: str) -> None:
    gaussian = posterior_of(name, 8)
    posterior = Posterior(Flat(gaussian.space, UNITS), gaussian.physical_likelihood)
    gradient = FiniteDifferences(posterior.space)

    def objective(u: Tensor) -> float:
        slope = gradient(u).norm(dim=-4)
        return float(-posterior.measured.log_likelihood(u) + 2.0 * slope.sum())

    solver = TotalVariation(2.0, iterations=2000, tolerance=1e-5)
    u = posterior.from_physical(sample(posterior, solver).tensor()[0])
    here = objective(u)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(10):
            around = u + size * torch.randn(u.shape, generator=generator, dtype=u.dtype)
            assert objective(around) > here - 1e-4 * abs(here)


def test_poisson_counts_without_weight_give_the_logarithm() -> None:
    space = Space.field(Grid.plane((1, 5), 1.0))
    counts = torch.tensor([10.0, 100.0, 1000.0, 5000.0, 9000.0], dtype=torch.float64).reshape(space.shape)
    likelihood = Likelihood(Identity(space), PoissonTransmission(1e4), counts)
    x = sample(
        Posterior(Flat(space), likelihood), TotalVariation(0.0, iterations=4000, tolerance=1e-7)
    ).tensor()
    assert torch.allclose(x[0], torch.log(1e4 / counts), atol=1e-4)


@SHORT
def test_a_bound_is_physical_and_kept() -> None:
    gaussian = posterior_of("blur", 8)
    units = Units(0.005, 0.02)
    posterior = Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)
    free = sample(posterior, TotalVariation(0.01, iterations=300)).tensor()
    bound = float(free.median())
    held = sample(posterior, TotalVariation(0.01, lower=bound, iterations=300)).tensor()
    assert float(held.min()) >= bound - 1e-12
    assert float(free.min()) < bound


def test_rician_magnitudes_are_welcome() -> None:
    space = Space.field(Grid.plane((1, 8), 1.0))
    data = torch.tensor([5.0, 5.2, 4.9, 5.1, 9.0, 9.1, 8.9, 9.0], dtype=torch.float64).reshape(space.shape)
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Rician(0.3), data))
    x = sample(posterior, TotalVariation(2.0, lower=0.0, iterations=2000, tolerance=1e-6)).tensor().flatten()
    assert float(x[:4].std()) < 0.05
    assert float(x[4:].mean() - x[:4].mean()) == pytest.approx(4.0, abs=0.4)


def test_a_complex_field_has_no_bound() -> None:
    gaussian = posterior_of("coils")
    with pytest.raises(TypeError, match="`lower` must be None on a complex field"):
        sample(Posterior(Flat(gaussian.space), gaussian.physical_likelihood), TotalVariation(1.0, lower=0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "`weight` must be a finite number >= 0, got -1.0"),
        ({"weight": 1.0, "iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"weight": 1.0, "lower": float("nan")}, "`lower` must be a finite number"),
    ],
)
def test_mistakes(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TotalVariation(**options)  # type: ignore[arg-type]


class Objectives(Callback):
    """Keeps the objective of every step."""

    def __init__(self) -> None:
        self.all: list[float] = []

    def step(self, event: StepEvent) -> None:
        self.all.append(float(event.info.values["objective"]))


@SHORT
def test_an_ill_conditioned_blur_is_begun_where_the_data_are_fitted_not_their_noise() -> None:
    """Twenty iterations of least squares fit the noise of this blur: 1000 steps left 90 %."""
    gaussian = posterior_of("blur", 8)
    posterior = Posterior(Flat(gaussian.space, UNITS), gaussian.physical_likelihood)
    objectives = Objectives()
    sample(posterior, TotalVariation(2.0, iterations=3000, tolerance=1e-6), callbacks=[objectives])
    soon, late = objectives.all[:1000][-1], objectives.all[-1]
    assert 0 <= soon - late <= 1e-3 * abs(late)


@SHORT
@pytest.mark.parametrize("scale", [1e-3, 2e-5, 1e3])
def test_the_unit_of_u_plays_no_part(scale: float) -> None:
    """The same problem in u of another unit takes the same steps, to rounding."""
    problem = posterior_of("ct", 16)
    base, other = (
        sample(
            Posterior(Flat(problem.space, Units(scale=k)), problem.physical_likelihood),
            TotalVariation(300.0 * k, lower=0.0, iterations=100, tolerance=1e-9),
        )
        for k in (1.0, scale)
    )
    assert torch.allclose(base.tensor(), other.tensor(), rtol=1e-6, atol=1e-9)


def test_it_says_where_it_stopped_short() -> None:
    posterior = line(torch.linspace(0, 1, 12) ** 2, 1.0, 1.0)
    with pytest.warns(ConvergenceWarning, match=r"at a residual of .*, not 1e-06, after 5 iterations. Raise"):
        sample(posterior, TotalVariation(1.0, iterations=5, tolerance=1e-6))


def test_the_norm_of_a_is_counted() -> None:
    gaussian = posterior_of("ct")
    posterior = Posterior(Flat(gaussian.space), gaussian.physical_likelihood)
    solver = TotalVariation(0.5, iterations=1, tolerance=1e9, warm=1)
    ledger = sample(posterior, solver).record["ledger"]
    assert ledger["grams"] >= 2


def rician(shape: tuple[int, int], sigma: float, *, is_complex: bool) -> Posterior:
    """Return magnitudes of a square before nothing, at a low signal to noise."""
    space = Space.field(Grid.plane(shape, 1.0), is_complex=is_complex)
    truth = torch.zeros(space.shape, dtype=torch.complex128)
    truth[:, shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] = 1
    white = Keys(1, (0,)).normals(space.shape, "noise", like=torch.empty(0, dtype=torch.complex128))[0]
    return Posterior(Flat(space), Likelihood(Identity(space), Rician(sigma), (truth + sigma * white).abs()))


@SHORT  # at a signal to noise of 2 the phase settles slowly
@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("sigma", [0.5, 0.1, 0.05])
def test_rician_noise_that_is_not_log_concave_ends_at_a_minimum(sigma: float, is_complex: bool) -> None:
    posterior = rician((16, 16), sigma, is_complex=is_complex)
    samples = sample(posterior, TotalVariation(0.5 / sigma, iterations=1500))
    assert samples.record["last_step"]["residual"] < (2e-2 if sigma == 0.5 else 1e-4)
    x, likelihood = samples.tensor()[0], posterior.measured
    gradient = FiniteDifferences(posterior.space)

    def objective(u: Tensor) -> float:
        slope = gradient(u).abs().square().sum(0).sqrt().sum()
        return float(-likelihood.log_likelihood(u) + 0.5 / sigma * slope)

    here = objective(x)
    assert here <= objective(torch.full_like(x, float(likelihood.data.mean())))
    for k in range(20):
        around = x + 1e-2 * Keys(2, (k,)).normals(x.shape, "near", like=x)[0]
        assert objective(around) > here - 2e-4 * 128


@pytest.mark.parametrize("level", [0.0, 1e3, 1e4])
def test_a_level_that_no_slope_sees_costs_no_accuracy(level: float) -> None:
    values = torch.cat([torch.zeros(10), torch.ones(20)]).double()
    x = sample(line(values + level, 2.0, 0.5), TotalVariation(4.0)).tensor().flatten() - level
    move = 4.0 * 0.25 / 2.0
    expected = torch.cat([torch.full((10,), move / 10), torch.full((20,), 1 - move / 20)]).double()
    assert float((x - expected).norm()) < 1e-2
