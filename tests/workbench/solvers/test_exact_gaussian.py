"""Exact draws against the dense answer, on four kinds of physics."""

from __future__ import annotations

import pytest
import torch

from operators.diagonal import Diagonal
from operators.errors import ConvergenceWarning
from operators.grid import Grid
from operators.matrix import Matrix
from operators.space import Space
from tests.oracles import random_element
from tests.problems import (
    PROBLEMS,
    UNITS,
    coverage,
    dense_answer,
    posterior_of,
    prior_on,
    reals,
    require_standard_normal,
)
from tests.solver_contract import SolverContract
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as Noise
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.gaussian import DenseGaussian, SpectralGaussian
from workbench.random import Keys
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.store import TensorStore


class TestExactGaussian(SolverContract):
    covers = (ExactGaussian,)

    def make(self) -> ExactGaussian:
        return ExactGaussian()


@pytest.mark.parametrize("name", PROBLEMS)
def test_draws_have_the_dense_mean_and_covariance_at_8(name: str) -> None:
    posterior = posterior_of(name, 8)
    u = posterior.from_physical(sample(posterior, ExactGaussian(), draws=400, seed=1).tensor())
    truth = dense_answer(posterior)
    require_standard_normal(truth.whitened(u))
    assert coverage(u, truth, 0.9) == pytest.approx(0.9 * 399 / 401, abs=0.01)


@pytest.mark.parametrize("name", PROBLEMS)
def test_draws_have_the_dense_mean_covariance_and_coverage_at_32(name: str) -> None:
    posterior = posterior_of(name, 32)
    samples = sample(posterior, ExactGaussian(), draws=128, seed=2)
    u = posterior.from_physical(samples.tensor())
    truth = dense_answer(posterior)
    require_standard_normal(truth.whitened(u))
    assert coverage(u, truth, 0.9) == pytest.approx(0.9 * 127 / 129, abs=0.01)
    assert samples.kind is Kind.EXACT_SAMPLE


def test_the_test_sees_a_wrong_posterior() -> None:
    posterior, other = posterior_of("mask", 8), posterior_of("mask", 8, sigma=0.003)
    u = posterior.from_physical(sample(other, ExactGaussian(), draws=400, seed=1).tensor())
    with pytest.raises(AssertionError, match="sigma"):
        require_standard_normal(dense_answer(posterior).whitened(u))


@pytest.mark.parametrize("name", PROBLEMS)
def test_single_precision_keeps_the_spread_of_what_was_not_measured(name: str) -> None:
    amplitude = float(posterior_of(name).measured.data.abs().max())
    sigma = 1e-4 * amplitude
    posterior = posterior_of(name, dtype=torch.float32, sigma=sigma)
    u = posterior.from_physical(sample(posterior, ExactGaussian(), draws=300, seed=1).tensor())
    assert u.dtype in (torch.float32, torch.complex64)
    truth = dense_answer(posterior_of(name, sigma=sigma))
    ratio = reals(u).std(0) / truth.covariance.diagonal().sqrt()
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.05)


def test_what_has_a_closed_form_needs_no_iteration() -> None:
    samples = sample(posterior_of("blur"), ExactGaussian(), draws=3)
    assert samples.record["ledger"]["grams"] == 0
    assert samples.record["steps_taken"] == 1


def test_the_record_knows_how_many_steps_it_took_of_those_allowed() -> None:
    samples = sample(posterior_of("ct"), ExactGaussian(max_iterations=2000), draws=3, microbatch=2)
    assert samples.record["plan"]["steps"] == 2000
    assert 10 < samples.record["steps_taken"] < 200


def test_without_a_measurement_it_draws_from_the_prior() -> None:
    space = posterior_of("mask").space
    prior = Posterior(prior_on(space))
    samples = sample(prior, ExactGaussian(), draws=2000, seed=3, dtype=torch.float64)
    u = prior.from_physical(samples.tensor()).flatten(1)
    assert float(u.mean()) == pytest.approx(0.3, abs=0.05)
    assert float(u.var()) == pytest.approx(1.0, rel=0.1)
    assert samples.tensor().mean() == pytest.approx(UNITS.scale * 0.3 + UNITS.offset, abs=1e-3)
    assert samples.frame == "unknown"


def test_vector_fields() -> None:
    from operators.diagonal import Diagonal
    from operators.space import Space
    from tests.problems import grid_of
    from workbench.noise.gaussian import Gaussian as Noise
    from workbench.priors.gaussian import SpectralGaussian

    space = Space.vectors(grid_of(6))
    prior = SpectralGaussian.smooth(space, sd=2.0, length=4.0)
    seen = Diagonal(space, (torch.arange(36).reshape(6, 6) % 3 == 0).double().expand(3, 1, 6, 6))
    posterior = Posterior(prior, Likelihood(seen, Noise(0.5), torch.ones(3, 1, 6, 6, dtype=torch.float64)))
    samples = sample(posterior, ExactGaussian(), draws=600, seed=1)
    require_standard_normal(dense_answer(posterior).whitened(samples.tensor()))
    assert samples.mean().components == ("R", "A", "S")


def test_a_limit_that_is_reached_is_said() -> None:
    with pytest.warns(ConvergenceWarning, match="its draws are not exact. Raise `max_iterations`"):
        sample(posterior_of("ct"), ExactGaussian(max_iterations=1), draws=1)


def test_it_refuses_other_laws_with_every_reason() -> None:
    gaussian = posterior_of("ct")
    likelihood = gaussian.physical_likelihood
    assert likelihood is not None
    counts = torch.ones_like(likelihood.data)
    posterior = Posterior(gaussian.prior, Likelihood(likelihood.operator, PoissonTransmission(10.0), counts))
    with pytest.raises(
        CapabilityError, match="ExactGaussian cannot work on this posterior:\n- `likelihood` must be"
    ):
        sample(posterior, ExactGaussian(), draws=1)


def test_more_draws_are_added_by_a_larger_number() -> None:
    posterior = posterior_of("mask")
    store = TensorStore()
    few = sample(posterior, ExactGaussian(), draws=3, microbatch=2, store=store).tensor()
    more = sample(posterior, ExactGaussian(), draws=7, microbatch=2, store=store).tensor()
    assert torch.equal(more[:3], few)
    assert torch.equal(more, sample(posterior, ExactGaussian(), draws=7, microbatch=2).tensor())


@pytest.mark.parametrize("accuracy", [1e-1, 1e-3])
def test_the_accuracy_it_states_is_a_bound_where_convergence_is_slow(accuracy: float) -> None:
    """Few weakly measured directions beside many strong ones: what CG gained lately says little."""
    size = 400
    strong = torch.logspace(3.5, 4, size - 15, dtype=torch.float64)
    values = torch.cat([torch.linspace(0.3, 1, 15, dtype=torch.float64), strong])
    space = Space((size,))
    mixing = torch.linalg.qr(random_element(Space((size, size)), seed=3)).Q
    operator = Diagonal(space, values) @ Matrix(space, space, mixing)
    assert not operator.has_closed_form
    prior = DenseGaussian(space, 0.0, torch.eye(size, dtype=torch.float64))
    data = Keys(5, (0,)).normals((size,), "data", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(prior, Likelihood(operator, Noise(1.0), data))
    solver = ExactGaussian(accuracy=accuracy)
    drawn = sample(posterior, solver, draws=3, seed=1)
    best = sample(posterior, ExactGaussian(accuracy=1e-6), draws=3, seed=1).tensor()
    hessian = (values[:, None] * mixing).T @ (values[:, None] * mixing) + torch.eye(size, dtype=torch.float64)
    off = drawn.tensor() - best
    true = ((off @ hessian) * off).sum(1).div(size).sqrt()
    stated = drawn.record["last_step"]["accuracy"]
    assert stated <= accuracy
    assert float(true.max()) <= 1.01 * stated


@pytest.mark.parametrize("sigma", [1e-6, 1e-7])
def test_what_rounding_does_not_allow_is_said(sigma: float) -> None:
    """The recursion of CG drifts at such a signal to noise, and then goes on to fall by itself."""
    space = Space.field(Grid.plane((16, 16), 2.0))
    prior = SpectralGaussian.smooth(space, sd=1.0, length=6.0)
    half = (torch.arange(256).reshape(space.shape) * 7 % 13 < 6).double()
    data = half * Keys(5, (0,)).normals(space.shape, "data", like=torch.empty(0, dtype=torch.float64))[0]
    posterior = Posterior(prior, Likelihood(Diagonal(space, half), Noise(sigma), data))
    for solver in (ExactGaussian(accuracy=1e-9), ConjugateGradient(tolerance=1e-9)):
        with pytest.warns(ConvergenceWarning, match="Rounding allows no more at this signal to noise"):
            samples = sample(posterior, solver, draws=1)
        assert samples.record["last_step"]["accuracy"] > 1e-9
