"""The linear-Gaussian posterior as one linear system in coordinates where the prior is white.

    u = mean + R v,  v ~ N(0, I),  z = B u + n,  n ~ N(0, I)
    v | y ~ N(M^H d, .) solved:   (M^H M + I) v = M^H d,    M = B R,   d = z - B mean

A prior N(mean, S) with S = R R^H costs no inverse of S this way, and one that does not vary in some
directions is welcome. Every eigenvalue of M^H M + I is at least 1: a residual bounds the error of v.
A flat prior has no R: then M = B, without the I.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from operators.linear import LinearOperator
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian

__all__ = ["GaussianSystem"]


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

    def right_side(self, batch: int, data_noise: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> Tensor:
        """Return M^H (d + data_noise) + noise for `batch` draws."""
        data = (self.data + data_noise).expand(batch, *self.data.shape)
        return self.matrix.apply_adjoint(data) + noise

    def apply(self, v: Tensor) -> Tensor:
        """Return (M^H M + ridge I) v."""
        image = self.matrix.gram.apply(v)
        return image + self.ridge * v if self.ridge else image

    def to_u(self, v: Tensor) -> Tensor:
        """Return mean + R v."""
        if self.prior is None:
            return v
        return self.prior.mean_like(v) + self.prior.root.apply(v)
