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

    def to_u(self, v: Tensor) -> Tensor:
        """Return mean + R v."""
        if self.prior is None:
            return v
        return self.prior.mean_like(v) + self.prior.root.apply(v)
