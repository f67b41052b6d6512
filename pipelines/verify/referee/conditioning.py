"""Linear-Gaussian posteriors in closed form, by dense algebra in the space of the data.

For B and z of -log p(y | u) = |B u - z|^2 / 2 and a prior N(m, S):

    G = (B S B^H + I)^-1,    mean = m + S B^H G (z - B m),    covariance P = S - S B^H G B S

A complex S counts real components, and so does P: Cov(Re, Re) = Cov(Im, Im) = Re P, and
Cov(Re_i, Im_j) = -Im P_ij. Draws are those of Matheron's rule, with the same factor of B S B^H + I:

    u + S B^H G (z + n - B u),    u ~ N(m, S),  n white
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from operators.errors import type_error
from pipelines.verify.referee.truth import DOUBLE, FieldTruth, MixtureTruth, components_of, reals
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys

__all__ = ["Conditioned", "conditioned", "mixture_truth", "real_covariance"]

#: Entries of elements that are pushed through an operator at once.
CHUNK_ENTRIES = 2**17
#: Entries of u whose variance is computed at once.
CHUNK_COLUMNS = 1024


def real_covariance(matrix: Tensor) -> Tensor:
    """Return the covariance of the real components for a Hermitian `matrix` P; a real one as it is."""
    if not matrix.is_complex():
        return matrix
    rows = torch.stack(
        [torch.stack([matrix.real, -matrix.imag], -1), torch.stack([matrix.imag, matrix.real], -1)], -2
    )
    # (i, j, part of i, part of j) -> (2 i + part, 2 j + part)
    return rows.permute(0, 2, 1, 3).reshape(2 * matrix.shape[0], 2 * matrix.shape[1])


@dataclass(frozen=True)
class Conditioned:
    """A Gaussian posterior over real components; its covariance is that of a `patch`."""

    mean: Tensor
    sd: Tensor
    patch: Tensor
    covariance: Tensor
    draws: Callable[[int, int], Tensor]

    @property
    def truth(self) -> FieldTruth:
        """The same as a truth."""
        return FieldTruth(self.mean, self.sd, self.patch, self.covariance, self.draws)


def conditioned(posterior: Posterior, entries: Tensor | None = None) -> Conditioned:
    """Return a linear-Gaussian posterior; its covariance for the `entries` of u, flat indices, or all.

    Meanwhile 2 m^2 + m n numbers are held for m data, afterwards a Cholesky factor of m^2.
    """
    prior, space = posterior.prior, posterior.space
    operator, z = posterior.measured.whitened
    if not isinstance(prior, Gaussian):
        raise type_error("posterior.prior", "be a Gaussian", type(prior).__name__)
    if operator.codomain.is_complex != space.is_complex or (space.is_complex and not operator.over_complex):
        raise type_error("operator", "be linear over the numbers that u is made of", repr(operator))
    chosen = torch.arange(space.size) if entries is None else entries
    like = torch.empty(0, dtype=space.dtype_like(DOUBLE))
    count, step = operator.codomain.size, max(1, CHUNK_ENTRIES // max(space.size, operator.codomain.size))

    # Row j is S B^H e_j: the transpose of S B^H, and the conjugate of B S.
    seen = like.new_empty(count, space.size)
    system = like.new_empty(count, count)
    for start in range(0, count, step):
        stop = min(start + step, count)
        unit = like.new_zeros(stop - start, count)
        unit[torch.arange(stop - start), torch.arange(start, stop)] = 1
        spread = prior.covariance_product(operator.apply_adjoint(unit.reshape(-1, *operator.codomain.shape)))
        seen[start:stop] = spread.flatten(1)
        system[start:stop] = operator.apply(spread).flatten(1)
    system.conj_physical_().diagonal().add_(1)
    factor = torch.linalg.cholesky(system)
    del system

    middle = prior.mean_like(like)
    residual = (z.to(like.dtype) - operator.apply(middle[None])[0]).flatten()[:, None]
    mean = middle.flatten() + (seen.T @ torch.cholesky_solve(residual, factor))[:, 0]
    variance = prior.marginal_sd().double().square().flatten()
    for first in range(0, space.size, CHUNK_COLUMNS):
        part = slice(first, first + CHUNK_COLUMNS)
        explained = torch.linalg.solve_triangular(factor, seen[:, part].conj(), upper=False)
        variance[part] -= explained.abs().square().sum(0)
    unit = torch.nn.functional.one_hot(chosen, space.size).to(like.dtype)
    before = prior.covariance_product(unit.reshape(-1, *space.shape)).flatten(1)[:, chosen].T
    explained = torch.linalg.solve_triangular(factor, seen[:, chosen].conj(), upper=False)
    after = before - explained.mH @ explained
    return Conditioned(
        reals(mean[None])[0],
        variance.sqrt().repeat_interleave(2 if space.is_complex else 1),
        components_of(chosen, space),
        real_covariance((after + after.mH) / 2),
        partial(_drawn, posterior, factor),
    )


def _drawn(posterior: Posterior, factor: Tensor, count: int, seed: int) -> Tensor:
    operator, z = posterior.measured.whitened
    prior, keys = cast(Gaussian, posterior.prior), Keys(seed, tuple(range(count)))
    u = prior.draw(keys, like=DOUBLE)
    noise = keys.normals(operator.codomain.shape, "referee: noise", like=z)
    short = (z + noise - operator.apply(u)).flatten(1)
    solved = torch.cholesky_solve(short.T, factor).T.reshape(-1, *operator.codomain.shape)
    return reals(u + prior.covariance_product(operator.apply_adjoint(solved.contiguous())))


def mixture_truth(posterior: Posterior) -> MixtureTruth:
    """Return the truth of a mixture prior under a linear-Gaussian likelihood."""
    prior = posterior.prior
    if not isinstance(prior, GaussianMixture):
        raise type_error("posterior.prior", "be a GaussianMixture", repr(prior))
    found, size = prior.conditioned(posterior.measured), prior.space.size
    unit = torch.eye(size, dtype=prior.space.dtype_like(DOUBLE)).reshape(-1, *prior.space.shape)
    means, covariances = [], []
    for component in found.components:
        # Row j is S e_j, column j of S.
        matrix = component.covariance_product(unit).flatten(1).T
        covariances.append(real_covariance((matrix + matrix.mH) / 2))
        means.append(reals(component.mean_like(unit)[None])[0])
    return MixtureTruth(found.weights, torch.stack(means), torch.stack(covariances))
