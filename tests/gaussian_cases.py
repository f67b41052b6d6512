"""Means, covariances and powers for the tests of the Gaussian priors."""

import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from tests.oracles import random_element

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
