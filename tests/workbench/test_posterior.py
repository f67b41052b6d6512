"""Units change in one place; a posterior refuses what does not fit together."""

from __future__ import annotations

import pytest
import torch

from operators.base import Operator
from operators.ct import ParallelBeamGeometry
from operators.diagonal import Diagonal
from operators.space import Space
from tests.problems import PROBLEMS, UNITS, grid_of, posterior_of, prior_on
from workbench.calibrate.hounsfield import hounsfield_units
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.measurement import Measurement
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.exact_gaussian import ExactGaussian
from workbench.units import Units


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_likelihood_of_u_is_that_of_the_physical_image(name: str) -> None:
    posterior = posterior_of(name)
    u = prior_on(posterior.space).mean + 0.1
    u = u.expand(2, *posterior.space.shape)
    physical = posterior.physical_likelihood
    assert physical is not None
    assert torch.allclose(
        posterior.measured.log_likelihood(u), physical.log_likelihood(UNITS.physical(u)), rtol=1e-10
    )


def test_counts_fold_their_offset_too() -> None:
    space = Space.field(grid_of(4))
    counts = torch.full(space.shape, 50.0, dtype=torch.float64)
    likelihood = Likelihood(Diagonal(space, torch.ones(space.shape)), PoissonTransmission(100.0), counts)
    posterior = Posterior(Flat(space, Units(0.1, 0.5)), likelihood)
    u = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, *space.shape)
    assert torch.allclose(
        posterior.measured.log_likelihood(u), likelihood.log_likelihood(0.1 * u + 0.5), rtol=1e-12
    )


class Square(Operator):
    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


def test_a_nonlinear_operator_is_composed_with_the_units() -> None:
    space = Space.field(grid_of(4))
    likelihood = Likelihood(Square(space, space), Gaussian(0.1), torch.ones(space.shape, dtype=torch.float64))
    posterior = Posterior(Flat(space, Units(2.0, 1.0)), likelihood)
    u = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, *space.shape)
    assert torch.allclose(posterior.measured.predicted(u), (2 * u + 1) ** 2)


@pytest.mark.parametrize("name", PROBLEMS)
def test_units_times_a_thousand_give_the_same_draws(name: str) -> None:
    plain = sample(posterior_of(name), ExactGaussian(accuracy=1e-9), draws=2, seed=1).tensor()
    other = Units(1000 * UNITS.scale, 1000 * UNITS.offset, "1/m")
    large = sample(posterior_of(name, units=other), ExactGaussian(accuracy=1e-9), draws=2, seed=1).tensor()
    assert float((large / 1000 - plain).abs().max() / plain.abs().max()) < 1e-9


def test_units_given_replace_the_priors_own() -> None:
    space = Space.field(grid_of(4))
    assert Posterior(Flat(space, Units(2.0)), units=Units(3.0, 1.0, "HU")).units == Units(3.0, 1.0, "HU")
    assert Posterior(Flat(space, Units(2.0))).units == Units(2.0)
    posterior = Posterior(Flat(space, Units(2.0, 1.0)))
    x = torch.ones(space.shape)
    assert torch.equal(posterior.from_physical(posterior.to_physical(x)), x)


def test_log_density_is_the_sum() -> None:
    posterior = posterior_of("mask")
    u = torch.zeros(1, *posterior.space.shape, dtype=torch.float64)
    expected = posterior.measured.log_likelihood(u) + posterior.prior.log_density(u)
    assert torch.equal(posterior.log_density(u), expected)


def test_what_does_not_fit_together_is_refused() -> None:
    posterior = posterior_of("mask")
    elsewhere = Space.field(grid_of(8).crop((0, 0, 0), (1, 8, 7)).pad((0, 0, 1), (0, 0, 0)))
    with pytest.raises(ValueError, match="lie on the same grid"):
        Posterior(Flat(elsewhere), posterior.physical_likelihood)
    with pytest.raises(TypeError, match="`prior` must be a Prior, got NoneType. Without one: Flat"):
        Posterior(None, posterior.physical_likelihood)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`likelihood` must be a Likelihood or None, got Scaled"):
        Posterior(posterior.prior, posterior.measured.operator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`units` must be a Units, got float"):
        Posterior(posterior.prior, units=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`posterior` must have a likelihood, got None"):
        _ = Posterior(posterior.prior).measured


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "`scale` must be a finite number > 0"),
        ({"scale": -1.0}, "`scale` must be a finite number > 0"),
        ({"offset": float("inf")}, "`offset` must be a finite number"),
        ({"unit": 3}, "`unit` must be text"),
    ],
)
def test_units_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Units(**options)  # type: ignore[arg-type]


def test_a_prior_in_another_unit_than_the_measured_image_is_refused() -> None:
    grid = grid_of(8)
    geometry = ParallelBeamGeometry.around(grid, 6)
    data = torch.zeros(geometry.operator(grid).codomain.shape)
    likelihood = Measurement(data, geometry, Gaussian(0.1)).likelihood(grid)
    assert likelihood.unit == "1/mm"
    in_hu = Flat(Space.field(grid), Units(1000.0, 0.0, "HU"))
    with pytest.raises(ValueError, match="lead to the unit of the measured image, '1/mm', got 'HU'"):
        Posterior(in_hu, likelihood)
    # The scale that leads to 1/mm, or a prior that does not say: both are fine.
    assert Posterior(in_hu, likelihood, units=hounsfield_units(70.0)).units.unit == "1/mm"
    assert Posterior(Flat(Space.field(grid)), likelihood).units.unit == ""
