"""Generated subjects, and the files they are kept in between runs: values in two bytes, and the frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from operators.grid import Grid
from pipelines.config.manifest import GeneratorEntry
from workbench.io.tensor_file import open_tensors, write_tensors
from workbench.volume import Volume

__all__ = ["made", "read_made", "write_made"]

#: HU and MR magnitudes of order one, in steps of 1 and of 1 / 4096.
STEPS = {"HU": 1.0, "": 4096.0}


def made(entry: GeneratorEntry, seed: int) -> Volume:
    """Return the image of a subject."""
    from workbench.anatomy import Brain, Torso

    subject = Torso.draw(seed) if entry.kind == "torso" else Brain.draw(seed)
    return subject.render(subject.grid(entry.spacing), supersample=1).image


def write_made(path: Path, volume: Volume) -> None:
    """Write a subject's image."""
    steps = STEPS[volume.unit]
    values = (volume.data * steps).round().clamp(-32768, 32767).to(torch.int16)
    facts = {"affine": volume.grid.affine.tolist(), "unit": volume.unit}
    write_tensors(path, {"image": values}, {"workbench.subject": json.dumps(facts)}, overwrite=True)


def read_made(path: Path, unit: str) -> Volume:
    """Return what `write_made` wrote."""
    file = open_tensors(path)
    facts = json.loads(file.metadata["workbench.subject"])
    values: Tensor = file.tensors()["image"].float() / STEPS[unit]
    z, y, x = values.shape
    return Volume(values, Grid((z, y, x), np.array(facts["affine"])), unit)
