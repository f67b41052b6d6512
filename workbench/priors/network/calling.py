"""How a module is called: which argument takes what, of the modules in use.

A module gets images x (batch, channels, [z,] y, x), one noise label per image, and what it is conditioned
on: images on the same grid, as more channels behind those of x, and numbers by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from operators.checks import check_count, check_finite
from operators.errors import type_error, value_error

__all__ = ["Calling", "Diffusers", "Labelled", "Monai", "Plain"]

#: The name of the path's own image x_in among the conditions.
IMAGE = "image"


@dataclass(frozen=True)
class Numbers:
    """What a module takes beside images: real numbers of a shape (None: any length), or a class."""

    shape: tuple[int | None, ...] = ()
    classes: int = 0

    def checked(self, name: str, value: Tensor) -> Tensor:
        """Return a copy of `value`, as one row of a batch, or say what was expected."""
        found = f"{value.dtype} of shape {tuple(value.shape)}"
        if self.classes:
            whole = value.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
            if not whole or value.numel() != 1 or not 0 <= int(value) < self.classes:
                found = str(int(value)) if whole and value.numel() == 1 else found
                raise value_error(name, f"be one whole number, 0 <= class < {self.classes}", found)
            return value.detach().clone().long().reshape(1)
        lengths = zip(self.shape, value.shape, strict=False)
        fits = value.ndim == len(self.shape) and all(n in (None, length) for n, length in lengths)
        if not fits or value.is_complex() or value.numel() == 0:
            text = ", ".join("any" if n is None else str(n) for n in self.shape)
            raise value_error(name, f"be real numbers of shape ({text})", found)
        check_finite(value, name)
        return value.detach().clone()[None]


class Calling(ABC):
    """A convention of calls; subclasses are frozen values.

    `images` names the condition images in the order of their channels; "image" is the x_in of the path,
    which a network that is to see it must name. `numbers` says what else it takes, by name.
    """

    images: tuple[str, ...]

    @property
    def numbers(self) -> Mapping[str, Numbers]:
        """What it takes beside images."""
        return {}

    @abstractmethod
    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        """Return what the module gives; images and numbers have one row per image, as `label` has."""

    @staticmethod
    def require(value: object) -> Calling:
        """Return `value` if it is a Calling."""
        if not isinstance(value, Calling):
            remedy = "Plain(), Labelled(), Monai() or Diffusers()."
            raise type_error("calling", "be a Calling", type(value).__name__, remedy)
        return value

    def _check_names(self) -> None:
        """Refuse names of images that are none, or taken."""
        names = self.images
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name for name in names):
            raise type_error("images", "be a tuple of names", repr(names), 'Such as ("image",).')
        taken = (*names, *self.numbers)
        if len(set(taken)) != len(taken):
            raise value_error("images", "be names of their own", taken)
        object.__setattr__(self, "images", tuple(names))


@dataclass(frozen=True)
class Plain(Calling):
    """module(x, label), condition images behind the channels of x."""

    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_names()

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        """Return module(x, label)."""
        del numbers
        return _tensor(module(_joined(x, images), label))


@dataclass(frozen=True)
class Labelled(Calling):
    """module(x, label, labels, condition): the workbench's own U-Net; `labels` numbers, named "labels"."""

    labels: int = 0
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_count(self.labels, "labels", minimum=0))
        self._check_names()

    @property
    def numbers(self) -> Mapping[str, Numbers]:
        """Return "labels" if it has any."""
        return {"labels": Numbers((self.labels,))} if self.labels else {}

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        """Return module(x, label, labels, condition)."""
        return _tensor(module(x, label, numbers.get("labels"), images))


@dataclass(frozen=True)
class _Conditioned(Calling):
    """Classes and cross-attention.

    `classes`: how many there are, 0 for none; given as "class", a whole number. `context_width`: of the
    tokens of its cross-attention, 0 for none; given as "context" (tokens, width).
    """

    classes: int = 0
    context_width: int = 0
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("classes", "context_width"):
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum=0))
        self._check_names()

    @property
    def numbers(self) -> Mapping[str, Numbers]:
        """Return "class" and "context" where it has them."""
        found = {"class": Numbers(classes=self.classes)} if self.classes else {}
        return found | ({"context": Numbers((None, self.context_width))} if self.context_width else {})


@dataclass(frozen=True)
class Monai(_Conditioned):
    """module(x, timesteps=, context=, class_labels=): MONAI's DiffusionModelUNet.

    `classes`: how many there are, 0 for none; given as "class", a whole number. `context_width`: of the
    tokens of its cross-attention, 0 for none; given as "context" (tokens, width).
    """

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        """Return module(x, timesteps, ...)."""
        context, kind = numbers.get("context"), numbers.get("class")
        return _tensor(module(_joined(x, images), timesteps=label, context=context, class_labels=kind))


@dataclass(frozen=True)
class Diffusers(_Conditioned):
    """module(sample, timestep, encoder_hidden_states=, class_labels=).sample: the U-Nets of diffusers.

    `classes` and `context_width` as in `Monai`; an argument whose count is 0 is not passed.
    """

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        label: Tensor,
        images: Tensor | None,
        numbers: Mapping[str, Tensor],
    ) -> Tensor:
        """Return module(sample, timestep, ...).sample."""
        names = {"context": "encoder_hidden_states", "class": "class_labels"}
        given = {names[name]: value for name, value in numbers.items()}
        return _tensor(module(_joined(x, images), label, **given))


def _joined(x: Tensor, images: Tensor | None) -> Tensor:
    return x if images is None else torch.cat((x, images), dim=1)


def _tensor(result: object) -> Tensor:
    """Return the images out of what a module returned: themselves, `.sample`, or the first of a tuple."""
    inner = result if isinstance(result, Tensor) else getattr(result, "sample", None)
    inner = result[0] if inner is None and isinstance(result, tuple) and result else inner
    if not isinstance(inner, Tensor):
        remedy = "A calling of one's own is a subclass of Calling with `call`."
        raise type_error("module", "return a tensor, or one as `.sample`", type(result).__name__, remedy)
    return inner
