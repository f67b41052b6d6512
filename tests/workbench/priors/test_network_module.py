"""A module as it is found: with running means, in-place work, chance, or a broken weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from tests.workbench.priors.network_cases import FLOW, Small
from workbench import Posterior, sample
from workbench.integration import LogUniform, ddim
from workbench.paths import AffinePath, Prediction
from workbench.priors.network import Label, NetworkPrior, PathOutput
from workbench.priors.network.frozen import _checksum
from workbench.solvers.integrator import Integrator

PLANE = Space.field(Grid.plane((6, 8), 1.0))


class Normed(Small):
    """Has running means."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(x, label))
        return normed


def test_running_means_of_the_callers_module_move_alone() -> None:
    module = Normed()
    prior, z = NetworkPrior(module, PLANE, FLOW), random_element(PLANE, 3)
    before = prior.denoise(z, 0.5)
    module.train()(random_element(PLANE, 3, dtype=torch.float32), torch.ones(3))
    assert module.norm.state_dict()["running_mean"].item() != 0
    assert torch.equal(prior.denoise(z, 0.5), before)


class Overwriting(Small):
    """Works in the memory of what it is given."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return super().forward(x.mul_(2.0), label.add_(1.0))


class Doubled(Small):
    """The same in memory of its own."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return super().forward(2.0 * x, label + 1.0)


@pytest.mark.parametrize("double", [False, True])
def test_a_module_may_work_in_place(double: bool) -> None:
    output = PathOutput(AffinePath.ve(), Prediction.NOISE, Label.SIGMA)
    z = random_element(PLANE, 2, dtype=torch.float64 if double else torch.float32)
    modules = [kind().double() if double else kind() for kind in (Overwriting, Doubled)]
    got, expected = (NetworkPrior(module, PLANE, output).denoise(z, 0.5) for module in modules)
    assert torch.equal(got, expected)


class Random(Small):
    """Drops voxels in evaluation too."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x, label), 0.1)


def with_a_nan() -> nn.Module:
    """Return a module one of whose weights is none."""
    module = Small()
    module.last.weight.data[0, 0, 0, 0] = math.nan
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Random(), "`module` must give the same image for the same input, .*training=self"),
        (with_a_nan(), "`module` must have finite weights, got NaN or infinity in last.weight"),
    ],
    ids=["random", "nan"],
)
def test_modules_that_are_no_functions_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkPrior(module, PLANE, FLOW)


def test_weights_written_around_torchs_count_are_found_when_a_run_begins() -> None:
    module = Small()
    prior = NetworkPrior(module, PLANE, PathOutput(AffinePath.ve(), Prediction.NOISE, Label.SIGMA))
    levels = LogUniform(1.0, 0.1).times(2)
    sample(Posterior(prior), Integrator(ddim(levels)), draws=1)
    module.last.weight.data.mul_(1.5)
    with pytest.raises(ValueError, match="`module` must stay as it was when the prior was made"):
        sample(Posterior(prior), Integrator(ddim(levels)), draws=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_sum_of_weights_sees_each_number_and_not_their_layout(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1)).to(dtype)
    module.register_buffer("scale", torch.ones(1, dtype=dtype).expand(4)[:1])
    before = _checksum(module)
    module.to(memory_format=torch.channels_last)
    assert _checksum(module) == before
    for weight in module.parameters():
        for place in (0, -1):
            flat = weight.data.as_strided((weight.numel(),), (1,))
            kept = flat[place].clone()
            flat[place] = kept * 1.5 + 1
            assert _checksum(module) != before
            flat[place] = kept
    swapped = module[0].bias.data
    swapped[:2] = swapped[:2].flip(0)
    assert _checksum(module) != before
