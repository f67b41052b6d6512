"""Optimisers that see gradients alone: gradient descent and Adam, one image per draw.

    v' = v - length_i d,    length_i = rate unit (1 - i / steps)^decay,    answer = mean of the last v'
    descent   d = g                                                        unit = 1 / curvature
    Adam      d = a / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + epsilon)        unit = 1,    t = i + 1
              a' = b1 a + (1 - b1) g,    s' = b2 s + (1 - b2) g^2

(Kingma and Ba 2015; averages: Polyak and Juditsky 1992.) g^2 is that of each real component of each draw:
no draw knows its neighbours. v has no unit, so that neither have rate and epsilon. Gradients with noise on
them leave descent and Adam jittering at their rate: rates that fade, and the mean over the last `averaged`
of all steps, are what comes to rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error, value_error

__all__ = ["Adam", "FirstOrder", "GradientDescent", "Moments", "averaged"]


@dataclass(frozen=True)
class Moments:
    """Fading means of the gradients and of their squares, real components throughout."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class FirstOrder(ABC):
    """How a gradient becomes a step. `averaged` is a share of the steps, 0 for the last iterate alone."""

    rate: float = 1.0
    decay: float = 0.0
    averaged: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.rate, "rate", positive=True)
        check_number(self.decay, "decay", non_negative=True)
        if check_number(self.averaged, "averaged", non_negative=True) > 1:
            raise value_error("averaged", "be between 0 and 1", self.averaged, "It is a share of the steps.")

    def columns(self, steps: int, curvature: Callable[[], float]) -> dict[str, tuple[float, ...]]:
        """Return the length of each step and the share of its iterate in the average."""
        unit = self.rate * self.unit(curvature)
        first = steps - max(1, round(self.averaged * steps))
        lengths = tuple(unit * (1 - i / steps) ** self.decay for i in range(steps))
        return {"length": lengths, "share": tuple(1 / max(1, i - first + 1) for i in range(steps))}

    @abstractmethod
    def unit(self, curvature: Callable[[], float]) -> float:
        """Return what the rate counts in; `curvature` bounds the second derivative of what is minimised."""

    @abstractmethod
    def begin(self, v: Tensor) -> Moments | None:
        """Return what is remembered of the gradients before the first."""

    @abstractmethod
    def direction(self, g: Tensor, moments: Moments | None, index: int) -> tuple[Tensor, Moments | None]:
        """Return d at step `index`, from 0, and what is remembered afterwards."""


@dataclass(frozen=True)
class GradientDescent(FirstOrder):
    """Descent at a rate in units of the inverse curvature: stable below 2, without overshooting up to 1."""

    rate: float = 1.0
    decay: float = 1.0
    averaged: float = 0.5

    def unit(self, curvature: Callable[[], float]) -> float:
        """Return the inverse curvature."""
        return 1 / curvature()

    def begin(self, v: Tensor) -> None:
        """Return nothing."""
        del v

    def direction(self, g: Tensor, moments: Moments | None, index: int) -> tuple[Tensor, None]:
        """Return the gradient."""
        del moments, index
        return g, None


@dataclass(frozen=True)
class Adam(FirstOrder):
    """Steps of about `rate` in each component, however large its gradient."""

    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise type_error("betas", "be two numbers in a tuple", repr(self.betas), "Such as (0.9, 0.99).")
        for i, beta in enumerate(self.betas):
            if not 0 <= check_number(beta, f"betas[{i}]") < 1:
                raise value_error(f"betas[{i}]", "be at least 0 and below 1", beta, "Such as 0.9.")
        check_number(self.epsilon, "epsilon", positive=True)

    def unit(self, curvature: Callable[[], float]) -> float:
        """Return 1."""
        del curvature
        return 1.0

    def begin(self, v: Tensor) -> Moments:
        """Return zeros."""
        zero = torch.zeros_like(_parts(v))
        return Moments(zero, zero)

    def direction(self, g: Tensor, moments: Moments | None, index: int) -> tuple[Tensor, Moments]:
        """Return the mean gradient over the root of its mean square, both as if they had begun at g."""
        if moments is None:
            raise type_error("moments", "be Moments", moments, "Those that `begin` returns.")
        parts, (b1, b2) = _parts(g), self.betas
        first = torch.lerp(parts, moments.first, b1)
        second = torch.lerp(parts.square(), moments.second, b2)
        size = (second / (1 - b2 ** (index + 1))).sqrt_().add_(self.epsilon)
        step = first / size.mul_(1 - b1 ** (index + 1))
        return torch.view_as_complex(step) if g.is_complex() else step, Moments(first, second)


def averaged(mean: Tensor | None, before: Tensor, moved: Tensor, share: float) -> Tensor | None:
    """Return the mean of the iterates with `moved` in it, None where that is `moved` itself.

    `mean` is that until `before`, None where it was `before` itself.
    """
    return None if share == 1 else torch.lerp(before if mean is None else mean, moved, share)


def _parts(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
