"""Conjugate gradients against dense least squares and the dense posterior mean."""

from __future__ import annotations

import pytest
import torch

from operators.errors import ConvergenceWarning
from tests.problems import PROBLEMS, dense_answer, posterior_of, real_matrix, reals
from tests.solver_contract import SolverContract
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.units import Units


class TestConjugateGradient(SolverContract):
    covers = (ConjugateGradient,)

    def make(self) -> ConjugateGradient:
        return ConjugateGradient(tolerance=1e-11)


@pytest.mark.parametrize("name", PROBLEMS)
def test_with_a_gaussian_prior_it_is_the_posterior_mean(name: str) -> None:
    posterior = posterior_of(name)
    u = posterior.from_physical(sample(posterior, ConjugateGradient(500, 1e-12)).tensor())
    mean = dense_answer(posterior).mean
    assert float((reals(u) - mean).norm() / mean.norm()) < 1e-8


@pytest.mark.parametrize("name", ["blur", "ct"])
def test_with_a_flat_prior_it_is_least_squares(name: str) -> None:
    gaussian = posterior_of(name)
    posterior = Posterior(Flat(gaussian.space), gaussian.physical_likelihood)
    b, z = posterior.measured.whitened
    u = reals(sample(posterior, ConjugateGradient(2000, 1e-12)).tensor())[0]
    matrix, data = real_matrix(b), reals(z[None])[0]
    misfit = (matrix @ u - data).norm()
    best = torch.linalg.lstsq(matrix, data).solution
    assert float(misfit - (matrix @ best - data).norm()) < 1e-6 * float(data.norm())


def test_an_early_stop_leaves_what_is_badly_measured_alone() -> None:
    gaussian = posterior_of("mask")
    posterior = Posterior(Flat(gaussian.space, Units(2.0, 0.01)), gaussian.physical_likelihood)
    x = sample(posterior, ConjugateGradient(3)).tensor()
    seen = posterior.physical_likelihood.operator(torch.ones_like(x)) > 0  # type: ignore[union-attr]
    # What was not measured stays at u = 0, which is the physical offset.
    assert torch.equal(x[~seen], torch.full_like(x[~seen], 0.01))


def test_one_answer_only() -> None:
    with pytest.raises(ValueError, match="`draws` must be 1 for this solver, got 3. Every draw"):
        sample(posterior_of("mask"), ConjugateGradient(), draws=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(0), "`iterations` must be an integer >= 1, got 0"),
        (lambda: ConjugateGradient(5, 0.0), "`tolerance` must be a finite number > 0, got 0.0"),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_single_precision_has_the_posterior_mean_at_a_high_signal_to_noise() -> None:
    """In single precision throughout it would be tenths of a standard deviation off."""
    wide = posterior_of("coils")
    likelihood = wide.physical_likelihood
    assert likelihood is not None
    sharp = Likelihood(likelihood.operator, Gaussian(1e-5), likelihood.data.to(torch.complex64))
    posterior = Posterior(wide.prior, sharp)
    dense = dense_answer(posterior)
    u = reals(posterior.from_physical(sample(posterior, ConjugateGradient()).tensor()))
    assert float(((u - dense.mean) / dense.covariance.diagonal().sqrt()).square().mean().sqrt()) < 2e-2


def test_it_says_where_it_stopped_short() -> None:
    with pytest.warns(ConvergenceWarning, match=r"reached an accuracy of .* in 2 iterations, not 1e-05: its"):
        sample(posterior_of("ct"), ConjugateGradient(2))
