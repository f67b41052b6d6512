"""A model of intensities |M u|^2 with noise and a Gaussian prior: nonlinear, and all of it by hand.

residual   (y - |M u|^2) / sigma,      force   2 M^T (M u * residual) / sigma
closest    by Newton, uphill directions reversed:  |H| p = force + (c - u) / r^2,
           H = 2 M^T diag(2 (M u)^2 / sigma - residual) M / sigma + 1 / r^2
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from operators.errors import type_error
from operators.phase_retrieval import PhaseRetrieval
from pipelines.verify.referee.laws.dense import DenseModel
from pipelines.verify.referee.laws.model import double_like, real_matrix
from pipelines.verify.referee.truth import reals
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys

__all__ = ["PhaseModel"]

#: Steps and halvings of one at most; a step that is this share of r is the last.
STEPS, HALVINGS, NOTHING = 30, 12, 1e-9
#: Of a height, relative.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class PhaseModel(DenseModel):
    """Its `matrix` is M, `measured` the intensities, `noise` their standard deviation."""

    convex: ClassVar[bool] = False

    @classmethod
    def of(cls, posterior: Posterior) -> PhaseModel:
        """Return the model of a posterior with a phase retrieval operator."""
        likelihood, prior = posterior.measured, posterior.prior
        operator, noise = likelihood.operator, likelihood.noise
        if not isinstance(operator, PhaseRetrieval) or not isinstance(prior, Gaussian):
            raise type_error("posterior", "have a PhaseRetrieval and a Gaussian prior", repr(posterior))
        if not isinstance(noise, GaussianNoise) or isinstance(noise.sigma, Tensor):
            raise type_error("noise", "be Gaussian of one sigma", repr(noise))
        root = real_matrix(prior.root)
        return cls(
            real_matrix(operator.inner),
            likelihood.data.double().flatten(),
            torch.ones(1, dtype=torch.float64),
            reals(prior.mean_like(double_like(posterior))[None]),
            (root @ root.T)[None],
            noise.sigma,
        )

    def residual(self, x: Tensor) -> Tensor:
        """Return (y - |M x|^2) / sigma."""
        return (self.measured - (x @ self.matrix.T) ** 2) / self.noise

    def force(self, x: Tensor) -> Tensor:
        """Return 2 M^T (M x * residual) / sigma."""
        return 2 * (x @ self.matrix.T * self.residual(x)) @ self.matrix / self.noise

    def curve(self, x: Tensor, v: Tensor) -> Tensor:
        """Return 4 M^T (M x)^2 M v / sigma^2."""
        return 4 * ((x @ self.matrix.T) ** 2 * (v @ self.matrix.T)) @ self.matrix / self.noise**2

    def closest(self, c: Tensor, r: float) -> Tensor:
        """Return the minimum downhill from c, by steps that are halved until they lead down."""
        x, going = c.clone(), torch.arange(len(c))
        for _ in range(STEPS):
            x[going], length = self._stepped(x[going], c[going], r)
            going = going[length > NOTHING * r]
            if len(going) == 0:
                break
        return x

    def _stepped(self, x: Tensor, c: Tensor, r: float) -> tuple[Tensor, Tensor]:
        """Return the next points, and how far each is from the last."""
        curved = (4 * (x @ self.matrix.T) ** 2 / self.noise - 2 * self.residual(x)) / self.noise
        gradient = (x - c) / r**2 - self.force(x)
        hessian = self.matrix.T @ (curved[:, :, None] * self.matrix)
        p = -downhill(hessian + torch.eye(self.size, dtype=x.dtype) / r**2, gradient)
        # The last steps change a height by less than its rounding.
        level, descent = self._height(x, c, r) * (1 + ROUNDING), (gradient * p).sum(1)
        share = torch.ones(len(x), dtype=x.dtype)
        for _ in range(HALVINGS):
            steep = self._height(x + share[:, None] * p, c, r) > level + 1e-4 * share * descent
            if not bool(steep.any()):
                break
            share = torch.where(steep, share / 2, share)
        move = torch.where(steep, 0.0, share)[:, None] * p
        return x + move, move.norm(dim=1)

    def _height(self, x: Tensor, c: Tensor, r: float) -> Tensor:
        apart = torch.cat([self.residual(x), (x - c) / r], 1)
        # A sum over few columns takes longer as such.
        return (apart * apart) @ apart.new_full((apart.shape[1],), 0.5)

    @cached_property
    def norm(self) -> float:
        """The root of the largest curvature at the point that DPS documents: the mean plus one deviation."""
        like = torch.empty(0, dtype=torch.float64)
        white = Keys(0, (0,)).normals((1, 1, self.size), "guidance: point like the prior's", like=like)
        start = self.denoise(torch.zeros(1, self.size, dtype=torch.float64), 100 * self.spread)
        point = start + self.spread * white.reshape(1, -1)
        slope = 2 * (point @ self.matrix.T).T * self.matrix / self.noise
        return float(torch.linalg.matrix_norm(slope, 2))


def downhill(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Return |H|^-1 g, by the eigenvectors where H is not positive definite."""
    factor, bent = torch.linalg.cholesky_ex(hessian)
    p = torch.cholesky_solve(gradient[:, :, None], factor)
    if bool((bent > 0).any()):
        values, vectors = torch.linalg.eigh(hessian[bent > 0])
        p[bent > 0] = vectors @ ((vectors.mT @ gradient[bent > 0, :, None]) / values.abs()[:, :, None])
    return p.squeeze(-1)
