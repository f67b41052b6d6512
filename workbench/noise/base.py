"""What every law of the noise can answer, in the space of the data.

`predicted` is m = A(x), of shape (..., *data.shape) with any batch axes in front; `data` is the one
measurement y, without batch axes. For complex data every statement counts real components: sigma
is the standard deviation of EACH component, a gradient is that of the real inner product Re<., .>.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.linear import LinearOperator
from operators.space import Space
from workbench.random import Keys

__all__ = ["GaussianForm", "Noise"]


@dataclass(frozen=True)
class GaussianForm:
    """The law written as W (data - m) = white noise, sd 1 per real component.

    `log_normaliser` is the log of the density's constant, None where log det W is not known.
    """

    whitener: LinearOperator
    data: Tensor
    log_normaliser: float | None


class Noise(ABC):
    """The law p(y | m) of the data y given their noiseless prediction m; an immutable value."""

    #: The name that solvers declare they can take.
    name: ClassVar[str]

    @abstractmethod
    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` in `space`, the operator's codomain, can follow this law."""

    @abstractmethod
    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return log p(data | predicted) per batch element, in double precision, differentiable."""

    @abstractmethod
    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the gradient of log p(data | m) in m at `predicted`."""

    @abstractmethod
    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return H d: H is the second derivative of -log p(data | m) in m at `predicted`."""

    @abstractmethod
    def prox(self, point: Tensor, data: Tensor, step: float | Tensor) -> Tensor:
        """Return argmin_m -log p(data | m) + |m - point|^2 / (2 step)."""

    @abstractmethod
    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return data drawn for each of the predictions (draws, *data.shape), keyed by `keys`."""

    def gaussian_form(self, data: Tensor, space: Space) -> GaussianForm | None:
        """Return the law as a linear-Gaussian one with its data, None if it is not."""
        del data, space
        return None

    def to(self, device: torch.device | str) -> Noise:
        """Return the same law with its tensors on `device`."""
        del device
        return self
