"""What solvers in the coordinates of a singular value decomposition share: B = U S V^H, split up once.

    B, z of -log p(y | u) = |B u - z|^2 / 2,    q = U^H (z - B x) = U^H z - s V^H x

A coefficient V^H u that is measured is known to within sd 1 / s, and q is how far that of an estimate x is
off, in units of that noise: nothing here divides by an s. Fresh noise is drawn in the image space and turned
by V^H, which is right for real images, whose Fourier coefficients come in conjugate pairs, and for complex
ones.

What is measured badly counts as not measured, its s as zero: up to `cutoff` times the largest or, without
a cutoff, where it is rounding or t = s data_sd < `worth`, data_sd the prior's spread (one that knows none
leaves rounding). Against t^2 parts of the data's information there is one of the prior's: to leave the data
out costs t standard deviations of the posterior, to take nothing but them 1 / t. `worth` is each solver's
own, where the two meet for what it makes of such data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.constant import Constant
from operators.errors import describe, value_error
from operators.linear import LinearOperator, Scaled
from workbench.capabilities import CapabilityError
from workbench.posterior import Posterior
from workbench.solvers.descent import measured_norm

__all__ = [
    "Singular",
    "check_cutoff",
    "check_share",
    "pseudo_inverse",
    "require_pseudo_inverse",
    "require_singular_values",
    "residual",
    "singular",
    "unmeasured_share",
    "whitened_data",
]


@dataclass(frozen=True, eq=False)
class Singular:
    """The factors of B; `s` is in double precision, zero where nothing is measured."""

    u: LinearOperator
    s: Tensor
    v: LinearOperator

    def misfit(self, difference: Tensor) -> Tensor:
        """Return q = U^H (z - B x) of `difference` z - B x."""
        return self.u.apply_adjoint(difference)

    def turned(self, x: Tensor) -> Tensor:
        """Return the coefficients V^H x of an image."""
        return self.v.apply_adjoint(x)

    def image(self, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """Return V of the sum of weights times coefficients; the weights are real, in double precision."""
        total = None
        for weights, coefficients in terms:
            term = weights.to(coefficients.real.dtype) * coefficients
            total = term if total is None else total + term
        if total is None:
            raise value_error("terms", "be one or more", "none")
        return self.v.apply(total)

    def inverse(self, least: float) -> Tensor:
        """Return 1 / s where s >= `least` > 0, else 0."""
        sharp = self.s >= least
        return torch.where(sharp, 1 / torch.where(sharp, self.s, 1.0), 0.0)


def singular(posterior: Posterior, cutoff: float | None, worth: float) -> Singular:
    """Return the factors of the whitened operator, made once for each posterior."""

    def make() -> Singular:
        factors = posterior.measured.whitened[0].svd()
        s = factors.s.to(device=posterior.measured.device, dtype=torch.float64)
        largest = float(s.max())
        share = _share(posterior, worth, largest, s.dtype) if cutoff is None else cutoff
        return Singular(factors.u, torch.where(s > share * largest, s, 0.0), factors.v)

    return posterior.kept(f"singular values above {cutoff}, {worth}", make)


def whitened_data(posterior: Posterior, like: Tensor) -> Tensor:
    """Return z of the whitened measurement, in the precision of `like`."""
    return posterior.kept("whitened data", lambda: Constant(posterior.measured.whitened[1])).like(like)


def residual(posterior: Posterior, x: Tensor) -> Tensor:
    """Return z - B x of the whitened measurement, in the precision of x."""
    return whitened_data(posterior, x) - posterior.measured.whitened[0].apply(x)


def unmeasured_share(posterior: Posterior, cutoff: float | None, worth: float, like: Tensor) -> float:
    """Return up to which share of the largest singular value nothing counts as measured, without an SVD."""
    if cutoff is not None:
        return cutoff
    norm = measured_norm(posterior)
    return posterior.kept(
        f"unmeasured up to {worth} in {like.dtype}", lambda: _share(posterior, worth, norm, like.dtype)
    )


def pseudo_inverse(posterior: Posterior, difference: Tensor, share: float) -> Tensor:
    """Return B^+ r for a `difference` r in the space of z, singular values up to `share` of |B| as zero."""
    factor, operator = _unscaled(posterior.measured.whitened[0])
    return operator.pinv(difference / factor, cutoff=share)


def require_singular_values(posterior: Posterior, solver: str) -> None:
    """Raise unless the whitened operator knows its singular values; say whether it is the noise's doing."""
    if not posterior.measured.whitened[0].has_svd:
        operator = posterior.measured.operator
        alone = isinstance(operator, LinearOperator) and operator.has_svd
        raise _refusal(posterior, solver, "know its singular values", alone)


def require_pseudo_inverse(posterior: Posterior, solver: str) -> None:
    """Raise unless the whitened operator has a pseudo-inverse in closed form."""
    if not _unscaled(posterior.measured.whitened[0])[1].has_closed_form:
        operator = posterior.measured.operator
        alone = isinstance(operator, LinearOperator) and _unscaled(operator)[1].has_closed_form
        raise _refusal(posterior, solver, "have a pseudo-inverse in closed form", alone)


def check_share(value: object, argument: str) -> float:
    """Return a number from 0 to 1."""
    share = check_number(value, argument, non_negative=True)
    if share > 1:
        raise value_error(argument, "be at most 1", share)
    return share


def check_cutoff(value: object) -> None:
    """Raise unless `value` is None or a share of the largest singular value."""
    if value is not None and check_number(value, "cutoff", non_negative=True) >= 1:
        raise value_error("cutoff", "be a share of the largest singular value, < 1", value)


def _share(posterior: Posterior, worth: float, norm: float, dtype: torch.dtype) -> float:
    """Return what share of the largest singular value counts as zero where nobody chose one."""
    rounding = torch.finfo(dtype).eps * math.sqrt(posterior.space.size)
    spread = posterior.prior.data_sd
    if spread is None or not spread * norm > 0:
        return rounding
    return max(rounding, worth / (spread * norm))


def _refusal(posterior: Posterior, solver: str, need: str, alone: bool) -> CapabilityError:
    """Return the error for an operator A that does not `need`, or with `alone` for a W A that does not."""
    likelihood = posterior.physical_likelihood or posterior.measured
    remedy = "Use a solver that needs products with A and A^H only."
    got = repr(likelihood.operator)
    if alone:
        got = f"{likelihood.noise!r} on {got}"
        remedy = f"One sigma for all data leaves it as it is. {remedy}"
    wanted = f"let W A {need}, W its whitener" if alone else need
    reason = describe("noise" if alone else "operator", wanted, got, remedy)
    return CapabilityError(f"{solver} cannot work on this posterior:\n- {reason}")


def _unscaled(operator: LinearOperator) -> tuple[complex, LinearOperator]:
    """Return f and A of the operator f A: operators may know solves that multiples of them do not."""
    factor: complex = 1.0
    while isinstance(operator, Scaled):
        factor, operator = factor * operator.factor, operator.op
    return factor, operator
