"""One class for all paths from data to noise that are affine in the data.

    x_t = a(t) x0 + b(t) x_in + c(t) noise

with x_in known (a cheap reconstruction, or nothing where b = 0). In

    u = (x - b x_in) / c = s x0 + noise,    s = a / c = 1 / sigma

no path differs from another: the probability-flow equation is du = E[x0 | u] ds for all of them. Solvers
step in u; a path says where s stands at its own time t, and translates what a network was trained to give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.errors import type_error, value_error
from workbench.paths.noise_law import NORMAL, NoiseLaw
from workbench.paths.schedules import (
    EDM,
    Discrete,
    Flow,
    Interpolant,
    MeanReverting,
    Resfusion,
    Residual,
    Schedule,
    VarianceExploding,
    VPCosine,
    VPLinear,
    require_schedule,
)

__all__ = ["AffinePath", "Point"]


@dataclass(frozen=True)
class Point:
    """The scales of a path at one time, or at a tensor of times; float64."""

    a: Tensor
    b: Tensor
    c: Tensor

    @property
    def sigma(self) -> Tensor:
        """The noise level c / a in the coordinates of denoisers; infinite where the data are gone."""
        return self.c / self.a

    @property
    def inv_sigma(self) -> Tensor:
        """Its inverse, a / c."""
        return self.a / self.c

    @property
    def log_snr(self) -> Tensor:
        """Half the logarithm of the signal-to-noise ratio, log(a / c)."""
        return self.a.log() - self.c.log()


@dataclass(frozen=True)
class AffinePath:
    """A schedule and the law of its noise."""

    schedule: Schedule
    law: NoiseLaw = NORMAL

    def __post_init__(self) -> None:
        require_schedule(self.schedule)
        NoiseLaw.require(self.law)

    @classmethod
    def ve(cls, sigma_min: float = 0.01, sigma_max: float = 100.0) -> AffinePath:
        """Return the variance-exploding path, sigma geometric in t."""
        return cls(VarianceExploding(sigma_min, sigma_max))

    @classmethod
    def edm(cls, sigma_max: float = 80.0) -> AffinePath:
        """Return the path whose time is sigma."""
        return cls(EDM(sigma_max))

    @classmethod
    def vp(cls, beta_min: float = 0.1, beta_d: float = 19.9) -> AffinePath:
        """Return the variance-preserving path with a linear beta."""
        return cls(VPLinear(beta_min, beta_d))

    @classmethod
    def vp_cosine(cls, offset: float = 0.008) -> AffinePath:
        """Return the variance-preserving path after a cosine."""
        return cls(VPCosine(offset))

    @classmethod
    def flow(cls) -> AffinePath:
        """Return the rectified flow's straight line."""
        return cls(Flow())

    @classmethod
    def discrete(cls, sigmas: tuple[float, ...]) -> AffinePath:
        """Return the path of a checkpoint whose time is an index into `sigmas`."""
        return cls(Discrete(sigmas))

    @classmethod
    def mean_reverting(cls, rate: float = 5.0, sd: float = 1.0) -> AffinePath:
        """Return the path on which the data drift to x_in."""
        return cls(MeanReverting(rate, sd))

    @classmethod
    def residual(cls, sd: float = 1.0) -> AffinePath:
        """Return the path on which the residual x_in - x0 comes up."""
        return cls(Residual(sd))

    @classmethod
    def resfusion(cls) -> AffinePath:
        """Return Resfusion's path up to the point where x0 has left."""
        return cls(Resfusion())

    @classmethod
    def interpolant(cls, sd: float = 1.0) -> AffinePath:
        """Return the interpolant between x0 and x_in with noise in between."""
        return cls(Interpolant(sd))

    def under(self, law: NoiseLaw) -> AffinePath:
        """Return the same path under noise of another law."""
        return AffinePath(self.schedule, law)

    @staticmethod
    def require(value: object, argument: str = "path") -> AffinePath:
        """Return `value` if it is a path."""
        if not isinstance(value, AffinePath):
            got = value.__name__ if isinstance(value, type) else type(value).__name__
            raise type_error(argument, "be an AffinePath", got, "Such as AffinePath.vp().")
        return value

    @property
    def end(self) -> float:
        """The largest time, where sampling starts."""
        return self.schedule.end

    def at(self, t: float | Tensor) -> Point:
        """Return the scales at time `t` in [0, end], in double precision."""
        return Point(*self.schedule.scales(self._time(t)))

    def slopes(self, t: float | Tensor) -> Point:
        """Return the derivatives of the scales with respect to time."""
        return Point(*self.schedule.slopes(self._time(t)))

    def time_of(self, sigma: float | Tensor) -> Tensor:
        """Return the time at which c / a is `sigma`."""
        level = _positive(sigma, "sigma")
        return self.time_of_inverse(1 / level)

    def time_of_inverse(self, inv_sigma: float | Tensor) -> Tensor:
        """Return the time at which a / c is `inv_sigma`; 0 is where the data are gone."""
        level = _positive(inv_sigma, "inv_sigma")
        first, last = (self._inverse_at(t) for t in (0.0, self.end))
        slack = 1e-9
        if bool(((level > first * (1 + slack)) | (level < last * (1 - slack))).any()):
            worst = float(level.max() if bool((level > first).any()) else level.min())
            span = f"{last:.6g} <= 1 / sigma <= {first:.6g}"
            remedy = "Choose levels inside, or a path that reaches them."
            raise value_error("inv_sigma", f"be on the path, {span}", f"{worst:.6g}", remedy)
        return self.schedule.time_of(level.clamp(last, first)).clamp(0.0, self.end)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """The levels sigma = c / a at the ends, 0 and infinity among them where they are reached."""
        first, last = (self._inverse_at(t) for t in (0.0, self.end))
        return (0.0 if first == math.inf else 1 / first), (math.inf if last == 0 else 1 / last)

    def require_spread(self) -> None:
        """Raise unless there is noise where sampling starts: without it every draw is the same image."""
        c = float(self.at(self.end).c)
        if not c > 1e-12:
            raise value_error(
                "path",
                "have noise at its far end: c > 0, or its draws have no spread and its uncertainty is void",
                f"c = {c:.3g} at t = {self.end:g} of {self.schedule!r}",
                "Use a noisy start, such as AffinePath.residual(sd=1.0) or AffinePath.resfusion().",
            )

    def _inverse_at(self, t: float) -> float:
        a, _, c = (float(scale) for scale in self.schedule.scales(torch.tensor(t, dtype=torch.float64)))
        if c > 0:
            return a / c
        # An interpolant's end has neither data nor noise, and of the two the data are gone first.
        noisy = float(self.schedule.scales(torch.tensor(t / 2, dtype=torch.float64))[2]) > 0
        return 0.0 if a == 0 and noisy else math.inf

    def _time(self, t: float | Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            t = torch.tensor(check_number(t, "t"), dtype=torch.float64)
        time = t.double()
        if bool(((time < 0) | (time > self.end)).any()) or bool(time.isnan().any()):
            found = f"{float(time.min()):g} to {float(time.max()):g}"
            raise value_error("t", f"be a time of the path, 0 <= t <= {self.end:g}", found)
        return time


def _positive(value: float | Tensor, argument: str) -> Tensor:
    """Return levels >= 0 in double precision."""
    if not isinstance(value, Tensor):
        value = torch.tensor(check_number(value, argument, non_negative=True), dtype=torch.float64)
    check_finite(value, argument)
    if bool((value < 0).any()):
        raise value_error(argument, "be >= 0", float(value.min()))
    return value.double()
