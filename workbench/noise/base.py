"""What every law of the noise can answer, in the space of the data.

`predicted` is m = A(x), of shape (..., *data.shape) with any batch axes in front; `data` is the one
measurement y, without batch axes. For complex data every statement counts real components: sigma
is the standard deviation of EACH component, a gradient is that of the real inner product Re<., .>.
Answers have the precision of `predicted`; log-likelihoods are computed in double precision.

A `step`, or another number that may differ from one sample to the next, is a number or a tensor: with
as many axes as there are batch axes, or fewer, it broadcasts over these, with more over the data too.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.constant import Constant, moved
from operators.errors import type_error, value_error
from operators.identity import Identity
from operators.linear import LinearOperator, Scaled
from operators.space import Space
from workbench.random import Keys

__all__ = ["GaussianForm", "Noise"]

Value = float | Tensor


@dataclass(frozen=True, eq=False)
class GaussianForm:
    """The law written as W (data - m) = white noise, sd 1 per real component.

    `log_normaliser` is the log of the density's constant, None where log det W is not known.
    """

    whitener: LinearOperator
    data: Tensor
    log_normaliser: float | None

    def whitened(self, operator: LinearOperator) -> LinearOperator:
        """Return W A; where W is a multiple of the identity, as a multiple of A with its closed forms."""
        if isinstance(self.whitener, Scaled) and isinstance(self.whitener.op, Identity):
            return Scaled(self.whitener.factor, operator)
        return self.whitener @ operator


class Noise(ABC):
    """The law p(y | m) of the data y given their noiseless prediction m; an immutable value."""

    #: The name that solvers declare they can take. A law with a Gaussian form is called "gaussian",
    #: whatever its parameters are: read it through that form (`Likelihood.whitened`), not through them.
    name: ClassVar[str]

    @abstractmethod
    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` in `space`, the operator's codomain, can follow this law."""

    @property
    def is_normalised(self) -> bool:
        """Whether `log_likelihood` has all its constants."""
        return True

    @abstractmethod
    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return log p(data | predicted) per batch element, in double precision, differentiable."""

    @abstractmethod
    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the gradient of log p(data | m) in m at `predicted`."""

    @abstractmethod
    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return H d: H is the second derivative of -log p(data | m) in m at `predicted`."""

    def positive_curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return H d with the negative eigenvalues of H set to zero; H itself for a log-concave law."""
        return self.curvature(predicted, data, direction)

    @property
    def majorant(self) -> Noise | None:
        """A log-concave law whose -log p lies above this one's, for the data `majorised` gives.

        None for a law that is log-concave itself.
        """
        return None

    def majorised(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the data of the majorant that touches this law at m."""
        del predicted
        return data

    def escape(self, predicted: Tensor, data: Tensor) -> Tensor | None:
        """Return the way to a likelier m where the score is 0 at no maximum of p, 0 elsewhere.

        None where there is no such m.
        """
        del predicted, data
        return None

    @abstractmethod
    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return argmin_m -log p(data | m) + |m - point|^2 / (2 step)."""

    @abstractmethod
    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return data drawn for each of the predictions (draws, *data.shape), keyed by `keys`."""

    def gaussian_form(self, data: Tensor, space: Space) -> GaussianForm | None:
        """Return the law as a linear-Gaussian one with its data, None if it is not."""
        del data, space
        return None

    def shifted(self, data: Tensor, offset: Tensor) -> Tensor | None:
        """Return the y' of p(data | m + offset) = p(y' | m) for all m, None if there is none."""
        del data, offset
        return None

    def to(self, device: torch.device | str) -> Self:
        """Return the same law with its tensors on `device`."""
        return moved(self, device_named(device))

    def _served(self, name: str, like: Tensor) -> Value:
        """Return the parameter `name` in the precision of `like`."""
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            return float(value)
        memo = f"_memo_{name}"
        if memo not in self.__dict__:
            self.__dict__[memo] = Constant(value, name)
        constant: Constant = self.__dict__[memo]
        return constant.like(like)

    def __repr__(self) -> str:
        values = {k: v for k, v in vars(self).items() if not k.startswith("_memo_") and v is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={_brief(v)}' for k, v in values.items())})"


def positive(value: Value, name: str, remedy: str = "") -> Value:
    """Return a parameter > 0: a float, or a real tensor of the law's own."""
    return _above(_owned(value, name), name, remedy)


def deviation(sigma: Value, floor: float | None) -> Value:
    """Return a standard deviation, one below an explicit `floor` raised to it with a warning."""
    sigma = _owned(sigma, "sigma")
    if floor is None:
        zero = float(sigma.detach().min()) if isinstance(sigma, Tensor) else sigma
        remedy = "For data without noise state a floor: floor=1e-3, say." if zero == 0 else ""
        return _above(sigma, "sigma", remedy)
    least = check_number(floor, "floor", positive=True)
    lowest = float(sigma.min()) if isinstance(sigma, Tensor) else sigma
    if not lowest >= 0:
        raise value_error("sigma", "be finite and >= 0", f"a minimum of {lowest}")
    if lowest < least:
        warnings.warn(
            f"`sigma` is raised from {lowest:g} to its floor {least:g}: the likelihood of noisier data.",
            UserWarning,
            stacklevel=4,
        )
    raised = sigma.clamp(min=least) if isinstance(sigma, Tensor) else max(sigma, least)
    return _above(raised, "sigma", "")


def _owned(value: object, name: str) -> Value:
    """Return a number as a float, a real tensor as a copy without a graph."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        return check_number(value, name, remedy="One per datum: a tensor that broadcasts to the data.")
    value = counted(value)
    check_tensor(value, name)
    if value.is_complex():
        raise type_error(name, "be real", value.dtype)
    return detached(value)


def _above(value: Value, name: str, remedy: str) -> Value:
    if isinstance(value, Tensor):
        lowest, highest = float(value.detach().min()), float(value.detach().max())
    else:
        lowest, highest = value, value
    if not 0 < lowest <= highest < float("inf"):
        found = f"{lowest} to {highest}" if isinstance(value, Tensor) else lowest
        raise value_error(name, "be finite and > 0", found, remedy)
    return value


def check_square(value: Value, name: str, data: Tensor) -> None:
    """Raise unless sigma^2 and 1 / sigma^2 are numbers in the precision of `data`."""
    check_parameter(value, name, data)
    real = data.real.dtype if data.is_complex() else data.dtype
    least, most = torch.finfo(real).tiny ** 0.5, torch.finfo(real).max ** 0.5
    values = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    lowest, highest = float(values.min()), float(values.max())
    if lowest < least or highest > most:
        expected = f"lie in [{least:.0e}, {most:.0e}], for its square to be a number of {real}"
        remedy = "Measure the data in a larger or smaller unit, or use float64."
        raise value_error(name, expected, lowest if lowest < least else highest, remedy)


def counted(data: Tensor) -> Tensor:
    """Return integers, as detectors count, in the least precision that holds them; others as they are."""
    if data.is_complex() or data.is_floating_point() or data.dtype == torch.bool or data.numel() == 0:
        return data
    if torch.iinfo(data.dtype).bits <= 16:
        return data.to(torch.float32)
    if not data.dtype.is_signed:
        data = data.to(torch.int64)  # torch computes with few of the unsigned
    small = int(data.max()) <= 2**24 and int(data.min()) >= -(2**24)
    return data.to(torch.float32 if small else torch.float64)


def check_data(data: Tensor, space: Space, *, is_complex: bool) -> None:
    """Raise unless `data` is one measurement of the shape of `space`, finite, complex or not."""
    check_tensor(data, "data")
    if data.is_complex() != is_complex:
        raise type_error("data", f"be {'complex' if is_complex else 'real'} for this noise", data.dtype)
    if tuple(data.shape) != space.shape:
        remedy = "One measurement, without batch axes: several make several likelihoods."
        raise value_error(
            "data", f"have the shape of the operator's values, {space.shape}", tuple(data.shape), remedy
        )
    check_finite(data, "data")


def check_not_negative(data: Tensor, what: str) -> None:
    """Raise if an entry of `data`, which are `what`, is negative."""
    if bool((data < 0).any()):
        raise value_error("data", f"be {what} >= 0", f"a minimum of {float(data.min())}")


def check_real(space: Space, what: str) -> None:
    """Raise if the operator's values are complex where the law takes `what`."""
    if space.is_complex:
        raise type_error("operator", f"have real values, {what}, for this noise", repr(space))


def check_parameter(value: Value, name: str, data: Tensor) -> None:
    """Raise unless `value` is a number or a tensor that broadcasts to `data`, beside it in memory."""
    if isinstance(value, Tensor):
        if value.device != data.device:
            remedy = f"Move one of them: noise.to({str(data.device)!r})."
            raise value_error(name, f"be on the device of the data, {data.device}", value.device, remedy)
        if not _broadcasts(value.shape, data.shape):
            raise value_error(name, f"be a number or broadcast to {tuple(data.shape)}", tuple(value.shape))
    real = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    single = data.dtype in (torch.float32, torch.complex64)
    _above(precise(real, data), name, "In double precision there is more room." if single else "")


def per_sample(value: Value, name: str, batch: torch.Size, like: Tensor) -> Value:
    """Return a number > 0 as it is, a tensor in the precision of `like` if it broadcasts to `batch`."""
    if not isinstance(value, Tensor):
        return check_number(value, name, positive=True, remedy="Several numbers: pass a tensor.")
    if value.is_complex():
        raise type_error(name, "be real", value.dtype)
    if not _broadcasts(value.shape, batch):
        raise value_error(name, f"be a number or broadcast to {tuple(batch)}", tuple(value.shape))
    _above(value, name, "")
    return value.to(device=like.device, dtype=like.real.dtype if like.is_complex() else like.dtype)


def as_step(step: Value, point: Tensor, data: Tensor) -> Value:
    """Return `step` shaped to multiply `point`: over the batch axes, or over all axes if it has more."""
    batch = point.shape[: point.ndim - data.ndim]
    if isinstance(step, Tensor) and step.ndim > len(batch):
        return per_sample(step, "step", point.shape, point)
    value = per_sample(step, "step", batch, point)
    return value.reshape(*value.shape, *[1] * data.ndim) if isinstance(value, Tensor) else value


def check_draws(predicted: Tensor, keys: Keys) -> None:
    """Raise unless `predicted` has one row per draw of `keys`."""
    if predicted.ndim < 2 or predicted.shape[0] != len(keys.draws):
        expected = f"have one row per draw, shape ({len(keys.draws)}, *data.shape)"
        raise value_error(
            "predicted", expected, tuple(predicted.shape), "The same for all: x.expand(draws, ...)."
        )


def precise(data: Tensor, like: Tensor) -> Tensor:
    """Return `data` in the precision of `like`, real or complex as they are."""
    single = like.dtype in (torch.float32, torch.complex64)
    if data.is_complex():
        return data.to(torch.complex64 if single else torch.complex128)
    return data.to(torch.float32 if single else torch.float64)


def detached(value: Tensor) -> Tensor:
    """Return a copy without a graph: what the caller does to his tensor afterwards changes nothing."""
    return value.detach().resolve_conj().resolve_neg().clone()


def double(values: Tensor) -> Tensor:
    """Return `values` in double precision."""
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def total(values: Tensor, data: Tensor) -> Tensor:
    """Return the sum over the axes of `data`."""
    return values.sum(dim=tuple(range(-data.ndim, 0)))


def device_named(device: torch.device | str) -> torch.device:
    """Return the device of that name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        expected = "be a torch.device or its name, such as 'cuda'"
        raise value_error("device", expected, repr(device)) from error


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def _brief(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"<{tuple(value.shape)}, {float(value.min()):g} to {float(value.max()):g}>"
