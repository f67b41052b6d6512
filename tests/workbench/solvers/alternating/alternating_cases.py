"""What tests of DAPS and PnP-DM share: a Gaussian problem as matrices, and one draw of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.problems import real_matrix, reals
from workbench.driver import sample
from workbench.posterior import Posterior
from workbench.solvers.alternating.langevin import Langevin
from workbench.solvers.base import Solver

__all__ = ["LIKE", "Matrices", "answer", "poly"]

LIKE = torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class Matrices:
    """B and its data, mean and covariance of the prior, over real components."""

    b: Tensor
    data: Tensor
    mean: Tensor
    covariance: Tensor
    eye: Tensor

    @classmethod
    def of(cls, posterior: Posterior) -> Matrices:
        b, z = posterior.measured.whitened
        root = real_matrix(posterior.prior.root)  # type: ignore[attr-defined]
        mean = reals(posterior.prior.mean[None])[0]  # type: ignore[attr-defined]
        eye = torch.eye(len(root), dtype=torch.float64)
        return cls(real_matrix(b), reals(z[None])[0], mean, root @ root.T, eye)

    @property
    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.b, 2))

    @property
    def variance(self) -> float:
        return float(self.covariance.diagonal().mean())

    def drawn(self, inner: Langevin | None, square: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return N, n and C of a draw N c + n + noise of covariance C, of N(c, square) x likelihood."""
        precision = self.b.T @ self.b + self.eye / square
        if inner is None:
            inverse = torch.linalg.inv(precision)
            return inverse / square, inverse @ self.b.T @ self.data, inverse
        length = inner.fraction / (1 / square + self.norm**2)
        step, near = self.eye - length * precision, self.eye
        shift, spread = 0 * self.eye[0], 0 * self.eye
        for _ in range(inner.steps):
            near = step @ near + length / square * self.eye
            shift = step @ shift + length * self.b.T @ self.data
            spread = step @ spread @ step.T + 2 * length * self.eye
        return near, shift, spread


def answer(posterior: Posterior, solver: Solver[Any], draws: int, seed: int = 4) -> Tensor:
    """Return draws in units of the prior."""
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def poly(first: float, last: float, count: int) -> list[float]:
    """Return `count` levels whose seventh roots are evenly spaced, and 0."""
    ends = (first ** (1 / 7), last ** (1 / 7))
    return [(ends[0] + i / max(count - 1, 1) * (ends[1] - ends[0])) ** 7 for i in range(count)] + [0.0]
