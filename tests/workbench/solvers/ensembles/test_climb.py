"""A climb against the prox and the Gaussian integral, and how far it is trusted."""

from __future__ import annotations

import pytest
import torch

from pipelines.verify.referee.problem import problem
from tests.problems import posterior_of
from tests.workbench.solvers.ensembles.ensemble_cases import LIKE, law_alone
from workbench.likelihood import Likelihood
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.ensembles.climb import climb, trusted

SIGMAS = (30.0, 3.0, 0.3, 0.03, 0.0)


@pytest.mark.parametrize("name", ["mask", "coils"])
def test_to_its_end_it_is_the_prox_and_the_gaussian_integral(name: str) -> None:
    likelihood = posterior_of(name, 4).measured
    space, keys = likelihood.domain, Keys(1, tuple(range(3)))
    centre = keys.normals(space.shape, "test: centre", like=torch.empty(0, dtype=space.dtype_like(LIKE)))
    for r, power in ((0.3, 1.0), (0.1, 0.2)):
        x, value = likelihood.prox_value(centre, r, power=power, tolerance=1e-10)
        d, half = climb(likelihood, centre, r, power=power, iterations=200)
        assert torch.allclose(centre + d, x, rtol=0, atol=1e-8)
        assert torch.allclose(power * likelihood.log_likelihood(centre) + half, value, atol=1e-7)


def test_a_row_is_climbed_alone_and_where_nothing_pulls_it_stays() -> None:
    likelihood = posterior_of("mask", 4).measured
    centre = Keys(1, (0, 1)).normals(likelihood.domain.shape, "test: centre", like=LIKE)
    whole, _ = climb(likelihood, centre, 0.3, iterations=2)
    alone, _ = climb(likelihood, centre[1:], 0.3, iterations=2)
    assert torch.allclose(whole[1:], alone, rtol=0, atol=1e-12)
    blind = Likelihood(0.0 * likelihood.operator, likelihood.noise, likelihood.data)  # type: ignore[operator]
    d, half = climb(blind, centre, 0.3, iterations=3)
    assert not bool(d.any())
    assert not bool(half.any())


def test_what_is_quadratic_is_trusted_in_full() -> None:
    posterior = posterior_of("mask", 4)
    beside = Posterior(posterior.prior, law_alone(posterior.measured))
    assert not beside.measured.is_linear_gaussian
    radii = [s / (1 + s**2) ** 0.5 for s in SIGMAS]
    assert trusted(beside, SIGMAS, radii, 1.0, 200) == (1.0,) * 5


def test_trust_grows_as_noise_falls_and_is_whole_without_it() -> None:
    """Intensities are bent; counts behind matter too, and the more of them the more it tells."""
    phase = problem("phase2").posterior
    radii = [s / (1 + s**2) ** 0.5 for s in SIGMAS]
    a = trusted(phase, SIGMAS, radii, 1.0, 5)
    assert a == tuple(sorted(a))
    assert a[0] < 0.5
    assert a[-1] == 1.0
    matter = posterior_of("ct", 4)
    lines = 10.0 * matter.measured.operator  # type: ignore[operator]
    found = []
    for flux in (1e3, 1e5):
        noise = PoissonTransmission(flux)
        data = noise.draw(lines(matter.prior.draw(Keys(5, (0,)), like=LIKE)), Keys(1, (0,)))[0]
        counted = Posterior(matter.prior, Likelihood(lines, noise, data))
        found.append(trusted(counted, SIGMAS, radii, 1.0, 5)[0])
    assert found[1] < found[0] <= 1.0
