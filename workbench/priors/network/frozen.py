"""A module that is used and never trained: private, in evaluation mode, run in parts.

The weights are not copied: they share the memory of the caller's module, and a change of them is noticed
and refused: at each call where torch counts it, at the start of a run where it goes around the count
(`weight.data`). Buffers are copied: running means change whenever the caller's module is called in training.
What enters the module is its own, so that it may work in place.

A network that is recomputed keeps no activations: its derivative runs it again, one part at a time. That is
written as a function with derivatives, because torch.utils.checkpoint knows no transforms of torch.func,
with which priors are differentiated; an evaluation has no random state to restore.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from operators.errors import NonFiniteError, describe, type_error, value_error
from workbench.fingerprint import fingerprint
from workbench.priors.network.calling import Calling
from workbench.priors.network.execution import Execution

__all__ = ["Beside", "FrozenModule"]

Part = Callable[[Tensor, Tensor], Tensor]
META = torch.device("meta")
#: Entries of an image up to which a network is evaluated faster than torch loads what meta tensors need.
LARGE = 2**18


@dataclass(frozen=True)
class Beside:
    """What enters a module beside x and its label: images (1 or batch, channels, ...), numbers (1, ...)."""

    images: Tensor | None = None
    numbers: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, first: int, count: int, like: Tensor) -> Beside:
        """Return the rows of a part, in the place and precision of `like`; whole numbers stay whole."""
        images = self.images
        if images is not None:
            some = images if images.shape[0] == 1 else images[first : first + count]
            images = some.to(like.device, like.dtype, copy=True).expand(count, *some.shape[1:])
        numbers = {}
        for name, value in self.numbers.items():
            dtype = like.dtype if value.is_floating_point() else value.dtype
            numbers[name] = value.to(like.device, dtype, copy=True).expand(count, *value.shape[1:])
        return Beside(images, numbers)


class FrozenModule:
    """A module with its way of being called and executed, for images of `dimensions` axes."""

    def __init__(self, module: nn.Module, calling: Calling, execution: Execution, dimensions: int) -> None:
        if not isinstance(module, nn.Module):
            remedy = "A function is wrapped in a module whose forward calls it."
            raise type_error("module", "be a torch.nn.Module", type(module).__name__, remedy)
        self.calling = calling
        self.execution = execution
        self.dimensions = dimensions
        self.name = type(module).__name__
        # The module itself goes by its digest in a hash: large ones would be hashed with every run.
        self._memo_module = _private(module, None)
        _check_weights(self._memo_module)
        self.digest = fingerprint(self._memo_module, name="module")
        self._memo_sum = _checksum(self._memo_module)
        if execution.channels_last:
            for parameter in self._memo_module.parameters():
                if parameter.ndim == dimensions + 2:
                    parameter.data = parameter.data.contiguous(memory_format=self._format)
        self._watch()

    @property
    def weights(self) -> int:
        """How many numbers it has learned."""
        return sum(weight.numel() for weight in self._memo_weights)

    @property
    def dtype(self) -> torch.dtype | None:
        """That of its first floating tensor; None without one."""
        return self._memo_place[1]

    def run(self, x: Tensor, label: Tensor, beside: Beside, channels: int, many: bool = False) -> Tensor:
        """Return `channels` channels for images x (batch, ...) in their precision, in parts.

        `label` (batch,) is float64 or int64. `many`: further calls will follow whose activations would add
        up, so that they are not kept unless told so.
        """
        self.require_unchanged()
        module = self._compiled(x.device) if self.execution.compile else self._on(x.device)
        size = self.execution.microbatch or x.shape[0]
        again = self.execution.checkpoint
        again = (many or size < x.shape[0]) if again is None else again
        parts = []
        for first in range(0, x.shape[0], size):
            some, labels = x[first : first + size], label[first : first + size]
            part = self._part(module, beside, first)
            parts.append(_recomputed(part, some, labels) if again else part(some, labels))
            _check_shape(parts[-1], some, channels)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def probe(self, shape: tuple[int, ...], label: Tensor, beside: Beside, channels: int) -> None:
        """Raise what is wrong with the module for images of `shape`, by one evaluation.

        Of large ones with meta tensors, which have a shape only: nothing is computed. Where a module does not
        work without numbers it is asked with them.
        """
        own = next(_tensors(self._memo_module), label).device
        large = math.prod(shape[1:]) > LARGE
        for device in (META, own) if large else (own,):
            part = self._part(self._on(device), beside, 0)
            x = torch.zeros(shape, device=device)
            try:
                with torch.no_grad():
                    value = part(x, label.expand(shape[0]))
                _check_shape(value, x, channels)
            except Exception as error:
                if device == META:
                    continue
                if isinstance(error, WrongShapeError):
                    raise
                expected = f"take images of shape {shape}, as {self.calling!r} gives them"
                raise value_error(
                    "module", expected, f"{type(error).__name__}: {str(error).rstrip('.')}", REMEDY
                ) from error
            if device != META:
                self._check_repeats(value)
            return

    def on(self, device: torch.device) -> FrozenModule:
        """Return the same with the module on another device."""
        twin = copy.copy(self)
        twin._memo_module = self._on(device)
        twin._watch()
        return twin

    def require_unchanged(self, *, thoroughly: bool = False) -> None:
        """Raise if the weights have been written to: what was recorded of the prior would be wrong.

        `thoroughly` looks at the numbers themselves: all else in the module is a copy that nobody has.
        """
        changed = _versions(self._memo_counted) != self._memo_versions
        if changed or (thoroughly and _checksum(self._memo_module) != self._memo_sum):
            remedy = "Make a prior of the trained weights, or give it a copy: copy.deepcopy(module)."
            got = "weights changed in place, such as by training the module on"
            raise value_error("module", "stay as it was when the prior was made", got, remedy)

    def __repr__(self) -> str:
        return f"{self.name}, {self.weights} weights"

    def __getstate__(self) -> dict[str, Any]:
        self.require_unchanged()
        kept = vars(self).copy()
        watched = ("_memo_weights", "_memo_counted", "_memo_versions", "_memo_place")
        for name in ("_memo_compiled", "_memo_twins", *watched):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()

    def _check_repeats(self, value: Tensor) -> None:
        """Refuse a module that gives several things for one: `value` is of images and labels all alike."""
        dtype = self.execution.autocast or self.dtype or value.dtype
        rounding = max(torch.finfo(dtype).eps, torch.finfo(value.dtype).eps) ** 0.5
        apart, size = (value[1:] - value[:1]).abs().max(), value.abs().max()
        if apart > rounding * size:
            got = f"images {float(apart / size):.2g} of their largest value apart"
            remedy = (
                "Take out what is random in it: nn.Dropout is off here, torch.nn.functional.dropout needs "
                "training=self.training."
            )
            raise value_error("module", "give the same image for the same input", got, remedy)

    def _watch(self) -> None:
        """Note how and where the weights are now: to walk through a module takes as long as a small layer."""
        self._memo_weights = tuple(self._memo_module.parameters())
        tensors = list(_tensors(self._memo_module))
        floating = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
        self._memo_place = (tensors[0].device if tensors else None, floating)
        # torch does not count for inference tensors.
        self._memo_counted = [weight for weight in self._memo_weights if not weight.is_inference()]
        self._memo_versions = _versions(self._memo_counted)

    def _part(self, module: nn.Module, beside: Beside, first: int) -> Part:
        """Return the network as a function of a few images and their labels."""

        def part(x: Tensor, label: Tensor) -> Tensor:
            dtype = self.dtype or x.dtype
            images = x.to(dtype, copy=True)
            if self.execution.channels_last and x.device != META:
                images = images.contiguous(memory_format=self._format)
            # A half-precision number cannot tell one index in a thousand from the next.
            wide = torch.promote_types(dtype, torch.float32)
            times = label.to(x.device, wide if label.is_floating_point() else label.dtype, copy=True)
            own = beside.rows(first, x.shape[0], images)
            with self._precision(x.device):
                value = self.calling.call(module, images, times, own.images, own.numbers)
            return value.to(x.dtype).contiguous()

        return part

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the autocast asked for, or none, whatever the caller's."""
        half = self.execution.autocast
        return nullcontext() if device == META else torch.autocast(device.type, half, half is not None)

    def _on(self, device: torch.device) -> nn.Module:
        own = self._memo_place[0]
        if own is None or own == device:
            return self._memo_module
        twins: dict[torch.device, nn.Module] = self.__dict__.setdefault("_memo_twins", {})
        if device not in twins:
            twins[device] = _private(self._memo_module, device)
        return twins[device]

    def _compiled(self, device: torch.device) -> nn.Module:
        made: dict[torch.device, nn.Module] = self.__dict__.setdefault("_memo_compiled", {})
        if device not in made:
            made[device] = cast(nn.Module, torch.compile(self._on(device)))
        return made[device]

    @property
    def _format(self) -> torch.memory_format:
        return torch.channels_last if self.dimensions == 2 else torch.channels_last_3d


REMEDY = (
    "Check the channels (a complex image has two), the dimensions, the calling and its condition. A size "
    "that it cannot take is padded by policy=Convolve(multiple); variances besides are dropped by "
    "PathOutput(learned_variance=True)."
)


class WrongShapeError(ValueError):
    """A module gave images of another shape."""


def _check_shape(value: Tensor, x: Tensor, channels: int) -> None:
    expected = (x.shape[0], channels, *x.shape[2:])
    if tuple(value.shape) != expected:
        got = f"{tuple(value.shape)} from images {tuple(x.shape)}"
        raise WrongShapeError(describe("module", f"give images of shape {expected}", got, REMEDY))


def _check_weights(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        if weight.device != META and not weight.isfinite().all():
            remedy = "Such a network gives NaN; find the step of its training after which they appeared."
            raise NonFiniteError(
                describe("module", "have finite weights", f"NaN or infinity in {name}", remedy)
            )


def _private(module: nn.Module, device: torch.device | None) -> nn.Module:
    """Return a copy of the structure in evaluation mode; its tensors are the same unless it is to move."""
    twins: dict[int, Any] = {}
    for parameter in module.parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise value_error("module", "have its weights", "a lazy module", "Call it once before.")
        twins[id(parameter)] = nn.Parameter(_moved(parameter, device), requires_grad=False)
    for buffer in module.buffers():
        twins[id(buffer)] = _moved(buffer, device).clone()
    try:
        return copy.deepcopy(module, twins).eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        remedy = "Take out what cannot be copied; old weight norms: torch.nn.utils.remove_weight_norm."
        raise type_error("module", "be one that copy.deepcopy can copy", str(error), remedy) from error


def _moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    return tensor.detach() if device is None else tensor.detach().to(device)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _checksum(module: nn.Module) -> int:
    """Return CRC-32 of all numbers, for a change that nobody meant: SHA-256 takes several times as long."""
    total = 0
    for tensor in _tensors(module):
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        # One entry counts as contiguous at any stride.
        numbers = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)
        total = zlib.crc32(numbers.numpy().data, total)
    return total


def _versions(weights: Sequence[Tensor]) -> list[int]:
    """Return how often each weight has been written to."""
    return [weight._version for weight in weights]


def _recomputed(part: Part, x: Tensor, label: Tensor) -> Tensor:
    if not label.is_floating_point():
        return _recomputed(lambda images, _: part(images, label), x, x.new_zeros(()))
    return cast(Tensor, _Recomputed.apply(part, x, label))  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    """part(x, label), run again for its derivatives instead of keeping what they need."""

    generate_vmap_rule = True

    @staticmethod
    def forward(part: Part, x: Tensor, label: Tensor) -> Tensor:
        value = part(x, label)
        return value.view_as(value)  # what a network returns may be what it was given

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Part, Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.part = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor | None]:
        x, label = ctx.saved_tensors
        if not ctx.needs_input_grad[2]:
            _, pull, *_ = torch.func.vjp(lambda images: ctx.part(images, label), x)
            return None, pull(gradients[0])[0], None
        _, pull, *_ = torch.func.vjp(ctx.part, x, label)
        return None, *pull(gradients[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        x, label = ctx.saved_tensors
        along = [
            torch.zeros_like(v) if t is None else t for v, t in zip((x, label), tangents[1:], strict=True)
        ]
        return cast(Tensor, torch.func.jvp(ctx.part, (x, label), tuple(along))[1])
