"""Images that were measured directly: blurred, or with most pixels missing. Slices of CT.

Blur is applied on the fine grid, where a detector of the coarse grid's pixels sees it. The noise level is
found out from a frame of pure noise, as a camera with its shutter closed gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from operators.blur import Blur, GaussianPSF
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.mask import Mask
from operators.mask_patterns import random_entries
from operators.space import Space
from pipelines.quality.ct import attenuating, water_units
from pipelines.quality.posed import Posed, Problem, Reference, Scan, coarse_of
from pipelines.quality.subjects import ENERGY
from workbench.calibrate.hounsfield import water_attenuation
from workbench.likelihood import Likelihood
from workbench.noise.gaussian import Gaussian
from workbench.random import Keys
from workbench.volume import Volume

__all__ = ["BlurProblem", "FrameScan", "MissingProblem"]


@dataclass(frozen=True, eq=False)
class FrameScan(Scan):
    """What was measured of an image, and a frame of noise alone."""

    data: Tensor
    noise: Tensor
    operator: LinearOperator

    def posed(self) -> Posed:
        """Return the likelihood with the noise level of the frame."""
        sd = float(self.noise.double().square().mean().sqrt())
        likelihood = Likelihood(self.operator, Gaussian(sd), self.data, unit="1/mm")
        return Posed(likelihood, self.data.numel(), water_units(), lower=0.0)


@dataclass(frozen=True)
class BlurProblem(Problem):
    """A Gaussian of `fwhm` mm, and noise of `noise` HU."""

    fwhm: float = 6.0
    noise: float = 20.0

    closed: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """Return what is measured."""
        return f"Blur of {self.fwhm:g} mm, noise of {self.noise:g} HU"

    def measured(self, fine: Volume, keys: Keys) -> tuple[FrameScan, Reference]:
        """Return a blurred image."""
        image, reference = attenuating(fine)
        psf = GaussianPSF(self.fwhm)
        blurred = image.with_data(Blur(Space.field(image.grid), psf)(image.data))
        seen = coarse_of(blurred)
        return _framed(seen.data, Blur(Space.field(seen.grid), psf), self.noise, keys, self.name), reference


@dataclass(frozen=True)
class MissingProblem(Problem):
    """A share `missing` of the pixels unknown, at random, and noise of `noise` HU in the others."""

    missing: float = 0.7
    noise: float = 20.0

    closed: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """Return what is measured."""
        return f"Inpainting, {self.missing:.0%} of the pixels missing, noise of {self.noise:g} HU"

    def measured(self, fine: Volume, keys: Keys) -> tuple[FrameScan, Reference]:
        """Return the pixels that are there."""
        _, reference = attenuating(fine)
        grid: Grid = coarse_of(fine).grid
        kept = random_entries(grid.shape, 1 - self.missing, seed=keys.draws[0])
        mask = Mask(Space.field(grid), kept, restrict=True)
        return _framed(mask(reference.truth), mask, self.noise, keys, self.name), reference


def _framed(clean: Tensor, operator: LinearOperator, noise: float, keys: Keys, name: str) -> FrameScan:
    sd = noise / 1000 * water_attenuation(ENERGY)
    data = clean + sd * keys.normals(clean.shape, f"{name}: noise", like=clean)[0]
    dark = sd * keys.normals(clean.shape, f"{name}: noise alone", like=torch.empty(0))[0]
    return FrameScan(data, dark, operator)
