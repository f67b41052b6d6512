"""MONAI's diffusion U-Net and the workbench's own, wrapped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from tests.contracts import close
from tests.oracles import random_element
from workbench.paths import AffinePath, Prediction
from workbench.paths.prediction import to_data
from workbench.paths.schedules import Discrete
from workbench.priors.network import (
    EDMOutput,
    Execution,
    Label,
    Labelled,
    Monai,
    NetworkPrior,
    PathOutput,
    Tile,
    Training,
)
from workbench.priors.unet import UNet, UNetSettings

SPACES = {
    "plane": Space.field(Grid.plane((16, 24), 1.0)),
    "volume": Space.field(Grid.from_spacing((8, 8, 16), 1.0)),
}
PATH = AffinePath(Discrete.of_linear_betas())


def filled(module: nn.Module) -> nn.Module:
    """Return the module with numbers for weights, so that no layer is silent."""
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float32)
            wave = (1.3 * steps + k).sin() / max(1.0, parameter[0].numel()) ** 0.5
            parameter.copy_(wave.reshape(parameter.shape) + (parameter.ndim == 1))
    return module.eval()


def monai_network(dims: int, classes: int = 0, context: int = 0) -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets", reason="needs the extra train")
    pytest.importorskip("einops", reason="MONAI's attention needs einops")
    return filled(
        nets.DiffusionModelUNet(
            spatial_dims=dims,
            in_channels=1,
            out_channels=1,
            channels=(8, 8),
            num_res_blocks=1,
            attention_levels=(False, context > 0),
            norm_num_groups=4,
            num_head_channels=4,
            with_conditioning=context > 0,
            cross_attention_dim=context or None,
            num_class_embeds=classes or None,
        )
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning:monai")
@pytest.mark.parametrize("width", [0, 5], ids=["classes", "cross-attention"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_monais_unet(space: Space, width: int) -> None:
    dims = 2 if space.grid.is_plane else 3
    network = monai_network(dims, classes=3, context=width)
    output = PathOutput(PATH, Prediction.NOISE, Label.INDEX)
    prior = NetworkPrior(network, space, output, calling=Monai(classes=3, context_width=width))
    tokens = random_element(Space((2, 5)), dtype=torch.float32)
    context = {"context": tokens} if width else {}
    bound = prior.given({"class": torch.tensor(2), **context})
    sigma = torch.tensor([PATH.schedule.sigmas[k] for k in (10, 500)])
    z = random_element(space, 2, dtype=torch.float32)
    t = torch.tensor([10, 500])
    with torch.no_grad():
        images = z.reshape(2, 1, *space.shape[-dims:])
        x = PATH.at(t.double()).a.float().reshape(-1, *[1] * (dims + 1)) * images
        attended = tokens.expand(2, 2, 5) if width else None
        eps = network(x, t, context=attended, class_labels=torch.tensor([2, 2]))
        expected = to_data(Prediction.NOISE, eps, x, t.double(), PATH).reshape(z.shape)
        assert close(bound.denoise(z, sigma), expected, 1e-5)
    other = prior.given({"class": torch.tensor(1), **context})
    assert not close(other.denoise(z, sigma), expected, 1e-4)
    product = bound.covariance(z, 1.0, z)
    parts = NetworkPrior(
        network, space, output, calling=prior.calling, execution=Execution(microbatch=1)
    ).given({"class": torch.tensor(2), **context})
    assert close(parts.covariance(z, 1.0, z), product, 1e-5)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_own_unet(space: Space) -> None:
    dims = 2 if space.grid.is_plane else 3
    settings = UNetSettings(
        dims=dims, widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8, labels=2, condition_channels=1
    )
    network = filled(UNet(settings))
    prior = NetworkPrior(network, space, EDMOutput(0.5), calling=Labelled(labels=2, images=("scout",)))
    labels, scout = torch.tensor([0.5, 1.0]), random_element(space, dtype=torch.float32, seed=3)
    bound = prior.given({"labels": labels, "scout": scout})
    z, sigma = random_element(space, 2, dtype=torch.float32), torch.tensor([0.1, 5.0])

    def images(x: Tensor) -> Tensor:
        return x.reshape(-1, 1, *space.shape[-dims:])

    column = sigma.reshape(-1, *[1] * (dims + 1))
    r = (column**2 + 0.25).sqrt()
    with torch.no_grad():
        f = network(
            images(z) / r,
            sigma.log() / 4,
            labels.expand(2, 2),
            images(scout).expand(2, *images(scout).shape[1:]),
        )
        expected = (0.25 / r**2 * images(z) + column * 0.5 / r * f).reshape(z.shape)
        assert close(bound.denoise(z, sigma), expected, 1e-5)
    tiled = NetworkPrior(
        network,
        space,
        EDMOutput(0.5),
        calling=prior.calling,
        training=Training(size=(8,) * dims),
        policy=Tile(4),
        execution=Execution(microbatch=2, channels_last=True),
    ).given({"labels": labels, "scout": scout})
    assert tiled.denoise(z, sigma).isfinite().all()
