"""The law of a chain z' = M z + c + sd w, which a Gaussian prior makes of many solvers, by dense algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tests.problems import Dense, dense_answer, real_matrix, reals
from workbench.integration.levels import sigma_of
from workbench.posterior import Posterior
from workbench.solvers.descent import Descent

#: M, c and sd of one step.
Step = tuple[Tensor, Tensor, float]


@dataclass(frozen=True)
class Level:
    """D(z) = shrink z + rest at `sigma`, on the way to `after`; real components throughout."""

    sigma: float
    after: float
    shrink: Tensor
    rest: Tensor
    matrix: Tensor
    data: Tensor
    spread: float

    @property
    def eye(self) -> Tensor:
        return torch.eye(len(self.rest), dtype=torch.float64)

    @property
    def left(self) -> float:
        """r^2 of x given z for an isotropic Gaussian prior of the same spread."""
        return 1 / (1 / self.sigma**2 + 1 / self.spread**2)

    def prox(self, variance: float) -> tuple[Tensor, Tensor]:
        """Return P, p of the prox of D(z), P z + p."""
        inverse = torch.linalg.inv(self.matrix.T @ self.matrix + self.eye / variance)
        return inverse @ self.shrink / variance, inverse @ (self.matrix.T @ self.data + self.rest / variance)


def sigmas_of(posterior: Posterior, solver: Descent) -> list[float]:
    """Return the levels, the last of them 0."""
    if solver.levels is None:
        return [*(row.number("sigma") for row in solver.plan(posterior)), 0.0]
    return [sigma_of(time) for time in solver.levels.times(solver.steps)]


def law_of(posterior: Posterior, solver: Descent, step: Callable[[Level], Step]) -> Dense:
    """Return mean and covariance at the end of a chain begun at noise of the first level."""
    b, z = posterior.measured.whitened
    matrix, data = real_matrix(b), reals(z[None])[0]
    root = real_matrix(posterior.prior.root)
    s = root @ root.T
    eye = torch.eye(len(s), dtype=torch.float64)
    middle = reals(posterior.prior.mean[None])[0]
    spread = float(s.diagonal().mean()) ** 0.5
    sigmas = sigmas_of(posterior, solver)
    mean, covariance = torch.zeros(len(s), dtype=torch.float64), sigmas[0] ** 2 * eye
    for sigma, after in pairwise(sigmas):
        shrink = torch.linalg.solve(s + sigma**2 * eye, s)
        level = Level(sigma, after, shrink, (eye - shrink) @ middle, matrix, data, spread)
        m, c, sd = step(level)
        mean, covariance = m @ mean + c, m @ covariance @ m.T + sd**2 * eye
    return Dense(mean, (covariance + covariance.T) / 2)


def errors(posterior: Posterior, law: Dense) -> tuple[float, float]:
    """Return the error of the mean in posterior standard deviations and the ratio of the traces."""
    truth = dense_answer(posterior)
    total = truth.covariance.trace()
    return float((law.mean - truth.mean).norm() / total.sqrt()), float(law.covariance.trace() / total)
