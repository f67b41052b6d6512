"""The battery of priors for networks that know the exact answer."""

from __future__ import annotations

import torch

from tests.prior_contract import PriorContract
from tests.workbench.priors.network_cases import COMPLEX, FLOW, PLANE, Analytic, complex_gaussian, mixture
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import NetworkPrior, PathOutput, Training


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
