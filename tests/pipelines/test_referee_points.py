"""Classical answers under certificates: what the solver finds and what the referee finds by other means."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.entries import model_of
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.points import TV_WEIGHT, gradient, least_squares, ridge, sparse
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.truth import from_reals
from tests.problems import real_matrix, reals
from tests.tv_oracle import duality_gap
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.base import Solver
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.classical.tikhonov import Tikhonov
from workbench.solvers.classical.total_variation import TotalVariation

IMAGES = ("blur8", "mask8", "ct8", "coils8")
LIKE = torch.empty(0, dtype=torch.float64)


@cache
def flat(name: str) -> Posterior:
    """Return the posterior of the same data without a preference."""
    given = problem(name).posterior
    return Posterior(Flat(given.space, given.units), given.physical_likelihood)


def model(name: str) -> Model:
    found = model_of(problem(name))
    assert found is not None
    return found


def answered(posterior: Posterior, solver: Solver) -> Tensor:
    """Return u (1, ...)."""
    return posterior.from_physical(sample(posterior, solver, seed=0).tensor())


def excess(posterior: Posterior, u: Tensor) -> float:
    """Return (|B u - z|^2 - the least there is) / |z|^2."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    best = torch.linalg.pinv(matrix) @ data
    misfit, least = ((matrix @ v - data).square().sum() for v in (reals(u)[0], best))
    return float((misfit - least) / data.square().sum())


@pytest.mark.parametrize("name", IMAGES)
def test_total_variation_is_certified_by_its_dual(name: str) -> None:
    posterior = flat(name)
    u = answered(posterior, TotalVariation(TV_WEIGHT, iterations=6000, tolerance=1e-6))
    # Where B is close to singular the certificate itself is good to 1e-9 or so.
    assert -1e-8 <= duality_gap(posterior, u, TV_WEIGHT) <= 1e-5


def test_so_is_the_answer_that_the_referee_holds_it_against() -> None:
    posterior, slopes = flat("mask8"), gradient(problem("mask8").posterior)
    row = sparse(model("mask8"), *slopes, TV_WEIGHT, is_complex=posterior.space.is_complex, coupling=4.0)
    assert -1e-8 <= duality_gap(posterior, from_reals(row[None], posterior.space), TV_WEIGHT) <= 1e-4


def test_the_certificate_sees_another_weight_and_another_method() -> None:
    posterior = flat("ct8")
    u = answered(posterior, TotalVariation(TV_WEIGHT, iterations=6000, tolerance=1e-6))
    assert duality_gap(posterior, u, 1.01 * TV_WEIGHT) > 1e-5
    assert excess(posterior, u) > 1e-8
    squares = answered(posterior, ConjugateGradient(500, 1e-12))
    assert duality_gap(posterior, squares, TV_WEIGHT) > 1e-5


@pytest.mark.parametrize("name", IMAGES)
def test_many_conjugate_gradients_leave_no_misfit_in_excess(name: str) -> None:
    posterior = flat(name)
    assert -1e-12 <= excess(posterior, answered(posterior, ConjugateGradient(2000, 1e-12))) <= 1e-8
    few = from_reals(least_squares(model(name))[None], posterior.space)
    assert -1e-12 <= excess(posterior, few) < 0.5 * excess(posterior, torch.zeros_like(few))


@pytest.mark.parametrize("name", IMAGES)
def test_tikhonov_is_a_solve_with_the_dense_matrix(name: str) -> None:
    posterior = flat(name)
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    system = matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(system, matrix.T @ data)
    for found in (ridge(model(name)), reals(answered(posterior, Tikhonov(1.0)))[0]):
        assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("name", ["blur8", "coils8"])
def test_the_slopes_are_per_mm_and_have_their_adjoint(name: str) -> None:
    posterior = problem(name).posterior
    slope, back = gradient(posterior)
    size = model(name).size
    x, p = (Keys(seed, tuple(range(3))).normals((size,), "rows", like=LIKE) for seed in (1, 2))
    parts = torch.stack([p, p.roll(1, 1)], 1)
    assert slope(x).shape == parts.shape
    left, right = (slope(x) * parts).sum((1, 2)), (x * back(parts)).sum(1)
    assert torch.allclose(left, right, rtol=1e-12)
    # A ramp along the last axis, its last column without a neighbour.
    space, spacing = posterior.space, posterior.grid.spacing
    ramp = torch.arange(8).double().expand(1, *space.shape)
    along = slope(reals(ramp.to(space.dtype_like(LIKE))))
    flatly = from_reals(along[:, 1], space).real if space.is_complex else from_reals(along[:, 1], space)
    assert torch.allclose(flatly[..., :-1], torch.ones(()).double() / spacing[-1])
    assert float(flatly[..., -1].abs().max()) == float(along[:, 0].abs().max()) == 0
