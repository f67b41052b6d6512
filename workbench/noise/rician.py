"""Magnitudes of complex data: y = |m + n| with n of standard deviation sigma in each component.

With a = |m|, z = y a / sigma^2, r = I1(z) / I0(z), kappa = y^2 / sigma^2 and f = -log p:

    f(a)   = (y^2 + a^2) / (2 sigma^2) - log I0(z) - log(y / sigma^2)
    f'(a)  = (a - y r) / sigma^2
    f''(a) = (1 - kappa r') / sigma^2,    r' = dr/dz = 1 - r / z - r^2

f is not convex in a exactly where kappa r' > 1: below some a, if y > sqrt(2) sigma, since r'
falls from 1/2 at a = 0. In a complex m the second eigenvalue f' / a is the smaller one: f is not
convex wherever f' < 0, that is for a below the most likely one. `least_curvature` tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from operators.space import Space
from workbench.noise.base import (
    Noise,
    Value,
    as_step,
    check_data,
    check_draws,
    check_not_negative,
    check_square,
    deviation,
    double,
    precise,
    total,
)
from workbench.noise.gaussian import Gaussian
from workbench.random import Keys

__all__ = ["Rician"]

#: Where the series of r in 1 / z takes over from the quotient of Bessel functions.
FAR = 50.0
#: Steps of Newton's method; it stops by itself, slowest (by 2/3) where two solutions are about to part.
NEWTON_STEPS = 200


@dataclass(frozen=True, eq=False, repr=False)
class Rician(Noise):
    """y = |m + n| >= 0 for real or complex m; the law depends on |m| alone, and is even in a real m.

    `sigma` and `floor` are as for `Gaussian`. Where y = 0, of density 0 for any m, the constant log y is
    left out: likelihood ratios stay what they are.
    """

    name: ClassVar[str] = "rician"

    sigma: Value
    floor: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", deviation(self.sigma, self.floor))

    def check(self, data: Tensor, space: Space) -> None:
        """Raise unless `data` are magnitudes >= 0 of the shape of `space`, which may be complex."""
        check_data(data, space, is_complex=False)
        check_not_negative(data, "magnitudes")
        check_square(self.sigma, "sigma", data)

    def log_likelihood(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the log of the density, per batch element."""
        size, y = double(predicted).abs(), double(data)
        variance = self._variance(y)
        constant = torch.where(y > 0, y, 1.0).log() - variance.log()
        # log I0(z) = log I0e(z) + z, and z completes the square.
        bessel = torch.special.i0e(y * size / variance).log()
        return total(constant + bessel - (y - size) ** 2 / (2 * variance), data)

    def score(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return -f'(a) m / a."""
        _, tangential = self._curvatures(predicted, data)
        return -tangential.to(_real(predicted)) * predicted

    def curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return f'' times the part of d along m, plus f' / a times the part across it."""
        return _along_and_across(*self._curvatures(predicted, data), predicted, direction)

    def positive_curvature(self, predicted: Tensor, data: Tensor, direction: Tensor) -> Tensor:
        """Return the same with negative f'' and f' / a set to zero."""
        radial, tangential = self._curvatures(predicted, data)
        return _along_and_across(radial.clamp(min=0), tangential.clamp(min=0), predicted, direction)

    def least_curvature(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return the smallest eigenvalue of the curvature per datum: negative where f is not convex."""
        radial, tangential = self._curvatures(predicted, data)
        return (tangential if predicted.is_complex() else radial).to(_real(predicted))

    @property
    def majorant(self) -> Noise:
        """Gaussian noise: -log I0 is replaced by its tangent."""
        return Gaussian(self.sigma)

    def majorised(self, predicted: Tensor, data: Tensor) -> Tensor:
        """Return y r(y a / sigma^2) m / a.

        The minimum of the majorant is the next step of expectation maximisation, with the phase as what is
        not known.
        """
        y = double(data)
        ratio, _, _ = bessel_ratio(y * double(predicted).abs() / self._variance(y))
        size = double(predicted).abs()
        phase = double(predicted) / torch.where(size > 0, size, 1.0)
        return precise(y * ratio * phase, predicted)

    def escape(self, predicted: Tensor, data: Tensor) -> Tensor | None:
        """Return y where m = 0 and y > sqrt(2) sigma: all phases are alike, as in `prox`."""
        concave = (predicted == 0) & (self.least_curvature(predicted, data) < 0)
        return (
            torch.where(concave, precise(data, predicted), 0.0).to(predicted.dtype)
            if bool(concave.any())
            else None
        )

    def prox(self, point: Tensor, data: Tensor, step: Value) -> Tensor:
        """Return argmin_m f(|m|) + |m - point|^2 / (2 step), the global one.

        m has the sign, or phase, of the point v. h(a) = f'(a) + (a - |v|) / step is convex, h(0) <= 0 and
        h(max(|v|, y)) >= 0: from there Newton's steps fall to its largest root, which is the minimiser.
        For v = 0 and 1 / step < kappa / 2 - 1 in units of sigma^-2 all phases are alike: it is taken > 0.
        """
        wide = double(point)
        v, y = wide.abs(), double(data)
        step = as_step(step, wide, data)
        variance = self._variance(y)
        kappa = y**2 / variance
        a = torch.maximum(v, y)
        for _ in range(NEWTON_STEPS):
            r, _, slope = bessel_ratio(y * a / variance)
            value = (a - y * r) / variance + (a - v) / step
            # What the value may be by rounding alone; below it there is nothing left to follow.
            rounding = 4 * torch.finfo(a.dtype).eps * ((a + y * r) / variance + (a + v) / step)
            rise = (1 - kappa * slope) / variance + 1 / step
            moved = torch.where((value > rounding) & (rise > 0), (a - value / rise).clamp(min=0), a)
            if bool((moved == a).all()):
                break
            a = moved
        # For v = 0 the root at zero is approached, not met.
        flat = (v == 0) & ((1 - kappa / 2) / variance + 1 / step >= 0)
        phase = torch.where(v > 0, wide / torch.where(v > 0, v, 1.0), 1.0)
        return precise(phase * torch.where(flat, 0.0, a), point)

    def draw(self, predicted: Tensor, keys: Keys, purpose: str = "noise") -> Tensor:
        """Return |m + sigma (w1 + i w2)|."""
        check_draws(predicted, keys)
        like = predicted if predicted.is_complex() else torch.complex(predicted[:0], predicted[:0])
        white = keys.normals(predicted.shape[1:], purpose, like=like)
        return (predicted + self._served("sigma", predicted) * white).abs()

    def _variance(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self._served("sigma", like), dtype=like.dtype, device=like.device) ** 2

    def _curvatures(self, predicted: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return f'' and f' / a, in double precision: both are differences of nearly equal numbers."""
        y = double(data)
        variance = self._variance(y)
        kappa = y**2 / variance
        _, quotient, slope = bessel_ratio(y * double(predicted).abs() / variance)
        return (1 - kappa * slope) / variance, (1 - kappa * quotient) / variance


def bessel_ratio(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return r = I1(z) / I0(z), r / z and dr/dz for z >= 0 in double precision."""
    small = z.clamp(min=1e-100)  # r / z is 1/2 there to the last digit
    r = torch.special.i1e(small) / torch.special.i0e(small)
    quotient = r / small
    inverse = 1 / z.clamp(min=FAR)
    far = torch.zeros_like(z)
    for k in range(len(SERIES) - 1, 0, -1):  # Horner; dr/dz = -w^2 dr/dw for w = 1 / z
        far = far * inverse - k * SERIES[k]
    return r, quotient, torch.where(z > FAR, far * inverse**2, 1 - quotient - r**2)


def _series(terms: int) -> tuple[float, ...]:
    """Return the c_k of r = sum c_k z^-k, which r' + r / z + r^2 = 1 gives one after the other."""
    c = [1.0]
    for k in range(1, terms):
        c.append(0.5 * ((k - 2) * c[k - 1] - sum(c[i] * c[k - i] for i in range(1, k))))
    return tuple(c)


SERIES = _series(14)


def _along_and_across(radial: Tensor, tangential: Tensor, predicted: Tensor, direction: Tensor) -> Tensor:
    real = _real(direction)
    if not predicted.is_complex():
        return radial.to(real) * direction
    size = predicted.abs()
    unit = predicted / torch.where(size > 0, size, 1.0)  # at 0 both curvatures are the same
    along = (unit.conj() * direction).real * unit
    return tangential.to(real) * direction + (radial - tangential).to(real) * along


def _real(values: Tensor) -> torch.dtype:
    return values.real.dtype if values.is_complex() else values.dtype
