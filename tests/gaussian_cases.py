"""Means, covariances, powers and densities for the tests of the Gaussian priors and of their mixtures."""

import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element
from workbench.priors.mixture import GaussianMixture

GRID = Grid.from_spacing((1, 3, 4), (3.0, 2.0, 1.0))
REAL = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)
VECTORS = Space.vectors(GRID)


def mean_of(space: Space) -> Tensor:
    return 0.5 * random_element(space, seed=41)


def covariance_of(space: Space, *, rank: int | None = None) -> Tensor:
    """Return a random covariance with eigenvalues between 0.2 and 2, some of them zero for a rank."""
    q = torch.linalg.qr(random_element(Space((space.size,) * 2, space.is_complex), seed=42)).Q
    values = torch.linspace(0.2, 2, space.size, dtype=torch.float64)
    if rank is not None:
        values[rank:] = 0
    return (q * values) @ q.mH


def power_of(*shape: int) -> Tensor:
    """Return positive powers, even in frequency."""
    return torch.fft.fftn(random_element(Space(shape), seed=43)).abs() + 0.2


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(torch.promote_types(dtype, torch.complex32) if value.is_complex() else dtype)


def density(space: Space, mean: Tensor, covariance: Tensor, u: Tensor) -> Tensor:
    """Return the log density of u over its real components, by torch.distributions."""
    rows, centre = u.reshape(-1, space.size), mean.reshape(space.size)
    if space.is_complex:
        rows = torch.cat([rows.real, rows.imag], dim=1)
        centre = torch.cat([centre.real, centre.imag])
        re, im = covariance.real, covariance.imag if covariance.is_complex() else 0 * covariance
        covariance = torch.cat([torch.cat([re, -im], dim=1), torch.cat([im, re], dim=1)])
    return torch.distributions.MultivariateNormal(centre, covariance).log_prob(rows)


def two_modes() -> GaussianMixture:
    """Return a mixture in the plane."""
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.0]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.4]], [[0.2, -0.1], [-0.1, 0.5]]], dtype=torch.float64)
    return GaussianMixture.dense(Space((2,)), (0.3, 0.7), means, covariances)
