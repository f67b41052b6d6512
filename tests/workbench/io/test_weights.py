"""A network written is the network read; a file that is not what its card says is refused before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from operators.errors import NonFiniteError
from operators.grid import Grid
from operators.space import Space
from workbench.io.tensor_file import write_tensors
from workbench.io.weights import load_weights, read_card, read_network, write_network
from workbench.paths import AffinePath
from workbench.priors.network.architecture import Architecture
from workbench.priors.network.calling import Labelled, Monai
from workbench.priors.network.card import Card, Provenance
from workbench.priors.network.execution import Execution
from workbench.priors.network.output import EDMOutput, Label, PathOutput
from workbench.priors.network.policy import Convolve
from workbench.priors.network.prior import NetworkPrior
from workbench.priors.network.training import Training
from workbench.priors.unet import UNet, UNetSettings
from workbench.random import Keys
from workbench.units import Units

safetensors = pytest.importorskip("safetensors", reason="weights need the [io] extra")

SPACE = Space.field(Grid.from_spacing((1, 8, 8), (3.0, 1.0, 1.0)))
SETTINGS = UNetSettings(widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8)


def unet(settings: UNetSettings = SETTINGS, seed: int = 3) -> UNet:
    """Return a network whose output is not zero."""
    network = UNet(settings, seed=seed)
    keys = Keys(seed, draws=(0,))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.add_(keys.normals(weight.shape, name, like=weight)[0], alpha=0.05)
    return network


def card_of(network: UNet, **changes: Any) -> Card:
    training = Training((8, 8), (1.0, 1.0), units=Units(1000.0, -1000.0, "HU"), data_range=(-1.0, 1.0))
    provenance = Provenance("phantoms", "Apache-2.0", "the tests", 10, {"PSNR": 1 / 3})
    return Card(Architecture.of(network), EDMOutput(0.5), Labelled(), training, provenance).with_(**changes)


def images(like: torch.dtype = torch.float32) -> Tensor:
    return Keys(0, draws=(0, 1)).normals(SPACE.shape, "images", like=torch.empty(0, dtype=like))


class Own(nn.Module):
    """A network of one's own, with a buffer of each kind."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.register_buffer("scale", torch.tensor(0.7))
        self.register_buffer("steps", torch.tensor(5))
        nn.init.constant_(self.layer.weight, 0.1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.scale * self.layer(x) / (1 + label.abs().reshape(-1, 1, 1, 1))


OWN = Card(Architecture("Own"), PathOutput(AffinePath.vp(), "noise", Label.TIME))


def own_file(tmp_path: Path, module: nn.Module | None = None) -> Path:
    return write_network(tmp_path / "own.safetensors", Own() if module is None else module, OWN)


def test_a_network_read_gives_what_the_network_written_gives(tmp_path: Path) -> None:
    network = unet()
    card = card_of(network)
    path = write_network(tmp_path / "a.safetensors", network, card)
    prior = read_network(path, SPACE)
    known = NetworkPrior(network, SPACE, card.output, calling=card.calling, training=card.training)
    z = images()
    for sigma in (0.01, 1.0, 50.0):
        assert torch.equal(prior.denoise(z, sigma), known.denoise(z, sigma))
    assert prior.hash == known.hash
    assert prior.units == Units(1000.0, -1000.0, "HU")
    assert prior.data_range == (-1.0, 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_card_is_read_alone_and_is_the_one_written(tmp_path: Path) -> None:
    network = unet()
    card = card_of(network)
    path = write_network(tmp_path / "a.safetensors", network, card)
    back = read_card(str(path))
    assert back.with_(sha256="", dtype="") == card
    assert back.dtype == "float32" and len(back.sha256) == 64
    # Damaged tensors do not matter to it: it has not looked at them.
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_card(path) == back


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_weights_stored_in_half_are_computed_with_in_single(
    tmp_path: Path, dtype: torch.dtype, bound: float
) -> None:
    network = unet()
    whole = write_network(tmp_path / "whole.safetensors", network, card_of(network))
    half = write_network(tmp_path / "half.safetensors", network, card_of(network), dtype=dtype)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    assert f"torch.{read_card(half).dtype}" == str(dtype)
    module = load_weights(half, unet(seed=9))
    for name, weight in network.state_dict().items():
        back = module.state_dict()[name]
        assert back.dtype == torch.float32
        assert torch.equal(back, weight.to(dtype).float())
        assert (back - weight).abs().max() <= bound * weight.abs().max()
    prior, known = read_network(half, SPACE), read_network(whole, SPACE)
    z = images()
    error = (prior.denoise(z, 1.0) - known.denoise(z, 1.0)).norm() / known.denoise(z, 1.0).norm()
    assert 0 < error < 16 * bound


def test_weights_in_double_stay_in_double(tmp_path: Path) -> None:
    network = unet().double()
    card = card_of(network)
    prior = read_network(write_network(tmp_path / "a.safetensors", network, card), SPACE)
    known = NetworkPrior(network, SPACE, card.output, calling=card.calling, training=card.training)
    z = images(torch.float64)
    assert torch.equal(prior.denoise(z, 1.0), known.denoise(z, 1.0))


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    network = unet()
    with torch.no_grad():
        network.input.weight[0, 0, 0, 0] = 7e4
    with pytest.raises(ValueError, match="room for the weights, up to 65504, got 70000 in input.weight"):
        write_network(tmp_path / "a.safetensors", network, card_of(network), dtype=torch.float16)
    with pytest.raises(ValueError, match="`dtype` must be None or one of"):
        write_network(tmp_path / "a.safetensors", network, card_of(network), dtype=torch.int8)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    network = unet()
    path = write_network(tmp_path / "a.safetensors", network, card_of(network))
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="hold finite weights, got .* with NaN or infinity in"):
        load_weights(path, unet())
    with torch.no_grad():
        network.output.bias.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="`output.bias` must hold finite weights"):
        write_network(tmp_path / "b.safetensors", network, card_of(network))


def test_reading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = write_network(tmp_path / "a.safetensors", unet(), card_of(unet()))
    before = torch.get_rng_state()
    read_network(path, SPACE)
    assert torch.equal(torch.get_rng_state(), before)


def test_monai_networks_are_written_and_read(tmp_path: Path) -> None:
    pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")
    nets = pytest.importorskip("monai.networks.nets", reason="needs the [train] extra")
    settings: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "channels": (8, 16),
        "attention_levels": (False, True),
        "num_res_blocks": 1,
        "norm_num_groups": 4,
        "num_head_channels": 8,
    }
    network = nets.DiffusionModelUNet(**settings)
    for weight in network.parameters():
        nn.init.constant_(weight, 0.01) if weight.ndim == 1 else nn.init.normal_(weight, std=0.1)
    output = PathOutput(AffinePath.flow(), "velocity", Label.THOUSANDTHS)
    card = Card(Architecture("monai.DiffusionModelUNet", settings), output, Monai())
    path = write_network(tmp_path / "a.safetensors", network, card)
    before = torch.get_rng_state()
    prior = read_network(path, SPACE)
    assert torch.equal(torch.get_rng_state(), before)
    known = NetworkPrior(network, SPACE, output, calling=Monai())
    assert torch.equal(prior.denoise(images(), 2.0), known.denoise(images(), 2.0))
    fewer = Architecture("monai.DiffusionModelUNet", {**settings, "channels": (8, 8)})
    with pytest.raises(ValueError, match="describe the module"):
        write_network(tmp_path / "b.safetensors", network, card.with_(architecture=fewer))


def test_a_network_of_ones_own_is_handed_over(tmp_path: Path) -> None:
    network = Own()
    with torch.no_grad():
        network.layer.weight.mul_(3)
        network.steps.fill_(8)
    path = own_file(tmp_path, network)
    mine = Own()
    prior = read_network(path, SPACE, module=mine)
    assert mine.steps == 8
    known = NetworkPrior(network, SPACE, OWN.output)
    assert torch.equal(prior.denoise(images(), 2.0), known.denoise(images(), 2.0))
    with pytest.raises(ValueError, match="`architecture` must be one that can be built.*pass it: module="):
        read_network(path, SPACE)


def test_execution_policy_and_units_reach_the_prior(tmp_path: Path) -> None:
    path = write_network(tmp_path / "a.safetensors", unet(), card_of(unet(), training=Training((8, 8))))
    space = Space.field(Grid.from_spacing((1, 10, 6), 1.0))
    units = Units(2.0, 0.0, "1/mm")
    prior = read_network(path, space, policy=Convolve(4), execution=Execution(microbatch=1), units=units)
    assert prior.units == units
    assert (prior.policy, prior.execution) == (Convolve(4), Execution(microbatch=1))
    with pytest.raises(ValueError, match="size the network was trained on"):
        read_network(path, space)


def test_a_volume_of_complex_values_comes_back(tmp_path: Path) -> None:
    settings = SETTINGS.with_(dims=3, in_channels=2, out_channels=2, attention=())
    network = unet(settings)
    space = Space.field(Grid.from_spacing((4, 8, 4), (2.0, 1.0, 1.0)), is_complex=True)
    card = card_of(network, training=Training((4, 8, 4), (2.0, 1.0, 1.0), is_complex=True))
    prior = read_network(write_network(tmp_path / "a.safetensors", network, card), space)
    z = torch.ones(space.shape, dtype=torch.complex64) * (1 + 2j)
    known = NetworkPrior(network, space, card.output, calling=card.calling)
    assert torch.equal(prior.denoise(z, 1.0), known.denoise(z, 1.0))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Space.field(Grid.from_spacing((1, 8, 8), (3.0, 1.0, 1.0)), is_complex=True), "channels"),
        (Space.field(Grid.from_spacing((1, 8, 8), 1.0), components=(2,)), "channels"),
        (Space.field(Grid.from_spacing((1, 8, 8), (3.0, 2.0, 2.0))), "mm"),
        (Space.field(Grid.from_spacing((4, 8, 8), 1.0)), "slice"),
    ],
    ids=["complex", "components", "spacing", "volume"],
)
def test_a_space_that_the_network_does_not_fit_is_refused_before_the_run(
    tmp_path: Path, space: Space, said: str
) -> None:
    path = write_network(tmp_path / "a.safetensors", unet(), card_of(unet()))
    with pytest.raises(ValueError, match=said):
        read_network(path, space)


def test_weights_without_a_card_are_loaded_into_a_module(tmp_path: Path) -> None:
    network = Own()
    network.steps.fill_(9)
    state = {f"ema.model.{name}": tensor for name, tensor in network.state_dict().items()}
    path = write_tensors(tmp_path / "a.safetensors", {**state, "ema.sigma_data": torch.tensor(0.5)}, {})
    with pytest.raises(ValueError, match="hold a card.*load_weights"):
        read_network(path, SPACE, module=Own())
    with pytest.raises(ValueError, match="hold a card"):
        read_card(path)
    mine = load_weights(path, Own(), prefix="ema.model.")
    assert mine.steps == 9
    with pytest.raises(
        ValueError, match=r"names in the file begin with 'ema.' \(4\).*'layer.' \(1\).*prefix="
    ):
        load_weights(path, Own())
    with pytest.raises(ValueError, match=r"`prefix` must begin names.*'ema.' \(4\)"):
        load_weights(path, Own(), prefix="model.")
    with pytest.raises(TypeError, match="`prefix` must be text"):
        load_weights(path, Own(), prefix=None)  # type: ignore[arg-type]


def test_a_tied_weight_stays_tied(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 1, 1)
            self.second = self.first

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return self.second(self.first(x)) + 0 * label.reshape(-1, 1, 1, 1)

    network = Twice()
    mine = Twice()
    path = own_file(tmp_path, network)
    prior = read_network(path, SPACE, module=mine)
    assert mine.first.weight is mine.second.weight
    assert torch.equal(
        prior.denoise(images(), 1.0), NetworkPrior(network, SPACE, OWN.output).denoise(images(), 1.0)
    )
