"""What the referee's laws are made of, against the priors, likelihoods and solvers that they are to judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.bands import normality
from pipelines.verify.referee.entries import LEVELS, model_of
from pipelines.verify.referee.laws.chains import Chain, Row, chain_of, iterated, unguided
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.laws.field import FieldModel, solved
from pipelines.verify.referee.laws.law import Law, followed, law_of, simulated
from pipelines.verify.referee.laws.levels import karras, levels_of
from pipelines.verify.referee.laws.model import Model
from pipelines.verify.referee.laws.phase import PhaseModel
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.truth import from_reals, reals
from tests.problems import real_matrix
from workbench.driver import sample
from workbench.integration.levels import Karras, LogUniform, sigma_of
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.annealed_langevin import AnnealedLangevin
from workbench.solvers.base import Solver
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient
from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.guidance.ddrm import DDRM
from workbench.solvers.guidance.dds import DDS
from workbench.solvers.guidance.diffpir import DiffPIR
from workbench.solvers.guidance.dps import DPS
from workbench.solvers.guidance.pigdm import PiGDM
from workbench.solvers.pull import curvature_norm

DOUBLE = torch.empty(0, dtype=torch.float64)
#: Of numbers that differ by rounding alone, relative to the largest of them.
ROUNDING = 1e-10
#: FieldModel.closest is as good as this, in standard deviations of what it minimises.
PROX = 1e-5
SIGMAS = (0.05, 0.8, 20.0)


@dataclass(frozen=True)
class Case:
    """A model and the posterior that it should be."""

    model: Model
    posterior: Posterior

    def rows(self, count: int, seed: int) -> Tensor:
        return Keys(seed, tuple(range(count))).normals((self.model.size,), "rows", like=DOUBLE)

    def x(self, rows: Tensor) -> Tensor:
        return from_reals(rows, self.posterior.space)

    def denoised(self, rows: Tensor, sigma: float) -> Tensor:
        """Return what the prior itself says."""
        return reals(self.posterior.prior.denoise(self.x(rows), sigma))  # type: ignore[attr-defined]


MAKERS: dict[str, tuple[str, Callable[[Posterior], Model]]] = {
    "P2": ("P2", DenseModel.of),
    "P3, a mixture": ("P3", DenseModel.of),
    "coils8, complex": ("coils8", DenseModel.of),
    "blur8 as a field": ("blur8", FieldModel),
    "coils8 as a field": ("coils8", FieldModel),
    "phase2, nonlinear": ("phase2", PhaseModel.of),
}
LINEAR = tuple(name for name in MAKERS if "nonlinear" not in name)
#: Those with singular values: of a field the operator has to know them.
SINGULAR = tuple(name for name in LINEAR if name != "coils8 as a field")


@cache
def case(name: str) -> Case:
    held, make = MAKERS[name]
    posterior = problem(held).posterior
    return Case(make(posterior), posterior)


def require_same(found: Tensor, expected: Tensor, relative: float = ROUNDING) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= relative * float(expected.abs().max())


def pulled_by_autograd(apply: Callable[[Tensor], Tensor], rows: Tensor, v: Tensor) -> Tensor:
    """Return J^T v per row."""
    z = rows.clone().requires_grad_()
    (found,) = torch.autograd.grad((apply(z) * v).sum(), z)
    return found


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_model_denoises_and_pulls_as_the_prior_does(name: str, sigma: float) -> None:
    held = case(name)
    z, v = 2 * (1 + sigma) * held.rows(5, 1), held.rows(5, 2)
    require_same(held.model.denoise(z, sigma), held.denoised(z, sigma))
    expected = pulled_by_autograd(lambda rows: held.denoised(rows, sigma), z, v)
    require_same(held.model.pull(z, sigma, v), expected, 1e-8)


@pytest.mark.parametrize("name", MAKERS)
def test_the_force_is_the_gradient_of_the_likelihood(name: str) -> None:
    held = case(name)
    x = held.rows(4, 3)
    require_same(held.model.force(x), reals(held.posterior.measured.gradient(held.x(x))))
    # Of |data - B x|^2 / 2 for what the model calls the residual.
    expected = pulled_by_autograd(lambda rows: -held.model.residual(rows).square() / 2, x, torch.ones(1))
    require_same(held.model.force(x), expected)


@pytest.mark.parametrize("name", LINEAR)
def test_forward_back_and_data_are_those_of_the_whitened_measurement(name: str) -> None:
    held = case(name)
    operator, z = held.posterior.measured.whitened
    matrix, x = real_matrix(operator), held.rows(3, 4)
    require_same(held.model.forward(x), x @ matrix.T)
    require_same(held.model.back(x @ matrix.T), x @ matrix.T @ matrix)
    require_same(held.model.data, reals(z[None])[0])
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    assert held.model.norm == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_the_spread_and_the_norm_are_what_the_solvers_scale_by(name: str) -> None:
    held = case(name)
    assert held.model.spread == pytest.approx(held.posterior.prior.data_sd, rel=1e-9)
    # The solvers' own is found by powers, to a few per cent where it only scales a step.
    assert held.model.norm == pytest.approx(curvature_norm(held.posterior), rel=0.02)


@pytest.mark.parametrize("r", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("name", LINEAR)
def test_the_closest_point_is_the_prox_and_has_no_slope(name: str, r: float) -> None:
    held = case(name)
    c = 2 * held.rows(3, 5)
    found = held.model.closest(c, r)
    expected = reals(held.posterior.measured.prox(held.x(c), r, tolerance=1e-9))
    # Both are as far from it as they were allowed to be, r at most in the directions that nothing measures.
    allowed = 2 * PROX * r * math.sqrt(held.model.size)
    assert float((found - expected).norm(dim=1).max()) <= allowed
    if isinstance(held.model, DenseModel):
        slope = held.model.force(found) - (found - c) / r**2
        assert float(slope.norm()) <= 1e-8 * float(held.model.force(c).norm())


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_coordinates_are_those_of_the_operator(name: str) -> None:
    model, x = case(name).model, case(name).rows(3, 6)
    s, data = model.singular
    there = model.to_singular(x)
    require_same(model.from_singular(there), x)
    require_same(there.norm(dim=1), x.norm(dim=1))
    require_same((s * there).norm(dim=1), model.forward(x).norm(dim=1), 1e-8)
    # V^T B^T data = s U^T data, and V^T B^T B V = s^2.
    require_same(model.to_singular(model.back(model.data[None]))[0], s * data, 1e-8)
    require_same(model.to_singular(model.back(model.forward(x))), s**2 * there, 1e-8)


@pytest.mark.parametrize("sigma", [0.1, 3.0])
@pytest.mark.parametrize("name", LINEAR)
def test_the_exact_force_is_that_of_the_covariance_by_autograd(name: str, sigma: float) -> None:
    held = case(name)
    z, x = 2 * held.rows(2, 7), held.rows(2, 8)
    matrix = real_matrix(held.posterior.measured.whitened[0])
    eye = torch.eye(held.model.size, dtype=torch.float64)
    expected = []
    for place, point in zip(z, x, strict=True):
        many = place.expand_as(eye)
        jacobian = pulled_by_autograd(lambda rows: held.denoised(rows, sigma), many, eye)
        system = torch.eye(len(matrix), dtype=torch.float64) + sigma**2 * matrix @ jacobian @ matrix.T
        expected.append(matrix.T @ torch.linalg.solve(system, held.model.residual(point[None])[0]))
    require_same(held.model.exact_force(z, sigma, x), torch.stack(expected), 1e-7)


def test_models_refuse_what_they_are_not_for() -> None:
    with pytest.raises(TypeError, match="a FieldModel needs a Gaussian prior, got GaussianMixture"):
        FieldModel(problem("P3").posterior)
    with pytest.raises(TypeError, match="`posterior` must have a PhaseRetrieval and a Gaussian prior"):
        PhaseModel.of(problem("P1").posterior)


def test_two_ways_of_conjugate_gradients_solve() -> None:
    root, side = case("P2").rows(8, 9), case("P2").rows(4, 10)
    matrix = root @ root.T + torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, side.T).T
    require_same(solved(lambda v: v @ matrix, side), expected, 1e-9)
    require_same(iterated(lambda v: v @ matrix, side, 40), expected, 1e-9)
    # One iteration goes along the side, as far as the energy falls.
    step = side.square().sum(1) / (side * (side @ matrix)).sum(1)
    require_same(iterated(lambda v: v @ matrix, side, 1), step[:, None] * side)
    zero = torch.zeros_like(side)
    assert torch.equal(iterated(lambda v: v @ matrix, zero, 3), zero)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("levels", [LEVELS, Karras(80.0, 0.002, rho=3.0)])
def test_levels_are_those_of_the_integration(levels: Karras, steps: int) -> None:
    rows = karras(levels, steps)
    sigmas = [sigma_of(time) for time in levels.times(steps)]
    assert [row[0] for row in rows] == pytest.approx(sigmas[:-1], rel=1e-9)
    assert [row[1] for row in rows] == pytest.approx(sigmas[1:], rel=1e-9, abs=1e-300)
    assert rows[-1][1] == 0


@pytest.mark.parametrize("name", ["P1", "P3", "coils8", "phase2"])
def test_levels_that_nobody_chose_are_those_of_the_solver(name: str) -> None:
    held = problem(name)
    model = model_of(held)
    assert model is not None
    solver = DPS(7) if name == "phase2" else DDS(7)
    plan = solver.plan(held.posterior)
    expected = [plan.row(i).number(column) for i in range(7) for column in ("sigma", "next_sigma")]
    rows = levels_of(solver)(model)
    assert [sigma for row in rows for sigma in row] == pytest.approx(expected, rel=1e-3)


def test_other_levels_are_those_that_were_chosen() -> None:
    rows = levels_of(DDS(5, LogUniform(10.0, 0.1)))(case("P2").model)
    assert [row[0] for row in rows] == pytest.approx([10.0 * 0.01 ** (i / 4) for i in range(5)])
    assert rows[-1][1] == 0


@pytest.mark.parametrize(
    "solver", [DDNM(5, travel=1), PiGDM(5, form="paper"), PiGDM(5, spread=2.0), DiffPIR(5, iterations=2)]
)
def test_what_is_not_written_out_again_has_no_chain(solver: Solver[Any]) -> None:
    assert chain_of(solver) is None
    assert chain_of(type(solver)(5)) is not None


MATRIX = torch.tensor([[0.7, 0.4], [-0.3, 0.8]], dtype=torch.float64)
NOISE = torch.tensor([[0.5, 0.0], [0.2, 0.1]], dtype=torch.float64)
SHIFT = torch.tensor([1.0, -2.0], dtype=torch.float64)


@dataclass
class Plane:
    """All that a chain of two numbers asks of a model."""

    size: int = 2
    spread: float = 1.0


def plane_chain(steps: int, bend: float = 0.0) -> Chain:
    """Return z' = M z + c + N w + bend z^2 from 3 w."""

    def step(model: Any, z: Tensor, row: Row, white: Tensor) -> Tensor:
        return z @ MATRIX.T + SHIFT + white @ NOISE.T + bend * z**2

    return Chain(lambda model: [(3.0,)] * steps, step, ("start", "step"))


@pytest.mark.parametrize("steps", [1, 4, 60])
def test_the_law_of_a_chain_is_the_sum_over_its_steps(steps: int) -> None:
    law = law_of(plane_chain(steps), Plane())  # type: ignore[arg-type]
    powers = [torch.linalg.matrix_power(MATRIX, k) for k in range(steps + 1)]
    require_same(law.mean, sum((power @ SHIFT for power in powers[:-1]), torch.zeros(2).double()))
    fresh = sum((power @ NOISE @ NOISE.T @ power.T for power in powers[:-1]), torch.zeros(2, 2).double())
    require_same(law.covariance, 9 * powers[-1] @ powers[-1].T + fresh)


def test_a_chain_that_is_not_affine_has_no_such_law() -> None:
    with pytest.raises(ValueError, match="the chain is not affine at sigma = 3: superposition fails by"):
        law_of(plane_chain(2, bend=1e-3), Plane())  # type: ignore[arg-type]
    norm = chain_of(DPS(4, LEVELS))
    assert norm is not None and not norm.affine
    with pytest.raises(ValueError, match="the chain is not affine"):
        law_of(norm, case("P2").model)
    own = chain_of(PiGDM(4, LEVELS))
    assert own is not None and own.affine
    with pytest.raises(ValueError, match="the chain is not affine"):
        law_of(own, case("P3, a mixture").model)


def test_a_law_draws_what_it_says() -> None:
    law = law_of(plane_chain(6), Plane())  # type: ignore[arg-type]
    rows = law.draw(4000, 2)
    assert max(map(abs, normality(law.whitened(rows)).values())) < 5
    require_same(law.whitened(law.mean[None]), torch.zeros(1, 2).double(), 0.0)
    other = Law(law.mean, 1.2 * law.covariance)
    assert abs(normality(other.whitened(rows))["variance"]) > 5


@pytest.mark.parametrize(
    ("solver", "name"), [(DPS(25, LEVELS, "bayes", 0.5), "P2"), (DDRM(20, LEVELS), "P1"), (None, "P2")]
)
def test_a_simulated_chain_has_its_law(solver: Solver[Any] | None, name: str) -> None:
    model = model_of(problem(name))
    chain = unguided(20, LEVELS) if solver is None else chain_of(solver)
    assert model is not None and chain is not None
    found = normality(law_of(chain, model).whitened(simulated(chain, model, 3000, 5)))
    assert max(map(abs, found.values())) < 5, found


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (DPS(12, LEVELS), "P2"),
        (DPS(12, LEVELS, "bayes", 0.5, jacobian="detached"), "P3"),
        (PiGDM(12, LEVELS, covariance="exact", tolerance=1e-8), "P3"),
        (DDRM(12, LEVELS), "P1"),
        (AnnealedLangevin(3.0, 0.01, levels=6, steps_per_level=3), "P3"),
        (DiffPIR(8, tolerance=1e-6), "coils8"),
        (DPS(12), "phase2"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_chain_that_is_followed_ends_where_the_solver_does(solver: Solver[Any], name: str) -> None:
    held = problem(name)
    model, chain = model_of(held), chain_of(solver)
    assert model is not None and chain is not None
    rows = held.rows(sample(held.posterior, solver, draws=9, seed=4).tensor())
    again = followed(chain, model, held.posterior, 9, 4)
    assert float(((rows - again).abs() / held.truth.sd).max()) < 1e-4
    elsewhere = followed(chain, model, held.posterior, 9, 5)
    assert float(((rows - elsewhere).abs() / held.truth.sd).max()) > 0.1


def test_a_solver_whose_equations_nobody_told_has_no_chain() -> None:
    assert chain_of(ConjugateGradient()) is None
