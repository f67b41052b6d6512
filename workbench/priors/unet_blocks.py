"""Parts of the U-Net: residual block, attention, features of the noise label, shuffles, keyed weights.

A residual block of the embedding e, with (scale, shift) = M e:

    x + C2 silu((1 + scale) N2(C1 silu(N1 x)) + shift)

N are group norms: statistics of one sample, so that nobody's neighbours in the batch matter. C2 starts at
zero, and M: a new block is the identity, whatever the embedding.
"""

from __future__ import annotations

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.random import Keys

__all__ = [
    "ResidualBlock",
    "SelfAttention",
    "channels_to_space",
    "convolution",
    "draw_weights",
    "fourier_features",
    "space_to_channels",
    "upsampling",
]

#: Layers that start at zero: the last of each residual branch, of the network, and the modulation.
STARTS_AT_ZERO = ("second", "projection", "output", "modulation")
#: Up to so many tokens attention is written out: torch's fused kernels have no second derivative, no
#: forward-mode one and, on a CPU, no rule for vmap.
WRITTEN_OUT = 1024
TRANSPOSED = nn.ConvTranspose2d | nn.ConvTranspose3d


def convolution(dims: int, inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
    """Return a convolution over 2 or 3 axes, padded by zeros to keep the size where its stride is 1."""
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(inputs, outputs, size, stride=stride, padding=(size - 1) // 2)


def upsampling(dims: int, inputs: int, outputs: int) -> nn.Module:
    """Return a layer that makes 2^dims voxels of each, without overlap."""
    layer = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    return layer(inputs, outputs, 2, stride=2)


class ResidualBlock(nn.Module):
    """Two convolutions, the second modulated by the embedding, then attention where `head_width` says so."""

    def __init__(self, dims: int, width: int, embedding: int, groups: int, head_width: int | None) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(groups, width)
        self.first = convolution(dims, width, width, 3)
        self.modulation = nn.Linear(embedding, 2 * width)
        # The modulation is its affine part.
        self.second_norm = nn.GroupNorm(groups, width, affine=False)
        self.second = convolution(dims, width, width, 3)
        self.attention = None if head_width is None else SelfAttention(dims, width, groups, head_width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's output, of the shape of x (batch, width, ...)."""
        h = self.second_norm(self.first(F.silu(self.first_norm(x))))
        modulation = self.modulation(embedding).to(h.dtype)
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (h.ndim - 2)).chunk(2, dim=1)
        x = x + self.second(F.silu(torch.addcmul(shift, h, 1 + scale)))
        return x if self.attention is None else self.attention(x)


class SelfAttention(nn.Module):
    """x + P attention(Q N x, K N x, V N x) over the voxels of a sample, in heads of `head_width` channels."""

    def __init__(self, dims: int, width: int, groups: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = nn.GroupNorm(groups, width)
        self.query_key_value = convolution(dims, width, 3 * width, 1)
        self.projection = convolution(dims, width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, of the shape of x."""
        heads = self.query_key_value(self.norm(x)).flatten(2)
        batch, width, tokens = heads.shape
        heads = heads.reshape(batch, 3, width // (3 * self.head_width), self.head_width, tokens)
        query, key, value = heads.transpose(3, 4).unbind(1)
        mixed = attend(query, key, value)
        result: Tensor = x + self.projection(mixed.transpose(2, 3).reshape(x.shape))
        return result


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(width)) V for (..., tokens, width)."""
    if query.shape[-2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(query, key, value)
    # Either factor takes a root of the scale: float16 has no room for the product before it.
    root = query.shape[-1] ** -0.25
    return torch.softmax((query * root) @ (key * root).transpose(-2, -1), dim=-1) @ value


def fourier_features(label: Tensor, count: int, frequencies: tuple[float, float]) -> Tensor:
    """Return cos(w label), sin(w label), (batch, count), for w in geometric steps between two frequencies."""
    low, high = (math.log(frequency) for frequency in frequencies)
    w = torch.linspace(low, high, count // 2, dtype=label.dtype, device=label.device).exp()
    phase = label[:, None] * w
    return torch.cat((phase.cos(), phase.sin()), dim=1)


def space_to_channels(x: Tensor, factor: int) -> Tensor:
    """Return (batch, channels * factor^d, n / factor, ...): each block of voxels becomes channels."""
    if factor == 1:
        return x
    batch, channels, *sizes = x.shape
    axes = range(len(sizes))
    x = x.reshape(batch, channels, *chain.from_iterable((size // factor, factor) for size in sizes))
    x = x.permute(0, 1, *(3 + 2 * axis for axis in axes), *(2 + 2 * axis for axis in axes))
    return x.reshape(batch, channels * factor ** len(sizes), *(size // factor for size in sizes))


def channels_to_space(x: Tensor, factor: int) -> Tensor:
    """Return the inverse of `space_to_channels`."""
    if factor == 1:
        return x
    batch, channels, *sizes = x.shape
    dims = len(sizes)
    x = x.reshape(batch, channels // factor**dims, *[factor] * dims, *sizes)
    x = x.permute(0, 1, *chain.from_iterable((2 + dims + axis, 2 + axis) for axis in range(dims)))
    return x.reshape(batch, channels // factor**dims, *(size * factor for size in sizes))


def draw_weights(network: nn.Module, seed: int) -> None:
    """Fill the weights from keys: normals of variance 1 / fan-in, zeros where a layer starts at zero.

    Each layer has numbers of its own, by its name: they do not change with what is beside it.
    """
    keys = Keys(seed, draws=(0,))
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.GroupNorm) and layer.affine:
                layer.weight.fill_(1.0)
                layer.bias.zero_()
            elif isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d | TRANSPOSED):
                weight, bias = layer.weight, layer.bias
                weight.zero_()
                if bias is not None:
                    bias.zero_()
                if name.rpartition(".")[2] not in STARTS_AT_ZERO:
                    # Where the stride is the size, a voxel is the sum over the inputs of one tap alone.
                    fan_in = weight.shape[0] if isinstance(layer, TRANSPOSED) else weight[0].numel()
                    normals = keys.normals(weight.shape, f"weights of {name}", like=weight)[0]
                    weight.copy_(normals / math.sqrt(fan_in))
