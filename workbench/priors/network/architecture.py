"""The networks that a card can name: an architecture and its settings, from which the module is built.

The list is closed: a file says which of these it holds and with which numbers, never what code to run. Any
other network is built by whoever reads the file and handed over as a module. Building draws nothing from
torch's random state: constructors run on the meta device, and the weights are those of the file.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from operators.errors import type_error, value_error
from operators.extras import require
from workbench.priors.unet import UNet, UNetSettings

__all__ = ["ARCHITECTURES", "Architecture", "frozen_json"]


def _unet(settings: dict[str, Any]) -> nn.Module:
    return UNet(UNetSettings.from_dict(settings))


def _monai(settings: dict[str, Any]) -> nn.Module:
    feature = "MONAI's DiffusionModelUNet"
    # Its attention is written with it, and MONAI does not ask for it.
    require("einops", feature=feature, extra="train")
    kind = require("monai.networks.nets", feature=feature, extra="train").DiffusionModelUNet
    return _constructed(kind, settings)


def _diffusers(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    def build(settings: dict[str, Any]) -> nn.Module:
        kind = getattr(require("diffusers", feature=f"The {name}", extra="diffusers"), name)
        return _constructed(kind, settings)

    return build


#: What a card can name.
ARCHITECTURES: Mapping[str, Callable[[dict[str, Any]], nn.Module]] = {
    "UNet": _unet,
    "monai.DiffusionModelUNet": _monai,
    "diffusers.UNet2DModel": _diffusers("UNet2DModel"),
    "diffusers.UNet2DConditionModel": _diffusers("UNet2DConditionModel"),
}


@dataclass(frozen=True)
class Architecture:
    """The name of a network and the arguments of its constructor, JSON-able.

    A name outside `ARCHITECTURES` is that of a network of one's own: it is not built, only named.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise type_error("name", "be the text by which a network goes", repr(self.name))
        object.__setattr__(self, "settings", frozen_json(self.settings, "settings"))

    @classmethod
    def of(cls, module: nn.Module) -> Architecture:
        """Return the architecture of the workbench's own network or of one of diffusers."""
        if not isinstance(module, nn.Module):
            raise type_error("module", "be a torch.nn.Module", type(module).__name__)
        if isinstance(module, UNet):
            return cls("UNet", module.settings.to_dict())
        name, config = f"diffusers.{type(module).__name__}", getattr(module, "config", None)
        if name in ARCHITECTURES and isinstance(config, Mapping):
            return cls(name, {key: value for key, value in config.items() if not key.startswith("_")})
        remedy = (
            "State it: Architecture('monai.DiffusionModelUNet', {its arguments}), or any other name for a "
            "network that the reader builds: Architecture('MyNetwork')."
        )
        raise type_error("module", "be one that knows its settings", type(module).__name__, remedy)

    @property
    def is_known(self) -> bool:
        """Whether it can be built from its settings."""
        return self.name in ARCHITECTURES

    def build(self) -> nn.Module:
        """Return the module without its weights: they mean nothing, or have a shape only (meta)."""
        if not self.is_known:
            near = difflib.get_close_matches(self.name, ARCHITECTURES, n=1)
            remedy = f"Did you mean {near[0]}? " if near else ""
            raise value_error(
                "architecture",
                f"be one that can be built: {', '.join(ARCHITECTURES)}",
                repr(self.name),
                f"{remedy}Build a network of your own yourself and pass it: module=.",
            )
        return ARCHITECTURES[self.name](dict(self.settings))


def _beside_the_state(module: nn.Module) -> set[str]:
    """Return the names of tensors that a constructor made and no file holds; empty ones stand for None."""
    beside = dict(module.named_buffers())
    for place, part in module.named_modules():
        held = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
        beside.update({f"{place}.{name}": value for name, value in held.items()})
    kept = module.state_dict()
    return {name for name, tensor in beside.items() if name not in kept and tensor.numel()}


def _constructed(kind: type[nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """Return kind(**settings), the names checked against its signature."""
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            remedy = f"Did you mean {near[0]}?" if near else "Is it of another version of the package?"
            raise value_error("settings", f"be arguments of {kind.__name__}", repr(name), remedy)
    try:
        with torch.device("meta"):
            module = kind(**settings)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError) as error:
        found = f"{dict(settings)!r:.300}"
        raise value_error("settings", f"build a {kind.__name__}", found, str(error)) from error
    beside = sorted(_beside_the_state(module))
    if beside:
        remedy = "Build it yourself and pass it: module=."
        raise value_error("architecture", "hold all its numbers in its state dict", beside, remedy)
    return module


def frozen_json(value: object, argument: str) -> dict[str, Any]:
    """Return a copy of `value` as JSON has it: text as keys, lists for tuples, finite numbers."""
    if not isinstance(value, Mapping):
        raise type_error(argument, "be a mapping with text as keys", type(value).__name__)
    if not all(isinstance(key, str) for key in value):
        raise type_error(argument, "have text as keys", repr(list(value)))
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "Keep to text, finite numbers, truth values, None, lists and dicts with text as keys."
        raise type_error(argument, "be JSON-able", error, remedy) from error
    return copy
