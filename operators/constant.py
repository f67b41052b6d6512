"""Tensors an operator owns, and moving everything an operator owns to another device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from operators.checks import all_finite
from operators.errors import value_error

T = TypeVar("T")

#: Attributes of this prefix are derived from the others and not copied.
MEMO = "_memo_"


class Constant:
    """A tensor kept in the precision it was given and served in the precision of the data.

    The last conversion is kept: a mask given in double precision is not converted on every call.
    """

    def __init__(self, value: Tensor, argument: str = "value", remedy: str = "") -> None:
        if value.requires_grad:
            raise value_error(
                argument,
                "not require a gradient: operators are differentiated in their argument only",
                "requires_grad=True",
                remedy or f"Pass {argument}.detach().",
            )
        # A copy: what the caller does to his tensor afterwards does not change the operator.
        self.value = value.clone()
        self._served: Tensor | None = None

    def like(self, x: Tensor) -> Tensor:
        """Return the value in the precision of `x`; real stays real, complex stays complex."""
        single = x.dtype in (torch.float32, torch.complex64)
        if self.value.is_complex():
            dtype = torch.complex64 if single else torch.complex128
        else:
            dtype = torch.float32 if single else torch.float64
        if dtype == self.value.dtype:
            return self.value
        if self._served is not None and self._served.dtype == dtype:
            return self._served
        served = self.value.to(dtype)
        if torch.compiler.is_compiling():
            return served
        if not all_finite(served):
            raise value_error("x", "be in double precision: the operator's weights need it", x.dtype)
        if not torch.is_inference_mode_enabled():  # an inference tensor would be of no use outside
            self._served = served
        return served


@runtime_checkable
class Movable(Protocol):
    """Anything that owns tensors as attributes: operators and the values they are built of."""

    def to(self, device: torch.device) -> Movable:
        """Return a copy on `device`."""
        ...


def devices_of(owner: object) -> set[torch.device]:
    """Return the devices of all tensors that `owner` holds, directly or in the operators inside it."""
    return {tensor.device for tensor in _tensors(owner)}


def single_device(owner: object, argument: str) -> torch.device | None:
    """Return the one device `owner` lives on, None if it holds no tensor; raise if it is split."""
    devices = devices_of(owner)
    if len(devices) > 1:
        names = sorted(str(device) for device in devices)
        raise value_error(argument, "live on one device", " and ".join(names), "Move the parts: .to(device).")
    return next(iter(devices), None)


def moved(owner: T, device: torch.device) -> T:
    """Return a shallow copy of `owner` whose tensors, at any depth, lie on `device`."""
    twin = copy.copy(owner)
    for name, value in vars(owner).items():
        if name.startswith(MEMO):
            del vars(twin)[name]  # derived from the tensors: made anew where they are now
        else:
            object.__setattr__(twin, name, _moved_value(value, device))
    return twin


def _moved_value(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Constant):
        return Constant(value.value.to(device))
    if isinstance(value, tuple):
        return tuple(_moved_value(entry, device) for entry in value)
    return value.to(device) if isinstance(value, Movable) else value


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Constant):
        yield value.value
    elif isinstance(value, tuple):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, Movable):
        for entry in vars(value).values():
            yield from _tensors(entry)
