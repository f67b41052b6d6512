"""What a prior draws by itself: unconditional samples, and a sheet of pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from operators.grid import Grid
from operators.space import Space
from pipelines.config.training import TrainConfig
from workbench import Posterior, sample
from workbench.integration import LogUniform, dpm_solver_plus_plus
from workbench.priors.network import Card, Execution, NetworkPrior
from workbench.priors.slice_frame import SliceAxis, slice_labels
from workbench.solvers.integrator import Integrator
from workbench.training.batch import Batch
from workbench.training.spectrum import difference_in_decibels, radial_power

__all__ = ["drawn", "page_of_draws", "shades", "sheet", "spectra"]

#: Draws side by side.
COLUMNS = 8
#: Of a spectrum.
RINGS = 16

#: The lowest and the highest level of a draw, where a prior is declared for them.
LEVELS = (0.005, 80.0)
#: Evaluations of the prior a draw takes.
EVALUATIONS = 24


def page_of_draws(module: nn.Module, card: Card, seed: int) -> NDArray[np.uint8]:
    """Return a sheet with a row of draws for each axis, of a prior of slices."""
    window = (0.0, 1.1) if card.training.is_complex else (-1.0, 0.4)
    slices = card.provenance.notes["slices"]
    shortest, longest = slices["spacing"]
    # Rather coarse, so that a slice shows a whole body.
    spacing = (shortest * longest**3) ** 0.25
    size = tuple(slices["sizes"][0])
    rows = []
    for axis in SliceAxis:
        images = drawn(module, card, axis=axis, spacing=spacing, size=size, count=COLUMNS, seed=seed)
        rows.append(shades(images.cpu(), window))
    return sheet(np.concatenate(rows), COLUMNS)


def spectra(module: nn.Module, card: Card, config: TrainConfig, batch: Batch) -> dict[str, object]:
    """Return, for the card, by how much the spectrum of axial draws differs from that of images looked at.

    In decibels, by ring of spatial frequency from zero to half a cycle per voxel.
    """
    labels = batch.labels
    if labels is None or min(batch.images.shape[2:]) < 2 * RINGS:
        return {}
    rows = [i for i in range(len(batch)) if bool(labels[i, 1])] or [*range(len(batch))]
    spacing = 2.0 ** float(1 + labels[rows, 0].mean())
    size = config.data.sizes[0]
    images = drawn(
        module, card, axis=SliceAxis.AXIAL, spacing=spacing, size=size, count=COLUMNS * 4, seed=config.seed
    )
    seen = batch.images[rows]
    real = torch.complex(seen[:, 0], seen[:, 1]) if seen.shape[1] == 2 else seen[:, 0]
    apart = difference_in_decibels(radial_power(images.cpu(), RINGS), radial_power(real.cpu(), RINGS))
    return {"spectrum of draws over images, dB": [round(float(value), 2) for value in apart]}


def drawn(
    module: nn.Module,
    card: Card,
    *,
    axis: SliceAxis,
    spacing: float,
    size: tuple[int, int],
    count: int,
    seed: int,
) -> Tensor:
    """Return `count` unconditional draws (count, y, x) in the units of the prior; complex where it is."""
    space = Space.field(Grid.plane(size, (spacing, spacing)), is_complex=bool(card.training.is_complex))
    prior = NetworkPrior(
        module,
        space,
        card.output,
        training=card.training.with_(units=None),
        calling=card.calling,
        execution=Execution(microbatch=16, autocast=torch.bfloat16, channels_last=True),
    ).given(slice_labels(spacing, axis))
    low, high = card.training.noise_range or LEVELS
    levels = LogUniform(sigma_max=min(high, LEVELS[1]), sigma_min=max(low, LEVELS[0]))
    solver = Integrator(dpm_solver_plus_plus(levels.times(EVALUATIONS), order=2))
    answer = sample(Posterior(prior), solver, draws=count, seed=seed)
    return answer.tensor()[:, 0]


def shades(images: Tensor, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return images (..., y, x) as shades of grey, the right way up: superior or anterior is above.

    The patient's right is on the left, of sagittal slices anterior: columns run to the left.
    """
    values = images.abs() if images.is_complex() else images
    low, high = window
    shown = ((values.float() - low) / (high - low)).clamp(0, 1).flip(-1, -2)
    return (255 * shown).round().to(torch.uint8).numpy()


def sheet(images: NDArray[np.uint8], columns: int, *, gap: int = 2) -> NDArray[np.uint8]:
    """Return images (count, y, x) side by side in rows of `columns`."""
    count, height, width = images.shape
    rows = math.ceil(count / columns)
    page = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap), dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        page[top : top + height, left : left + width] = image
    return page
