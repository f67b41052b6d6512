"""A small U-Net for images and volumes: the network of the shipped priors. Torch only, and no prior itself.

    F(x, noise label, labels, condition) -> an image of the size of x,    F = 0 when new

so that D = c_skip z + c_out F starts at the scaling c_skip z. The noise label is any real number (for EDM
log(sigma) / 4); `labels` are conditioning numbers of order one, such as spacings or a one-hot slice axis;
`condition` is an image of the same size. Levels halve the size; blocks of `shuffle` voxels per axis become
channels before the first level and voxels again after the last.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from operators.checks import check_count, check_number, replaced
from operators.errors import type_error, value_error
from workbench.priors.unet_blocks import (
    ResidualBlock,
    channels_to_space,
    convolution,
    draw_weights,
    fourier_features,
    space_to_channels,
    upsampling,
)

__all__ = ["UNet", "UNetSettings"]


@dataclass(frozen=True)
class UNetSettings:
    """What a U-Net is made of; a value that a checkpoint's card can hold (`to_dict`, `from_dict`).

    The defaults are for slices: 4.7 million weights, 1.4e9 multiplications for one of 128 x 128. With as many
    multiplications but 48 channels at the first level, trained as long, the error was some 1 to 4% larger.
    `UNetSettings.volume()` is for 3D.

    Parameters
    ----------
    dims
        2 or 3: how many axes an image has.
    in_channels, out_channels
        Of the image that enters and of the one that leaves; a complex image has two.
    widths
        Channels of each level, the finest first.
    blocks
        Residual blocks of each level: so many on the way down and as many on the way up, at the coarsest
        level so many at all.
    attention
        Levels (0 is the finest) whose blocks end with self-attention.
    head_width
        Channels of a head of attention.
    shuffle
        Voxels per axis that become channels.
    groups
        Of the group norms; divides the widths.
    embedding
        Width of the embedding of noise label and labels.
    frequencies
        Lowest and highest angular frequency of the noise label's features, in radians per unit of it.
    labels
        How many conditioning numbers a sample has.
    condition_channels
        Channels of the image condition.
    checkpointing
        Whether blocks keep their inputs only and are computed again for the gradient. Off for `torch.func`,
        which has no hooks for it; `UNet.checkpointing` can be set at any time.
    """

    dims: int = 2
    in_channels: int = 1
    out_channels: int = 1
    widths: tuple[int, ...] = (64, 80, 128, 192)
    blocks: tuple[int, ...] = (1, 1, 2, 3)
    attention: tuple[int, ...] = (3,)
    head_width: int = 32
    shuffle: int = 2
    groups: int = 8
    embedding: int = 128
    frequencies: tuple[float, float] = (0.25, 16.0)
    labels: int = 0
    condition_channels: int = 0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if check_count(self.dims, "dims") not in (2, 3):
            raise value_error("dims", "be 2 or 3", repr(self.dims))
        for name in ("in_channels", "out_channels", "head_width", "shuffle", "groups", "embedding"):
            check_count(getattr(self, name), name)
        for name in ("labels", "condition_channels"):
            check_count(getattr(self, name), name, minimum=0)
        for name in ("widths", "blocks", "attention"):
            minimum = 0 if name == "attention" else 1
            object.__setattr__(self, name, _check_counts(getattr(self, name), name, minimum))
        if not isinstance(self.checkpointing, bool):
            raise type_error("checkpointing", "be True or False", repr(self.checkpointing))
        if not self.widths:
            raise value_error("widths", "name at least one level", "()")
        if len(self.blocks) != len(self.widths):
            raise value_error("blocks", f"have one entry for each of {len(self.widths)} widths", self.blocks)
        if any(width % self.groups for width in self.widths):
            raise value_error("widths", f"be multiples of groups = {self.groups}", self.widths)
        for level in self.attention:
            if level >= len(self.widths):
                raise value_error("attention", f"name levels 0 to {len(self.widths) - 1}", self.attention)
            if self.widths[level] % self.head_width:
                expected = f"divide the width {self.widths[level]} of level {level}, which has attention"
                raise value_error("head_width", expected, self.head_width)
        if self.embedding % 2:
            raise value_error("embedding", "be even: a cosine and a sine for each frequency", self.embedding)
        object.__setattr__(self, "frequencies", _check_frequencies(self.frequencies))

    @classmethod
    def volume(cls) -> UNetSettings:
        """Return settings for volumes: 5.0 million weights, 7.3e9 multiplications for 64 x 64 x 64."""
        return cls(dims=3, widths=(32, 64, 96, 128), blocks=(1, 1, 2, 2))

    @property
    def size_multiple(self) -> int:
        """What each axis of an image must be a multiple of."""
        return self.shuffle << (len(self.widths) - 1)

    def with_(self, **changes: object) -> UNetSettings:
        """Return the settings with some of them changed."""
        return replaced(self, changes)

    def to_dict(self) -> dict[str, object]:
        """Return numbers, booleans and lists of numbers, as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> UNetSettings:
        """Return the settings that `to_dict` wrote; a missing entry has its default."""
        if not isinstance(entries, Mapping):
            raise type_error("entries", "be what UNetSettings.to_dict() returns", type(entries).__name__)
        names = [field.name for field in fields(cls)]
        for name in entries:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                remedy = f"Did you mean {near[0]}?" if near else "Is it the card of another network?"
                raise value_error("entries", f"have keys among {', '.join(names)}", repr(name), remedy)
        return replaced(cls(), entries)


class UNet(nn.Module):
    """The network; its weights are a function of (settings, seed), its output is zero until it is trained.

    Weights are float32 on the CPU; `.to(...)` takes them anywhere and to float16, bfloat16 or float64, and
    memory_format=torch.channels_last (in 3D channels_last_3d) makes the CPU's convolutions faster.
    Nothing touches torch's random state.
    """

    def __init__(self, settings: UNetSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        settings = UNetSettings() if settings is None else settings
        if not isinstance(settings, UNetSettings):
            raise type_error("settings", "be a UNetSettings", type(settings).__name__)
        self.settings = settings
        self.checkpointing = settings.checkpointing
        with torch.device("meta"):  # where torch's constructors draw nothing
            self._build(settings)
        self.to(torch.float32).to_empty(device="cpu")
        draw_weights(self, seed)

    def _build(self, settings: UNetSettings) -> None:
        """Make the layers, without their numbers."""
        dims, widths, embedding = settings.dims, settings.widths, settings.embedding
        block = settings.shuffle**dims

        def level_blocks(level: int) -> nn.ModuleList:
            head_width = settings.head_width if level in settings.attention else None
            return nn.ModuleList(
                ResidualBlock(dims, widths[level], embedding, settings.groups, head_width)
                for _ in range(settings.blocks[level])
            )

        pairs = list(enumerate(pairwise(widths)))
        inputs = settings.in_channels + settings.condition_channels
        self.embed_noise = nn.Linear(embedding, embedding)
        self.embed_labels = nn.Linear(settings.labels, embedding) if settings.labels else None
        self.embed = nn.Linear(embedding, embedding)
        self.input = convolution(dims, inputs * block, widths[0], 3)
        self.down = nn.ModuleList(level_blocks(level) for level, _ in pairs)
        self.shrink = nn.ModuleList(convolution(dims, fine, coarse, 2, 2) for _, (fine, coarse) in pairs)
        self.middle = level_blocks(len(widths) - 1)
        self.grow = nn.ModuleList(upsampling(dims, coarse, fine) for _, (fine, coarse) in pairs)
        self.merge = nn.ModuleList(convolution(dims, fine, fine, 1) for _, (fine, _) in pairs)
        self.up = nn.ModuleList(level_blocks(level) for level, _ in pairs)
        self.norm = nn.GroupNorm(settings.groups, widths[0])
        self.output = convolution(dims, widths[0], settings.out_channels * block, 3)

    @property
    def size_multiple(self) -> int:
        """What each axis of an image must be a multiple of."""
        return self.settings.size_multiple

    def forward(
        self, x: Tensor, noise: Tensor, labels: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the network's output (batch, out_channels, ...).

        Parameters
        ----------
        x
            Images (batch, in_channels, [z,] y, x), in the dtype of the weights (any under autocast).
        noise
            The noise label of each sample, (batch,).
        labels
            (batch, labels), asked for exactly if the settings have labels.
        condition
            Images (batch, condition_channels, [z,] y, x), likewise.
        """
        for name, value in (("x", x), ("noise", noise), ("labels", labels), ("condition", condition)):
            if not isinstance(value, Tensor) and (value is not None or name in ("x", "noise")):
                raise type_error(name, "be a torch.Tensor", type(value).__name__)
        self._check_images(x, noise)
        self._check_conditioning(x, labels, condition)
        embedding = self._embedding(noise, labels)
        h = x if condition is None else torch.cat((x, condition), dim=1)
        h = self.input(space_to_channels(h, self.settings.shuffle))
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = self._through(blocks, h, embedding)
            skips.append(h)
            h = shrink(h)
        h = self._through(self.middle, h, embedding)
        for level in reversed(range(len(skips))):
            h = self.grow[level](h) + self.merge[level](skips[level])
            h = self._through(self.up[level], h, embedding)
        return channels_to_space(self.output(F.silu(self.norm(h))), self.settings.shuffle)

    def _through(self, blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        """Return what the blocks of a level make of h."""
        for block in blocks.children():
            if self.checkpointing and torch.is_grad_enabled():
                # Nothing in a block is random: there is no state to preserve.
                h = checkpoint(block, h, embedding, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, embedding)
        return h

    def _embedding(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return (batch, embedding); float16 and bfloat16 hold a noise level to a percent only."""
        weights = self.embed_noise.weight.dtype
        wide = torch.promote_types(weights, torch.float32)
        features = fourier_features(noise.to(wide), self.settings.embedding, self.settings.frequencies)
        kind = noise.device.type
        full = torch.autocast(kind, enabled=False) if _autocasts(kind) else None
        with full or contextlib.nullcontext():
            h = self.embed_noise(features.to(weights))
            if self.embed_labels is not None and labels is not None:
                h = h + self.embed_labels(labels.to(weights))
            return F.silu(self.embed(F.silu(h)))

    def _check_images(self, x: Tensor, noise: Tensor) -> None:
        """Refuse images and noise labels that do not fit."""
        settings, axes = self.settings, "z, y, x" if self.settings.dims == 3 else "y, x"
        shape = tuple(x.shape)
        if x.ndim != settings.dims + 2 or x.shape[1] != settings.in_channels:
            expected = f"have shape (batch, {settings.in_channels}, {axes})"
            remedy = "A complex image enters as two real channels." if x.is_complex() else ""
            raise value_error("x", expected, shape, remedy)
        if any(size % self.size_multiple or size == 0 for size in x.shape[2:]):
            expected = f"have a size that is a multiple of {self.size_multiple} along {axes}"
            raise value_error("x", expected, shape, "Pad or resample it: UNet.size_multiple tells to what.")
        if x.dtype != self.embed_noise.weight.dtype and not _autocasts(x.device.type):
            expected = f"have the dtype of the weights, {self.embed_noise.weight.dtype}"
            raise type_error("x", expected, x.dtype, "Convert it, or the network: network.to(x.dtype).")
        if noise.shape != x.shape[:1] or noise.is_complex():
            expected = f"be one real number for each sample, of shape ({x.shape[0]},)"
            raise value_error("noise", expected, f"{noise.dtype} of shape {tuple(noise.shape)}")

    def _check_conditioning(self, x: Tensor, labels: Tensor | None, condition: Tensor | None) -> None:
        """Refuse labels and conditions that do not fit, are missing, or are asked of nobody."""
        settings = self.settings
        for name, value, count in (
            ("labels", labels, settings.labels),
            ("condition", condition, settings.condition_channels),
        ):
            shape = (x.shape[0], count) if name == "labels" else (x.shape[0], count, *x.shape[2:])
            if value is None and count:
                raise value_error(name, f"have shape {shape}", "None", f"The network was built with {name}.")
            if value is not None and not count:
                remedy = "Leave it out, or build a network that has it (UNetSettings)."
                got = f"shape {tuple(value.shape)}"
                raise value_error(name, "be None: the network has none", got, remedy)
            if value is not None and (tuple(value.shape) != shape or value.is_complex()):
                raise value_error(name, f"be real of shape {shape}", f"{value.dtype}, {tuple(value.shape)}")
        if condition is not None and condition.dtype != x.dtype:
            raise type_error("condition", f"have the dtype of x, {x.dtype}", condition.dtype)


def _check_counts(values: object, name: str, minimum: int) -> tuple[int, ...]:
    """Return a tuple of integers."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise type_error(name, "be a sequence of integers, one per level", repr(values))
    return tuple(check_count(value, f"{name}[{i}]", minimum=minimum) for i, value in enumerate(values))


def _check_frequencies(values: object) -> tuple[float, float]:
    """Return two frequencies, in ascending order."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise type_error("frequencies", "be the lowest and the highest frequency", repr(values))
    low, high = (check_number(value, f"frequencies[{i}]", positive=True) for i, value in enumerate(values))
    if not low < high or math.isinf(high / low):
        raise value_error("frequencies", "ascend", (low, high))
    return low, high


def _autocasts(kind: str) -> bool:
    """Tell whether autocast is on for a kind of device; of shapes alone (meta) torch would not say."""
    return kind != "meta" and torch.is_autocast_enabled(kind)
