"""Images of 64 x 64 with a stationary Gaussian prior: calibration at the size of an image.

    blur64    periodic Gaussian blur: the FFT diagonalises prior and measurement, F of m, b of B's kernel
              P = s / (1 + s |b|^2),    mean = m + F^-1 P conj(b) F (z - B m)
    mask64    half of the pixels, at random
    ct64      parallel-beam CT, 20 views
    mri64     complex, 4 coils, a quarter of the lines, 8 of them in the middle

The standard deviation is that of every pixel, the covariance that of the 8 x 8 pixels in the middle. The
data are drawn from the model.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from operators.blur import Blur, GaussianPSF
from operators.ct import ParallelBeamGeometry
from operators.errors import value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mask import Mask
from operators.mask_patterns import random_entries
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.mri.patterns import SamplingPattern, variable_density
from operators.space import Space
from pipelines.verify.referee.conditioning import Conditioned, conditioned
from pipelines.verify.referee.posed import Problem
from pipelines.verify.referee.small import UNITS, drawn_posterior, grid_of
from pipelines.verify.referee.truth import DOUBLE, FieldTruth
from workbench.posterior import Posterior
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys
from workbench.units import Units

__all__ = ["coil_maps", "field_posterior", "field_problem", "field_truth", "sampled_lines"]

SIZE, PATCH = 64, 8
#: Correlation length in voxels.
LENGTH = 4.0
#: Noise over the root mean square of the clean data.
NOISE = {"blur": 0.05, "mask": 0.1, "ct": 0.02, "mri": 0.1}
VIEWS, COILS, ACCELERATION, CENTRE_LINES = 20, 4, 4.0, 8
NOTES = {
    "blur": "periodic Gaussian blur",
    "mask": "half of the pixels",
    "ct": f"parallel-beam CT of {VIEWS} views",
    "mri": f"complex, MRI with {COILS} coils and a quarter of the lines",
}


def field_problem(name: str, size: int = SIZE) -> Problem:
    """Return "blur64", "mask64", "ct64" or "mri64"; at another `size` the same, smaller."""
    kind = name.removesuffix("64")
    if kind not in NOTES:
        raise value_error("name", f"be one of {', '.join(f'{k}64' for k in NOTES)}", repr(name))
    posterior = field_posterior(kind, size)
    truth = field_truth(kind, posterior)
    return Problem(name, posterior, truth, 20, 20, True, f"{size} x {size}, {NOTES[kind]}")


def field_posterior(kind: str, size: int = SIZE) -> Posterior:
    """Return the posterior of a `kind`, "blur" to "mri", for data drawn from it."""
    operator = _operator(kind, size)
    # An attenuation; the others have no unit.
    units = UNITS if kind == "ct" else Units()
    space, length = operator.domain, LENGTH * grid_of(size).spacing[-1]
    prior = SpectralGaussian.smooth(space, sd=1.0, length=length, mean=0.5, units=units)
    like = torch.empty(0, dtype=space.dtype_like(DOUBLE))
    clean = operator(units.physical(prior.draw(Keys(1, (0,)), like=like)))
    components = 2 if clean.is_complex() else 1
    level = NOISE[kind] * math.sqrt(float(clean.abs().square().mean()) / components)
    return drawn_posterior(prior, operator, level)


def field_truth(kind: str, posterior: Posterior) -> FieldTruth:
    """Return what is known of it."""
    size = posterior.space.shape[-1]
    middle = torch.arange(size // 2 - PATCH // 2, size // 2 + PATCH // 2)
    entries = (size * middle[:, None] + middle).flatten()
    return (_periodic(posterior, entries) if kind == "blur" else conditioned(posterior, entries)).truth


def coil_maps(size: int, coils: int = COILS) -> Tensor:
    """Return smooth sensitivities (coils, 1, size, size) of coils around the image, each with a phase."""
    index = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    maps = []
    for coil in range(coils):
        angle = 2 * math.pi * (coil + 0.5) / coils
        y, x = 0.6 * math.sin(angle), 0.6 * math.cos(angle)
        far = (index[:, None] - y) ** 2 + (index[None, :] - x) ** 2
        turn = math.pi * (y * index[:, None] + x * index[None, :]) + angle
        maps.append(torch.polar(torch.exp(-far / 0.5), turn))
    return torch.stack(maps)[:, None]


def sampled_lines(size: int) -> SamplingPattern:
    """Return the lines of k-space that are taken out of `size`."""
    return variable_density(size, ACCELERATION, seed=3, acs=CENTRE_LINES * size // SIZE)


def _operator(kind: str, size: int) -> LinearOperator:
    grid = grid_of(size)
    if kind == "blur":
        return Blur(Space.field(grid), GaussianPSF(3 * grid.spacing[-1]), "periodic")
    if kind == "mask":
        return Mask(Space.field(grid), random_entries((1, size, size), 0.5, seed=5), restrict=True)
    if kind == "ct":
        return ParallelBeamGeometry.around(grid, VIEWS).operator(grid)
    return _imaging(grid, size)


def _imaging(grid: Grid, size: int) -> LinearOperator:
    around = CartesianGeometry.around(grid)
    geometry = SampledCartesianGeometry.lines(around, sampled_lines(size), zero_filled=False)
    encoding = geometry.operator(grid, components=(COILS,))
    return encoding @ Coils(Space.field(grid, is_complex=True), coil_maps(size))


def _periodic(posterior: Posterior, entries: Tensor) -> Conditioned:
    """Return the posterior where one FFT diagonalises prior and operator."""
    operator, z = posterior.measured.whitened
    prior = cast(SpectralGaussian, posterior.prior)
    size = posterior.space.shape[-1]
    corner = DOUBLE.new_zeros(size, size)
    corner[0, 0] = 1
    response = torch.fft.fft2(operator.apply(corner[None, None])[0, 0])
    power = torch.fft.fft2(prior.covariance_product(corner[None, None])[0, 0]).real
    after = power / (1 + power * response.abs().square())
    middle = prior.mean_like(z)
    residual = torch.fft.fft2((z - operator.apply(middle[None])[0])[0])
    moved = torch.fft.ifft2(after * response.conj() * residual).real
    # Stationary: the covariance depends on how far apart two pixels are.
    correlation = torch.fft.ifft2(after).real
    y, x = entries // size, entries % size
    covariance = correlation[(y[:, None] - y) % size, (x[:, None] - x) % size]
    sd = correlation[0, 0].sqrt().expand(size * size).clone()
    mean = (middle[0] + moved).flatten()

    def draws(count: int, seed: int) -> Tensor:
        white = Keys(seed, tuple(range(count))).normals((size, size), "referee: truth", like=DOUBLE)
        coloured: Tensor = torch.fft.ifft2(after.sqrt() * torch.fft.fft2(white)).real
        rows: Tensor = mean + coloured.flatten(1)
        return rows

    return Conditioned(mean, sd, entries, covariance, draws)
