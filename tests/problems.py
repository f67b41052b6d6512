"""Posteriors whose answer is known in closed form, and that answer by dense linear algebra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.linear import LinearOperator
from pipelines.verify.referee.bands import SIGMAS, normality
from pipelines.verify.referee.small import IMAGES as PROBLEMS
from pipelines.verify.referee.small import UNITS, grid_of, operator_of, posterior_of, prior_on
from pipelines.verify.referee.truth import reals
from workbench.posterior import Posterior

__all__ = [
    "PROBLEMS",
    "UNITS",
    "Dense",
    "coverage",
    "dense_answer",
    "grid_of",
    "operator_of",
    "posterior_of",
    "prior_on",
    "real_matrix",
    "reals",
    "require_standard_normal",
]


@dataclass(frozen=True)
class Dense:
    """Mean and a root of the covariance of u, over the real components of u."""

    mean: Tensor
    covariance: Tensor

    def whitened(self, u: Tensor) -> Tensor:
        """Return L^-1 (u - mean) for rows u: independent standard normals if u are exact draws."""
        factor = torch.linalg.cholesky(self.covariance)
        return torch.linalg.solve_triangular(factor, (reals(u) - self.mean).T, upper=False).T


def real_matrix(op: LinearOperator) -> Tensor:
    """Return the matrix of `op` between real components."""
    size = op.domain.size
    if not op.domain.is_complex:
        return reals(op(torch.eye(size, dtype=torch.float64).reshape(size, *op.domain.shape))).T
    unit = torch.eye(size, dtype=torch.complex128)
    both = torch.stack([unit, 1j * unit], dim=1).reshape(2 * size, *op.domain.shape)
    return reals(op(both)).T


def dense_answer(posterior: Posterior) -> Dense:
    """Return the closed-form posterior of u."""
    b, z = posterior.measured.whitened
    prior = posterior.prior
    root, matrix = real_matrix(prior.root), real_matrix(b)
    mean = reals(prior.mean_like(torch.empty(0, dtype=torch.float64))[None])[0]
    m = matrix @ root
    precision = m.T @ m + torch.eye(m.shape[1], dtype=torch.float64)
    v = torch.linalg.solve(precision, m.T @ (reals(z[None])[0] - matrix @ mean))
    covariance = root @ torch.linalg.inv(precision) @ root.T
    return Dense(mean + root @ v, (covariance + covariance.T) / 2)


def require_standard_normal(t: Tensor) -> None:
    """Fail unless the rows of `t` (draws, n) look like independent standard normals, at five sigma."""
    for name, sigmas in normality(t).items():
        assert abs(sigmas) < SIGMAS, f"{name}: {sigmas:.1f} sigma"


def coverage(u: Tensor, truth: Dense, level: float) -> float:
    """Return the share of true marginal quantiles that the draws' central `level` intervals bracket.

    Of each voxel the closed form gives the probability that lies between the empirical quantiles of
    the draws; its mean is `level` for exact draws (up to (K - 1) / (K + 1)).
    """
    rows = reals(u)
    ends = torch.quantile(rows, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rows.dtype), dim=0)
    sd = truth.covariance.diagonal().sqrt()
    cdf = torch.special.ndtr((ends - truth.mean) / sd)
    return float((cdf[1] - cdf[0]).mean())
