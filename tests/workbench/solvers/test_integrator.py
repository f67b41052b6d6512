"""The integrator as a solver: its contract, its plans as data, and what it does exactly."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from operators.space import Space
from tests.problems import UNITS, grid_of, prior_on
from tests.solver_contract import SolverContract
from tests.workbench.integration.modes import PLANE, Modes, distance, ends
from workbench.driver import sample
from workbench.integration import (
    Karras,
    LogUniform,
    PathUniform,
    Row,
    ancestral,
    ddim,
    deis,
    dpm_solver,
    dpm_solver_plus_plus,
    heun,
    multistep,
    plan_of,
    pndm,
    rows_of,
    s_pndm,
    unipc,
)
from workbench.integration.levels import time_of
from workbench.paths import AffinePath, StudentT
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.finite_data import FiniteData
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys
from workbench.solvers.integrator import Integrator, IntegratorState
from workbench.units import Units

TIMES = LogUniform(20.0, 0.05).times(8)


def edited() -> SolverPlan:
    """Return a plan that no builder makes: orders, forms, variables, fresh noise, churn and a corrector."""
    a, b, c, d, e, f, g = (time_of(sigma) for sigma in (20.0, 7.0, 2.5, 1.0, 0.4, 0.15, 0.05))
    return plan_of(
        [
            Row(a, b, tau=1.0),
            Row(b, c, 2, prediction="noise", variable="sigma"),
            Row(c, d, 3, variable="inv_sigma", corrector=3),
            Row(d, e, 2, nodes="0 2", tau=0.5, churn=0.1, churn_noise=1.003),
            Row(e, f, 2, shares="3/2 -0.5"),
            Row(f, f, 2, prediction="noise", variable="sigma", base=1),
            Row(f, g, 4, nodes="0 2 3 4", prediction="noise", variable="log_snr"),
            Row(g, 0.0, tau=1.0),
        ]
    )


class TestMultistep(SolverContract):
    covers = (Integrator,)

    def make(self) -> Integrator:
        return Integrator(unipc(TIMES, order=2))


class TestEdited(SolverContract):
    covers = (Integrator,)

    def make(self) -> Integrator:
        return Integrator(edited())


class TestStudentT(SolverContract):
    covers = (Integrator,)

    def make(self) -> Integrator:
        return Integrator(heun(TIMES), AffinePath.ve().under(StudentT(8.0)))

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return finite(Space.field(grid_of(4)), units)

    def posterior_complex(self) -> Posterior:
        return finite(Space.field(grid_of(4), is_complex=True), UNITS)


def finite(space: Space, units: Units) -> Posterior:
    like = torch.empty(0, dtype=space.dtype_like(torch.empty(0, dtype=torch.float64)))
    points = Keys(3, (0, 1, 2)).normals(space.shape, "points", like=like)
    return Posterior(FiniteData(points, space, law=StudentT(8.0), units=units))


# -- plans as data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [edited, lambda: unipc(TIMES), lambda: ddim(TIMES, eta=0.5)])
def test_a_plan_written_and_read_gives_the_same_draws_bit_by_bit(make: Callable[[], SolverPlan]) -> None:
    plan = make()
    back = SolverPlan.from_json(json.dumps(json.loads(plan.to_json())))
    assert back.hash == plan.hash
    assert Integrator(back) == Integrator(plan)
    assert hash(Integrator(back)) == hash(Integrator(plan))
    runs = [sample(Posterior(Modes()), Integrator(p), draws=6, seed=4) for p in (plan, back)]
    assert torch.equal(runs[0].tensor(), runs[1].tensor())
    assert runs[0].record["plan"]["sha256"] == plan.hash


def test_plans_that_differ_have_other_hashes() -> None:
    rows = list(rows_of(edited()))
    rows[4] = dataclasses.replace(rows[4], shares="2 -1")
    other = plan_of(rows)
    assert other.hash != edited().hash
    assert Integrator(other) != Integrator(edited())
    prior = Posterior(Modes())
    plain, changed = (sample(prior, Integrator(p), draws=6).tensor() for p in (edited(), other))
    assert not torch.equal(plain, changed)


def test_a_plan_edited_by_hand_draws_from_the_prior() -> None:
    finer = Karras(40.0, 0.02).times(40)
    rows = list(rows_of(dpm_solver_plus_plus(finer, order=3)))
    for index in range(5, 20):
        rows[index] = dataclasses.replace(
            rows[index], order=2, prediction="noise" if index % 2 else "data", variable="sigma"
        )
    draws = ends(Modes(), plan_of(rows))
    reference = ends(Modes(), dpm_solver_plus_plus(Karras(40.0, 0.02).times(400), order=3))
    assert distance(draws, reference) < 0.02


def test_the_driver_runs_what_the_engine_steps() -> None:
    plain = ends(Modes(), edited(), draws=6, seed=4)
    driven = sample(Posterior(Modes()), Integrator(edited()), draws=6, seed=4, dtype=torch.float64)
    assert torch.equal(driven.tensor(), plain)
    assert driven.record["ledger"]["network_evaluations"] == 6 * len(edited())


def test_the_state_holds_what_later_rows_need_and_no_more() -> None:
    def held(plan: SolverPlan) -> list[int]:
        solver, posterior, keys = Integrator(plan), Posterior(Modes()), Keys(0, (0,))
        state, counts = solver.init(posterior, keys, torch.empty(0, dtype=torch.float64)), []
        for row in plan:
            state, _ = solver.step(posterior, state, row, keys.at(row.index + 1))
            counts.append(len(state.data) + len(state.noise) + len(state.states))
        return counts

    assert held(ddim(TIMES)) == [0] * 8
    # Of the first step also the state it left from, which the next evaluation corrects.
    assert held(dpm_solver_plus_plus(TIMES, order=3)) == [2, 2, 2, 2, 2, 2, 0, 0]
    assert held(heun(TIMES))[:3] == [2, 0, 2]
    # Of the corrector: the state that the last step left from.
    assert held(unipc(TIMES, order=2)) == [2, 3, 3, 3, 3, 3, 3, 0]


# -- what is exact -----------------------------------------------------------------------------------


class Point(Denoiser):
    """All data at one point."""

    exact = True
    calibrated_score = True
    knows_pure_noise = True

    def __init__(self, space: Space = PLANE) -> None:
        super().__init__(space)
        self.point = torch.tensor([0.7, -1.3], dtype=torch.float64)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        del sigma
        return self.point.to(z).expand_as(z)


class Known(Point):
    """Data that are what is left when a fixed noise is taken off: eps never changes."""

    noise = torch.tensor([0.4, -0.9], dtype=torch.float64)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z - sigma * self.noise


ANY = LogUniform(20.0, 0.05, to_zero=False).times(7)
VP = AffinePath.vp()
EVEN = PathUniform(VP, sigma_min=0.05, to_zero=False).times(6)
FORMS: dict[str, SolverPlan] = {
    "ddim in one step": ddim((ANY[0], ANY[-1])),
    "2M": dpm_solver_plus_plus(ANY, order=2),
    "noise 3": multistep(ANY, order=3, prediction="noise"),
    "tAB": deis(ANY, order=3),
    "rhoAB": deis(ANY, order=3, variable="sigma"),
    "solver 3": dpm_solver(ANY, order=3),
    "unipc": unipc(ANY, order=3),
    "heun": heun(ANY),
    "pndm": pndm(EVEN, VP),
    "s-pndm": s_pndm(EVEN, VP),
}


@pytest.mark.parametrize("name", FORMS)
def test_point_data_and_constant_noise_are_integrated_exactly(name: str) -> None:
    plan, count = FORMS[name], 5
    first, last = plan.columns["time"][0], plan.columns["next_time"][-1]
    sigma, after = (float(t) / (1 - float(t)) for t in (first, last))
    start = Keys(0, tuple(range(count))).normals((2,), "integrator: start", like=Point().point)
    # Of a point D stands still, u' = u + (s' - s) D; of known noise eps does, z' = z + (sigma' - sigma) eps.
    at_point = after * (start + (1 / after - 1 / sigma) * Point().point)
    got = ends(Point(), plan, VP, draws=count)
    assert distance(got, at_point) <= 1e-12 * sigma
    of_noise = sigma * start + (after - sigma) * Known().noise
    assert distance(ends(Known(), plan, VP, draws=count), of_noise) <= 1e-12 * sigma


@pytest.mark.parametrize("plan", [ddim((1.0, 0.0)), ancestral((1.0, 0.4, 0.0)), heun((1.0, 0.5, 0.0))])
def test_from_noise_alone_a_point_is_reached_in_any_steps(plan: SolverPlan) -> None:
    assert distance(ends(Known(), ddim((0.9, 0.0)), draws=3), torch.zeros(3, 2)) > 0
    assert distance(ends(Pure(), plan, draws=3), Point().point.expand(3, 2)) <= 1e-14


class Pure(Point):
    """The same point, known where there is noise alone."""

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._denoise(u, inv_sigma)


@pytest.mark.parametrize("sigma", [3.0, 0.4])
def test_the_step_of_a_round_gaussian_has_its_closed_form(sigma: float) -> None:
    # D = v z / (v + sigma^2): one DDIM step to the image is D itself, where the flow has
    # sqrt(v / (v + sigma^2)) z: exact is only what the step's order promises.
    v = 0.6**2
    prior = SpectralGaussian(Space.field(grid_of(4)), 0.0, torch.full((1, 4, 4), v, dtype=torch.float64))
    start = sigma * Keys(0, (0, 1)).normals((1, 4, 4), "integrator: start", like=torch.ones(0).double())
    plan = ddim((time_of(sigma), 0.0))
    assert distance(ends(prior, plan, draws=2), v / (v + sigma**2) * start) <= 1e-13
    fine = multistep(LogUniform(sigma, 1e-5).times(400), order=3)
    assert distance(ends(prior, fine, draws=2), math.sqrt(v / (v + sigma**2)) * start) <= 1e-4


def test_a_state_is_made_of_tensors_by_row() -> None:
    prior = prior_on(Space.field(grid_of(8), is_complex=True))
    solver, posterior = Integrator(unipc(TIMES)), Posterior(prior)
    like = torch.empty(0, dtype=torch.complex64)
    state = solver.init(posterior, Keys(0, (0, 1)), like)
    assert state.x.dtype == torch.complex64
    after, info = solver.step(posterior, state, solver.plan(posterior).row(0), Keys(0, (0, 1), 1))
    assert isinstance(after, IntegratorState)
    assert [index for index, _ in after.data] == [0]
    assert info.estimate is not None
    assert info.estimate.dtype == after.x.dtype == torch.complex64
