"""SIRT against its dense iteration and the weighted least squares that it ends at."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.differences import FiniteDifferences
from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.space import Space
from tests.problems import UNITS, posterior_of, real_matrix
from tests.solver_contract import SolverContract
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import LogTransmission, PoissonTransmission
from workbench.noise.rician import Rician
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.classical.sirt import SIRT
from workbench.units import Units

DOUBLE = torch.empty(0, dtype=torch.float64)


def flat(name: str = "ct", dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
    gaussian = posterior_of(name, dtype=dtype, units=units)
    return Posterior(Flat(gaussian.space, units), gaussian.physical_likelihood)


class TestSIRT(SolverContract):
    covers = (SIRT,)

    def make(self) -> SIRT:
        return SIRT(12, lower=0.0)

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return flat("ct", dtype, units)

    def posterior_complex(self) -> Posterior:
        return flat("coils")


def lines(entries: Tensor, data: Tensor, units: Units = UNITS) -> Posterior:
    """Return the measurement of a row of voxels by a matrix."""
    space = Space.field(Grid.plane((1, entries.shape[1]), 1.0))
    operator = Matrix(space, Space((len(data),)), entries)
    return Posterior(Flat(space, units), Likelihood(operator, Gaussian(0.1), data))


def made(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return a matrix >= 0 with an empty row and an empty column, and data that it cannot fit."""
    entries = Keys(1, (0,)).uniforms((rows, columns), "matrix", like=DOUBLE)[0]
    entries = torch.where(entries < 0.5, 0.0, entries)
    entries[1], entries[:, 2] = 0, 0
    return entries, Keys(2, (0,)).normals((rows,), "data", like=DOUBLE)[0] + entries.sum(1)


def dense(
    entries: Tensor, data: Tensor, count: int, relaxation: float, low: float | None, high: float | None
) -> Tensor:
    """Return the iteration from 0, with sums of 0 left out."""
    r, c = entries.sum(1), entries.sum(0)
    r, c = (torch.where(s > 0, 1 / s, 0.0) for s in (r, c))
    x = torch.zeros_like(c)
    if low is not None or high is not None:
        x = x.clamp(low, high)
    for _ in range(count):
        x = x + relaxation * c * (entries.T @ (r * (data - entries @ x)))
        if low is not None or high is not None:
            x = x.clamp(low, high)
    return x


@pytest.mark.parametrize("relaxation", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("bounds", [(None, None), (0.0, None), (0.2, 1.1)])
@pytest.mark.parametrize("units", [Units(), UNITS, Units(1000.0, -1000.0)])
def test_it_is_the_dense_iteration_in_any_units(
    units: Units, bounds: tuple[float | None, float | None], relaxation: float
) -> None:
    entries, data = made(9, 6)
    x = sample(lines(entries, data, units), SIRT(7, *bounds, relaxation)).tensor().flatten()
    expected = dense(entries, data, 7, relaxation, *bounds)
    assert float((x - expected).abs().max()) < 1e-11 * max(abs(units.offset), 1.0)
    assert float(x[2]) == pytest.approx(max(bounds[0] or 0.0, 0.0), abs=1e-9)  # no ray meets it


def test_it_ends_at_the_least_weighted_squares() -> None:
    entries, data = made(12, 5)
    x = sample(lines(entries, data), SIRT(200, relaxation=1.5)).tensor().flatten()
    root = torch.where(entries.sum(1) > 0, entries.sum(1), torch.inf).rsqrt()
    best = torch.linalg.pinv(root[:, None] * entries) @ (root * data)
    assert torch.allclose(x, best, atol=1e-8)


def test_within_bounds_it_ends_where_no_step_inside_helps() -> None:
    entries, data = made(12, 5)
    x = sample(lines(entries, data), SIRT(200, lower=0.0, upper=1.0)).tensor().flatten()
    rows = torch.where(entries.sum(1) > 0, 1 / entries.sum(1), 0.0)
    slope = entries.T @ (rows * (entries @ x - data))
    low, high = x <= 1e-9, x >= 1 - 1e-9
    assert low.sum() == 1  # the voxel that no ray meets
    assert high.sum() == 2
    assert float(slope[~low & ~high].abs().max()) < 1e-8
    assert float(slope[high].max()) < 0


def test_the_weighted_misfit_goes_down_at_every_step() -> None:
    found = [
        sample(flat(), SIRT(count, lower=0.0, relaxation=1.9)).record["last_step"]["weighted"]
        for count in range(1, 12)
    ]
    assert all(after < before for before, after in itertools.pairwise(found))


def test_a_volume_in_parallel_beams() -> None:
    grid = Grid.from_spacing((3, 8, 10), (4.0, 2.0, 1.0))
    operator = ParallelBeamGeometry.around(grid, 12).operator(grid)
    truth = torch.zeros(operator.domain.shape, dtype=torch.float64)
    truth[1:, 2:6, 3:8] = 0.02
    data = operator(truth)
    posterior = Posterior(Flat(operator.domain, UNITS), Likelihood(operator, Gaussian(1e-3), data))
    samples = sample(posterior, SIRT(30, lower=0.0))
    entries = real_matrix(operator)
    expected = dense(entries, data.flatten(), 30, 1.0, 0.0, None)
    assert torch.allclose(samples.tensor().flatten(), expected, atol=1e-12)
    left = float((entries @ expected - data.flatten()).norm() / data.norm())
    assert samples.record["last_step"]["residual"] == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("law", [LogTransmission, PoissonTransmission])
def test_counts_are_their_logarithms_without_weights(law: type) -> None:
    posterior = flat(units=Units(0.005, 0.001))
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    counts = (1e4 * torch.exp(-likelihood.data)).round()
    measured = dataclasses.replace(likelihood, data=counts, noise=law(1e4))
    plain = dataclasses.replace(likelihood, data=torch.log(1e4 / counts))
    a, b = (sample(Posterior(posterior.prior, one), SIRT(9)).tensor() for one in (measured, plain))
    assert torch.allclose(a, b, rtol=1e-10)


def test_rays_that_counted_nothing_are_warned_of() -> None:
    space = Space.field(Grid.plane((1, 3), 1.0))
    counts = torch.tensor([[[0.0, 10.0, 50.0]]], dtype=torch.float64)
    posterior = Posterior(Flat(space), Likelihood(Identity(space), PoissonTransmission(100.0), counts))
    with pytest.warns(UserWarning, match="33.33% of the rays counted no photon"):
        x = sample(posterior, SIRT(1)).tensor()
    assert torch.allclose(x.flatten(), torch.log(100 / torch.tensor([0.5, 10.0, 50.0]).double()))


def test_entries_below_zero_are_refused() -> None:
    eye = torch.eye(60, dtype=torch.float64)
    sharp = 1.2 * eye - 0.1 * (eye.roll(1, 0) + eye.roll(-1, 0))  # hidden by row and column sums of 1
    with pytest.raises(ValueError, match="`operator` must have no entry < 0, got -.* over entries of A"):
        sample(lines(sharp, sharp.sum(1)), SIRT(3))
    mixed = torch.tensor([[1.0, 1.0], [-2.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="`operator` must have no entry < 0"):
        sample(lines(mixed.T.contiguous(), torch.ones(2, dtype=torch.float64)), SIRT(3))
    space = Space.field(Grid.plane((4, 5), 1.0))
    gradient = FiniteDifferences(space)
    posterior = Posterior(
        Flat(space), Likelihood(gradient, Gaussian(1.0), torch.zeros(2, 1, 4, 5, dtype=torch.float64))
    )
    with pytest.raises(ValueError, match="ConjugateGradient takes any linear operator"):
        sample(posterior, SIRT(3))


def test_complex_data_of_a_real_image_are_refused() -> None:
    space = Space.field(Grid.plane((1, 3), 1.0))
    operator = Matrix(space, Space((3,), True), torch.eye(3, dtype=torch.complex128))
    data = torch.ones(3, dtype=torch.complex128)
    with pytest.raises(TypeError, match="`operator` must have real values, and entries >= 0"):
        sample(Posterior(Flat(space), Likelihood(operator, Gaussian(1.0), data)), SIRT(3))


def test_magnitudes_and_priors_are_refused() -> None:
    space = Space.field(Grid.plane((1, 3), 1.0))
    magnitudes = Likelihood(Identity(space), Rician(1.0), torch.ones(space.shape, dtype=torch.float64))
    with pytest.raises(CapabilityError, match="`noise` must be gaussian or poisson, got rician"):
        sample(Posterior(Flat(space), magnitudes), SIRT(3))
    with pytest.raises(CapabilityError, match="`prior` must be a Flat"):
        sample(posterior_of("ct"), SIRT(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "`iterations` must be an integer >= 1"),
        ({"iterations": 1, "lower": 1.0, "upper": 1.0}, "`lower` must be below upper = 1.0, got 1.0"),
        ({"iterations": 1, "upper": float("inf")}, "`upper` must be a finite number"),
        ({"iterations": 1, "relaxation": 2.0}, "`relaxation` must be below 2, beyond which it diverges"),
        ({"iterations": 1, "relaxation": 0.0}, "`relaxation` must be a finite number > 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SIRT(**options)
