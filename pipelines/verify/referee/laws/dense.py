"""A model written out as matrices, by torch.linalg alone: no closed form of ours takes part.

E[x | z] = sum_k r_k D_k,    D_k = m_k + G_k (z - m_k),    G_k = S_k (S_k + sigma^2 I)^-1
J v = sum_k r_k G_k v + sum_k r_k <D_k, v> (l_k - l),    l_k = (D_k - z) / sigma^2,    l = sum_k r_k l_k
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipelines.verify.referee.laws.model import Model, double_like, noise_of, real_matrix
from pipelines.verify.referee.truth import reals
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.priors.mixture import GaussianMixture

__all__ = ["DenseModel"]

#: Rows whose covariances are in memory at once.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class DenseModel(Model):
    """B (m, n) and a mixture of Gaussians: weights (k,), means (k, n), covariances (k, n, n) as matrices."""

    matrix: Tensor
    measured: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor
    noise: float = math.nan

    @classmethod
    def of(cls, posterior: Posterior) -> DenseModel:
        """Return the model of a linear-Gaussian posterior with a Gaussian or mixture prior."""
        prior = posterior.prior
        parts = prior.components if isinstance(prior, GaussianMixture) else (prior,)
        weights = prior.weights if isinstance(prior, GaussianMixture) else torch.ones(1, dtype=torch.float64)
        roots, means = [], []
        for part in parts:
            if not isinstance(part, Gaussian):
                raise TypeError(f"a DenseModel needs Gaussians, got {type(part).__name__}")
            roots.append(real_matrix(part.root))
            means.append(reals(part.mean_like(double_like(posterior))[None])[0])
        b, z = posterior.measured.whitened
        covariances = torch.stack([root @ root.T for root in roots])
        noise = noise_of(posterior)
        return cls(real_matrix(b), reals(z[None])[0], weights, torch.stack(means), covariances, noise)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of real components."""
        return self.matrix.shape[1]

    @cached_property
    def spread(self) -> float:  # type: ignore[override]
        """Root mean square of the standard deviations of the components of x."""
        mean = self.weights @ self.means
        second = (self.covariances.diagonal(dim1=1, dim2=2) + (self.means - mean) ** 2).mean(1)
        return float((self.weights @ second).sqrt())

    @cached_property
    def _eigen(self) -> list[tuple[Tensor, Tensor]]:
        return [tuple(torch.linalg.eigh(c)) for c in self.covariances]

    def _parts(self, z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the responsibilities (K, k) and D_k (K, k, n)."""
        if self._alike:
            return self._parts_alike(z, sigma)
        logs, means = [], []
        for weight, mean, (values, vectors) in zip(self.weights, self.means, self._eigen, strict=True):
            total = values.clamp(min=0) + sigma**2
            coordinates = (z - mean) @ vectors
            logs.append(weight.log() - 0.5 * (coordinates**2 / total + total.log()).sum(1))
            means.append(mean + (coordinates * values.clamp(min=0) / total) @ vectors.T)
        return torch.softmax(torch.stack(logs, 1), 1), torch.stack(means, 1)

    @cached_property
    def _alike(self) -> bool:
        """Whether all have the same covariance."""
        return all(torch.equal(covariance, self.covariances[0]) for covariance in self.covariances)

    def _parts_alike(self, z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the same where G_k is one G: D_k = G z + (m_k - G m_k) costs two products for all k."""
        values, vectors = self._eigen[0]
        total = values.clamp(min=0) + sigma**2
        there, centres = z @ vectors, self.means @ vectors
        logs = self.weights.log() - 0.5 * ((there[:, None] - centres) ** 2 / total).sum(2)
        gain = values.clamp(min=0) / total
        means = ((there * gain) @ vectors.T)[:, None] + (self.means - (centres * gain) @ vectors.T)
        return torch.softmax(logs, 1), means

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """Return E[x | z]."""
        share, means = self._parts(z, sigma)
        return (share[..., None] * means).sum(1)

    def pull(self, z: Tensor, sigma: float, v: Tensor) -> Tensor:
        """Return J^T v."""
        share, means = self._parts(z, sigma)
        slopes = (means - z[:, None]) / sigma**2
        centre = (share[..., None] * slopes).sum(1, keepdim=True)
        along = (means * v[:, None]).sum(2)
        total = ((share * along)[..., None] * (slopes - centre)).sum(1)
        for k, (values, vectors) in enumerate(self._eigen[:1] if self._alike else self._eigen):
            shrunk = (v @ vectors) * values.clamp(min=0) / (values.clamp(min=0) + sigma**2)
            total = total + (1.0 if self._alike else share[:, k : k + 1]) * (shrunk @ vectors.T)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """Return B x."""
        return x @ self.matrix.T

    def back(self, r: Tensor) -> Tensor:
        """Return B^T r."""
        return r @ self.matrix

    @property
    def data(self) -> Tensor:
        """The whitened data."""
        return self.measured

    @cached_property
    def norm(self) -> float:
        """The largest singular value."""
        return float(torch.linalg.matrix_norm(self.matrix, 2))

    @cached_property
    def gram(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of B^T B."""
        values, vectors = torch.linalg.eigh(self.matrix.T @ self.matrix)
        return values.clamp(min=0), vectors

    def closest(self, c: Tensor, r: float) -> Tensor:
        """Return the prox through the eigenvectors of B^T B."""
        values, vectors = self.gram
        side = (self.measured @ self.matrix + c / r**2) @ vectors
        return (side / (values + 1 / r**2)) @ vectors.T

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vt = torch.linalg.svd(self.matrix, full_matrices=True)
        values, coordinates = self.matrix.new_zeros(2, self.size)
        values[: len(s)], coordinates[: len(s)] = s, (u.T @ self.measured)[: len(s)]
        return vt, values, coordinates

    @property
    def singular(self) -> tuple[Tensor, Tensor]:
        """The s and U^T data."""
        return self._factors[1:]

    def to_singular(self, x: Tensor) -> Tensor:
        """Return V^T x."""
        return x @ self._factors[0].T

    def from_singular(self, x: Tensor) -> Tensor:
        """Return V x."""
        return x @ self._factors[0]

    def exact_force(self, z: Tensor, sigma: float, x: Tensor) -> Tensor:
        """Return B^T (I + B C B^T)^-1 (data - B x), by one matrix per row where the prior is a mixture."""
        rows, eye = self.residual(x), torch.eye(len(self.matrix), dtype=torch.float64)
        if len(self.weights) == 1:
            covariance = sigma**2 * self.pull(
                torch.zeros_like(self.means), sigma, torch.eye(self.size).double()
            )
            force: Tensor = torch.linalg.solve(eye + self.matrix @ covariance @ self.matrix.T, rows.T).T
            return force @ self.matrix
        solved = []
        for start in range(0, len(z), CHUNK):
            part = slice(start, start + CHUNK)
            # Column j of B C: C is symmetric, and J^T applied to the rows of B gives them all.
            columns = [self.pull(z[part], sigma, row.expand(len(z[part]), -1)) for row in self.matrix]
            seen = sigma**2 * torch.stack(columns, 1) @ self.matrix.T
            solved.append(torch.linalg.solve(eye + seen, rows[part, :, None])[..., 0])
        return torch.cat(solved) @ self.matrix
