"""The U-Net at work: memory, layouts, precisions, torch.func, compilation, files, and what it refuses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

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
from workbench.priors.unet import UNet, UNetSettings


@contextmanager
def saved_bytes(total: list[int]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor:
        total[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


# How it is run.


@DIMENSIONS
def test_checkpointing_keeps_less_and_changes_no_gradient(dims: int) -> None:
    settings = FULL.with_(dims=dims)
    given, kept, gradients = arguments(settings), [], []
    network = trained(settings)
    for network.checkpointing in (False, True):
        network.zero_grad()
        x = given["x"].clone().requires_grad_()
        total = [0]
        with saved_bytes(total):
            loss = network(**given | {"x": x}).square().sum()
        loss.backward()
        kept.append(total[0])
        gradients.append([x.grad, *(weight.grad for weight in network.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < 0.6 * kept[0]


def test_checkpointing_is_a_setting_and_needs_no_gradient() -> None:
    network = UNet(TINY.with_(checkpointing=True))
    assert network.checkpointing
    with torch.no_grad():
        assert not network(**arguments(TINY)).requires_grad


@DIMENSIONS
def test_channels_last_changes_rounding_only(dims: int) -> None:
    settings = FULL.with_(dims=dims)
    given = arguments(settings, dtype=torch.float64)
    network = trained(settings, torch.float64)
    expected = network(**given)
    network = network.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    assert distance(network(**given), expected) < 1e-13


@DIMENSIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_agree_to_their_rounding(dims: int, dtype: torch.dtype) -> None:
    settings = FULL.with_(dims=dims)
    expected = trained(settings, torch.float64)(**arguments(settings, dtype=torch.float64))
    result = trained(settings, dtype)(**arguments(settings, dtype=dtype))
    assert result.dtype == dtype
    # Some twenty layers in a row, each rounded: a random walk of their errors.
    assert distance(result, expected) < 20**0.5 * 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_embedding_in_float32(dtype: torch.dtype) -> None:
    network, given = trained(FULL), arguments(FULL)
    seen: list[Tensor] = []
    network.embed.register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected = network(**given)
    with torch.autocast("cpu", dtype=dtype):
        result = network(**given)
        network(**given | {"x": given["x"].to(dtype), "condition": given["condition"].to(dtype)})
    assert result.dtype == dtype
    assert 0 < distance(result, expected) < 4 * torch.finfo(dtype).eps
    assert len(seen) == 3
    assert all(torch.equal(embedding, seen[0]) for embedding in seen)
    result.float().square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.dtype == torch.float32 for weight in network.parameters()
    )


@DIMENSIONS
def test_torch_func_differentiates_forwards_backwards_and_twice(dims: int) -> None:
    settings = FULL.with_(dims=dims, out_channels=2)
    network = trained(settings, torch.float64).requires_grad_(False)
    given = arguments(settings, dtype=torch.float64)
    x, rest = given["x"], {name: value for name, value in given.items() if name != "x"}

    def of(image: Tensor) -> Tensor:
        return network(image, **rest)

    v, w = normals(*x.shape, purpose="v", dtype=x.dtype), normals(*x.shape, purpose="w", dtype=x.dtype)
    forwards = torch.func.jvp(of, (x,), (v,))[1]
    backwards = torch.func.vjp(of, x)[1](w)[0]
    assert float((forwards * w).sum()) == pytest.approx(float((v * backwards).sum()), rel=1e-11)
    step = 1e-5
    difference = (of(x + step * v) - of(x - step * v)) / (2 * step)
    assert distance(difference, forwards) < 1e-8
    slope = torch.func.grad(lambda image: of(image).square().sum())
    curved_v, curved_w = (torch.func.jvp(slope, (x,), (direction,))[1] for direction in (v, w))
    assert float((curved_v * w).sum()) == pytest.approx(float((curved_w * v).sum()), rel=1e-10)


def test_vmap_maps_over_a_further_axis() -> None:
    network = trained(FULL, torch.float64)
    given = {name: torch.stack([v, v + 1, v - 1]) for name, v in arguments(FULL, dtype=torch.float64).items()}
    mapped = torch.func.vmap(lambda *values: network(*values))(*given.values())
    for i in range(3):
        assert distance(mapped[i], network(**{name: value[i] for name, value in given.items()})) < 1e-13


@pytest.mark.parametrize("training", [False, True])
def test_compile_sees_the_whole_network(training: bool) -> None:
    network, given = trained(FULL), arguments(FULL)
    network.checkpointing = training
    compiled: Callable[..., Tensor] = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(training), torch.autocast("cpu", dtype=torch.bfloat16, enabled=not training):
        result, expected = compiled(**given), network(**given)
    # Fused or not, bfloat16 is rounded at other places.
    assert distance(result, expected) < (1e-5 if training else 4 * torch.finfo(torch.bfloat16).eps)
    assert result.requires_grad == training


def test_a_network_comes_back_from_its_card_and_its_weights() -> None:
    network, given = trained(FULL), arguments(FULL)
    card = json.loads(json.dumps(network.settings.to_dict()))
    other = UNet(UNetSettings.from_dict(card), seed=1)
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other(**given), network(**given))
    assert_equal_weights(copy.deepcopy(network), network)
    with pytest.raises(RuntimeError, match="embed_labels"):
        UNet(FULL.with_(labels=0)).load_state_dict(network.state_dict(), strict=True)


# What it refuses.


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(2, 1, 8, 8), "`x` must have shape (batch, 2, y, x), got (2, 1, 8, 8)."),
        ("x", torch.zeros(2, 2, 8), "`x` must have shape (batch, 2, y, x), got (2, 2, 8)."),
        ("x", torch.zeros(2, 2, 8, 8, 8), "`x` must have shape (batch, 2, y, x), got (2, 2, 8, 8, 8)."),
        ("x", torch.zeros(2, 1, 8, 8) * 1j, "A complex image enters as two real channels."),
        ("x", torch.zeros(2, 2, 8, 6), "`x` must have a size that is a multiple of 4 along y, x, got"),
        ("x", torch.zeros(2, 2, 8, 6), "Pad or resample it: UNet.size_multiple tells to what."),
        ("x", torch.zeros(2, 2, 0, 8), "`x` must have a size that is a multiple of 4"),
        (
            "x",
            torch.zeros(2, 2, 8, 8).double(),
            "the dtype of the weights, torch.float32, got",
        ),
        ("x", torch.zeros(2, 2, 8, 8) * 1j, "`x` must have the dtype of the weights"),
        ("x", None, "`x` must be a torch.Tensor, got NoneType."),
        ("noise", 0.5, "`noise` must be a torch.Tensor, got float."),
        ("labels", [1.0, 0.0], "`labels` must be a torch.Tensor, got list."),
        ("noise", torch.zeros(3), "`noise` must be one real number for each sample, of shape (2,), got"),
        ("noise", torch.tensor(0.0), "`noise` must be one real number for each sample"),
        ("noise", torch.zeros(2) * 1j, "`noise` must be one real number for each sample"),
        ("labels", None, "`labels` must have shape (2, 2), got None. The network was built with labels."),
        ("labels", torch.zeros(2, 3), "`labels` must be real of shape (2, 2), got torch.float32, (2, 3)."),
        ("labels", torch.zeros(2), "`labels` must be real of shape (2, 2), got torch.float32, (2,)."),
        ("condition", None, "`condition` must have shape (2, 1, 8, 8), got None."),
        ("condition", torch.zeros(2, 2, 8, 8), "`condition` must be real of shape (2, 1, 8, 8), got"),
        ("condition", torch.zeros(2, 1, 4, 4), "`condition` must be real of shape (2, 1, 8, 8), got"),
        ("condition", torch.zeros(2, 1, 8, 8).half(), "`condition` must have the dtype of x, torch.float32"),
    ],
)
def test_arguments_that_do_not_fit_are_named(name: str, value: object, message: str) -> None:
    given: dict[str, object] = {**arguments(FULL)}
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        UNet(FULL)(**given | {name: value})


@pytest.mark.parametrize(("name", "shape"), [("labels", (2, 1)), ("condition", (2, 1, 8, 8))])
def test_conditioning_that_nobody_asked_for_is_refused(name: str, shape: tuple[int, ...]) -> None:
    message = rf"`{name}` must be None: the network has none, got shape .*Leave it out, or build"
    with pytest.raises(ValueError, match=message):
        UNet(TINY)(**arguments(TINY), **{name: torch.zeros(shape)})


def test_a_volume_must_fit_along_every_axis() -> None:
    with pytest.raises(ValueError, match="`x` must have a size that is a multiple of 4 along z, y, x"):
        UNet(TINY.with_(dims=3))(torch.zeros(1, 1, 2, 8, 8), torch.zeros(1))
