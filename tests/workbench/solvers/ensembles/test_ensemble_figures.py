"""The published figures of particle solvers: modes, evidence, and how errors fall with their number."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.problem import problem
from tests.workbench.solvers.ensembles.ensemble_cases import LEVELS, evidence
from workbench.driver import sample
from workbench.solvers.ensembles.afdps import AFDPS
from workbench.solvers.ensembles.ensemble import DegeneracyWarning, Ensemble
from workbench.solvers.ensembles.tds import TDS

pytestmark = pytest.mark.slow


def named(solver: object) -> str:
    return f"{type(solver).__name__}-{getattr(solver, 'weights', 'twist')}" if solver else ""


@pytest.mark.parametrize(
    "solver",
    [AFDPS(4000, 200, LEVELS), AFDPS(4000, 400, LEVELS, weights="continuous"), TDS(4000, 200, LEVELS)],
    ids=named,
)
def test_modes_of_four_thousand_particles(solver: Ensemble) -> None:
    """Pooled over four seeds: the probability in wrong modes at most 0.03."""
    posed = problem("P3")
    found = [sample(posed.posterior, solver, seed=seed) for seed in range(4)]
    rows = torch.cat([posed.rows(samples.tensor()) for samples in found])
    metrics = measure(rows, posed.truth, torch.cat([samples.weights for samples in found]))
    assert metrics.mode_error is not None
    assert metrics.mode_error <= 0.03
    assert metrics.mean_error < 0.12
    assert metrics.variance_ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "solver",
    [AFDPS(4000, 200, LEVELS), AFDPS(4000, 400, LEVELS, weights="continuous"), TDS(4000, 200, LEVELS)],
    ids=named,
)
@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_the_evidence_is_that_of_the_closed_form(name: str, solver: Ensemble) -> None:
    """The mean of six runs within 0.3 nats."""
    posed = problem(name)
    truth = evidence(posed.posterior)
    off = [
        sample(posed.posterior, solver, seed=seed).record["ensemble"]["log_evidence"] - truth
        for seed in range(6)
    ]
    assert abs(float(np.mean(off))) < 0.3


@pytest.mark.parametrize(
    ("solver", "low", "high"),
    [
        (lambda count: AFDPS(count, 200, LEVELS), -0.75, -0.2),
        (lambda count: AFDPS(count, 200, LEVELS, weights="continuous"), -0.75, -0.2),
        (lambda count: TDS(count, 200, LEVELS), -0.65, -0.4),
    ],
    ids=["AFDPS-kernel", "AFDPS-continuous", "TDS"],
)
def test_errors_fall_with_the_number_of_particles(solver: Any, low: float, high: float) -> None:
    """The rms error of the mean over 24 runs on P3 falls each time, as J to the power of the slope."""
    posed, counts, errors = problem("P3"), (16, 64, 256, 1024), []
    for count in counts:
        found = []
        for seed in range(24):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegeneracyWarning)
                samples = sample(posed.posterior, solver(count), seed=seed)
            found.append(measure(posed.rows(samples.tensor()), posed.truth, samples.weights).mean_error)
        errors.append(float(np.sqrt(np.mean(np.square(found)))))
    slope = float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    assert all(after < before for before, after in pairwise(errors))
    assert low <= slope <= high
