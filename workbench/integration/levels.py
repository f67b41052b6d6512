"""Grids of noise levels: where the steps of a plan begin and end.

    Karras        sigma^(1/rho) evenly spaced
    LogUniform    log sigma evenly spaced, and so the logarithm of the signal-to-noise ratio
    PathUniform   t^(1/power) of a path's own time evenly spaced: 1 is uniform in it, 2 the quadratic grid
    Shifted       another grid with every sigma times a factor: t' = k t / (1 + (k - 1) t) in the flow's time

`times(steps)` gives the steps + 1 ends of the steps as times of the rectified flow, t = sigma / (1 + sigma),
from noise to image: what plans are made of. With `from_noise` the first step leaves from t = 1, where there
is noise alone and the start is exact; without it, from `sigma_max`, where the start neglects x0 / sigma_max.
A first step of order 1 from t = 1 has the mean right and neglects (x0 - mean) / sigma_max all the same.
With `to_zero` the last step ends at t = 0, the image itself; without it, what comes out has noise of
`sigma_min`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from operators.checks import check_count, check_number
from operators.errors import type_error, value_error
from workbench.paths.affine import AffinePath

__all__ = ["Karras", "Levels", "LogUniform", "PathUniform", "Shifted", "sigma_of", "time_of"]

Array = NDArray[np.float64]

VP = AffinePath.vp()


def sigma_of(time: float) -> float:
    """Return the noise level of a time of the flow, t / (1 - t)."""
    return time / (1 - time) if time < 1 else math.inf


def time_of(sigma: float) -> float:
    """Return the time of the flow of a noise level, sigma / (1 + sigma)."""
    return 1.0 if math.isinf(sigma) else sigma / (1 + sigma)


class Levels(ABC):
    """A grid of noise levels; subclasses are frozen values."""

    @abstractmethod
    def times(self, steps: int) -> tuple[float, ...]:
        """Return steps + 1 times, decreasing."""


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise type_error(name, "be True or False", repr(value))
    return value


@dataclass(frozen=True)
class _Between(Levels):
    """Levels between two finite ones."""

    sigma_max: float = 80.0
    sigma_min: float = 0.002
    from_noise: bool = False
    to_zero: bool = True

    def __post_init__(self) -> None:
        low = check_number(self.sigma_min, "sigma_min", positive=True)
        if check_number(self.sigma_max, "sigma_max", positive=True) <= low:
            raise value_error("sigma_max", f"be larger than sigma_min = {low:g}", self.sigma_max)
        _flag(self.from_noise, "from_noise")
        _flag(self.to_zero, "to_zero")

    @abstractmethod
    def _sigmas(self, share: Array) -> Array:
        """Return the levels at shares of the way from sigma_max, 0, to sigma_min, 1."""

    def times(self, steps: int) -> tuple[float, ...]:
        """Return steps + 1 times, decreasing."""
        inner = _inner(steps, self.from_noise, self.to_zero)
        sigmas = self._sigmas(np.linspace(0, 1, inner)).tolist()
        # The ends as they were given, not as they come back from powers.
        sigmas[:1], sigmas[max(inner - 1, 1) :] = [self.sigma_max][:inner], [self.sigma_min][: inner - 1]
        return (*[1.0] * self.from_noise, *map(time_of, sigmas), *[0.0] * self.to_zero)


@dataclass(frozen=True)
class Karras(_Between):
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022): with rho = 7, short steps where sigma is small."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.rho, "rho", positive=True)

    def _sigmas(self, share: Array) -> Array:
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return cast(Array, (first + share * (last - first)) ** self.rho)


@dataclass(frozen=True)
class LogUniform(_Between):
    """Evenly spaced in log sigma."""

    def _sigmas(self, share: Array) -> Array:
        first, last = math.log(self.sigma_max), math.log(self.sigma_min)
        return np.exp(first + share * (last - first))


@dataclass(frozen=True)
class PathUniform(Levels):
    """Evenly spaced in t^(1/power) of the time of `path`, by default the variance-preserving one.

    From the end of the path or from `sigma_max`, to the path's t = 0 or to `sigma_min`: the default begins at
    sigma = 152 and ends with the image; AffinePath.flow() begins with noise alone. `power` 1 is the usual
    grid of discrete checkpoints, 2 the quadratic one.
    """

    path: AffinePath = VP
    power: float = 1.0
    sigma_max: float | None = None
    sigma_min: float | None = None
    from_noise: bool = False
    to_zero: bool = True

    def __post_init__(self) -> None:
        AffinePath.require(self.path).require_spread()
        check_number(self.power, "power", positive=True)
        first, last = self._ends()
        if not last < first:
            found = (self.sigma_max, self.sigma_min)
            raise value_error("sigma_max, sigma_min", "be two levels of the path, the first larger", found)
        _flag(self.from_noise, "from_noise")
        _flag(self.to_zero, "to_zero")

    def times(self, steps: int) -> tuple[float, ...]:
        """Return steps + 1 times, decreasing."""
        first, last = self._ends()
        ends = self.flow_times((first, last))
        before, after = self.from_noise and ends[0] < 1, self.to_zero and ends[1] > 0
        inner = _inner(steps, before, after)
        share = np.linspace(0, 1, inner)
        own = (first ** (1 / self.power) * (1 - share) + last ** (1 / self.power) * share) ** self.power
        own = np.clip(own, last, first)
        own[:1], own[max(inner - 1, 1) :] = first, last
        return (*[1.0] * before, *self.flow_times(tuple(own.tolist())), *[0.0] * after)

    def flow_times(self, own: tuple[float, ...]) -> tuple[float, ...]:
        """Return the flow's times c / (a + c) of the path's own times."""
        at = self.path.at(torch.tensor(own, dtype=torch.float64))
        return tuple((at.c / (at.a + at.c)).tolist())

    def _ends(self) -> tuple[float, float]:
        first = self.path.end if self.sigma_max is None else self._own("sigma_max", self.sigma_max)
        return first, 0.0 if self.sigma_min is None else self._own("sigma_min", self.sigma_min)

    def _own(self, name: str, sigma: float) -> float:
        low, high = self.path.sigma_range
        if not low * (1 - 1e-9) <= check_number(sigma, name, positive=True) <= high * (1 + 1e-9):
            raise value_error(
                name, f"be a level of the path, {low:g} to {high:g}, or None for its end", sigma
            )
        return float(self.path.time_of(sigma))


@dataclass(frozen=True)
class Shifted(Levels):
    """The levels of another grid times `factor`.

    More voxels average more noise away: what 64^2 pixels show at sigma, n show at sqrt(n / 64^2) sigma. The
    resolution shift of rectified flows (Esser et al. 2024) scales levels by that.
    """

    levels: Levels
    factor: float

    def __post_init__(self) -> None:
        if not isinstance(self.levels, Levels):
            raise type_error("levels", "be Levels", type(self.levels).__name__, "Such as Karras().")
        check_number(self.factor, "factor", positive=True)

    @classmethod
    def for_size(cls, levels: Levels, voxels: int, reference: int) -> Shifted:
        """Return `levels`, right for images of `reference` voxels, as they should be for `voxels`."""
        number = check_count(voxels, "voxels") / check_count(reference, "reference")
        return cls(levels, math.sqrt(number))

    def times(self, steps: int) -> tuple[float, ...]:
        """Return steps + 1 times, decreasing."""
        k = self.factor
        return tuple(k * t / (1 + (k - 1) * t) for t in self.levels.times(steps))


def _inner(steps: int, before: bool, after: bool) -> int:
    """Return the number of levels beside t = 1 and t = 0."""
    return check_count(steps, "steps") + 1 - before - after
