"""The battery of priors for networks that know the exact answer."""

from __future__ import annotations

import pytest
import torch

from tests.contracts import close
from tests.oracles import random_element
from tests.prior_contract import PriorContract
from tests.workbench.priors.network_cases import COMPLEX, FLOW, PLANE, Analytic, complex_gaussian, mixture
from workbench import Posterior, sample
from workbench.integration import dpm_solver_plus_plus
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import NetworkPrior, PathOutput, Plain, Training
from workbench.solvers.integrator import Integrator


class TestNetworkPrior(PriorContract):
    covers = (NetworkPrior,)
    is_exact = False
    can_be_drawn = False
    has_density = False

    def make(self, dtype: torch.dtype) -> NetworkPrior:
        return NetworkPrior(Analytic(mixture(), FLOW.path, FLOW.prediction), PLANE, FLOW)

    def other(self) -> NetworkPrior:
        return NetworkPrior(Analytic(mixture(), FLOW.path, Prediction.DATA), PLANE, FLOW)


class TestComplexNetworkPrior(PriorContract):
    covers = (NetworkPrior,)
    is_exact = False
    can_be_drawn = False
    has_density = False
    is_affine = True
    knows_pure_noise = False

    def make(self, dtype: torch.dtype) -> NetworkPrior:
        output = PathOutput(AffinePath.flow(), Prediction.NOISE)
        network = Analytic(complex_gaussian(), output.path, output.prediction)
        training = Training(is_complex=True, data_range=(-9.0, 9.0), data_sd=1.0)
        return NetworkPrior(network, COMPLEX, output, training=training)

    def other(self) -> NetworkPrior:
        output = PathOutput(AffinePath.flow(), Prediction.DATA)
        return NetworkPrior(Analytic(complex_gaussian(), output.path, Prediction.DATA), COMPLEX, output)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [(FLOW.path, Prediction.VELOCITY), (AffinePath.resfusion(), Prediction.V)],
    ids=["flow", "resfusion"],
)
def test_samples_from_the_exact_start_are_those_of_the_prior(
    path: AffinePath, prediction: Prediction
) -> None:
    network, output = Analytic(mixture(), path, prediction), PathOutput(path, prediction)
    if output.needs_image:
        unbound = NetworkPrior(network, PLANE, output, calling=Plain(images=("image",)))
        prior = unbound.given(random_element(PLANE, seed=7))
    else:
        prior = NetworkPrior(network, PLANE, output)
    solver = Integrator(dpm_solver_plus_plus([1.0, 0.9, 0.6, 0.3, 0.1, 0.0]))
    got, expected = (
        sample(Posterior(one), solver, draws=3, seed=1, dtype=torch.float64).mean().data
        for one in (prior, mixture())
    )
    assert close(torch.as_tensor(got), torch.as_tensor(expected), 1e-12)
