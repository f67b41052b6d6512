"""Tikhonov regularisation against dense solves."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from operators.blur import Blur, GaussianPSF
from operators.differences import FiniteDifferences
from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.space import Space
from tests.problems import PROBLEMS, UNITS, posterior_of, real_matrix, reals
from tests.solver_contract import SolverContract
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.priors.gaussian import Gaussian as GaussianPrior
from workbench.random import Keys
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.classical.tikhonov import Tikhonov
from workbench.units import Units

Penalty = Literal["value", "slope"]


def flat(name: str, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
    gaussian = posterior_of(name, dtype=dtype, units=units)
    return Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)


class TestTikhonov(SolverContract):
    covers = (Tikhonov,)

    def make(self) -> Tikhonov:
        return Tikhonov(3.0, "slope", tolerance=1e-9)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return flat("ct", dtype, units)

    def posterior_complex(self) -> Posterior:
        return flat("coils")


def dense(posterior: Posterior, weight: float, penalty: Penalty) -> torch.Tensor:
    """Return the minimum over the real components of u, from the normal equations."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    square = torch.eye(matrix.shape[1], dtype=torch.float64)
    if penalty == "slope":
        slope = real_matrix(FiniteDifferences(posterior.space))
        square = slope.T @ slope
    return torch.linalg.solve(matrix.T @ matrix + weight * square, matrix.T @ data)


@pytest.mark.parametrize("weight", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("penalty", ["value", "slope"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_the_dense_solution(name: str, penalty: Penalty, weight: float) -> None:
    posterior = flat(name)
    samples = sample(posterior, Tikhonov(weight, penalty, tolerance=1e-9))
    u, expected = reals(posterior.from_physical(samples.tensor()))[0], dense(posterior, weight, penalty)
    # An error of 1e-9 sd: in the norm of the normal matrix, none of whose directions is flatter than these.
    assert float((u - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_volume_of_vectors_with_coarse_slices(is_complex: bool) -> None:
    grid = Grid.from_spacing((3, 4, 5), (5.0, 1.0, 2.0))
    space = Space.field(grid, is_complex=is_complex, components=(2,))
    like = torch.empty(0, dtype=torch.complex128 if is_complex else torch.float64)
    entries = Keys(3, (0,)).normals((30, space.size), "matrix", like=like)[0]
    data = Keys(4, (0,)).normals((30,), "data", like=like)[0]
    operator = Matrix(space, Space((30,), is_complex), entries)
    posterior = Posterior(Flat(space), Likelihood(operator, Gaussian(0.5), data))
    u = sample(posterior, Tikhonov(2.0, "slope", tolerance=1e-10)).tensor()
    expected = dense(posterior, 2.0, "slope")
    assert float((reals(u)[0] - expected).norm() / expected.norm()) < 1e-8


def test_one_voxel_is_weighed_against_zero() -> None:
    space = Space.field(Grid.plane((1, 1), 1.0))
    data = torch.full(space.shape, 3.0, dtype=torch.float64)
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(0.5), data))
    # The data have the precision 1 / 0.5^2.
    assert float(sample(posterior, Tikhonov(8.0)).tensor()) == pytest.approx(3.0 * 4 / (4 + 8), rel=1e-12)
    with pytest.raises(ValueError, match="`axes` must name array axes"):
        sample(posterior, Tikhonov(8.0, "slope"))


def test_a_large_slope_weight_leaves_the_level() -> None:
    space = Space.field(Grid.plane((6, 9), (1.0, 2.0)))
    data = torch.linspace(0, 1, 54, dtype=torch.float64).reshape(space.shape) ** 2
    posterior = Posterior(Flat(space), Likelihood(Identity(space), Gaussian(1.0), data))
    x = sample(posterior, Tikhonov(1e9, "slope", tolerance=1e-10)).tensor()
    assert float((x - data.mean()).abs().max()) < 1e-6


def test_a_level_that_nothing_measures_stays_zero() -> None:
    space = Space.field(Grid.plane((4, 5), 1.0))
    gradient = FiniteDifferences(space)
    data = gradient(torch.linspace(0, 1, 20, dtype=torch.float64).reshape(space.shape) ** 2)
    posterior = Posterior(Flat(space), Likelihood(gradient, Gaussian(1.0), data))
    x = sample(posterior, Tikhonov(1.0, "slope", tolerance=1e-9)).tensor()[0]
    # D^H D (1 + weight) x = D^H D u: half of what was measured, less its mean.
    expected = (torch.linspace(0, 1, 20, dtype=torch.float64).reshape(space.shape) ** 2) / 2
    assert float((x - (expected - expected.mean())).abs().max()) < 1e-8


def test_the_value_is_damped_where_a_closed_form_is_known_without_iterations() -> None:
    posterior = flat("blur")
    samples = sample(posterior, Tikhonov(2.0))
    assert samples.record["steps_taken"] == 1
    assert samples.record["ledger"]["grams"] == 0


def test_the_offset_of_the_units_is_where_the_value_pulls_to() -> None:
    posterior = flat("ct")
    x = sample(posterior, Tikhonov(1e12)).tensor()
    assert float((x - UNITS.offset).abs().max()) < 1e-6 * UNITS.offset


def test_large_slope_weights_take_fewer_iterations_than_small_ones() -> None:
    """The change to v takes the spread of the penalty's eigenvalues away, which grows with the weight."""
    space = Space.field(Grid.plane((16, 16), 1.0))
    operator = Blur(space, GaussianPSF(2.0), "periodic")
    data = Keys(1, (0,)).normals(space.shape, "data", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(Flat(space), Likelihood(operator, Gaussian(0.1), data))
    steps = [
        sample(posterior, Tikhonov(weight, "slope", tolerance=1e-6)).record["steps_taken"]
        for weight in (1.0, 1e2, 1e4, 1e6)
    ]
    assert max(steps[1:]) <= steps[0] <= 200


def test_single_precision_is_solved_in_double() -> None:
    posterior = flat("coils", torch.float32)
    x = sample(posterior, Tikhonov(0.1, "slope")).tensor()
    assert x.dtype == torch.complex64
    expected = dense(posterior, 0.1, "slope")
    assert float((reals(posterior.from_physical(x))[0] - expected).norm() / expected.norm()) < 1e-5


def test_where_it_is_a_prior_it_is_the_posterior_mean() -> None:
    posterior = flat("ct")
    prior = GaussianPrior(0.0, 0.5 * Identity(posterior.space), UNITS)
    mean = sample(Posterior(prior, posterior.physical_likelihood), ConjugateGradient()).tensor()
    assert torch.allclose(sample(posterior, Tikhonov(4.0)).tensor(), mean, rtol=1e-6)


def test_it_says_where_it_stopped_short() -> None:
    with pytest.warns(
        ConvergenceWarning, match=r"stopped .* standard deviations .* after 3 iter.*Raise `iter"
    ):
        sample(flat("ct"), Tikhonov(0.1, "slope", iterations=3))


@pytest.mark.filterwarnings("error")
def test_a_solve_to_the_last_digit_ends_by_itself() -> None:
    samples = sample(flat("ct"), Tikhonov(1e3, tolerance=1e-12))
    assert samples.record["last_step"]["accuracy"] <= 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` must be a finite number > 0, got 0.0"),
        ({"weight": 1.0, "penalty": "curl"}, "`penalty` must be 'value' or 'slope', got 'curl'"),
        ({"weight": 1.0, "iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"weight": 1.0, "tolerance": 0.0}, "`tolerance` must be a finite number > 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tikhonov(**options)


def test_other_laws_and_priors_are_refused() -> None:
    space = Space.field(Grid.plane((3, 4), 1.0))
    counts = torch.full(space.shape, 50.0, dtype=torch.float64)
    likelihood = Likelihood(Identity(space), PoissonTransmission(100.0), counts)
    with pytest.raises(CapabilityError, match="must be linear with Gaussian noise"):
        sample(Posterior(Flat(space), likelihood), Tikhonov(1.0))
    with pytest.raises(CapabilityError, match="`prior` must be a Flat, got SpectralGaussian"):
        sample(posterior_of("blur"), Tikhonov(1.0))
