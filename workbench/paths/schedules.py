"""Schedules a(t), b(t), c(t) of affine paths: t = 0 are the data, t = `end` is where sampling starts.

    variance exploding   a = 1                            c = sigma_min (sigma_max / sigma_min)^t
    EDM                  a = 1                            c = t
    VP, linear beta      a = exp(-beta_d t^2/4 - beta_min t/2)       c = sqrt(1 - a^2)
    VP, cosine           a = cos(pi/2 (t + o)/(1 + o)) / cos(pi/2 o/(1 + o))   c = sqrt(1 - a^2)
    rectified flow       a = 1 - t                        c = t
    a checkpoint's table a = 1 / sqrt(1 + sigma^2)        c = sigma a, log sigma linear in between
    mean-reverting       a = exp(-r t)      b = 1 - a     c = sd sqrt(1 - a^2)
    residual             a = 1 - t          b = t         c = sd sqrt(t)
    Resfusion            a = 1 - t          b = t/2       c = sqrt(t - t^2/4)
    interpolant          a = 1 - t          b = t         c = sd sqrt(2 t (1 - t))

a / c falls from infinity (or its largest value) to that at `end`: 0 where the data are gone altogether.
Resfusion's is usually written with s = 1 - t/2: a = 2 s - 1, b = 1 - s, c = sqrt(1 - s^2).
A schedule of one's own is a frozen dataclass with these two methods.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error, value_error

__all__ = [
    "EDM",
    "Discrete",
    "Flow",
    "Interpolant",
    "MeanReverting",
    "Resfusion",
    "Residual",
    "Schedule",
    "VPCosine",
    "VPLinear",
    "VarianceExploding",
]

Scales = tuple[Tensor, Tensor, Tensor]


class Schedule(ABC):
    """The three scales of a path over its own time; subclasses are frozen values."""

    @property
    def end(self) -> float:
        """The largest time, where sampling starts."""
        return 1.0

    @abstractmethod
    def scales(self, t: Tensor) -> Scales:
        """Return a, b, c at times `t` in [0, end], float64; differentiable in t."""

    def slopes(self, t: Tensor) -> Scales:
        """Return the derivatives of the scales; by differentiation of the program here."""
        tangents: Scales = torch.func.jvp(self.scales, (t,), (torch.ones_like(t),))[1]
        return tangents

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return the time with a / c = `inv_sigma`, between the ends; by bisection here."""
        low, high = torch.zeros_like(inv_sigma), torch.full_like(inv_sigma, self.end)
        for _ in range(80):
            middle = (low + high) / 2
            a, _, c = self.scales(middle)
            early = a > inv_sigma * c
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2


def _ordered(low: float, high: float, names: str) -> None:
    if not low < high:
        raise value_error(names, "be in increasing order", (low, high))


@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """Noise of a geometric scale added to data of scale 1; c(0) = sigma_min, not 0."""

    sigma_min: float = 0.01
    sigma_max: float = 100.0

    def __post_init__(self) -> None:
        low = check_number(self.sigma_min, "sigma_min", positive=True)
        _ordered(low, check_number(self.sigma_max, "sigma_max"), "sigma_min, sigma_max")

    def scales(self, t: Tensor) -> Scales:
        """Return 1, 0, sigma."""
        return (
            torch.ones_like(t),
            torch.zeros_like(t),
            self.sigma_min * (self.sigma_max / self.sigma_min) ** t,
        )

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return log(sigma / sigma_min) / log(sigma_max / sigma_min)."""
        return -(self.sigma_min * inv_sigma).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """Time is the noise level itself (Karras et al. 2022)."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_number(self.sigma_max, "sigma_max", positive=True)

    @property
    def end(self) -> float:
        """sigma_max."""
        return self.sigma_max

    def scales(self, t: Tensor) -> Scales:
        """Return 1, 0, t."""
        return torch.ones_like(t), torch.zeros_like(t), t

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return sigma."""
        return 1 / inv_sigma


@dataclass(frozen=True)
class VPLinear(Schedule):
    """Variance preserving, beta(t) = beta_min + beta_d t; the usual 1000 steps are 0.1 and 19.9."""

    beta_min: float = 0.1
    beta_d: float = 19.9

    def __post_init__(self) -> None:
        check_number(self.beta_min, "beta_min", positive=True)
        check_number(self.beta_d, "beta_d", non_negative=True)

    def scales(self, t: Tensor) -> Scales:
        """Return a, 0, sqrt(1 - a^2)."""
        log_a = -t * (self.beta_d * t / 4 + self.beta_min / 2)
        return log_a.exp(), torch.zeros_like(t), (-torch.expm1(2 * log_a)).sqrt()

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return the root of beta_d t^2 / 2 + beta_min t = log(1 + sigma^2)."""
        whole = torch.log1p(inv_sigma**-2)
        return 2 * whole / (self.beta_min + (self.beta_min**2 + 2 * self.beta_d * whole).sqrt())


@dataclass(frozen=True)
class VPCosine(Schedule):
    """Variance preserving after Nichol and Dhariwal (2021), without their cut: a(1) = 0 exactly."""

    offset: float = 0.008

    def __post_init__(self) -> None:
        check_number(self.offset, "offset", non_negative=True)

    def scales(self, t: Tensor) -> Scales:
        """Return a, 0, sqrt(1 - a^2)."""
        quarter, norm = math.pi / 2 / (1 + self.offset), self._norm
        # cos(pi/2 (t + o)/(1 + o)) from the other end: exactly 0 at t = 1.
        a = (quarter * (1 - t)).sin() / norm
        # 1 - a^2 = (cos^2 x0 - cos^2 x) / cos^2 x0, without cancellation at t = 0.
        first = quarter * self.offset
        c2 = (quarter * t).sin() * (quarter * t + 2 * first).sin() / norm**2
        return a, torch.zeros_like(t), c2.sqrt()

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return the time where cos(pi/2 (t + o)/(1 + o)) = norm a."""
        a = self._norm * inv_sigma / (1 + inv_sigma**2).sqrt()
        near = 1 - a.asin() * 2 * (1 + self.offset) / math.pi
        return near.clamp(0, 1)

    @property
    def _norm(self) -> float:
        return math.cos(math.pi / 2 * self.offset / (1 + self.offset))


@dataclass(frozen=True)
class Flow(Schedule):
    """The straight line between data and noise (rectified flow); data gone at t = 1 exactly."""

    def scales(self, t: Tensor) -> Scales:
        """Return 1 - t, 0, t."""
        return 1 - t, torch.zeros_like(t), t

    def slopes(self, t: Tensor) -> Scales:
        """Return -1, 0, 1."""
        return -torch.ones_like(t), torch.zeros_like(t), torch.ones_like(t)

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return sigma / (1 + sigma)."""
        return 1 / (1 + inv_sigma)


@dataclass(frozen=True)
class Discrete(Schedule):
    """The levels of a network trained at whole numbers 0 .. len - 1, variance preserving, smallest first."""

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(check_number(s, f"sigmas[{i}]", positive=True) for i, s in enumerate(self.sigmas))
        if len(values) < 2 or not all(low < high for low, high in pairwise(values)):
            raise value_error("sigmas", "be two or more increasing levels", f"{len(values)} values, not so")
        object.__setattr__(self, "sigmas", values)

    @classmethod
    def of_alphas_bar(cls, alphas_bar: Tensor) -> Discrete:
        """Return the levels sqrt((1 - abar) / abar) of a checkpoint's cumulative products."""
        wide = alphas_bar.double()
        return cls(tuple(((1 - wide) / wide).sqrt().tolist()))

    @classmethod
    def of_linear_betas(cls, first: float = 1e-4, last: float = 0.02, count: int = 1000) -> Discrete:
        """Return the levels of DDPM's `count` betas, evenly spaced from `first` to `last`."""
        betas = torch.linspace(first, last, count, dtype=torch.float64)
        return cls.of_alphas_bar((1 - betas).cumprod(0))

    @property
    def end(self) -> float:
        """The last index."""
        return float(len(self.sigmas) - 1)

    def scales(self, t: Tensor) -> Scales:
        """Return a, 0, c with log sigma linear between whole numbers."""
        logs = self._logs(t)
        below = t.detach().floor().clamp(0, len(self.sigmas) - 2).long()
        share = t - below
        sigma = ((1 - share) * logs[below] + share * logs[below + 1]).exp()
        a = (1 + sigma**2).rsqrt()
        return a, torch.zeros_like(t), sigma * a

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return the index, between whole numbers linear in log sigma."""
        logs, wanted = self._logs(inv_sigma), -inv_sigma.log()
        below = (torch.searchsorted(logs, wanted.contiguous()) - 1).clamp(0, len(self.sigmas) - 2)
        return below + (wanted - logs[below]) / (logs[below + 1] - logs[below])

    def _logs(self, like: Tensor) -> Tensor:
        return torch.tensor(self.sigmas, dtype=like.dtype, device=like.device).log()


@dataclass(frozen=True)
class MeanReverting(Schedule):
    """The data drift to x_in at the rate r while noise of standard deviation `sd` comes up (IR-SDE, MRS)."""

    rate: float = 5.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.rate, "rate", positive=True)
        check_number(self.sd, "sd", non_negative=True)

    def scales(self, t: Tensor) -> Scales:
        """Return a, 1 - a, sd sqrt(1 - a^2)."""
        a = (-self.rate * t).exp()
        return a, -torch.expm1(-self.rate * t), self.sd * (-torch.expm1(-2 * self.rate * t)).sqrt()

    def time_of(self, inv_sigma: Tensor) -> Tensor:
        """Return log(1 + 1 / q^2) / (2 rate), q = sd a / c."""
        return torch.log1p((self.sd * inv_sigma) ** -2) / (2 * self.rate)


@dataclass(frozen=True)
class Residual(Schedule):
    """The residual x_in - x0 and noise of variance sd^2 t come up together (RDDM); sd = 0: no noise."""

    sd: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.sd, "sd", non_negative=True)

    def scales(self, t: Tensor) -> Scales:
        """Return 1 - t, t, sd sqrt(t)."""
        return 1 - t, t, self.sd * t.sqrt()


@dataclass(frozen=True)
class Resfusion(Schedule):
    """The start of Resfusion's sampling is where x0 has just left: x_in / 2 + sqrt(3)/2 noise at t = 1."""

    def scales(self, t: Tensor) -> Scales:
        """Return 2 s - 1, 1 - s, sqrt(1 - s^2) with s = 1 - t/2."""
        return 1 - t, t / 2, (t * (1 - t / 4)).sqrt()


@dataclass(frozen=True)
class Interpolant(Schedule):
    """A stochastic interpolant from x0 to x_in with noise in between: no spread at its end."""

    sd: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.sd, "sd", non_negative=True)

    def scales(self, t: Tensor) -> Scales:
        """Return 1 - t, t, sd sqrt(2 t (1 - t))."""
        return 1 - t, t, self.sd * (2 * t * (1 - t)).sqrt()


def require_schedule(value: object) -> Schedule:
    """Return `value` if it is a Schedule."""
    if not isinstance(value, Schedule):
        raise type_error(
            "schedule", "be a Schedule", type(value).__name__, "Such as Flow(), or AffinePath.flow()."
        )
    return value
