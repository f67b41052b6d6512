"""A model of a Gaussian field too large for matrices: prior and operator are called, solves are its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from operators.linear import SVD
from pipelines.verify.referee.laws.model import Model, double_like
from pipelines.verify.referee.truth import from_reals, reals
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.gaussian import Gaussian

__all__ = ["FieldModel", "solved"]

#: Relative residual to which is solved.
SOLVED = 1e-12
#: Accuracy of a prox, in its own standard deviations.
SOLVED_PROX = 1e-5
MOST_ITERATIONS = 3000


class FieldModel(Model):
    """A Gaussian prior on an image; prior and operator are called, in double precision."""

    def __init__(self, posterior: Posterior) -> None:
        if not isinstance(posterior.prior, Gaussian):
            raise TypeError(f"a FieldModel needs a Gaussian prior, got {type(posterior.prior).__name__}")
        self._prior: Denoiser = posterior.prior
        self._likelihood = posterior.measured
        self._operator, z = self._likelihood.whitened
        self._data = reals(z[None])[0]
        space = posterior.space
        self._domain, self._codomain = space, self._operator.codomain
        self.size = space.size * (2 if space.is_complex else 1)
        self._mean = reals(posterior.prior.mean_like(double_like(posterior))[None])
        self.spread = posterior.prior.data_sd or 1.0

    def _x(self, rows: Tensor) -> Tensor:
        return from_reals(rows, self._domain)

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """Return E[x | z]."""
        return reals(self._prior.denoise(self._x(z), sigma))

    def pull(self, z: Tensor, sigma: float, v: Tensor) -> Tensor:
        """Return G v: the denoiser of a Gaussian is affine and symmetric."""
        del z
        return self.denoise(v + self._mean, sigma) - self._mean

    def forward(self, x: Tensor) -> Tensor:
        """Return B x."""
        return reals(self._operator.apply(self._x(x)))

    def back(self, r: Tensor) -> Tensor:
        """Return B^T r."""
        return reals(self._operator.apply_adjoint(from_reals(r, self._codomain)))

    @property
    def data(self) -> Tensor:
        """The whitened data."""
        return self._data

    @cached_property
    def norm(self) -> float:
        """The largest singular value, by powers of B^T B."""
        v = torch.ones(1, self.size, dtype=torch.float64)
        v[:, ::3] = -0.5
        value = 1.0
        for _ in range(300):
            v = self.back(self.forward(v / v.norm()))
            value = float(v.norm())
        return math.sqrt(value)

    def closest(self, c: Tensor, r: float) -> Tensor:
        """Return the prox of the likelihood, which is held against dense algebra by its own tests."""
        return reals(self._likelihood.prox(self._x(c), r, tolerance=SOLVED_PROX))

    @cached_property
    def _factors(self) -> SVD:
        return self._operator.svd()

    @property
    def singular(self) -> tuple[Tensor, Tensor]:
        """The s and U^T data, of complex coefficients both parts."""
        middle = self._factors.v.domain
        values = self._factors.s.double().expand(middle.shape).flatten()
        both = 2 if middle.is_complex else 1
        data = from_reals(self._data[None], self._codomain)
        return values.repeat_interleave(both), reals(self._factors.u.apply_adjoint(data))[0]

    def to_singular(self, x: Tensor) -> Tensor:
        """Return V^H x, of complex coefficients both parts."""
        return reals(self._factors.v.apply_adjoint(self._x(x)))

    def from_singular(self, x: Tensor) -> Tensor:
        """Return V x."""
        return reals(self._factors.v.apply(from_reals(x, self._factors.v.domain)))

    def exact_force(self, z: Tensor, sigma: float, x: Tensor) -> Tensor:
        """Return B^T (I + B C B^T)^-1 (data - B x) by conjugate gradients in the space of the data."""

        def seen(v: Tensor) -> Tensor:
            return v + sigma**2 * self.forward(self.pull(z, sigma, self.back(v)))

        return self.back(solved(seen, self.residual(x)))


def solved(apply: Callable[[Tensor], Tensor], side: Tensor, relative: float = SOLVED) -> Tensor:
    """Return G^-1 side per row by plain conjugate gradients (Hestenes and Stiefel 1952)."""
    x, r = torch.zeros_like(side), side.clone()
    p, energy = r.clone(), (r * r).sum(1, keepdim=True)
    goal = relative**2 * energy
    for _ in range(MOST_ITERATIONS):
        if bool((energy <= goal).all()):
            return x
        image = apply(p)
        step = torch.where(energy > goal, energy / (p * image).sum(1, keepdim=True), 0.0)
        x, r = x + step * p, r - step * image
        fresh = (r * r).sum(1, keepdim=True)
        p = r + torch.where(energy > goal, fresh / energy, 0.0) * p
        energy = torch.where(energy > goal, fresh, energy)
    return x
