"""Problems whose operators know their singular values, in dense real matrices of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from operators.diagonal import Diagonal
from operators.fourier import Fourier
from operators.linear import LinearOperator
from operators.mask import Mask
from operators.matrix import Matrix
from operators.mri.cartesian import CartesianGeometry
from operators.space import Space
from tests.problems import UNITS, Dense, grid_of, operator_of, prior_on, real_matrix, reals
from tests.solver_contract import PoisonedDenoiser
from workbench.driver import sample
from workbench.integration import Karras
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.plan import SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys
from workbench.solvers.base import Solver
from workbench.units import Units

LEVELS = Karras(20.0, 0.05)
LIKE = torch.empty(0, dtype=torch.float64)


def single_coil(size: int) -> LinearOperator:
    """Return undersampled k-space of complex images, in a list."""
    transform = CartesianGeometry.around(grid_of(size)).operator(grid_of(size))
    index = torch.arange(size)
    lines = (index % 3 == 0) | ((index - size // 2).abs() < 2)
    return Mask(transform.codomain, lines[:, None].expand(1, size, size), restrict=True) @ transform


def wide_matrix(size: int) -> LinearOperator:
    """Return a matrix with fewer rows than columns and singular values from 1 to 0.05."""
    space = Space.field(grid_of(size))
    rows = space.size // 2
    white = Keys(3, (0,)).normals((rows, space.size), "test: matrix", like=LIKE)[0]
    u, _, vh = torch.linalg.svd(white, full_matrices=False)
    return Matrix(space, Space((rows,)), u * torch.logspace(0, -1.3, rows, dtype=torch.float64) @ vh)


def mixed_matrix(size: int) -> LinearOperator:
    """Return a matrix from real images to fewer complex numbers."""
    space = Space.field(grid_of(size))
    white = Keys(3, (0,)).normals((space.size // 3, space.size), "test: mixed", like=LIKE.cdouble())[0]
    return Matrix(space, Space((space.size // 3,), is_complex=True), white / space.size**0.5)


def turned_frequencies(size: int) -> LinearOperator:
    """Return some frequencies of complex images whose phases were turned before, times a factor."""
    space = Space.field(grid_of(size), is_complex=True)
    angle = torch.arange(size**2, dtype=torch.float64).reshape(size, size)
    phases = Diagonal(space, torch.polar(torch.ones_like(angle), angle))
    return 0.5j * (Mask(space, angle % 3 > 0, restrict=True) @ Fourier(space) @ phases)


OPERATORS = {
    "matrix": wide_matrix,
    "mixed": mixed_matrix,
    "single coil": single_coil,
    "turned": turned_frequencies,
}


def case(name: str, size: int = 6, share: float = 0.05, *, scales: bool = False) -> Posterior:
    """Return a posterior with data drawn from its own model, noise of `share` of the largest datum.

    With `scales`, noise has a different sd for every datum.
    """
    operator = OPERATORS[name](size) if name in OPERATORS else operator_of(name, size)
    prior = prior_on(operator.domain, UNITS)
    like = LIKE.to(operator.domain.dtype_like(LIKE))
    clean = operator(UNITS.physical(prior.draw(Keys(1, (0,)), like=like)))
    level = share * float(clean.abs().max())
    ramp = torch.linspace(1.0, 2.0, clean[0].numel(), dtype=torch.float64).reshape(clean[0].shape)
    noise = GaussianNoise(level * ramp if scales else level)
    return Posterior(prior, Likelihood(operator, noise, noise.draw(clean, Keys(2, (0,)))[0]))


def tomography() -> Posterior:
    """Return a problem whose operator knows neither singular values nor a pseudo-inverse."""
    operator = operator_of("ct", 8)
    data = torch.zeros(operator.codomain.shape, dtype=torch.float64)
    # Without an offset, whose projection would have to be computed.
    return Posterior(prior_on(operator.domain, Units()), Likelihood(operator, GaussianNoise(0.1), data))


def in_single_precision(posterior: Posterior) -> Posterior:
    """Return the same problem with data in single precision."""
    likelihood = posterior.physical_likelihood
    assert likelihood is not None
    data = likelihood.data.to(torch.complex64 if likelihood.data.is_complex() else torch.float32)
    return Posterior(posterior.prior, Likelihood(likelihood.operator, likelihood.noise, data))


@dataclass(frozen=True)
class Reals:
    """B = u diag(s) v^T and z between real components; s with zeros for what is not measured."""

    u: Tensor
    s: Tensor
    v: Tensor
    b: Tensor
    z: Tensor
    prior: Dense

    @classmethod
    def of(cls, posterior: Posterior, worth: float = 0.0) -> Reals:
        """Return them, s < `worth` / (the prior's spread) as zero."""
        operator, data = posterior.measured.whitened
        b = real_matrix(operator)
        u, s, vh = torch.linalg.svd(b, full_matrices=True)
        n = b.shape[1]
        values = torch.zeros(n, dtype=torch.float64)
        left = torch.zeros(len(b), n, dtype=torch.float64)
        left[:, : len(s)] = u[:, : len(s)]
        root = real_matrix(posterior.prior.root)  # type: ignore[attr-defined]
        middle = reals(posterior.prior.mean[None])[0]  # type: ignore[attr-defined]
        spread = float(root.square().sum(1).mean() ** 0.5)
        values[: len(s)] = torch.where((s > 1e-10 * s[0]) & (s * spread >= worth), s, 0.0)
        return cls(left, values, vh.T, b, reals(data[None])[0], Dense(middle, root @ root.T))

    @property
    def known(self) -> int:
        return int((self.s > 0).sum())

    def denoised(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Return G and h of D = G z + h."""
        eye = torch.eye(len(self.prior.mean), dtype=torch.float64)
        shrink = self.prior.covariance @ torch.linalg.inv(self.prior.covariance + sigma**2 * eye)
        return shrink, (eye - shrink) @ self.prior.mean


@dataclass(frozen=True)
class Affine:
    """z' = matrix z + shift + root w."""

    matrix: Tensor
    shift: Tensor
    root: Tensor

    def of(self, law: Dense) -> Dense:
        covariance = self.matrix @ law.covariance @ self.matrix.T + self.root @ self.root.T
        return Dense(self.matrix @ law.mean + self.shift, (covariance + covariance.T) / 2)


def drawn(posterior: Posterior, solver: Solver[object], draws: int, seed: int = 4) -> Tensor:
    """Return draws of u."""
    return posterior.from_physical(sample(posterior, solver, draws=draws, seed=seed).tensor())


def poisoned_prior(posterior: Posterior, after: int) -> Posterior:
    """Return the problem with a prior that gives NaN `after` calls from now."""
    bad = PoisonedDenoiser(posterior.prior, after)  # type: ignore[arg-type]
    return Posterior(bad, posterior.physical_likelihood, units=posterior.units)


def against(law: Dense, truth: Dense) -> tuple[float, float]:
    """Return the error of the mean in posterior sd, rms, and the ratio of total variances."""
    gap = (law.mean - truth.mean) / truth.covariance.diagonal().sqrt()
    return float(gap.square().mean().sqrt()), float(law.covariance.trace() / truth.covariance.trace())


def levels_of(plan: SolverPlan) -> list[tuple[float, float]]:
    return [(row.number("sigma"), row.number("next_sigma")) for row in plan]
