"""Where on its path an objective looks: laws of the noise level, given by their quantiles.

    sigma = quantile(u),    u uniform in (0, 1)

A batch takes u from strata of equal mass, one each, so that a step sees all levels and its loss varies less.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error, value_error
from workbench.paths.affine import AffinePath

__all__ = ["Density", "LogNormal", "LogUniform", "LogitNormal", "UniformTime"]


class Density(ABC):
    """A law of levels; subclasses are frozen values."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Return the level sigma below which the share `u` lies; float64."""

    @staticmethod
    def require(value: object, argument: str = "density") -> Density:
        """Return `value` if it is a Density."""
        if not isinstance(value, Density):
            remedy = "LogNormal(), LogUniform(low, high), UniformTime(path) or LogitNormal(path)."
            raise type_error(argument, "be a Density", type(value).__name__, remedy)
        return value


@dataclass(frozen=True)
class LogNormal(Density):
    """log(sigma) is normal: EDM's law, about the levels at which an image is decided."""

    mean: float = -1.2
    sd: float = 1.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", check_number(self.mean, "mean"))
        object.__setattr__(self, "sd", check_number(self.sd, "sd", positive=True))

    def quantile(self, u: Tensor) -> Tensor:
        """Return exp(mean + sd Phi^-1(u))."""
        return torch.exp(self.mean + self.sd * torch.special.ndtri(u.double()))


@dataclass(frozen=True)
class LogUniform(Density):
    """log(sigma) is uniform between two levels."""

    low: float
    high: float

    def __post_init__(self) -> None:
        low = check_number(self.low, "low", positive=True)
        high = check_number(self.high, "high", positive=True)
        if not low < high:
            raise value_error("high", f"be above low = {low:g}", high)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def quantile(self, u: Tensor) -> Tensor:
        """Return low (high / low)^u."""
        return self.low * (math.log(self.high / self.low) * u.double()).exp()


@dataclass(frozen=True)
class UniformTime(Density):
    """The path's time is uniform, from the share `first` to the share `last` of its length."""

    path: AffinePath
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        AffinePath.require(self.path)
        first, last = (check_number(getattr(self, name), name) for name in ("first", "last"))
        if not 0 <= first < last <= 1:
            raise value_error("first", "lie below last, both in [0, 1]", (first, last))

    def quantile(self, u: Tensor) -> Tensor:
        """Return the level at first + (last - first) u of the path."""
        return self.path.at(self.path.end * (self.first + (self.last - self.first) * u.double())).sigma


@dataclass(frozen=True)
class LogitNormal(Density):
    """logit(t / end) is normal: of a flow the middle of the path, where its velocity is hardest to tell."""

    path: AffinePath
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        AffinePath.require(self.path)
        object.__setattr__(self, "mean", check_number(self.mean, "mean"))
        object.__setattr__(self, "sd", check_number(self.sd, "sd", positive=True))

    def quantile(self, u: Tensor) -> Tensor:
        """Return the level at the time end * sigmoid(mean + sd Phi^-1(u))."""
        share = torch.sigmoid(self.mean + self.sd * torch.special.ndtri(u.double()))
        return self.path.at(self.path.end * share).sigma
