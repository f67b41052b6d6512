"""The plans that methods make: their rows, as published, and what the builders refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.workbench.integration.modes import Modes, distance, ends
from workbench.integration import (
    Churn,
    Karras,
    LogUniform,
    PathUniform,
    Row,
    ancestral,
    ddim,
    deis,
    dpm_solver,
    dpm_solver_plus_plus,
    euler,
    heun,
    multistep,
    plan_of,
    pndm,
    rows_of,
    s_pndm,
    unipc,
)
from workbench.integration.levels import sigma_of, time_of
from workbench.paths import AffinePath
from workbench.plan import SolverPlan
from workbench.solvers.integrator import Integrator

VP = AffinePath.vp()
TIMES = Karras(20.0, 0.05).times(6)
FROM_NOISE = PathUniform(AffinePath.flow()).times(6)
BUILDERS: dict[str, Callable[[tuple[float, ...]], SolverPlan]] = {
    "ddim": ddim,
    "ddim eta": lambda times: ddim(times, eta=0.6),
    "ancestral": ancestral,
    "++2M": dpm_solver_plus_plus,
    "++3M SDE": lambda times: dpm_solver_plus_plus(times, order=3, tau=1.0),
    "noise 3": lambda times: multistep(times, order=3, prediction="noise"),
    "noise 2 over 1/sigma": lambda times: multistep(times, prediction="noise", variable="inv_sigma"),
    "data 2 over sigma": lambda times: multistep(times, variable="sigma"),
    "tAB": lambda times: deis(times, order=4),
    "rhoAB": lambda times: deis(times, order=3, variable="sigma"),
    "unipc": lambda times: unipc(times, order=3),
    "unipc noise": lambda times: unipc(times, prediction="noise"),
    "solver 1": lambda times: dpm_solver(times, order=1),
    "solver 2": dpm_solver,
    "solver 3": lambda times: dpm_solver(times, order=3),
    "solver++ 3": lambda times: dpm_solver(times, order=3, prediction="data"),
    "euler": euler,
    "heun": heun,
}


@pytest.mark.parametrize("times", [TIMES, FROM_NOISE, (1.0, 0.0), (0.9, 0.0), (0.9, 0.5, 0.1)])
@pytest.mark.parametrize("name", BUILDERS)
def test_plans_of_any_times_can_be_carried_out(name: str, times: tuple[float, ...]) -> None:
    plan = BUILDERS[name](times)
    rows = rows_of(plan)
    assert rows[0].time == times[0]
    assert rows[-1].next_time == times[-1]
    assert set(times[:-1]) <= {row.time for row in rows}
    assert SolverPlan.from_json(plan.to_json()).hash == plan.hash
    assert len(Integrator(plan).steps) == len(plan)
    assert ends(Modes(), plan, draws=4).isfinite().all()


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("ddim", 6), ("++2M", 6), ("unipc", 6), ("euler", 6), ("heun", 11), ("solver 2", 11), ("solver 3", 16)],
)
def test_evaluations_are_as_many_as_said(name: str, evaluations: int) -> None:
    assert len(BUILDERS[name](TIMES)) == evaluations


def test_orders_rise_and_end_with_one() -> None:
    assert [row.order for row in rows_of(dpm_solver_plus_plus(TIMES, order=3))] == [1, 2, 3, 3, 3, 1]
    assert [row.order for row in rows_of(deis(TIMES, order=3, variable="sigma"))] == [1, 2, 3, 3, 3, 3]
    unfinished = Karras(20.0, 0.05, to_zero=False).times(5)
    assert [row.order for row in rows_of(dpm_solver_plus_plus(unfinished, order=4))] == [1, 2, 3, 4, 4]


def test_unipc_corrects_each_arrival_that_is_evaluated_with_one_node_more() -> None:
    rows = rows_of(unipc(TIMES, order=3))
    assert [row.corrector for row in rows] == [0, 2, 3, 4, 4, 4]
    assert [row.order for row in rows] == [1, 2, 3, 3, 3, 1]
    assert unipc(TIMES, order=3, corrector=False) == dpm_solver_plus_plus(TIMES, order=3)


def test_from_noise_alone_every_method_begins_in_data() -> None:
    for name, build in BUILDERS.items():
        first = rows_of(build(FROM_NOISE))[0]
        assert (first.prediction, first.order, first.tau) == ("data", 1, 0.0), name


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.85, 1.0])
def test_the_fresh_noise_of_ddim_is_that_of_its_eta(eta: float) -> None:
    # Song et al.: sd eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar') of the VP state, with
    # abar = 1 / (1 + sigma^2).
    for row, (time, after) in zip(rows_of(ddim(TIMES, eta=eta)), pairwise(TIMES), strict=True):
        step = Integrator(plan_of([row])).steps[0].move
        bar, later = (1 / (1 + sigma_of(t) ** 2) for t in (time, after))
        published = eta * math.sqrt((1 - later) / (1 - bar)) * math.sqrt(1 - bar / later)
        # The flow's state is the VP state times (1 - t') / sqrt(abar').
        assert step.fresh == pytest.approx(published * (1 - after) / math.sqrt(later), rel=1e-9, abs=1e-15)


def test_ddim_at_eta_one_is_ancestral() -> None:
    times = Karras(20.0, 0.05, to_zero=False).times(5)
    ours = [row.tau for row in rows_of(ddim(times, eta=1.0))]
    assert ours == [row.tau for row in rows_of(ancestral(times))] == [1.0] * 5


def test_dpm_solver_3_is_as_published() -> None:
    # Lu et al., algorithm 2, in z = x / a with e^h - 1 over sigma: u = z + ..., nodes at h / 3 and 2 h / 3.
    first, last = 2.0, 0.7
    rows = rows_of(dpm_solver((time_of(first), time_of(last)), order=3))
    h = math.log(first / last)
    inner = [first * math.exp(-h * share) for share in (1 / 3, 2 / 3)]
    assert [sigma_of(row.time) for row in rows] == pytest.approx([first, *inner], rel=1e-12)
    moves = [step.move for step in Integrator(plan_of(rows)).steps]

    def weights(sigma: float, part: float, ratio: float) -> tuple[float, float]:
        """Return the weights of eps(s) and of the inner eps, z' = z - ... , of a step of `part` of h."""
        whole, a = sigma * math.expm1(part * h), part * h
        bend = sigma * ratio * (math.expm1(a) / a - 1)
        return -whole + bend, -bend

    for move, (sigma, part, ratio) in zip(moves[1:], [(inner[1], 2 / 3, 2.0), (last, 1.0, 1.5)], strict=True):
        first_weight, inner_weight = weights(sigma, part, ratio)
        scale = 1 - time_of(sigma)
        got = dict(move.nodes)
        assert move.base == 0
        assert got.pop(0) == pytest.approx(scale * first_weight, rel=1e-10)
        assert [*got.values()] == pytest.approx([scale * inner_weight], rel=1e-10)


def test_heun_is_the_trapezoid_rule_in_sigma() -> None:
    steps = Integrator(heun((time_of(2.0), time_of(0.7)))).steps
    weights = dict(steps[1].move.nodes)
    assert steps[1].move.base == 0
    assert [weights[0], weights[1]] == pytest.approx([(0.7 - 2.0) / 2 / 1.7] * 2, rel=1e-13)


def test_pndm_is_twelve_evaluations_and_then_one_a_step() -> None:
    times = PathUniform(VP, sigma_min=0.01, to_zero=False).times(10)
    rows = rows_of(pndm(times, VP))
    assert len(rows) == 10 + 9
    assert [row.nodes for row in rows[12:16]] == ["0 4 8 12", "0 1 5 9", "0 1 2 6", "0 1 2 3"]
    middle = [float(VP.time_of(sigma_of(t))) for t in (times[0], rows[1].time, times[1])]
    assert middle[1] == pytest.approx((middle[0] + middle[2]) / 2, rel=1e-9)
    assert len(s_pndm(times, VP)) == 11


def test_pndm_takes_the_times_of_a_discrete_checkpoint_and_ends_at_the_image() -> None:
    sigmas = tuple(0.01 * 1.08**k for k in range(120))
    path = AffinePath.discrete(sigmas)
    for build, more in ((pndm, 9), (s_pndm, 1)):
        plan = build(PathUniform(path).times(11), path)
        assert len(plan) == 11 + more
        last = rows_of(plan)[-1]
        assert (last.order, last.next_time, sigma_of(last.time)) == (1, 0.0, pytest.approx(0.01))
        assert ends(Modes(), plan, path, draws=4).isfinite().all()
    # Whole numbers of a table, not quite even, are what such a checkpoint has.
    rounded = [round(119 - 119 / 8 * k) for k in range(9)]
    assert len(pndm([time_of(sigmas[k]) for k in rounded], path)) == 8 + 9


def test_churn_goes_where_it_is_asked_for() -> None:
    churn = Churn(40.0, 0.1, 10.0, 1.003)
    rows = rows_of(heun(TIMES, churn=churn))
    for row in rows:
        inside = row.base == 0 and 0.1 <= sigma_of(row.time) <= 10.0
        assert row.churn == (math.sqrt(2) - 1 if inside else 0.0)
    assert sigma_of(rows_of(euler(TIMES, churn=Churn(1.2)))[0].evaluated) == pytest.approx(1.2 * 20.0)
    assert rows_of(euler(FROM_NOISE, churn=Churn(1.2)))[0].churn == 0


def test_methods_that_are_the_same_are_the_same() -> None:
    prior, times = Modes(), LogUniform(20.0, 0.05, to_zero=False).times(8)
    plain = ends(prior, ddim(times))
    for plan in (
        deis(times, order=1, variable="sigma"),
        deis(times, order=1),
        multistep(times, order=1, prediction="noise"),
        dpm_solver(times, order=1),
        euler(times),
    ):
        assert distance(ends(prior, plan), plain) <= 1e-13
    second = ends(prior, multistep(times, prediction="noise", variable="sigma"))
    assert distance(second, ends(prior, deis(times, order=2, variable="sigma"))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ddim(TIMES, eta=1.2), "`eta` must lie between 0 and 1"),
        (lambda: ddim((0.5,)), "`times` must be two or more, falling"),
        (lambda: ddim((0.5, 0.6)), "`times` must be two or more, falling"),
        (lambda: ddim((1.5, 0.6)), "`times` must be two or more, falling"),
        (lambda: ddim((0.5, -0.1)), r"`times\[1\]` must be a finite number >= 0"),
        (lambda: ddim(0.5), "`times` must be a sequence"),
        (lambda: ddim(Karras()), "`times` must be a sequence.*Karras"),
        (lambda: dpm_solver_plus_plus(TIMES, order=5), "`order` must be at most 4"),
        (lambda: dpm_solver_plus_plus(TIMES, order=0), "`order` must be an integer >= 1"),
        (lambda: dpm_solver_plus_plus(TIMES, tau=-1.0), "`tau` must be a finite number >= 0"),
        (lambda: multistep(TIMES, prediction="v"), "`prediction` must be one of data, noise"),
        (lambda: multistep(TIMES, variable="log"), "`variable` must be one of log_snr"),
        (lambda: deis(TIMES, variable="log_snr"), "`variable` must be t or sigma"),
        (lambda: unipc(TIMES, order=4), "`order` must be at most 3 with a corrector"),
        (lambda: unipc(TIMES, corrector=2), "`corrector` must be True or False"),
        (lambda: dpm_solver(TIMES, order=4), "`order` must be 1, 2 or 3"),
        (lambda: dpm_solver(TIMES, prediction="v"), "`prediction` must be one of"),
        (lambda: euler(TIMES, churn=40.0), "`churn` must be a Churn"),
        (lambda: Churn(-1.0), "`amount` must be a finite number >= 0"),
        (lambda: Churn(1.0, 2.0, 1.0), "`sigma_max` must be at least sigma_min"),
        (lambda: pndm(TIMES, VP), "`times` must be evenly spaced in the time of VPLinear"),
        (lambda: s_pndm(LogUniform(20.0, 0.1).times(9), VP), "`times` must be evenly spaced"),
        (lambda: pndm(FROM_NOISE, AffinePath.flow()), "`times` must begin below 1"),
        (lambda: pndm(TIMES, "vp"), "`path` must be an AffinePath"),
    ],
)
def test_mistakes_are_named(make: Callable[[], SolverPlan], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_rows_make_a_plan_and_come_back() -> None:
    rows = (Row(0.9, 0.5), Row(0.5, 0.1, 2, variable="sigma", shares="3/2 -1/2"))
    assert rows_of(plan_of(rows)) == rows
