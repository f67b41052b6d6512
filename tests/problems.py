"""Posteriors whose answer is known in closed form, and that answer by dense linear algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.blur import Blur, GaussianPSF
from operators.ct import ParallelBeamGeometry
from operators.diagonal import Diagonal
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys
from workbench.units import Units

PROBLEMS = ("blur", "mask", "ct", "coils")
#: Physical images are about SCALE u + OFFSET: an attenuation in 1/mm, say.
UNITS = Units(scale=0.005, offset=0.02, unit="1/mm")


def grid_of(size: int) -> Grid:
    return Grid.plane((size, size), 2.0)


def prior_on(space: Space, units: Units = UNITS) -> SpectralGaussian:
    """Return a smooth prior of sd 1 whose high frequencies do not vanish."""
    size = space.shape[-1]
    freq = torch.fft.fftfreq(size, dtype=torch.float64)
    square = freq[:, None] ** 2 + freq[None, :] ** 2
    power = 1 / (1 + (square * (0.15 * size) ** 2)) ** 1.5 + 0.01
    power = power / power.mean()
    return SpectralGaussian(space, 0.3, power[None].expand(1, size, size), units=units)


def operator_of(name: str, size: int) -> LinearOperator:
    """Return A, on physical images."""
    grid = grid_of(size)
    if name == "blur":
        return Blur(Space.field(grid), GaussianPSF(6.0), "periodic")
    if name == "mask":
        kept = Keys(5, (0,)).uniforms((1, size, size), "mask", like=torch.empty(0))[0] < 0.5
        return Diagonal(Space.field(grid), kept.double())
    if name == "ct":
        return ParallelBeamGeometry.around(grid, 20 if size >= 32 else 6).operator(grid)
    space = Space.field(grid, is_complex=True)
    index = torch.arange(size, dtype=torch.float64) / size
    centres = [(0.1, 0.2), (0.8, 0.3), (0.5, 0.9)]
    maps = torch.stack(
        [
            torch.exp(-2 * ((index[:, None] - y) ** 2 + (index[None, :] - x) ** 2))
            * torch.exp(1j * math.pi * (y + index))
            for y, x in centres
        ]
    )[:, None]
    transform = CartesianGeometry.around(grid).operator(grid, components=(3,))
    lines = (torch.arange(size) % 2 == 0) | ((torch.arange(size) - size // 2).abs() < 3)
    sampled = Diagonal(transform.codomain, lines.double()[:, None].expand(3, 1, size, size))
    return sampled @ transform @ Coils(space, maps)


def posterior_of(
    name: str,
    size: int = 8,
    *,
    dtype: torch.dtype = torch.float64,
    sigma: float | None = None,
    units: Units = UNITS,
) -> Posterior:
    """Return a posterior with data drawn from its own model; `units` only rename what is measured."""
    operator = operator_of(name, size)
    prior = prior_on(operator.domain, units)
    truth = UNITS.physical(prior.draw(Keys(1, (0,)), like=_like(operator.domain)))
    clean = operator(truth)
    level = 0.05 * float(clean.abs().max()) if sigma is None else sigma
    noise = GaussianNoise(level)
    data = noise.draw(clean, Keys(2, (0,)))[0]
    # The same physics in other units: x' = f x is measured by A / f.
    factor = units.scale / UNITS.scale
    scaled = operator if factor == 1 else operator / factor
    kind = data.to(torch.complex64 if data.is_complex() else torch.float32)
    return Posterior(prior, Likelihood(scaled, noise, data if dtype == torch.float64 else kind))


def _like(space: Space) -> Tensor:
    return torch.empty(0, dtype=torch.complex128 if space.is_complex else torch.float64)


@dataclass(frozen=True)
class Dense:
    """Mean and a root of the covariance of u, over the real components of u."""

    mean: Tensor
    covariance: Tensor

    def whitened(self, u: Tensor) -> Tensor:
        """Return L^-1 (u - mean) for rows u: independent standard normals if u are exact draws."""
        factor = torch.linalg.cholesky(self.covariance)
        return torch.linalg.solve_triangular(factor, (reals(u) - self.mean).T, upper=False).T


def reals(u: Tensor) -> Tensor:
    """Return rows of real numbers out of (batch, ...)."""
    return (torch.view_as_real(u) if u.is_complex() else u).double().flatten(1)


def real_matrix(op: LinearOperator) -> Tensor:
    """Return the matrix of `op` between real components."""
    size = op.domain.size
    if not op.domain.is_complex:
        return reals(op(torch.eye(size, dtype=torch.float64).reshape(size, *op.domain.shape))).T
    unit = torch.eye(size, dtype=torch.complex128)
    both = torch.stack([unit, 1j * unit], dim=1).reshape(2 * size, *op.domain.shape)
    return reals(op(both)).T


def dense_answer(posterior: Posterior) -> Dense:
    """Return the closed-form posterior of u."""
    b, z = posterior.measured.whitened
    prior = posterior.prior
    root, matrix = real_matrix(prior.root), real_matrix(b)
    mean = reals(prior.mean_like(_like(posterior.space))[None])[0]
    m = matrix @ root
    precision = m.T @ m + torch.eye(m.shape[1], dtype=torch.float64)
    v = torch.linalg.solve(precision, m.T @ (reals(z[None])[0] - matrix @ mean))
    covariance = root @ torch.linalg.inv(precision) @ root.T
    return Dense(mean + root @ v, (covariance + covariance.T) / 2)


def require_standard_normal(t: Tensor) -> None:
    """Fail unless the rows of `t` (draws, n) look like independent standard normals, at five sigma.

    Three statistics, each with its law under that hypothesis: the mean (K |mean|^2 is chi-square of n),
    the total variance (chi-square of K n), and all correlations at once (|T^T T / K - I|_F^2).
    """
    count, n = t.shape
    mean = (count * t.mean(0).square().sum() - n) / (2 * n) ** 0.5
    assert abs(float(mean)) < 5, f"mean: {float(mean):.1f} sigma"
    variance = (t.square().sum() - count * n) / (2 * count * n) ** 0.5
    assert abs(float(variance)) < 5, f"variance: {float(variance):.1f} sigma"
    gram = t.T @ t / count - torch.eye(n, dtype=t.dtype)
    off = gram.square().sum() - gram.diagonal().square().sum()
    # n (n - 1) / 2 entries twice, each of variance 1 / K: twice a chi-square over K.
    pairs = n * (n - 1) / 2
    correlation = (count * off / 2 - pairs) / (2 * pairs) ** 0.5
    assert abs(float(correlation)) < 5 + n / count**0.5, f"correlations: {float(correlation):.1f} sigma"


def coverage(u: Tensor, truth: Dense, level: float) -> float:
    """Return the share of true marginal quantiles that the draws' central `level` intervals bracket.

    Of each voxel the closed form gives the probability that lies between the empirical quantiles of
    the draws; its mean is `level` for exact draws (up to (K - 1) / (K + 1)).
    """
    rows = reals(u)
    ends = torch.quantile(rows, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rows.dtype), dim=0)
    sd = truth.covariance.diagonal().sqrt()
    cdf = torch.special.ndtr((ends - truth.mean) / sd)
    return float((cdf[1] - cdf[0]).mean())
