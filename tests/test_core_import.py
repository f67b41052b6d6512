"""The core works alone: torch, numpy, xarray and nothing else, and imports as fast as they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Installed or not, these are not found, as in an environment that has the core alone.
BLOCK = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in {absent!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
EXTRAS = (
    "typer",
    "rich",
    "pydantic",
    "h5py",
    "h5netcdf",
    "nibabel",
    "zarr",
    "scipy",
    "matplotlib",
    "safetensors",
    "numba",
    "astra",
    "sigpy",
    "finufft",
    "ismrmrd",
    "twixtools",
    "pydicom",
    "highdicom",
    "monai",
    "diffusers",
    "einops",
    "skimage",
    "pywt",
    "napari",
    "dask",
    "distributed",
    "SimpleITK",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def test_the_core_imports_and_computes_with_every_extra_absent() -> None:
    done = python(
        BLOCK.format(absent=EXTRAS)
        + """
import operators, workbench
from operators.ct import ParallelBeamGeometry
grid = operators.Grid.from_spacing((2, 8, 8), 1.0)
import torch
scan = ParallelBeamGeometry.around(grid, 5).operator(grid)
x = scan.normal_solve(scan.adjoint(scan(torch.ones(grid.shape))), 0.1)
assert torch.isfinite(x).all()
assert 'xarray' not in sys.modules, 'xarray is for exports only'
assert 'torch._dynamo' not in sys.modules, 'the tracer takes as long as torch: it is for torch.compile only'
from workbench.export import to_xarray
assert to_xarray(workbench.Volume(x, grid)).dims == ('z', 'y', 'x')
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "feature", "extra"),
    [
        ("from workbench.io.nifti import read_nifti; read_nifti('a.nii')", "Reading NIfTI", "io"),
        (
            "from operators.ct import *; from operators import Grid; g = Grid.from_spacing((1, 4, 4), 1.0);"
            "ParallelBeamGeometry.around(g, 2).operator(g, engine='numba')",
            "The numba projection engine",
            "ct",
        ),
        (
            "from operators.ct import *; from operators import Grid; g = Grid.from_spacing((1, 4, 4), 1.0);"
            "ParallelBeamGeometry.around(g, 2).operator(g, engine='astra')",
            "The astra projection engine",
            "ct",
        ),
    ],
)
def test_a_missing_extra_names_the_feature_and_the_command(code: str, feature: str, extra: str) -> None:
    done = python(BLOCK.format(absent=EXTRAS) + code)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "MissingExtraError" in last
    assert feature in last
    assert f"pip install 'inverse-workbench[{extra}]'" in last


def test_the_extras_blocked_above_are_those_of_the_distribution() -> None:
    names = {"astra-toolbox": "astra", "scikit-image": "skimage", "pywavelets": "pywt"}
    declared = set()
    for requirement in distribution("inverse-workbench").requires or []:
        name = requirement.split(";")[0].strip()
        for stop in "<>=[! ~":
            name = name.split(stop)[0]
        if "extra" in requirement and "dev" not in requirement.split(";")[1]:
            declared.add(names.get(name.lower(), name))
    decoders = {"pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm"}  # never imported by us
    assert declared - decoders - {"inverse-workbench"} <= set(EXTRAS)


@pytest.mark.slow
def test_importing_the_core_costs_at_most_half_again_of_torch_and_xarray() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        assert python(code).returncode == 0
        return time.perf_counter() - start

    seconds("import torch, xarray, operators, workbench")  # files into the page cache
    pairs = [(seconds("import operators, workbench"), seconds("import torch, xarray")) for _ in range(3)]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    assert ratios[1] <= 1.5, f"import time ratios {ratios}"
