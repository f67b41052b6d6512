"""What tests of particle solvers share: problems that few particles can do, evidence by dense algebra."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.space import Space
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.metrics import measure
from pipelines.verify.referee.posed import Problem
from tests.problems import UNITS, posterior_of
from tests.solver_contract import Poisoned, SolverContract
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.samples import Samples
from workbench.solvers.base import Solver
from workbench.units import Units

__all__ = [
    "LEVELS",
    "LIKE",
    "EnsembleContract",
    "errors_over_seeds",
    "evidence",
    "law_alone",
    "loud",
    "vague",
]

LEVELS = Karras(20.0, 0.01)
LIKE = torch.empty(0, dtype=torch.float64)
#: Noise of the vague problems over that of the usual ones.
VAGUE = 30.0


def vague(name: str, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
    """Return a problem of 4 x 4 whose data say so little that a few particles will do."""
    usual = posterior_of(name, 4, dtype=dtype).physical_likelihood
    assert usual is not None
    assert isinstance(usual.noise, GaussianNoise)
    return posterior_of(name, 4, dtype=dtype, sigma=VAGUE * float(usual.noise.sigma), units=units)


class EnsembleContract(SolverContract):
    """The contract on problems that a few particles can do."""

    name = "ct"

    def posterior(self, dtype: torch.dtype = torch.float64, units: Units = UNITS) -> Posterior:
        return vague(self.name, dtype, units)

    def posterior_complex(self) -> Posterior:
        return vague("coils")

    def poisoned(self, after: int) -> Posterior:
        posterior = vague("ct")
        likelihood = posterior.physical_likelihood
        assert likelihood is not None
        spoilt = Poisoned(likelihood.operator)  # type: ignore[arg-type]
        bad = Posterior(posterior.prior, Likelihood(spoilt, likelihood.noise, likelihood.data))
        spoilt.left[0] = after
        return bad

    def run(self, *args: Any, **options: Any) -> Samples:
        options.setdefault("draws", None)
        return super().run(*args, **options)

    def test_particles_in_parts_are_those_at_once(self) -> None:
        whole = self.run(seed=2)
        for size in (1, 5):
            parts = self.run(seed=2, microbatch=size)
            assert torch.allclose(parts.tensor(), whole.tensor(), rtol=0, atol=1e-9)
            assert torch.allclose(parts.weights, whole.weights, rtol=0, atol=1e-9)
            assert parts.record["ensemble"]["at_once"] == size

    def test_the_record_tells_of_the_particles(self) -> None:
        samples = self.run(seed=2)
        told, count = samples.record["ensemble"], len(samples)
        assert told["effective_number"] == pytest.approx(samples.effective_size)
        assert 1 <= told["least_effective_number"] <= told["effective_number"]
        assert 1 <= told["unique_ancestors"] <= count
        assert len(told["ancestors"]) == count
        assert math.isfinite(told["log_evidence"])

    def test_weights_of_data_that_say_nothing_are_exactly_equal(self) -> None:
        """A = 0: every particle weighs the same, and the draws are those of the prior."""
        blind = self.blind()
        samples = sample(blind, self.make(), seed=1)
        assert len(set(samples.weights.tolist())) == 1
        told = samples.record["ensemble"]
        assert told["resamplings"] == 0
        zero = torch.zeros(1, *blind.space.shape, dtype=torch.float64)
        assert told["log_evidence"] == pytest.approx(float(blind.measured.log_likelihood(zero)), rel=1e-12)

    def blind(self) -> Posterior:
        """Return a problem whose data say nothing."""
        posterior = vague("mask")
        likelihood = posterior.physical_likelihood
        assert likelihood is not None
        nothing = 0.0 * likelihood.operator  # type: ignore[operator]
        return Posterior(posterior.prior, replace(likelihood, operator=nothing))


def evidence(posterior: Posterior) -> float:
    """Return log p(y) of a linear-Gaussian problem with a Gaussian or mixture prior, by dense algebra."""
    model = DenseModel.of(posterior)
    matrix, data = model.matrix, model.data
    zero = torch.zeros((1, *posterior.space.shape), dtype=posterior.space.dtype_like(LIKE))
    constant = float(posterior.measured.log_likelihood(zero)) + float(data @ data) / 2
    logs: list[Tensor] = []
    for weight, mean, covariance in zip(model.weights, model.means, model.covariances, strict=True):
        spread = torch.eye(len(data), dtype=torch.float64) + matrix @ covariance @ matrix.T
        off = data - matrix @ mean
        logs.append(weight.log() - (off @ torch.linalg.solve(spread, off) + torch.logdet(spread)) / 2)
    return constant + float(torch.logsumexp(torch.stack(logs), 0))


def errors_over_seeds(problem: Problem, solver: Solver[Any], seeds: range) -> tuple[float, float, float]:
    """Return the rms error of the mean, the mean log evidence less the true one, and its standard error."""
    errors, off, truth = [], [], evidence(problem.posterior)
    for seed in seeds:
        samples = sample(problem.posterior, solver, seed=seed)
        rows = problem.rows(samples.tensor())
        errors.append(measure(rows, problem.truth, samples.weights).mean_error)
        off.append(samples.record["ensemble"]["log_evidence"] - truth)
    return (
        float(np.sqrt(np.mean(np.square(errors)))),
        float(np.mean(off)),
        float(np.std(off, ddof=1)) / len(off) ** 0.5,
    )


def loud(name: str, share: float) -> Posterior:
    """Return a problem of 6 x 6 with `share` of the usual noise: too much to say for a few particles."""
    usual = posterior_of(name, 6).physical_likelihood
    assert usual is not None
    assert isinstance(usual.noise, GaussianNoise)
    return posterior_of(name, 6, sigma=share * float(usual.noise.sigma))


class LawAlone(GaussianNoise):
    """Gaussian noise that gives its law, gradient and curvature, and no form to solve with."""

    def gaussian_form(self, data: Tensor, space: Space) -> None:
        del data, space


def law_alone(likelihood: Likelihood) -> Likelihood:
    """Return the same law, treated as any other than a linear-Gaussian one."""
    noise = likelihood.noise
    assert isinstance(noise, GaussianNoise)
    return replace(likelihood, noise=LawAlone(noise.sigma))
