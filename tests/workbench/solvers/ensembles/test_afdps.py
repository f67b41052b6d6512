"""AFDPS: each kind of weight and proposal against closed forms of posterior and evidence, and refusals."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from operators.base import Operator
from operators.identity import Identity
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.space import Space
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from tests.workbench.solvers.ensembles.ensemble_cases import LEVELS, EnsembleContract, errors_over_seeds
from workbench.driver import sample
from workbench.engine.guards import DivergedError
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.poisson import PoissonTransmission
from workbench.plan import PlanRow
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning


class TestAFDPS(EnsembleContract):
    covers = (AFDPS,)

    def make(self) -> AFDPS:
        return AFDPS(24, 8, Karras(20.0, 0.1))


def name_of(solver: AFDPS) -> str:
    return f"{solver.variant}-{solver.weights}-{solver.proposal}"


@pytest.mark.parametrize(
    "solver",
    [
        AFDPS(600, 100, LEVELS),
        AFDPS(600, 100, LEVELS, proposal="drift"),
        AFDPS(600, 200, LEVELS, weights="continuous"),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_mean_and_evidence_are_those_of_closed_forms(name: str, solver: AFDPS) -> None:
    error, off, chance = errors_over_seeds(problem(name), solver, range(4))
    assert error < 0.2
    assert abs(off) < 0.3
    assert chance < 0.15


def phase_evidence() -> float:
    """Return log p(y) of the nonlinear problem, by the sum over a grid."""
    posterior = problem("phase2").posterior
    axis = torch.linspace(-4, 4, 801, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, *posterior.space.shape)
    cell = 2 * math.log(float(axis[1] - axis[0]))
    return float(torch.logsumexp(posterior.log_density(points), 0)) + cell


@pytest.mark.parametrize(
    "solver",
    [AFDPS(500, 150), AFDPS(50, 60, weights="continuous", probes=2)],
    ids=name_of,
)
def test_a_nonlinear_operator_has_its_evidence(solver: AFDPS) -> None:
    posed, truth = problem("phase2"), phase_evidence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        found = [sample(posed.posterior, solver, seed=seed).record["ensemble"] for seed in range(4)]
    off = [told["log_evidence"] - truth for told in found]
    assert abs(sum(off) / len(off)) < 0.3


def test_signs_that_the_data_do_not_tell_are_both_found() -> None:
    posed = problem("phase2")
    found = [sample(posed.posterior, AFDPS(1000, 200), seed=seed) for seed in range(3)]
    rows = torch.cat([posed.rows(samples.tensor()) for samples in found])
    metrics = measure(rows, posed.truth, torch.cat([samples.weights for samples in found]))
    assert metrics.mode_error is not None
    assert metrics.mode_error < 0.06
    assert metrics.mean_error < 0.12


def test_weights_of_the_ode_telescope() -> None:
    """log w = log p(y | x) - a_0 log p(y | z_0), and the integral of the start, whatever the path."""
    posterior = problem("P2").posterior
    solver = AFDPS(64, 30, LEVELS, variant="ode")
    like = posterior.like()
    first = solver.init(posterior, Keys(3, tuple(range(64))), like).z
    power, sigma = (solver.plan(posterior).row(0).number(name) for name in ("power", "sigma"))
    _, integral = posterior.measured.prox_value(torch.zeros_like(first[:1]), sigma, power=power)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        samples = sample(posterior, solver, seed=3)
    last = posterior.from_physical(samples.tensor())
    fit = posterior.measured.log_likelihood
    expected = integral + fit(last) - power * fit(first)
    assert torch.allclose(samples.log_weights, expected, rtol=0, atol=1e-9)  # type: ignore[arg-type]
    assert samples.record["ensemble"]["resamplings"] == 0


def test_continuous_weights_of_the_ode_telescope_as_steps_shrink() -> None:
    """Un-annealed: log p(y | x) - log p(y | z_0), up to O(h)."""
    posterior = problem("P1").posterior
    worst = []
    for steps in (200, 400, 800):
        solver = AFDPS(48, steps, LEVELS, variant="ode", weights="continuous", tempered=False)
        first = solver.init(posterior, Keys(5, tuple(range(48))), posterior.like())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegeneracyWarning)
            samples = sample(posterior, solver, seed=5)
        fit = posterior.measured.log_likelihood
        last = fit(posterior.from_physical(samples.tensor()))
        gained = samples.log_weights - first.log_weights  # type: ignore[operator]
        worst.append(float((gained - (last - fit(first.z))).abs().max()))
    assert worst[1] < 0.65 * worst[0]
    assert worst[2] < 0.65 * worst[1]


def hidden(posterior: Posterior) -> Posterior:
    """Return the same posterior by an operator that does not tell its singular values."""
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    return Posterior(posterior.prior, replace(likelihood, operator=Shy(likelihood.operator)))


def test_the_stiff_part_of_a_step_is_done_in_closed_form() -> None:
    """As an Euler step where that is short; where it is long, the data are met and not passed."""
    posterior, solver = problem("P2").posterior, AFDPS(weights="continuous", tempered=False)
    keys = Keys(2, (0, 1, 2))
    z = keys.normals(posterior.space.shape, "test: z", like=posterior.like())
    apart = []
    for step in (1e-3, 5e-4, 2.5e-4):
        row = PlanRow(0, {"sigma": 0.5, "next_sigma": 0.5 - step, "power": 1.0, "next_power": 1.0})
        ours, euler = (solver._by_flow(p, z, 0.9 * z, row, keys) for p in (posterior, hidden(posterior)))
        apart.append([float((a - b).abs().max()) for a, b in zip(ours, euler, strict=True)])
    # Differences are O(h^2).
    assert all(second < 0.3 * first for first, second in zip(apart[0], apart[1], strict=True))
    assert all(second < 0.3 * first for first, second in zip(apart[1], apart[2], strict=True))
    far = PlanRow(0, {"sigma": 20.0, "next_sigma": 10.0, "power": 1.0, "next_power": 1.0})
    b, data = posterior.measured.whitened
    white = keys.normals(z.shape[1:], "afdps: step", like=z)
    met = solver._by_flow(posterior, z, z, far, keys)[0] - 20 * white
    assert torch.allclose(b(met), data.expand(3, -1), atol=1e-8)


def test_steps_that_would_overshoot_are_refused() -> None:
    solver = AFDPS(16, 60, LEVELS, weights="continuous", tempered=False)
    with pytest.raises(ValueError, match=r"`steps` must make 2 sigma h a \|H\| < 2 .*, got .*kernel"):
        sample(hidden(problem("P1").posterior), solver)


@pytest.mark.parametrize("steps", [40, 2000])
def test_continuous_weights_of_counts_answer_or_refuse(steps: int) -> None:
    """Where noise alone has counts beyond any number, no step is short enough."""
    space = Space((2,))
    matrix = torch.tensor([[1.0, 0.3], [0.4, 1.2], [0.8, -0.2]], dtype=torch.float64)
    counts = torch.tensor([14.0, 9.0, 16.0], dtype=torch.float64)
    likelihood = Likelihood(Matrix(space, Space((3,)), matrix), PoissonTransmission(20.0), counts)
    posterior = Posterior(Gaussian(0.3, 0.4 * Identity(space)), likelihood)
    with pytest.raises((DivergedError, ValueError), match="weights='kernel'"):
        sample(posterior, AFDPS(50, steps, weights="continuous"), seed=0)
    told = sample(posterior, AFDPS(200, 40), seed=0).record["ensemble"]
    assert -15 < told["log_evidence"] < 0


@pytest.mark.filterwarnings("ignore::workbench.solvers.ensembles.ensemble.DegeneracyWarning")
def test_evidence_of_continuous_weights_has_no_error_to_tell() -> None:
    told = sample(problem("P1").posterior, AFDPS(32, 20, LEVELS, weights="continuous"), seed=1).record
    assert told["ensemble"]["log_evidence_standard_error"] is None


class Shy(LinearOperator):
    """An operator that does not tell its singular values."""

    def __init__(self, op: Operator) -> None:
        super().__init__(op.domain, op.codomain)
        self.op = op

    def _apply(self, x: Tensor) -> Tensor:
        return self.op._apply(x)

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        assert isinstance(self.op, LinearOperator)
        return self.op._apply_adjoint(y)


def test_operators_without_closed_forms_give_the_same_answers() -> None:
    """The exact proposal by conjugate gradients, and its determinants from the matrix."""
    posed = problem("P2")
    shy = hidden(posed.posterior)
    for solver in (AFDPS(64, 40, LEVELS, proposal="exact"), AFDPS(64, 40, LEVELS, proposal="drift")):
        known, unknown = (sample(p, solver, seed=2) for p in (posed.posterior, shy))
        assert torch.allclose(known.tensor(), unknown.tensor(), atol=1e-3)
        first, second = (s.record["ensemble"]["log_evidence"] for s in (known, unknown))
        assert first == pytest.approx(second, abs=1e-3)
    assert not AFDPS()._draws_exactly(shy)
    assert AFDPS()._draws_exactly(posed.posterior)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "pde"}, "`variant` must be one of 'sde', 'ode', got 'pde'"),
        ({"weights": "even"}, "`weights` must be one of 'kernel', 'continuous', got 'even'"),
        ({"proposal": "best"}, "`proposal` must be one of 'exact', 'drift', got 'best'"),
        ({"iterations": 0}, "`iterations` must be"),
        ({"probes": 1}, "`probes` must be"),
        ({"tempered": 1}, "`tempered` must be True or False, got 1"),
        ({"tempered": False, "spread": 2.0}, "`spread` must be None where tempered=False, got 2.0"),
        ({"weights": "continuous", "proposal": "exact"}, "`proposal` must be None but for kernel weights"),
        ({"variant": "ode", "proposal": "drift"}, "`proposal` must be None but for kernel weights"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        AFDPS(**options)


def test_exact_draws_are_refused_of_what_has_none() -> None:
    with pytest.raises(TypeError, match="`proposal` must be for a linear-Gaussian likelihood"):
        sample(problem("phase2").posterior, AFDPS(8, 4, proposal="exact"))
