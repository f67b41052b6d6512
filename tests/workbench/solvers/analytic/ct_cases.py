"""Scans of discs and balls whose line integrals are known in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from operators.ct import Geometry, Projector
from operators.grid import Grid
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.units import Units

#: Attenuation of the objects in 1/mm, about that of water.
MU = 0.02


def chords(geometry: Geometry, radius: float, centre: tuple[float, float, float], *, ball: bool) -> Tensor:
    """Return MU times the chords of all rays through a ball, or a cylinder along the rows of the detector."""
    views = geometry.views()
    out = np.zeros(views.shape)
    axis = views.rows.mean(axis=0)
    axis = axis / np.linalg.norm(axis)
    for view in range(views.shape[0]):
        points, directions = views.rays(view)
        apart = points - np.array(centre)
        directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        stretch = 1.0
        if not ball:
            # Seen along the axis the cylinder is a disc, and chords are longer than in its plane.
            apart = apart - (apart @ axis)[..., None] * axis
            directions = directions - (directions @ axis)[..., None] * axis
            lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
            directions, stretch = directions / lengths, 1 / lengths[..., 0]
        nearest = apart - (apart * directions).sum(axis=-1, keepdims=True) * directions
        half = np.sqrt(np.clip(radius**2 - (nearest**2).sum(axis=-1), 0, None))
        out[view] = 2 * half * stretch * MU
    return torch.from_numpy(out)


def distances(grid: Grid, centre: tuple[float, float, float], *, ball: bool = False) -> Tensor:
    """Return the distance of each voxel from `centre` or, in x and y alone, from the axis through it."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    apart = grid.index_to_world(index.reshape(-1, 3)).reshape(*grid.shape, 3) - np.array(centre)
    return torch.from_numpy(np.linalg.norm(apart if ball else apart[..., :2], axis=-1))


def flat_posterior(operator: Projector, data: Tensor, units: Units | None = None) -> Posterior:
    """Return the posterior of line integrals with white noise under no prior."""
    prior = Flat(operator.domain) if units is None else Flat(operator.domain, units)
    return Posterior(prior, Likelihood(operator, Gaussian(0.01), data))
