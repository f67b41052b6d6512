"""A tiny network, a source of images without a file, a volume whose slices are known."""

from __future__ import annotations

import math

import torch

from operators.grid import Grid
from workbench.priors.network import EDMOutput, Labelled
from workbench.priors.slice_frame import LABELS
from workbench.priors.unet import UNet, UNetSettings
from workbench.random import Keys
from workbench.training.batch import Batch
from workbench.training.objective import Denoising
from workbench.training.trainer import Trainer, TrainerSettings
from workbench.volume import Volume

SETTINGS = UNetSettings(widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8, labels=LABELS, groups=4)
OBJECTIVE = Denoising(EDMOutput(0.5), Labelled(LABELS))


class Waves:
    """Images that are a function of (step, row): smooth waves of random phase."""

    def batch(self, step: int, rows: range, whole: int) -> Batch:
        del whole
        like = torch.empty(0, dtype=torch.float32)
        phase = Keys(5, draws=tuple(rows), step=step).uniforms((2,), "waves", like=like) * 2 * math.pi
        at = torch.arange(16) / 16 * 2 * math.pi
        image = torch.cos(at[:, None] + phase[:, :1, None]) + torch.cos(at + phase[:, 1:, None])
        names = tuple(f"wave {row}" for row in rows)
        return Batch(0.35 * image[:, None], torch.zeros(len(rows), LABELS), names=names, first=rows.start)


def trainer(**changes: object) -> Trainer:
    """Return a new trainer of a tiny network."""
    network = UNet(SETTINGS, seed=3).to(memory_format=torch.channels_last)
    return Trainer(network, OBJECTIVE, TrainerSettings(rows=4).with_(**changes))


def world_volume(grid: Grid, unit: str = "HU") -> Volume:
    """Return 100 S + 10 A + R in units of 10 mm: where a voxel is can be read from its value."""
    index = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) for n in grid.shape])
    r, a, s = torch.from_numpy(grid.index_to_world(index.numpy())).T / 10
    return Volume((100 * s + 10 * a + r).reshape(grid.shape), grid, unit)
