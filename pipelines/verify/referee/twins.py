"""Images of 16 x 16 in pairs that differ where the measurement hardly looks: 6-view CT, and 4-fold MRI.

    views16    spots on a ring, at the even or at the odd of twelve places, around one of three centres
    lines16    stripes on even or on odd rows, under one of three objects; complex, 4 coils
    u = the kind's image + a smooth Gaussian field, one covariance for all kinds

On a regular 12-gon neighbours lie behind one another in each of six directions, 30 degrees apart: as many
even as odd spots are on every ray of these views. Stripes of two voxels differ at the largest frequencies
along the rows, from which the lines taken are far. What else a kind has shows; which of its two twins it is
has to be told from the weights of the prior and from what voxels, noise and coils leave of the difference.

Both operators are written out as matrices: their singular values are known, and every solver works on them.
"""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

from operators.ct import ParallelBeamGeometry
from operators.errors import value_error
from operators.linear import LinearOperator
from operators.matrix import Matrix
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space
from pipelines.verify.referee.conditioning import mixture_truth
from pipelines.verify.referee.fields import coil_maps, sampled_lines
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.small import drawn_posterior, grid_of
from pipelines.verify.referee.truth import DOUBLE
from workbench.posterior import Posterior
from workbench.priors.gaussian import Gaussian, SpectralGaussian
from workbench.priors.mixture import GaussianMixture

__all__ = ["twins_posterior", "twins_problem", "twins_templates"]

SIZE, VIEWS, COILS = 16, 6, 4
#: Of the kinds: the three with even spots or stripes, then their twins.
WEIGHTS = (0.24, 0.18, 0.12, 0.20, 0.16, 0.10)
#: Of the field: sd, and correlation length in mm, which is two voxels.
SPREAD, LENGTH = {"views16": 0.25, "lines16": 0.15}, 4.0
#: Noise over the root mean square of the clean data of the first kind, and the seed of the data.
NOISE, SEED = {"views16": 0.2, "lines16": 0.3}, {"views16": 2, "lines16": 3}
#: Of the ring: its radius, that of a spot, the angle of the first place in degrees.
RING, SPOT, TURN = 5.2, 0.8, 15.0
#: Phase of the complex images, in rad.
PHASE = 0.6
NOTES = {
    "views16": "16 x 16, six kinds of image, parallel-beam CT of 6 views",
    "lines16": "16 x 16, complex, six kinds of image, MRI with 4 coils and a quarter of the lines",
}


def twins_problem(name: str) -> Problem:
    """Return "views16" or "lines16"."""
    posterior = twins_posterior(name)
    return Problem(name, posterior, mixture_truth(posterior), 100, 100, False, NOTES[name])


def twins_posterior(name: str) -> Posterior:
    """Return its posterior, for data drawn from the model."""
    if name not in NOTES:
        raise value_error("name", f"be one of {', '.join(NOTES)}", repr(name))
    operator = written_out(_views() if name == "views16" else _lines())
    space = operator.domain
    field = SpectralGaussian.smooth(space, sd=SPREAD[name], length=LENGTH)
    images = twins_templates(name)[:, None]
    if space.is_complex:
        images = images * cmath.rect(1.0, PHASE)
    prior = GaussianMixture(WEIGHTS, [Gaussian(image, field.root) for image in images])
    clean = operator(images[0])
    level = NOISE[name] * math.sqrt(float(clean.abs().square().mean()) / (2 if space.is_complex else 1))
    return drawn_posterior(prior, operator, level, seed=SEED[name])


def twins_templates(name: str) -> Tensor:
    """Return the images of the kinds (6, 16, 16)."""
    index = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    row, column = index[:, None], index[None, :]

    def disc(y: float, x: float, radius: float) -> Tensor:
        # One voxel of soft edge.
        return (radius + 0.5 - ((row - y) ** 2 + (column - x) ** 2).sqrt()).clamp(0, 1)

    def bar(y: float, high: float, wide: float) -> Tensor:
        return ((row - y).abs() <= high) * (column.abs() <= wide).double()

    if name == "lines16":
        shown = (disc(-3.5, -3, 2.5), disc(-3.5, 3, 2.5), bar(-3.5, 1, 5))
        # Of two and three stripes the mean and the slope along the rows are the same.
        even = bar(1.5, 0, 4.5) / 2 + bar(3.5, 0, 4.5) + bar(5.5, 0, 4.5) / 2
        odd = bar(2.5, 0, 4.5) + bar(4.5, 0, 4.5)
        return torch.stack([first + twin for twin in (even, odd) for first in shown])
    places = [math.radians(TURN + 30 * k) for k in range(12)]
    spots = torch.stack([disc(RING * math.sin(t), RING * math.cos(t), SPOT) for t in places])
    shown = (disc(0, 0, 2), bar(0, 1, 2.5), bar(0, 2.5, 1))
    return torch.stack([first + spots[twin::2].sum(0) for twin in (0, 1) for first in shown])


def written_out(operator: LinearOperator) -> Matrix:
    """Return a small operator as its matrix."""
    domain = operator.domain
    like = torch.empty(0, dtype=domain.dtype_like(DOUBLE))
    unit = torch.eye(domain.size, dtype=like.dtype).reshape(-1, *domain.shape)
    return Matrix(domain, operator.codomain, operator(unit).flatten(1).T.contiguous())


def _views() -> LinearOperator:
    grid = grid_of(SIZE)
    return ParallelBeamGeometry.around(grid, VIEWS).operator(grid)


def _lines() -> LinearOperator:
    grid = grid_of(SIZE)
    taken = SampledCartesianGeometry.lines(
        CartesianGeometry.around(grid), sampled_lines(SIZE), zero_filled=False
    )
    encoding = taken.operator(grid, components=(COILS,))
    return encoding @ Coils(Space.field(grid, is_complex=True), coil_maps(SIZE, COILS))
