"""The denoising curve: root mean square error of D at fixed levels, on fixed images under fixed noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from workbench.random import Keys
from workbench.training.batch import Batch
from workbench.training.objective import Denoising

__all__ = ["denoising_curve", "errors_of"]

#: Images that enter a network at once.
PART = 16


def denoising_curve(
    module: nn.Module, objective: Denoising, batch: Batch, levels: Sequence[float], *, seed: int = 0
) -> dict[float, float]:
    """Return the error over all images of `batch` at each level, in the units of the images."""

    def squared(part: Batch, sigma: Tensor, keys: Keys) -> Tensor:
        return objective.squared_errors(module, part, sigma, keys)

    return errors_of(squared, batch, levels, seed=seed)


@torch.no_grad()
def errors_of(
    squared_errors: Callable[[Batch, Tensor, Keys], Tensor],
    batch: Batch,
    levels: Sequence[float],
    *,
    seed: int = 0,
) -> dict[float, float]:
    """Return the root of the mean over rows of what `squared_errors(rows, sigma, keys)` gives, by level.

    A row has the same noise whoever denoises it, and at every level.
    """
    keys = Keys(seed, draws=(0,))
    curve = {}
    for level in levels:
        total = 0.0
        for first in range(0, len(batch), PART):
            part = rows_of(batch, first, min(first + PART, len(batch)))
            sigma = torch.full((len(part),), level, dtype=torch.float64, device=batch.images.device)
            total += float(squared_errors(part, sigma, keys).double().sum())
        curve[float(level)] = (total / len(batch)) ** 0.5
    return curve


def rows_of(batch: Batch, first: int, last: int) -> Batch:
    """Return some rows of a batch, with their numbers."""
    return Batch(
        batch.images[first:last],
        None if batch.labels is None else batch.labels[first:last],
        {name: value[first:last] for name, value in batch.images_by_name.items()},
        batch.names[first:last],
        batch.first + first,
    )
