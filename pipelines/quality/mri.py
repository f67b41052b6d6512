"""Multi-coil MRI: k-space of a fine grid, cropped to the matrix, few lines of it, with noise.

    y_c = F (S_c x exp(i phase)) + n        |k| < 128 / (2 FOV),    every n-th line and a centre block

Eight loops round the head, S by their dipole fields, sum_c |S_c|^2 = 1: the image carries the shading, as
maps from calibration lines have it. Noise is stated in the fully sampled image:

    SNR = 20 log10(rms of |x| within the head / sd of complex noise),    E|n|^2 = sd^2 in each coil

since sum_c conj(S_c) F^H n_c has the variance of n_c. What a solver is told it finds out itself: maps and
scale from the centre block, the noise from a scan without an object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.grid import Grid
from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.patterns import equispaced
from pipelines.quality.posed import Posed, Problem, Reference, Scan, coarse_of, filled
from pipelines.quality.subjects import Modality
from workbench.calibrate.coil_maps import espirit_maps
from workbench.calibrate.prewhitening import noise_covariance
from workbench.calibrate.signal_scale import signal_scale
from workbench.measurement import Measurement
from workbench.noise.gaussian import Gaussian
from workbench.random import Keys
from workbench.volume import Volume

__all__ = ["KSpaceProblem", "KSpaceScan", "coil_sensitivities", "smooth_phase"]

COILS = 8
#: Distance of the loops from the middle and their radius, in mm.
DISTANCE, LOOP = 135.0, 45.0
#: Samples of the scan without an object, per coil.
NOISE_SAMPLES = 4096
#: How many kernels lie side by side in the centre, and what ESPIRiT takes for noise. Kernels of 4 and the
#: usual .02 leave a tenth of the signal outside the maps where the centre has 10 lines; these leave 4 %.
KERNELS, THRESHOLD = 4, 0.01
#: Of the brightest: what belongs to the head.
HEAD = 0.08
#: The quantile of the magnitude within the head that PSNR and SSIM refer to.
BRIGHT = 0.99
#: Standard deviation in radians of each term of the phase, and of the bump's width over the field of view.
PHASE, BUMP = 1.2, 0.12


@dataclass(frozen=True, eq=False)
class KSpaceScan(Scan):
    """Zero-filled k-space of few lines, and samples of noise alone."""

    kspace: Tensor
    noise: Tensor
    geometry: SampledCartesianGeometry
    grid: Grid
    #: Lines measured without a gap about k = 0.
    centre: int

    def posed(self) -> Posed:
        """Return the likelihood, with maps and scale from the centre block, the noise from its scan."""
        sd = noise_covariance(self.noise).diagonal().real.sqrt().float()[:, None, None, None]
        kernel = self.centre // KERNELS + 1
        maps = espirit_maps(
            self.kspace, self.grid, geometry=self.geometry, kernel_width=kernel, threshold=THRESHOLD
        )
        units = signal_scale(self.kspace, maps, geometry=self.geometry)
        measurement = Measurement(self.kspace, self.geometry, Gaussian(sd), (maps,))
        likelihood = measurement.likelihood(self.grid)
        lines = int(self.geometry.mask.sum()) * self.kspace.shape[-1]
        numbers = 2 * len(self.kspace) * lines
        # Where there is no map k-space says nothing: CG leaves zeros there, a prior what it likes.
        return Posed(likelihood, numbers, units, scaled=True, support=(maps.maps != 0).any(dim=0))


@dataclass(frozen=True)
class KSpaceProblem(Problem):
    """Every `step`-th line and `centre` lines about k = 0, at `decibels` of signal over noise.

    Of 128 lines the defaults take 32: 4 is all lines over those measured, the centre among them.
    """

    step: int = 7
    centre: int = 16
    decibels: float = 40.0
    modality: Modality = "mr"

    @property
    def title(self) -> str:
        """Return what is measured."""
        return (
            f"MRI, {COILS} coils, every {self.step}th line and {self.centre} in the middle "
            f"({self.pattern(128).acceleration:.1f} times fewer), {self.decibels:g} dB"
        )

    def pattern(self, lines: int) -> SampledCartesianGeometry:
        """Return which of `lines` are measured."""
        encoding = CartesianGeometry((1, lines, 2), (1.0, float(lines), 2.0))
        return SampledCartesianGeometry.lines(encoding, equispaced(lines, self.step, acs=self.centre))

    def measured(self, fine: Volume, keys: Keys) -> tuple[KSpaceScan, Reference]:
        """Return k-space."""
        grid = coarse_of(fine).grid
        encoding = CartesianGeometry.around(grid)
        image = fine.data.double() * torch.polar(
            torch.ones(fine.grid.shape, dtype=torch.float64), smooth_phase(fine.grid, keys)
        )
        maps, coarse_maps = (coil_sensitivities(of, fine.grid) for of in (fine.grid, grid))
        full = encoding.operator(fine.grid, components=(COILS,))(maps * image)
        coils = encoding.operator(grid, components=(COILS,)).H(full)
        truth = (coarse_maps.conj() * coils).sum(dim=0).abs().float()
        inside = filled(truth > HEAD * truth.max())
        sd = float(truth[inside].square().mean().sqrt()) * 10 ** (-self.decibels / 20) / math.sqrt(2)
        purpose = f"{self.name}: noise"
        noisy = full + sd * keys.normals(full.shape, purpose, like=full)[0]
        noise = sd * keys.normals((COILS, NOISE_SAMPLES), f"{purpose} alone", like=full)[0]
        pattern = equispaced(grid.shape[1], self.step, acs=self.centre)
        geometry = SampledCartesianGeometry.lines(encoding, pattern)
        taken = (noisy * geometry.mask).to(torch.complex64)
        scan = KSpaceScan(taken, noise.to(torch.complex64), geometry, grid, self.centre)
        return scan, Reference(truth, inside, float(torch.quantile(truth[inside], BRIGHT)))


def coil_sensitivities(grid: Grid, around: Grid) -> Tensor:
    """Return S (coils, 1, y, x) at the voxels of `grid`: loops in its plane about the middle of `around`.

    In the plane a small loop at p that faces the middle has the field of a dipole m = -p / |p|, softened by
    its radius: B = (3 (m.r) r / |r|^2 - m) / (|r|^2 + a^2)^(3/2); what is received is Bx - i By.
    """
    place = grid.index_to_world(np.moveaxis(np.indices(grid.shape), 0, -1)) - around.centre
    across, along = (torch.from_numpy(place @ around.directions[:, axis]) for axis in (2, 1))
    maps = []
    for c in range(COILS):
        angle = 2 * math.pi * (c + 0.5) / COILS
        mx, my = -math.cos(angle), -math.sin(angle)
        x, y = across + DISTANCE * mx, along + DISTANCE * my
        square = x**2 + y**2 + LOOP**2
        towards = 3 * (mx * x + my * y) / square
        maps.append(torch.complex(towards * x - mx, my - towards * y) / square**1.5)
    stacked = torch.stack(maps)
    return stacked / stacked.abs().square().sum(dim=0).sqrt()


def smooth_phase(grid: Grid, keys: Keys) -> Tensor:
    """Return a phase in radians: polynomials up to second order, and a bump as susceptibility makes it."""
    like = torch.empty(0, dtype=torch.float64)
    a = keys.normals((6,), "phase", like=like)[0]
    at = 2 * keys.uniforms((2,), "phase: bump", like=like)[0] - 1
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in grid.shape[1:])
    y, x = y[:, None], x[None, :]
    smooth = a[0] * x + a[1] * y + a[2] * x * y + a[3] * (x**2 - 1 / 3) + a[4] * (y**2 - 1 / 3)
    bump = torch.exp(-((x - 0.5 * at[0]) ** 2 + (y - 0.5 * at[1]) ** 2) / (2 * (2 * BUMP) ** 2))
    return (PHASE * (smooth + 1.5 * a[5] * bump))[None]
