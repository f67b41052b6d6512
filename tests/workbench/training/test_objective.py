import pytest
import torch
from torch import nn

from tests.workbench.training.training_cases import OBJECTIVE, SETTINGS, Waves
from workbench.paths.affine import AffinePath
from workbench.priors.network import EDMOutput, PathOutput, Plain
from workbench.priors.unet import UNet
from workbench.random import Keys
from workbench.training.batch import Batch
from workbench.training.densities import LogUniform
from workbench.training.objective import Denoising, Strata


def strata(rows: int, step: int = 1) -> Strata:
    return Strata(Keys(0, draws=(0,), step=step), rows)


def batch(rows: int, first: int = 0) -> Batch:
    return Waves().batch(1, range(first, first + rows), rows)


def test_levels_of_a_batch_come_one_from_each_stratum_in_another_order_each_step() -> None:
    seen = []
    for step in range(3):
        u = strata(8, step).uniforms(batch(8), "level")
        assert (u * 8).floor().sort().values.tolist() == list(range(8))
        seen.append((u * 8).floor().tolist())
    assert seen[0] != seen[1] != seen[2]


def test_rows_have_the_same_levels_and_noise_in_parts() -> None:
    net = UNet(SETTINGS, seed=1)
    whole = OBJECTIVE.losses(net, batch(8), strata(8))
    parts = [OBJECTIVE.losses(net, batch(4, first), strata(8)) for first in (0, 4)]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-5)


def test_a_new_network_of_edm_has_a_loss_of_one_for_data_of_the_stated_spread() -> None:
    """D = c_skip z is the linear estimate; what it leaves has the variance one over the weight."""
    x = Keys(1, draws=tuple(range(256))).normals((1, 16, 16), "data", like=torch.empty(0)) * 0.5
    data = Batch(x, torch.zeros(256, 4))
    losses = OBJECTIVE.losses(UNet(SETTINGS), data, strata(256))
    assert losses.mean().item() == pytest.approx(1.0, rel=0.02)


class Exact(nn.Module):
    """F of EDM for data that are 0.5 times white noise: nothing is left to predict."""

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        del label
        return torch.zeros_like(x)


class Velocity(nn.Module):
    """The velocity of the flow for data of variance sd^2, in closed form."""

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        t = label.reshape(-1, 1, 1, 1)
        return (t - (1 - t) * 0.25) / ((1 - t) ** 2 * 0.25 + t**2) * x


def test_objectives_on_different_paths_agree_where_networks_know_the_same() -> None:
    x = Keys(1, draws=tuple(range(64))).normals((1, 8, 8), "data", like=torch.empty(0)) * 0.5
    law = LogUniform(0.05, 5.0)
    edm = Denoising(EDMOutput(0.5), Plain(), law)
    flow = Denoising(PathOutput(AffinePath.flow(), "velocity", "time"), Plain(), law)
    ours = edm.losses(Exact(), Batch(x), strata(64))
    theirs = flow.losses(Velocity(), Batch(x), strata(64))
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_bad_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="`data_sd` must"):
        Denoising(data_sd=0.0)
    with pytest.raises(TypeError, match="`density` must be a Density"):
        Denoising(density="edm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`labels` must have 2 rows"):
        Batch(torch.zeros(2, 1, 4, 4), torch.zeros(3, 4))
