"""Small U-Nets and what goes into them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workbench.priors.unet import UNet, UNetSettings
from workbench.random import Keys

TINY = UNetSettings(
    widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8, groups=4, embedding=16, shuffle=2
)
FULL = TINY.with_(in_channels=2, out_channels=3, labels=2, condition_channels=1)
DIMENSIONS = pytest.mark.parametrize("dims", [2, 3])


def normals(*shape: int, purpose: str = "numbers", dtype: torch.dtype = torch.float32) -> Tensor:
    return Keys(7, draws=(0,)).normals(shape, purpose, like=torch.empty(0, dtype=torch.float64))[0].to(dtype)


def trained(settings: UNetSettings, dtype: torch.dtype = torch.float32) -> UNet:
    """Return a network none of whose weights is zero."""
    network = UNet(settings)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight += 0.1 * normals(*weight.shape, purpose=name)
    return network.to(dtype)


def arguments(
    settings: UNetSettings, batch: int = 2, size: int = 8, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    sizes = (size,) * settings.dims
    given = {
        "x": normals(batch, settings.in_channels, *sizes, purpose="x", dtype=dtype),
        "noise": normals(batch, purpose="noise"),
    }
    if settings.labels:
        given["labels"] = normals(batch, settings.labels, purpose="labels")
    if settings.condition_channels:
        channels = settings.condition_channels
        given["condition"] = normals(batch, channels, *sizes, purpose="condition", dtype=dtype)
    return given


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def assert_equal_weights(network: UNet, other: UNet) -> None:
    pairs = zip(network.state_dict().items(), other.state_dict().items(), strict=True)
    assert all(name == beside and torch.equal(weight, same) for (name, weight), (beside, same) in pairs)
