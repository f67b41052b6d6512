"""The priors by themselves, on held-out slices: error of D beside non-local means and TV, spectra of draws.

Each denoiser is told sigma. The strengths of non-local means and TV are chosen at each sigma by their error
on slices of other subjects; the prior has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from pipelines.quality.bench import Bench
from pipelines.quality.cells import VERSION, key_of
from pipelines.quality.metrics import radial_spectrum
from pipelines.quality.mri import BRIGHT, HEAD, smooth_phase
from pipelines.quality.posed import SEED, coarse_of
from pipelines.quality.subjects import Modality, Place, held_out, others
from workbench.driver import sample
from workbench.integration import LogUniform, dpm_solver_plus_plus
from workbench.io.slice_prior import read_slice_prior
from workbench.io.weights import read_card
from workbench.posterior import Posterior
from workbench.priors.base import Denoiser
from workbench.priors.nonlocal_means import NonlocalMeansDenoiser
from workbench.priors.slice_frame import SliceAxis
from workbench.priors.total_variation import TotalVariationDenoiser
from workbench.random import Keys
from workbench.solvers.integrator import Integrator

__all__ = ["denoising", "errors", "images_of"]

#: Levels in the units of the priors: thousands of HU, and the 0.99 quantile of the magnitude.
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
#: What is tried of non-local means, h / sigma, and of TV, c / (voxel sigma).
BANDWIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0)
STRENGTHS = (0.3, 0.5, 0.8, 1.2, 2.0)
#: Draws whose spectrum is looked at, and evaluations each.
DRAWS, EVALUATIONS = 16, 24

Make = Callable[[Space], Denoiser]


def denoising(bench: Bench, modality: Modality) -> dict[str, Any]:
    """Return errors by level and spectra, JSON-able; those of the file where the weights are the same."""
    path = bench.file_of(modality)
    places = (*held_out(modality), *others(modality))
    key = key_of(
        {
            "version": VERSION,
            "weights": read_card(path).sha256,
            "bfloat16": bench.bfloat16,
            "slices": [{**place.facts(), "data": bench.library.identity(place)} for place in places],
            "tried": [LEVELS, BANDWIDTHS, STRENGTHS, DRAWS, EVALUATIONS],
        }
    )
    where = bench.folder.path / f"denoising-{modality}.json"
    found = bench.folder.read(where, key)
    if found is not None:
        return found
    tests = [images_of(bench, place) for place in held_out(modality)]
    tuning = [images_of(bench, place) for place in others(modality)]

    def network(space: Space) -> Denoiser:
        if space.grid is None:
            raise TypeError("a slice lies on a grid.")
        return read_slice_prior(path, space.grid, execution=bench.execution)

    found = {"key": key, "levels": list(LEVELS), "slices": len(tests), "prior": errors(tests, network)}
    for name, values, make in (
        ("non-local means", BANDWIDTHS, lambda v: lambda space: NonlocalMeansDenoiser(space, bandwidth=v)),
        ("TV", STRENGTHS, lambda v: lambda space: TotalVariationDenoiser(space, strength=v)),
    ):
        trials = {value: errors(tuning, make(value)) for value in values}
        best = [min(values, key=lambda v, i=i: trials[v][i]) for i in range(len(LEVELS))]  # type: ignore[misc]
        each = {value: errors(tests, make(value)) for value in set(best)}
        found[name] = [each[value][i] for i, value in enumerate(best)]
        found[f"{name}, strength"] = best
    found["spectrum"] = _spectra(bench, modality)
    bench.folder.write(where, found)
    return found


def images_of(bench: Bench, place: Place) -> tuple[Tensor, Grid]:
    """Return a slice in the units of its prior, and its grid."""
    coarse = coarse_of(bench.library.fine(place))
    if place.modality == "ct":
        return coarse.data.clamp(-1000.0, 3000.0) / 1000, coarse.grid
    magnitude = coarse.data
    scale = torch.quantile(magnitude[magnitude > HEAD * magnitude.max()], BRIGHT)
    phase = smooth_phase(coarse.grid, Keys(SEED, (place.number,))).float()
    return torch.polar(magnitude / scale, phase), coarse.grid


def errors(images: Sequence[tuple[Tensor, Grid]], make: Make) -> list[float]:
    """Return the root mean square error of a denoiser at each level, in units of the level."""
    totals = torch.zeros(len(LEVELS), dtype=torch.float64)
    count = 0
    levels = torch.tensor(LEVELS)
    for number, (truth, grid) in enumerate(images):
        denoiser = make(Space.field(grid, is_complex=truth.is_complex()))
        noise = Keys(SEED, (number,)).normals(truth.shape, "denoising", like=truth)
        sigma = levels.reshape(-1, 1, 1, 1)
        with torch.no_grad():
            found = denoiser.denoise(truth + sigma * noise, levels)
        square = (found - truth).abs().double().square().flatten(1).sum(dim=1)
        totals += square / levels.double() ** 2
        count += truth.numel() * (2 if truth.is_complex() else 1)
    return [float(value) for value in (totals / count).sqrt()]


def _spectra(bench: Bench, modality: Modality) -> dict[str, Any]:
    """Return the mean power of draws and of real slices by frequency, in cycles per mm."""
    places = [place for place in held_out(modality) if place.axis is SliceAxis.AXIAL]
    # Of one voxel size, that of the first.
    places = [place for place in places if place.volume == places[0].volume]
    real = [images_of(bench, place) for place in places]
    grid = real[0][1]
    prior = read_slice_prior(bench.file_of(modality), grid, execution=bench.execution)
    solver = Integrator(dpm_solver_plus_plus(LogUniform(80.0, 0.005).times(EVALUATIONS), order=2))
    draws = sample(Posterior(prior), solver, draws=DRAWS, seed=SEED).tensor()
    u = prior.units.normalised(draws)[:, 0]
    truth = torch.stack([image[0] for image, _ in real])
    count = grid.shape[1] // 2 + 1
    width = grid.shape[1] * grid.spacing[1]
    return {
        "cycles_per_mm": [k / width for k in range(count)],
        "draws": radial_spectrum(u).tolist(),
        "real": radial_spectrum(truth).tolist(),
        "numbers": [len(u), len(truth)],
    }
