"""A model of a Gaussian field too large for matrices: prior and operator are called, solves are its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from operators.linear import SVD
from pipelines.verify.referee.laws.model import Model, double_like, noise_of
from pipelines.verify.referee.truth import from_reals, reals
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.gaussian import Gaussian

__all__ = ["FieldModel", "solved"]

#: Relative residual to which is solved.
SOLVED = 1e-12
#: Powers of B^T B that its largest eigenvalue is found from.
KRYLOV = 100
#: Columns of B B^H that are made at once.
CHUNK = 256
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
        self.noise = noise_of(posterior)

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
        """The largest singular value: that of B^T B on the span of its powers of one vector, orthonormal."""
        v = torch.ones(self.size, dtype=torch.float64)
        v[::3] = -0.5
        basis: list[Tensor] = []
        images: list[Tensor] = []
        for _ in range(min(KRYLOV, self.size)):
            for _twice in range(2):
                for known in basis:
                    v = v - (known @ v) * known
            if float(v.norm()) < 1e-12:
                break
            basis.append(v / v.norm())
            v = self.back(self.forward(basis[-1][None]))[0]
            images.append(v)
        projected = torch.stack(basis) @ torch.stack(images).T
        return math.sqrt(float(torch.linalg.eigvalsh((projected + projected.T) / 2)[-1]))

    def closest(self, c: Tensor, r: float) -> Tensor:
        """Return c + r^2 B^H (I + r^2 B B^H)^-1 (data - B c), by the eigenvectors of B B^H."""
        if self._operator.has_closed_form:
            return reals(self._likelihood.prox(self._x(c), r))
        values, vectors = self._data_gram
        rows = from_reals(self.residual(c), self._codomain).flatten(1)
        scaled = (rows @ vectors.conj()) * (r**2 / (1 + r**2 * values)) @ vectors.mT
        return c + self.back(reals(scaled))

    @cached_property
    def _data_gram(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of B B^H, complex where data and image are."""
        size = self._codomain.size
        kind = torch.complex128 if self._codomain.is_complex else torch.float64
        columns = []
        for start in range(0, size, CHUNK):
            eye = torch.zeros(min(CHUNK, size - start), size, dtype=kind)
            eye[:, start:].fill_diagonal_(1)
            back = self._operator.apply_adjoint(eye.reshape(-1, *self._codomain.shape))
            columns.append(self._operator.apply(back).flatten(1))
        # Row j is B B^H e_j: the transpose of the matrix.
        values, vectors = torch.linalg.eigh(torch.cat(columns).mT)
        return values.clamp(min=0), vectors

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
