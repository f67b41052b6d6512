"""Two unknowns whose sign the data do not tell: y = |M u|^2 + noise, and a prior that leans to one side.

    -log p(u | y) = |M u M u - y|^2 / (2 sigma^2) + |u - m|^2 / 2 + const

u and -u explain the data alike, so that the two modes weigh about as 1 to exp(-2 <m, u>). The truth is the
density on a grid of midpoints, fine enough for the rounding of the sums to be its error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.grid import Grid
from operators.identity import Identity
from operators.matrix import Matrix
from operators.phase_retrieval import PhaseRetrieval
from operators.space import Space
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.truth import DOUBLE, GridTruth
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian as GaussianNoise
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian
from workbench.random import Keys

__all__ = ["phase_posterior", "phase_problem", "phase_truth"]

#: Rows of M.
ROWS = ((1.0, 0.0), (0.6, 0.8), (-0.5, 0.9))
OBJECT, NOISE = (1.2, -0.6), 0.3
#: Length of the prior's mean, which points to the object: modes of about 0.7 and 0.3.
LEAN = 0.34
#: Half the width of the grid, and its cells along each axis.
REACH, CELLS = 4.0, 1000


def phase_problem() -> Problem:
    """Return "phase2"."""
    posterior = phase_posterior()
    note = "2 unknowns, 3 intensities, two signs"
    return Problem("phase2", posterior, phase_truth(posterior), 2000, 1000, True, note)


def phase_posterior() -> Posterior:
    """Return its posterior, for the object OBJECT and noise."""
    space = Space.field(Grid.plane((1, 2), 1.0))
    matrix = torch.tensor(ROWS, dtype=torch.float64)
    operator = PhaseRetrieval(Matrix(space, Space((len(ROWS),)), matrix))
    point = torch.tensor(OBJECT, dtype=torch.float64).reshape(space.shape)
    mean = LEAN * point / point.norm()
    noise = GaussianNoise(NOISE)
    data = noise.draw(operator(point[None]), Keys(1, (0,)))[0]
    return Posterior(Gaussian(mean, Identity(space)), Likelihood(operator, noise, data))


def phase_truth(posterior: Posterior, cells: int = CELLS) -> GridTruth:
    """Return the density on `cells` x `cells` midpoints, by the equation at the head of this module."""
    width = 2 * REACH / cells
    axis = width * (torch.arange(cells, dtype=torch.float64) + 0.5) - REACH
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    matrix = torch.tensor(ROWS, dtype=torch.float64)
    data: Tensor = posterior.measured.data
    mean = posterior.prior.mean_like(DOUBLE).flatten()  # type: ignore[attr-defined]
    misfit = ((points @ matrix.T).square() - data).square().sum(-1) / (2 * NOISE**2)
    log_density = -misfit - (points - mean).square().sum(-1) / 2
    return GridTruth(axis, axis, log_density, torch.tensor(OBJECT, dtype=torch.float64))
