"""The linear-Gaussian posterior as one linear system in coordinates where the prior is white.

    u = mean + R v,  v ~ N(0, I),  z = B u + n,  n ~ N(0, I)
    v | y ~ N(M^H d, .) solved:   (M^H M + I) v = M^H d,    M = B R,   d = z - B mean

A prior N(mean, S) with S = R R^H costs no inverse of S this way, and one that does not vary in some
directions is welcome. Every eigenvalue of M^H M + I is at least 1: a residual bounds the error of v.
A flat prior has no R: then M = B, without the I.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.errors import ConvergenceWarning
from operators.linear import LinearOperator
from workbench.likelihood.white_solve import WhiteState, white_start, white_step
from workbench.noise.base import double
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian

__all__ = ["GaussianSystem", "SystemSolve", "warn_if_short", "wide_like"]


@dataclass(frozen=True)
class SystemSolve:
    """The solution v of the system for one right-hand side: `known` in closed form, or being `approached`."""

    known: Tensor | None
    approached: WhiteState | None

    @property
    def solution(self) -> Tensor:
        """The v that there is by now."""
        return self.known if self.approached is None else self.approached.solution  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether no iteration would change it."""
        return self.approached is None or self.approached.solve.finished

    @property
    def values(self) -> dict[str, Tensor]:
        """What there is to tell of it."""
        return {} if self.approached is None else {"accuracy": self.approached.error}


@dataclass(frozen=True, eq=False)
class GaussianSystem:
    """M, d, the multiple of I (1, or 0 for a flat prior) and the way back to u."""

    matrix: LinearOperator
    data: Tensor
    ridge: float
    prior: Gaussian | None

    @classmethod
    def of(cls, posterior: Posterior, like: Tensor) -> GaussianSystem:
        """Return the system of a linear-Gaussian posterior with a Gaussian or a flat prior."""
        return posterior.kept(f"gaussian system in {like.dtype}", lambda: cls._made(posterior, like))

    @classmethod
    def _made(cls, posterior: Posterior, like: Tensor) -> GaussianSystem:
        b, z = posterior.measured.whitened
        z = z.to(b.codomain.dtype_like(like))
        if not isinstance(posterior.prior, Gaussian):
            return cls(b, z, 0.0, None)
        prior = posterior.prior
        return cls(b @ prior.root, z - b.apply(prior.mean_like(like)), 1.0, prior)

    def right_side(self, batch: int) -> Tensor:
        """Return M^H d for `batch` draws: its solution is the posterior mean of v."""
        return self.matrix.apply_adjoint(self.data.expand(batch, *self.data.shape))

    def perturbed_side(self, data_noise: Tensor, white: Tensor) -> Tensor:
        """Return M^H (d + data_noise - M white): its solution, added to `white`, is a draw of v.

        M^H (d + data_noise) + white has the same draw as its solution, and in finite precision loses what
        was not measured: it grows with the square of the signal to noise.
        """
        return self.matrix.apply_adjoint(self.data + data_noise - self.matrix.apply(white))

    def apply(self, v: Tensor) -> Tensor:
        """Return (M^H M + ridge I) v."""
        image = self.matrix.gram.apply(v)
        return image + self.ridge * v if self.ridge else image

    def started(self, side: Tensor) -> SystemSolve:
        """Return the solve of (M^H M + I) v = side before its first iteration."""
        if self.matrix.has_closed_form:
            return SystemSolve(self.matrix.normal_solve(side, self.ridge), None)
        return SystemSolve(None, white_start(self.apply, side))

    def stepped(self, solve: SystemSolve, accuracy: float) -> SystemSolve:
        """Return it after one more iteration, towards `accuracy` in posterior standard deviations."""
        if solve.approached is None:
            return solve
        return SystemSolve(None, white_step(self.apply, solve.approached, accuracy))

    def to_u(self, v: Tensor) -> Tensor:
        """Return mean + R v."""
        if self.prior is None:
            return v
        return self.prior.mean_like(v) + self.prior.root.apply(v)


def wide_like(posterior: Posterior, like: Tensor) -> Tensor:
    """Return `like` in double precision, if the physics can compute in it."""
    likelihood = posterior.likelihood
    if likelihood is None or torch.float64 not in likelihood.operator.dtypes:
        return like
    return double(like)


def warn_if_short(solve: SystemSolve, accuracy: float, solver: str, consequence: str, remedy: str) -> None:
    """Warn where the last iteration has not brought `solve` to `accuracy`."""
    if solve.approached is None:
        return
    reached, iterations = float(solve.approached.error.max()), solve.approached.solve.iteration
    if reached <= accuracy:
        return
    if solve.finished:
        remedy = "Rounding allows no more at this signal to noise: ask for less accuracy."
    warnings.warn(
        f"{solver} reached an accuracy of {reached:.1e} sd in {iterations} iterations, not {accuracy:g}: "
        f"{consequence}. {remedy}",
        ConvergenceWarning,
        stacklevel=3,
    )
