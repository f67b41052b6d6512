"""MCGdiff against closed forms of posterior and evidence, coefficient by coefficient, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from operators.matrix import Matrix
from operators.space import Space
from pipelines.verify.referee.problem import problem
from tests.problems import posterior_of
from tests.workbench.solvers.ensembles.ensemble_cases import (
    LEVELS,
    EnsembleContract,
    errors_over_seeds,
    evidence,
    vague,
)
from tests.workbench.solvers.guidance.singular_cases import case, poisoned_prior
from workbench.capabilities import CapabilityError
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import DenseGaussian
from workbench.solvers.ensembles.mcgdiff import MCGdiff


class TestMCGdiff(EnsembleContract):
    covers = (MCGdiff,)
    name = "blur"

    def make(self) -> MCGdiff:
        return MCGdiff(24, 8, Karras(20.0, 0.1))

    def posterior_complex(self) -> Posterior:
        return case("single coil", 4, share=1.5)

    def poisoned(self, after: int) -> Posterior:
        return poisoned_prior(self.posterior(), after)

    def blind(self) -> Posterior:
        posterior = vague("blur")
        nothing = Matrix(posterior.space, Space((3,)), torch.zeros(3, 16, dtype=torch.float64))
        data = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        return Posterior(posterior.prior, Likelihood(nothing, GaussianNoise(0.2), data))


@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_mean_and_evidence_are_those_of_closed_forms(name: str) -> None:
    error, off, chance = errors_over_seeds(problem(name), MCGdiff(4000, 100, LEVELS), range(4))
    assert error < 0.25
    assert abs(off) < 0.4
    assert chance < 0.2


def one_number(s: float, data: float) -> Posterior:
    """Return data = s u + noise of sd 1 for one u ~ N(0.3, 1)."""
    space = Space((1,))
    operator = Matrix(space, space, torch.tensor([[s]], dtype=torch.float64))
    prior = DenseGaussian(space, torch.tensor([0.3]).double(), torch.ones(1, 1, dtype=torch.float64))
    return Posterior(prior, Likelihood(operator, GaussianNoise(1.0), torch.tensor([data]).double()))


@pytest.mark.parametrize(("s", "data"), [(0.01, 0.4), (0.4, 1.0), (3.0, 2.0), (80.0, 60.0)])
def test_one_coefficient_is_met_wherever_its_level_lies(s: float, data: float) -> None:
    """t = 1 / s above the first level, among the levels, and at the last."""
    posterior = one_number(s, data)
    samples = sample(posterior, MCGdiff(2000, 200, Karras(40.0, 0.004)), seed=4)
    u = samples.tensor()[:, 0]
    precision = 1 + s**2
    mean, sd = (0.3 + s * data) / precision, precision**-0.5
    found = float(samples.weights @ u)
    spread = float(samples.weights @ (u - found) ** 2) ** 0.5
    assert abs(found - mean) < 0.15 * sd
    assert spread == pytest.approx(sd, rel=0.12)
    assert samples.record["ensemble"]["log_evidence"] == pytest.approx(evidence(posterior), abs=0.3)


def test_the_evidence_counts_data_outside_the_range() -> None:
    """Two data of one unknown: their difference is noise alone, and has its probability."""
    space = Space((1,))
    operator = Matrix(space, Space((2,)), torch.tensor([[2.0], [2.0]], dtype=torch.float64))
    prior = DenseGaussian(space, torch.zeros(1).double(), torch.ones(1, 1, dtype=torch.float64))
    data = torch.tensor([1.0, 2.5], dtype=torch.float64)
    posterior = Posterior(prior, Likelihood(operator, GaussianNoise(0.5), data))
    found = sample(posterior, MCGdiff(2000, 200, Karras(40.0, 0.004)), seed=4).record["ensemble"]
    assert math.isfinite(evidence(posterior))
    assert found["log_evidence"] == pytest.approx(evidence(posterior), abs=0.3)


def test_operators_without_singular_values_are_refused() -> None:
    for name in ("ct", "coils"):
        with pytest.raises(CapabilityError, match="`operator` must know its singular values"):
            sample(posterior_of(name, 6), MCGdiff(16, 4))
    with pytest.raises(CapabilityError, match="`likelihood` must be linear with Gaussian noise"):
        sample(problem("phase2").posterior, MCGdiff(16, 4))
