"""Images of 16 x 16 of six kinds, of which the measurement leaves more than one.

    an object above x an object below:   disc on the left, disc on the right, bar;    disc, bar
    u = the kind's image + a smooth Gaussian field, one covariance for all kinds

Half of the pixels of the upper ten rows are measured, with noise: what is above shows, what is below
has to be told from the weights of the prior and the field's correlation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from operators.mask import Mask
from operators.mask_patterns import random_entries
from operators.space import Space
from pipelines.verify.referee.conditioning import mixture_truth
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.small import drawn_posterior, grid_of
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.priors.mixture import GaussianMixture

__all__ = ["images_posterior", "images_problem", "templates"]

SIZE, MEASURED_ROWS, SHARE = 16, 10, 0.5
#: Of the kinds: those with a disc below, then those with a bar.
WEIGHTS = (0.24, 0.18, 0.12, 0.20, 0.16, 0.10)
#: Of the field: sd, and correlation length in mm, which is two voxels.
SPREAD, LENGTH = 0.25, 4.0
NOISE = 0.4


def images_problem() -> Problem:
    """Return "images16"."""
    posterior = images_posterior()
    note = "16 x 16, six kinds of image, part of the pixels above measured"
    return Problem("images16", posterior, mixture_truth(posterior), 100, 100, False, note)


def images_posterior() -> Posterior:
    """Return its posterior, for data drawn from the model."""
    space = Space.field(grid_of(SIZE))
    field = SpectralGaussian.smooth(space, sd=SPREAD, length=LENGTH)
    components = [Gaussian(image[None], field.root) for image in templates()]
    prior = GaussianMixture(WEIGHTS, components)
    pattern = random_entries((1, SIZE, SIZE), SHARE, seed=7)
    pattern[:, MEASURED_ROWS:] = False
    return drawn_posterior(prior, Mask(space, pattern, restrict=True), NOISE, seed=2)


def templates() -> Tensor:
    """Return the images of the kinds (6, 16, 16)."""
    row = torch.arange(SIZE, dtype=torch.float64)[:, None]
    column = torch.arange(SIZE, dtype=torch.float64)[None, :]

    def disc(y: float, x: float, radius: float) -> Tensor:
        # One voxel of soft edge.
        return (radius + 0.5 - ((row - y) ** 2 + (column - x) ** 2).sqrt()).clamp(0, 1)

    def bar(y: float, x: float, half: float) -> Tensor:
        return ((row - y).abs() <= 1) * ((column - x).abs() <= half).double()

    above = (disc(4.5, 4.5, 3.0), disc(4.5, 10.5, 3.0), bar(4.5, 7.5, 5.0))
    below = (disc(12.5, 7.5, 2.0), bar(13.0, 7.5, 6.0))
    return torch.stack([high + low for low in below for high in above])
