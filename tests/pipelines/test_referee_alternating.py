"""The laws of DAPS, PnP-DM, RED-Diff and the best of several runs, and how the table runs them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.verify.referee.bands import normality
from pipelines.verify.referee.cells import Cell, cell
from pipelines.verify.referee.entries import ACCURATE, LEVELS, Entry, entries, lawful, model_of
from pipelines.verify.referee.laws.alternating import near_by, noises_near
from pipelines.verify.referee.laws.chain import Chain, Row, width_of
from pipelines.verify.referee.laws.chains import chain_of
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.laws.field import FieldModel
from pipelines.verify.referee.laws.law import Law, followed, law_of, simulated
from pipelines.verify.referee.laws.model import Model, noise_of
from pipelines.verify.referee.problem import problem
from pipelines.verify.referee.table import report
from workbench.driver import sample
from workbench.kinds import Kind
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.alternating.daps import DAPS
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.alternating.pnp_dm import PnPDM
from workbench.solvers.base import Solver
from workbench.solvers.best_of import BestOf
from workbench.solvers.guidance.ddnm import DDNM
from workbench.solvers.variational.first_order import Adam, FirstOrder, GradientDescent, Moments
from workbench.solvers.variational.red_diff import REDDiff

DOUBLE = torch.empty(0, dtype=torch.float64)
GIBBS = PnPDM(8, 4, tolerance=ACCURATE)


def modelled(name: str) -> Model:
    model = model_of(problem(name))
    assert model is not None
    return model


def chained(solver: Solver[Any]) -> Chain:
    chain = chain_of(solver)
    assert chain is not None
    return chain


def tried(solver: Solver[Any], name: str, draws: int) -> Cell:
    """Return the cell of a solver, held against its own law."""
    held = problem(name)
    found = cell(lawful(Entry("tried", solver), held), held, draws)
    assert isinstance(found, Cell), found
    return found


PLAIN: list[tuple[Solver[Any], str]] = [
    (DAPS(6, LEVELS, 4, tolerance=1e-8), "P2"),
    (DAPS(6, LEVELS, 1, "matched"), "P3"),
    (DAPS(5, LEVELS, 2, inner=Langevin(7)), "P3"),
    (DAPS(4, None, 2, tolerance=1e-8), "coils8"),
    (DAPS(4, None, 1, inner=Langevin(7)), "coils8"),
    (DAPS(6, None, 2, inner=Langevin(45, 0.05)), "phase2"),
    (DAPS(3, None, 2), "blur64"),
    (PnPDM(6, 5, 3.0, 0.4, 0.5, spread=0.0), "P3"),
    (PnPDM(5, 1, 4.0, 1.0, 0.5), "P1"),
    (PnPDM(6, 3, 3.0, 0.4, spread=2.0, inner=Langevin(6, 0.5)), "P1"),
    (PnPDM(4, 3, tolerance=1e-8), "coils8"),
    (PnPDM(4, 3, inner=Langevin(13)), "phase2"),
    (REDDiff(30, LEVELS, "paper"), "P2"),
    (REDDiff(30, LEVELS, weighting="log", spread=1.5), "P3"),
    (REDDiff(30, scaling="paper", weighting="square", optimiser=GradientDescent(0.5), start="prior"), "P2"),
    (REDDiff(30, weight=0.3, weighting="min", optimiser=Adam(0.05, 1.0, 0.5, (0.8, 0.9))), "coils8"),
    (REDDiff(30, scaling="paper", weighting="two thirds"), "coils8"),
    (REDDiff(30, weighting="sqrt", optimiser=GradientDescent(0.02)), "phase2"),
    (REDDiff(30, scaling="paper", optimiser=GradientDescent(0.02)), "phase2"),
    (REDDiff(20, scaling="paper"), "blur64"),
    (BestOf(DAPS(5, LEVELS, 2), 3), "P1"),
    (BestOf(DAPS(5, None, 2, inner=Langevin(12)), 4), "phase2"),
    (BestOf(REDDiff(20, LEVELS), 2), "P3"),
]


@pytest.mark.parametrize(("solver", "name"), PLAIN, ids=repr)
def test_a_chain_ends_where_the_solver_does(solver: Solver[Any], name: str) -> None:
    held, chain, model = problem(name), chained(solver), modelled(name)
    rows = held.rows(sample(held.posterior, solver, draws=6, seed=4).tensor())
    again = followed(chain, model, held.posterior, 6, 4)
    assert float(((rows - again).abs() / held.truth.sd).max()) < 1e-6
    elsewhere = followed(chain, model, held.posterior, 6, 5)
    assert float(((rows - elsewhere).abs() / held.truth.sd).max()) > 1e-2


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (DAPS(8, LEVELS, 3), "P2"),
        (DAPS(8, LEVELS, 1, "matched", Langevin(9)), "P1"),
        (GIBBS, "P1"),
        (PnPDM(5, 3, inner=Langevin(9)), "P2"),
        (PnPDM(5, 3), "coils8"),
    ],
    ids=repr,
)
def test_a_simulated_chain_has_its_law(solver: Solver[Any], name: str) -> None:
    chain, model = chained(solver), modelled(name)
    found = normality(law_of(chain, model).whitened(simulated(chain, model, 1500, 5)))
    assert max(map(abs, found.values())) < 5, found


@pytest.mark.parametrize("name", ["P2", "coils8"])
@pytest.mark.parametrize("r", [0.05, 1.0, 30.0])
def test_draws_near_a_point_have_the_law_of_their_product(name: str, r: float) -> None:
    """N(c, r^2) x likelihood has the precision B^T B + I / r^2; Langevin's chain comes to it."""
    model = modelled(name)
    assert isinstance(model, DenseModel)
    eye = torch.eye(model.size, dtype=torch.float64)
    precision = model.matrix.T @ model.matrix + eye / r**2
    c = torch.linspace(-1, 2, model.size, dtype=torch.float64)[None]
    mean = torch.linalg.solve(precision, (model.data @ model.matrix + c[0] / r**2)[:, None]).T
    axes = torch.eye(width_of(model, noises_near(model, None, "x")), dtype=torch.float64)
    near = near_by(None)
    middle = near(model, c, r, axes[:1] * 0)
    assert torch.allclose(middle, mean, rtol=1e-8, atol=1e-8)
    root = near(model, c.expand(len(axes), -1), r, axes) - middle
    assert torch.allclose(root.T @ root @ precision, eye, atol=1e-7)
    steep = Langevin(400, 0.02)
    if r > 0.05 or name == "coils8":
        return
    # There all directions are about as steep: 400 steps of a fiftieth forget the start, 1 % too wide.
    chain = Chain(
        lambda model: [(1.0,)],
        lambda model, z, row, white: near_by(steep)(model, c.expand(len(white), -1), r, white),
        ("x", lambda model, row: noises_near(model, steep, "x")),
        start=lambda model, sigma, white: 0 * white,
    )
    found = simulated(chain, model, 1500, 3)
    law = Law(mean[0], torch.linalg.inv(precision))
    assert max(map(abs, normality(law.whitened(found)).values())) < 5


def test_of_each_row_the_noises_are_told() -> None:
    linear, phase = modelled("P1"), modelled("phase2")
    chain = chained(DAPS(3, LEVELS, 2))
    rows = chain.rows(linear)
    assert [width_of(linear, chain.noises(linear, row)) for row in rows] == [0, 8 + 3 + 8, 0, 19, 0, 11]
    assert [name for name, _ in chain.noises(linear, rows[1])] == [
        "daps: draw: data",
        "daps: draw: point",
        "daps: noise",
    ]
    inner = chained(DAPS(3, inner=Langevin(2)))
    assert [name for name, _ in inner.noises(phase, inner.rows(phase)[-1])] == [
        "daps: draw: curvature",
        "daps: draw 0",
        "daps: draw 1",
    ]
    # Of a measurement that is not linear None is a chain of 100 steps.
    assert len(chained(DAPS(3)).noises(phase, (1.0, 0.0, 1.0, 0.5))) == 102


@pytest.mark.parametrize("name", ["P2", "coils8", "phase2"])
def test_the_curvature_is_that_of_the_residual(name: str) -> None:
    model = modelled(name)
    x, v = Keys(1, (0, 1)).normals((model.size,), "test", like=DOUBLE)
    jacobian: Tensor = torch.autograd.functional.jacobian(lambda u: model.residual(u[None])[0], x)  # type: ignore[no-untyped-call]
    assert torch.allclose(model.curve(x[None], v[None])[0], jacobian.T @ jacobian @ v, rtol=1e-9)


def test_the_noise_is_that_of_the_data_before_they_were_whitened() -> None:
    assert modelled("P1").noise == 0.2
    posterior = problem("blur64").posterior
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    assert FieldModel(posterior).noise == likelihood.noise.sigma  # type: ignore[attr-defined]
    some = GaussianNoise(torch.full_like(likelihood.data, 0.1))
    uneven = Posterior(posterior.prior, Likelihood(likelihood.operator, some, likelihood.data))
    assert math.isnan(noise_of(uneven))


@pytest.mark.parametrize("name", ["P3", "images16"])
def test_components_of_one_covariance_are_what_those_of_several_would_be(name: str) -> None:
    model = modelled(name)
    assert isinstance(model, DenseModel)
    other = replace(model)
    other.__dict__["_alike"] = False
    assert model._alike
    z, v = (3 * Keys(2, tuple(range(8))).normals((2, model.size), "test", like=DOUBLE)).unbind(1)
    for sigma in (0.05, 1.0, 20.0):
        assert torch.allclose(model.denoise(z, sigma), other.denoise(z, sigma), rtol=1e-9, atol=1e-9)
        assert torch.allclose(model.pull(z, sigma, v), other.pull(z, sigma, v), rtol=1e-9, atol=1e-9)


class Momentum(FirstOrder):
    """An optimiser of somebody's."""

    def unit(self, curvature: Any) -> float:
        return 1.0

    def begin(self, v: Tensor) -> None:
        return None

    def direction(self, g: Tensor, moments: Moments | None, index: int) -> tuple[Tensor, None]:
        return g, None


@pytest.mark.parametrize(
    "solver",
    [REDDiff(5, order="random"), REDDiff(5, start="data"), REDDiff(5, optimiser=Momentum())],
    ids=repr,
)
def test_what_is_not_written_out_again_has_no_chain(solver: REDDiff) -> None:
    assert chain_of(solver) is None
    assert chain_of(BestOf(solver)) is None
    assert chain_of(BestOf(DDNM(5, travel=1))) is None
    assert chain_of(REDDiff(5)) is not None


def test_the_best_of_several_runs_is_the_one_of_least_misfit() -> None:
    model = modelled("P1")

    def step(model: Model, z: Tensor, row: Row, white: Tensor) -> Tensor:
        return z + white

    plain = Chain(lambda model: [(1.0,)], step, ("start", "step"))
    alone = simulated(plain, model, 12, 3)
    best = simulated(replace(plain, runs=4), model, 3, 3)
    for draw in range(3):
        runs = alone[4 * draw : 4 * draw + 4]
        misfits = [float(model.residual(run[None]).square().sum()) for run in runs]
        assert torch.equal(best[draw], runs[misfits.index(min(misfits))])


@pytest.mark.parametrize(
    ("name", "draws"), [("P1", 400), ("P2", 400), ("P3", 100), ("blur8", 100), ("ct8", 60), ("phase2", 100)]
)
def test_cells_of_the_table_have_their_laws(name: str, draws: int) -> None:
    held = problem(name)
    affine = held.prior_is_gaussian and held.posterior.measured.is_linear
    inner = Langevin(12) if name == "phase2" else None
    levels = LEVELS if name.startswith("P") else None
    for solver, law in (
        (
            DAPS(20, levels, 3, inner=inner, tolerance=ACCURATE),
            "matrix recursion" if affine else "same numbers",
        ),
        (replace(GIBBS, inner=inner), "matrix recursion" if affine else "same numbers"),
        (REDDiff(60, levels, "paper"), "same numbers"),
        (REDDiff(60, levels), "same numbers"),
    ):
        found = tried(solver, name, draws)
        assert (found.law, found.fallen) == (law, ()), (solver, found.off)


def test_a_cloud_of_point_estimates_is_measured_and_is_called_what_it_is() -> None:
    found = tried(REDDiff(200, LEVELS), "P1", 300)
    assert (found.kind, found.draws, found.passed) == (Kind.POINT_ESTIMATE, 300, True)
    # The spread that steps leave of the starts: far from the posterior's, and told so.
    assert found.metrics.variance_ratio is not None
    assert found.metrics.variance_ratio < 0.3
    assert found.metrics.coverage is not None
    assert found.metrics.coverage < 0.7
    assert set(found.bands) >= {"mean_error", "variance_ratio", "coverage"}
    (line,) = report([found])
    share = f"{found.metrics.coverage:.0%}"
    assert line == (
        f"tried: point estimate; 90 % intervals of several answers hold {share} of the posterior."
    )
    best = tried(BestOf(DAPS(20, LEVELS, 1), 4), "P2", 100)
    assert (best.kind, best.law, best.passed) == (Kind.BEST_OF, "same numbers", True)
    assert best.metrics.variance_ratio is not None


COMPARED = ("DPS norm", "DPS bayes", "DiffPIR", "DAPS", "DAPS, best of 4", "PnP-DM", "RED-Diff")


def test_on_intensities_all_are_compared_at_as_many_evaluations() -> None:
    held = problem("phase2")
    listed = {entry.name: entry for entry in entries(held)}
    for name in (*COMPARED, "RED-Diff, normalised"):
        solver = listed[name].solver
        cost = solver.cost(held.posterior, solver.plan(held.posterior))
        assert cost.network_evaluations == 1000, name
        assert listed[name].chain is not None
    assert "DAPS, Tweedie" not in listed


def test_what_takes_long_is_left_out_where_it_does() -> None:
    def names(name: str, fast: bool = False) -> set[str]:
        own = (DAPS, PnPDM, REDDiff, BestOf)
        return {entry.name for entry in entries(problem(name), fast=fast) if isinstance(entry.solver, own)}

    common = {"DAPS", "DAPS, Tweedie", "PnP-DM", "RED-Diff", "RED-Diff, normalised"}
    assert names("P1") == names("P3") == common | {"DAPS, matched", "DAPS, Langevin"}
    assert names("ct8") == common | {"DAPS, matched"}
    assert names("images16") == common | {"DAPS, best of 4"}
    assert names("mask64") == {"DAPS, Tweedie", "PnP-DM", "RED-Diff, normalised"}
    assert names("P1", fast=True) == common
    assert names("coils8", fast=True) == names("phase2", fast=True) == common - {"DAPS, Tweedie"}
    assert names("blur64", fast=True) == {"DAPS, Tweedie", "PnP-DM"}
