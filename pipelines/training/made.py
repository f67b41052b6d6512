"""Generated subjects, and what is kept of them between runs: values in two bytes, and the frame.

A run trains on what was kept, rounded, whether it made the subject itself or not: it could not go on with the
same losses otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import workbench.anatomy
from operators.grid import Grid
from pipelines.config.manifest import GeneratorEntry
from workbench.io.tensor_file import open_tensors
from workbench.volume import Volume

__all__ = ["made", "name_of", "read_made", "stored"]

#: HU and MR magnitudes of order one, in steps of 1 and of 1 / 4096.
STEPS = {"HU": 1.0, "": 4096.0}


def made(entry: GeneratorEntry, seed: int) -> Volume:
    """Return the image of a subject."""
    from workbench.anatomy import Brain, Torso

    subject = Torso.draw(seed) if entry.kind == "torso" else Brain.draw(seed)
    return subject.render(subject.grid(entry.spacing), supersample=1).image


def name_of(entry: GeneratorEntry, seed: int) -> str:
    """Return the name of the file of a subject: another generator has others."""
    return f"{entry.kind}-{seed:06d}-{entry.spacing:g}mm-{_generator()[:8]}.safetensors"


def stored(volume: Volume) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors and the text that are kept of a subject's image."""
    steps = STEPS[volume.unit]
    values = (volume.data * steps).round().clamp(-32768, 32767).to(torch.int16)
    facts = {"affine": volume.grid.affine.tolist(), "unit": volume.unit}
    return {"image": values}, {"workbench.subject": json.dumps(facts)}


def read_made(path: Path) -> Volume:
    """Return the image of which `stored` was written."""
    file = open_tensors(path)
    facts = json.loads(file.metadata["workbench.subject"])
    values: Tensor = file.tensors()["image"].float() / STEPS[facts["unit"]]
    z, y, x = values.shape
    return Volume(values, Grid((z, y, x), np.array(facts["affine"])), facts["unit"])


@cache
def _generator() -> str:
    """Return the SHA-256 of the sources that subjects are drawn by."""
    digest = hashlib.sha256()
    folder = Path(workbench.anatomy.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
