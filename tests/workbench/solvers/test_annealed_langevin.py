"""Annealed Langevin against its own law, and how far that law is from the posterior."""

from __future__ import annotations

import pytest
import torch

from tests.problems import (
    Dense,
    dense_answer,
    posterior_of,
    prior_on,
    real_matrix,
    reals,
    require_standard_normal,
)
from tests.solver_contract import SolverContract
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.solvers.annealed_langevin import AnnealedLangevin


class TestAnnealedLangevin(SolverContract):
    covers = (AnnealedLangevin,)

    def make(self) -> AnnealedLangevin:
        return AnnealedLangevin(2.0, 0.1, levels=3, steps_per_level=4)


def own_law(posterior: Posterior, solver: AnnealedLangevin) -> Dense:
    """Return mean and covariance of the chain, which a Gaussian prior makes affine."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    root = real_matrix(posterior.prior.root)
    s = root @ root.T
    eye = torch.eye(len(s), dtype=torch.float64)
    middle = reals(posterior.prior.mean[None])[0]
    mean, covariance = torch.zeros(len(s), dtype=torch.float64), solver.sigma_max**2 * eye
    for row in solver.plan(posterior):
        sigma, length, tempering = row.number("sigma"), row.number("step"), row.number("tempering")
        shrink = s @ torch.linalg.inv(s + sigma**2 * eye)
        slope = (shrink - eye) / sigma**2 - tempering * matrix.T @ matrix
        force = (middle - shrink @ middle) / sigma**2 + tempering * matrix.T @ data
        step = eye + length * slope
        mean = step @ mean + length * force
        covariance = step @ covariance @ step.T + 2 * length * eye
    return Dense(mean, (covariance + covariance.T) / 2)


@pytest.mark.parametrize("name", ["mask", "blur", "ct", "coils"])
@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_the_plan_is_that_of_its_equations(name: str, fraction: float) -> None:
    posterior = posterior_of(name, 6)
    solver = AnnealedLangevin(3.0, 0.01, levels=5, steps_per_level=3, fraction=fraction)
    square = float(torch.linalg.svdvals(real_matrix(posterior.measured.whitened[0])).max()) ** 2
    assert square > 4  # far from 1: neither it nor its root can stand for the other
    rows = list(solver.plan(posterior))
    assert len(rows) == 15
    for i, row in enumerate(rows):
        sigma = 3.0 * (0.01 / 3.0) ** ((i // 3) / 4)
        tempering = 1 / (1 + sigma**2 * square)
        step = fraction / (1 / sigma**2 + tempering * square)
        assert row.number("sigma") == pytest.approx(sigma, rel=1e-12)
        # A norm that is found by iteration is good to 1e-6 of its square or so.
        assert row.number("tempering") == pytest.approx(tempering, rel=1e-4)
        assert row.number("step") == pytest.approx(step, rel=1e-4)


def test_the_plan_without_a_measurement_is_that_of_the_prior() -> None:
    posterior = Posterior(prior_on(posterior_of("mask").space))
    for row in AnnealedLangevin(2.0, 0.5, levels=3, steps_per_level=1).plan(posterior):
        assert row.number("tempering") == 1
        assert row.number("step") == pytest.approx(0.2 * row.number("sigma") ** 2)


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_draws_follow_the_law_of_the_chain(name: str) -> None:
    posterior = posterior_of(name, 6)
    solver = AnnealedLangevin(3.0, 0.05, levels=10, steps_per_level=8)
    u = posterior.from_physical(sample(posterior, solver, draws=600, seed=4).tensor())
    require_standard_normal(own_law(posterior, solver).whitened(u))


def distance(posterior: Posterior, solver: AnnealedLangevin) -> tuple[float, float]:
    """Return the law's error of the mean in posterior sd, rms, and of the covariance, relative."""
    law, truth = own_law(posterior, solver), dense_answer(posterior)
    sd = truth.covariance.diagonal().sqrt()
    mean = float(((law.mean - truth.mean) / sd).square().mean().sqrt())
    return mean, float((law.covariance - truth.covariance).norm() / truth.covariance.norm())


def test_the_law_nears_the_posterior_with_more_and_shorter_steps() -> None:
    posterior = posterior_of("mask", 6)
    ladder = [
        AnnealedLangevin(3.0, 0.01, levels=20, steps_per_level=5, fraction=0.2),
        AnnealedLangevin(3.0, 0.01, levels=40, steps_per_level=20, fraction=0.2),
        AnnealedLangevin(3.0, 0.01, levels=100, steps_per_level=60, fraction=0.1),
    ]
    means, covariances = zip(*[distance(posterior, solver) for solver in ladder], strict=True)
    assert means[0] > means[1] > means[2]
    assert covariances[0] > covariances[1] > covariances[2]
    assert means[1] < 0.1
    assert covariances[1] < 0.15
    assert means[2] < 0.03
    assert covariances[2] < 0.06


def test_without_a_measurement_it_draws_from_the_prior() -> None:
    posterior = Posterior(prior_on(posterior_of("mask").space))
    solver = AnnealedLangevin(4.0, 0.02)
    u = posterior.from_physical(sample(posterior, solver, draws=100, dtype=torch.float64).tensor())
    assert float(u.var()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_max": 0.1, "sigma_min": 0.1}, "`sigma_max` must be larger than sigma_min = 0.1, got 0.1"),
        ({"sigma_max": 1.0, "sigma_min": 0.0}, "`sigma_min` must be a finite number > 0"),
        ({"sigma_max": 1.0, "sigma_min": 0.1, "levels": 1}, "`levels` must be an integer >= 2"),
        ({"sigma_max": 1.0, "sigma_min": 0.1, "fraction": 1.5}, "`fraction` must be between 0 and 1"),
    ],
)
def test_mistakes(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnealedLangevin(**options)  # type: ignore[arg-type]
