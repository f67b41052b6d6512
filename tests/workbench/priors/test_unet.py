"""The U-Net: what a new one is, what its output depends on, its parts, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from operators.grid import Grid
from tests.unet_cases import (
    DIMENSIONS,
    FULL,
    TINY,
    arguments,
    assert_equal_weights,
    distance,
    normals,
    trained,
)
from workbench.phantoms import WATER, chest_phantom
from workbench.priors import unet_blocks
from workbench.priors.unet import UNet, UNetSettings
from workbench.priors.unet_blocks import attend, channels_to_space, fourier_features, space_to_channels
from workbench.random import Keys

# What a new network is.


@DIMENSIONS
@pytest.mark.parametrize("shuffle", [1, 2])
def test_the_output_has_its_channels_and_the_size_of_the_image(dims: int, shuffle: int) -> None:
    settings = FULL.with_(dims=dims, shuffle=shuffle)
    sizes = (8, 12, 4)[:dims]
    condition = normals(5, 1, *sizes)
    result = UNet(settings)(normals(5, 2, *sizes), torch.zeros(5), torch.zeros(5, 2), condition)
    assert result.shape == (5, 3, *sizes)


@DIMENSIONS
def test_a_new_network_returns_zero_exactly(dims: int) -> None:
    settings = FULL.with_(dims=dims)
    assert torch.count_nonzero(UNet(settings)(**arguments(settings))) == 0


def test_a_new_block_is_the_identity() -> None:
    network = UNet(TINY)
    x, embedding = normals(2, 16, 4, 4), normals(2, 16, purpose="embedding")
    assert torch.equal(network.middle[0](x, embedding), x)


def test_weights_have_variance_one_over_fan_in() -> None:
    network = UNet(UNetSettings(labels=4, attention=(2, 3)))
    fans = {
        "input": 4 * 9,
        "embed": 128,
        "embed_labels": 4,
        "down.2.1.first": 128 * 9,
        "shrink.0": 64 * 4,
        "grow.0": 80,
        "merge.2": 128,
        "middle.0.attention.query_key_value": 192,
    }
    for name, fan_in in fans.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        numbers = weight.detach() * fan_in**0.5
        # The mean of n normals has the sd 1 / sqrt(n), that of their squares sqrt(2 / n).
        assert abs(float(numbers.mean())) < 5 / numbers.numel() ** 0.5
        assert float(numbers.square().mean()) == pytest.approx(1, abs=5 * (2 / numbers.numel()) ** 0.5)


def test_every_parameter_was_filled() -> None:
    for name, weight in UNet(FULL.with_(attention=(0, 1))).named_parameters():
        if name.endswith("bias"):
            assert torch.count_nonzero(weight) == 0, name
        elif "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight)), name
        else:
            zero = name.split(".")[-2] in unet_blocks.STARTS_AT_ZERO
            assert torch.count_nonzero(weight) == (0 if zero else weight.numel()), name


def test_the_seed_decides_every_bit_and_torchs_own_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = UNet(FULL, seed=3), UNet(FULL, seed=3), UNet(FULL, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert_equal_weights(UNet(FULL, seed=3), first)
    assert_equal_weights(again, first)
    drawn = [name for name, weight in first.named_parameters() if weight.std() > 0]
    assert len(drawn) > 10
    for name in drawn:
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name)), name
    assert torch.get_default_device() == torch.device("cpu")


def test_a_layers_weights_do_not_depend_on_what_is_beside_it() -> None:
    plain, more = UNet(TINY), UNet(TINY.with_(labels=3, attention=(0, 1), blocks=(2, 1)))
    assert all(torch.equal(more.get_parameter(name), weight) for name, weight in plain.named_parameters())


@pytest.mark.parametrize("settings", [UNetSettings(labels=5), UNetSettings.volume()])
def test_shipped_sizes_take_less_than_12_megabytes_in_float16(settings: UNetSettings) -> None:
    count = sum(weight.numel() for weight in UNet(settings).parameters())
    assert 3_500_000 < count < 6_000_000


# What the output depends on.


@DIMENSIONS
@pytest.mark.parametrize("name", ["noise", "labels", "condition"])
def test_conditioning_reaches_the_output_of_a_trained_network_only(dims: int, name: str) -> None:
    settings = FULL.with_(dims=dims)
    given = arguments(settings)
    changed = given | {name: given[name] + 1}
    network = trained(settings)
    assert distance(network(**changed), network(**given)) > 1e-3
    new = UNet(settings)
    assert torch.equal(new(**changed), new(**given))


def test_labels_and_noise_act_on_their_own_sample_alone() -> None:
    network, given = trained(FULL), arguments(FULL)
    result = network(**given)
    for name in given:
        changed = given[name].clone()
        changed[1] += 1
        other = network(**given | {name: changed})
        assert torch.equal(other[0], result[0])
        assert not torch.equal(other[1], result[1])


def test_a_batch_is_its_samples() -> None:
    network, given = trained(FULL, torch.float64), arguments(FULL, batch=3, dtype=torch.float64)
    alone = [network(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(3)]
    # Matrix products of another size sum in another order.
    assert distance(torch.cat(alone), network(**given)) < 1e-13


def test_moving_the_object_by_the_size_multiple_moves_the_output() -> None:
    network = trained(TINY.with_(attention=()), torch.float64)
    shift = (3 * network.size_multiple, -2 * network.size_multiple)
    x = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
    x[..., 60:68, 58:70] = normals(8, 12, dtype=torch.float64)
    with torch.no_grad():
        here, there = (network(image, torch.zeros(1)) for image in (x, x.roll(shift, (2, 3))))
    # A voxel reaches 11 cells of 2 voxels; what the padding touches stays where it is.
    inside = (..., slice(40, 88), slice(40, 88))
    assert float(here[inside].std()) > 0.1
    assert distance(there.roll((-shift[0], -shift[1]), (2, 3))[inside], here[inside]) < 1e-12


def test_noise_features_are_cosines_and_sines_of_the_stated_frequencies() -> None:
    label = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    expected = torch.cat([(label[:, None] * w).cos(), (label[:, None] * w).sin()], dim=1)
    torch.testing.assert_close(fourier_features(label, 6, (0.5, 2.0)), expected, rtol=0, atol=1e-15)


def test_near_and_far_noise_levels_have_different_features() -> None:
    # EDM's labels of sigma = 0.002 to 80; the nearest differ by 2% in sigma.
    label = torch.linspace(-1.55, 1.1, 534)
    apart = torch.cdist(*[fourier_features(label, 128, UNetSettings().frequencies)] * 2)
    neighbours = apart.diagonal(1)
    assert float(neighbours.min()) > 0.2
    assert float((apart + torch.eye(534) * 100).min()) > 0.9 * float(neighbours.min())


# The parts.


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 4, 6, 8)])
def test_a_shuffle_is_undone(shape: tuple[int, ...]) -> None:
    x = normals(*shape)
    packed = space_to_channels(x, 2)
    assert packed.shape == (2, 3 * 2 ** (len(shape) - 2), *(size // 2 for size in shape[2:]))
    assert torch.equal(channels_to_space(packed, 2), x)


def test_a_shuffle_in_2d_is_torchs() -> None:
    x = normals(2, 3, 6, 9)
    assert torch.equal(space_to_channels(x, 3), F.pixel_unshuffle(x, 3))
    assert torch.equal(channels_to_space(normals(2, 18, 4, 5), 3), F.pixel_shuffle(normals(2, 18, 4, 5), 3))


def test_attention_written_out_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    triple = [normals(2, 3, 20, 8, purpose=name, dtype=torch.float64) for name in "qkv"]
    expected = F.scaled_dot_product_attention(*triple)
    assert distance(attend(*triple), expected) < 1e-14
    monkeypatch.setattr(unet_blocks, "WRITTEN_OUT", 19)
    assert torch.equal(attend(*triple), expected)


def test_attention_sees_the_whole_image() -> None:
    network = trained(TINY.with_(attention=(0,), head_width=4), torch.float64)
    attention = network.down[0][0].attention
    x = normals(1, 8, 16, 16, dtype=torch.float64).requires_grad_()
    # Through the norm every voxel matters a little; through attention, without it:
    attention.norm = nn.Identity()
    gradient = torch.autograd.grad((attention(x) - x)[0, :, 0, 0].sum(), x)[0]
    assert int((gradient.abs().sum(1) > 0).sum()) == 256


# That it learns.


def test_two_hundred_steps_denoise_far_better_than_any_scaling() -> None:
    chest = chest_phantom(Grid.from_spacing((8, 32, 32), (30.0, 11.0, 8.0))).data[:, None] / WATER
    x = (chest - chest.mean()) / chest.std()
    network = UNet(TINY.with_(widths=(16, 32), head_width=16, embedding=32))
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    keys = Keys(0, draws=tuple(range(8)))

    def losses(step: int) -> tuple[Tensor, float]:
        """Return the mean squared error of the network and of the best scaling, for unit variance."""
        sigma = 2 ** (2 * keys.at(step).uniforms((1, 1, 1), "sigma", like=x) - 1.5)
        z = x + sigma * keys.at(step).normals((1, 32, 32), "noise", like=x)
        total = (sigma**2 + 1).sqrt()
        answer = z / total**2 + sigma / total * network(z / total, sigma.flatten().log() / 4)
        return (answer - x).square().mean(), float((sigma**2 / total**2).mean())

    for step in range(200):
        optimiser.zero_grad()
        losses(step)[0].backward()
        optimiser.step()
    with torch.no_grad():
        loss, scaling = losses(1000)
    assert float(loss) < 0.25 * scaling
