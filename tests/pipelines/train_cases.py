"""Tiny runs of `workbench train`, and what they train on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from operators.grid import Grid
from pipelines.config.loading import load
from pipelines.config.training import TrainConfig
from workbench.io.nifti import write_nifti
from workbench.random import Keys
from workbench.volume import Volume

GENERATED = """
[[generators]]
name = "made"
split = "train"
kind = "torso"
unit = "HU"
first_seed = 3
count = 2
"""
RECIPE = """
name = "tiny"
licence = "Apache-2.0"
[data]
manifests = ["{manifest}"]
procedural = 0.0
sizes = [[16, 16]]
[network]
widths = [16, 16]
blocks = [1, 1]
attention = []
[optimiser]
steps = 12
rows = 4
warmup = 3
[report]
every = 5
keep = 4
pictures = 6
split = "train"
images = 4
levels = [0.1, 1.0]
"""
VOLUME = """
[[volumes]]
name = "{name}"
subject = "{subject}"
split = "{split}"
kind = "nifti"
path = "{path}"
unit = "{unit}"
attribution = "nobody"
licence = "CC0-1.0"
"""


def blobs(seed: int) -> Volume:
    """Return a body of soft values in air."""
    grid = Grid.from_spacing((48, 48, 48), 3.0)
    at = (torch.arange(48) - 23.5) / 24
    radius = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    noise = Keys(seed, draws=(0,)).normals((48, 48, 48), "blobs", like=torch.empty(0))[0]
    return Volume(torch.where(radius < 0.8, 40 + 20 * noise, torch.tensor(-1000.0)), grid, "HU")


def manifest(folder: Path, *volumes: str, name: str = "m.toml") -> Path:
    path = folder / name
    path.write_text('name = "test"\n' + "\n".join(volumes))
    return path


def entry(name: str = "a", subject: str = "A", split: str = "train", path: str = "a.nii", unit: str = "HU"):
    return VOLUME.format(name=name, subject=subject, split=split, path=path, unit=unit)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_nifti(tmp_path / "a.nii", blobs(1))
    write_nifti(tmp_path / "b.nii", blobs(2))
    manifest(tmp_path, entry(), entry("b", "B", "test", "b.nii"))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(manifest=tmp_path / "m.toml"))
    return tmp_path


def config(folder: Path, *overrides: str) -> TrainConfig:
    return load(TrainConfig, folder / "recipe.toml", overrides=overrides, env={})


def quietly(text: str) -> None:
    del text


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command(folder: Path, out: str, *more: str) -> list[str]:
    program = [sys.executable, "-m", "pipelines.cli", "train", str(folder / "recipe.toml")]
    return [*program, "--data", str(folder), "--out", str(folder / out), "--device", "cpu", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
