"""Small problems: eight unknowns seen through three numbers, and images of 8 x 8.

    P1, P2, P3    A (3 x 8) with singular values 1, 0.6, 0.3; noise of sd 0.2
    P1            prior N(0, I)
    P2            prior N(0, S), eigenvalues of S from 2 to 0.05
    P3            two Gaussians at +-(1.5 n + 0.15 v), n in the null space of A, v its best measured;
                  covariance eigenvalues from 0.3 to 0.05; posterior weights 0.585 and 0.415

The components of P3 have one covariance, so that the log odds of its posterior are linear in the data: the
data are a draw of the model, moved along the direction that tells the modes apart until the odds are right.
The images have a stationary Gaussian prior in units of their own, and a blur, a mask, CT or MRI.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.blur import Blur, GaussianPSF
from operators.ct import ParallelBeamGeometry
from operators.diagonal import Diagonal
from operators.errors import value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space
from pipelines.verify.referee.conditioning import conditioned, mixture_truth
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.truth import DOUBLE, GaussianTruth
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import DenseGaussian, SpectralGaussian
from workbench.priors.mixture import GaussianMixture
from workbench.random import Keys
from workbench.units import Units

__all__ = [
    "IMAGES",
    "UNITS",
    "drawn_posterior",
    "grid_of",
    "operator_of",
    "posterior_of",
    "prior_on",
    "small_problem",
]

IMAGES = ("blur", "mask", "ct", "coils")
#: Physical images are about SCALE u + OFFSET: an attenuation in 1/mm, say.
UNITS = Units(scale=0.005, offset=0.02, unit="1/mm")

SINGULAR_VALUES, NOISE = (1.0, 0.6, 0.3), 0.2
HALF_APART, HALF_SEEN = 1.5, 0.15
MODE_WEIGHTS = (0.585, 0.415)
#: Of the data: neither dull nor a surprise, y^T Cov[y]^-1 y between 3 and 5 for three data.
SEEDS = {"P1": 5, "P2": 5}
NOTES = {
    "P1": "8 unknowns, 3 data, prior N(0, I)",
    "P2": "8 unknowns, 3 data, correlated Gaussian prior",
    "P3": "8 unknowns, 3 data, two modes apart where nothing is measured",
    "blur8": "8 x 8, periodic Gaussian blur",
    "mask8": "8 x 8, half of the pixels",
    "ct8": "8 x 8, parallel-beam CT of 6 views",
    "coils8": "8 x 8, complex, MRI with 3 coils and three quarters of the lines",
}


def small_problem(name: str) -> Problem:
    """Return P1, P2, P3 or one of the images, "blur8" to "coils8"."""
    if name not in NOTES:
        raise value_error("name", f"be one of {', '.join(NOTES)}", repr(name))
    if name == "P3":
        posterior = bimodal_posterior()
        return Problem(name, posterior, mixture_truth(posterior), 2000, 1000, False, NOTES[name])
    posterior = vector_posterior(name) if name in ("P1", "P2") else posterior_of(name.removesuffix("8"))
    answer = conditioned(posterior)
    truth = GaussianTruth(answer.mean, answer.covariance)
    draws, fast = (2000, 1000) if name in ("P1", "P2") else (200, 100)
    return Problem(name, posterior, truth, draws, fast, True, NOTES[name])


def vector_posterior(name: str) -> Posterior:
    """Return P1 or P2, with data drawn from the model."""
    operator, _ = _measured()
    spread = (1.0, 1.0) if name == "P1" else (2.0, 0.05)
    mean = torch.zeros(operator.domain.shape, dtype=torch.float64)
    prior = DenseGaussian(operator.domain, mean, _covariance(operator.domain.size, *spread))
    return drawn_posterior(prior, operator, NOISE, seed=SEEDS[name])


def bimodal_posterior() -> Posterior:
    """Return P3."""
    operator, v = _measured()
    space = operator.domain
    half = HALF_APART * v[:, -1] + HALF_SEEN * v[:, 0]
    covariance = _covariance(space.size, 0.3, 0.05)
    means = torch.stack([half, -half]).reshape(2, *space.shape)
    prior = GaussianMixture.dense(space, (0.5, 0.5), means, covariance)
    start = drawn_posterior(prior, operator, NOISE).measured.data
    # y | k ~ N(+-A h, E): log odds 2 (A h)^T E^-1 y
    a = operator.matrix.value
    evidence = a @ covariance @ a.T + NOISE**2 * torch.eye(len(a), dtype=torch.float64)
    told = torch.linalg.solve(evidence, a @ half)
    short = math.log(MODE_WEIGHTS[0] / MODE_WEIGHTS[1]) / 2 - float(told @ start)
    data = start + short / float(told @ told) * told
    return Posterior(prior, Likelihood(operator, GaussianNoise(NOISE), data))


def drawn_posterior(
    prior: SpectralGaussian | DenseGaussian | GaussianMixture,
    operator: LinearOperator,
    sigma: float,
    *,
    seed: int = 1,
) -> Posterior:
    """Return the posterior for data drawn from the model itself: an object, then noise of `sigma`."""
    truth = prior.units.physical(prior.draw(Keys(seed, (0,)), like=_like(operator.domain)))
    noise = GaussianNoise(sigma)
    data = noise.draw(operator(truth), Keys(seed + 1, (0,)))[0]
    return Posterior(prior, Likelihood(operator, noise, data))


def grid_of(size: int) -> Grid:
    """Return the grid of the images."""
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


def _measured() -> tuple[Matrix, Tensor]:
    """Return A and its right singular vectors (8, 8), the null space last."""
    domain, data = Space.field(Grid.plane((2, 4), 1.0)), Space((len(SINGULAR_VALUES),))
    u, v = _orthogonal(data.size, "referee: left"), _orthogonal(domain.size, "referee: right")
    values = torch.tensor(SINGULAR_VALUES, dtype=torch.float64)
    return Matrix(domain, data, (u * values) @ v[:, : len(values)].T), v


def _covariance(size: int, largest: float, smallest: float) -> Tensor:
    """Return a matrix of geometrically spaced eigenvalues and fixed eigenvectors."""
    basis = _orthogonal(size, "referee: prior")
    shares = torch.arange(size, dtype=torch.float64) / (size - 1)
    matrix = (basis * (largest * (smallest / largest) ** shares)) @ basis.T
    return (matrix + matrix.T) / 2


def _orthogonal(size: int, purpose: str) -> Tensor:
    """Return a random orthogonal matrix, its signs made definite."""
    square = Keys(8, tuple(range(size))).normals((size,), purpose, like=DOUBLE)
    q, r = torch.linalg.qr(square)
    matrix: Tensor = q * r.diagonal().sign()
    return matrix


def _like(space: Space) -> Tensor:
    return torch.empty(0, dtype=space.dtype_like(DOUBLE))
