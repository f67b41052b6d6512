"""The CUDA engine without a GPU, interpreted on tiny scans and compiled for real; on one where there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from operators.ct import engines, torch_volume
from operators.ct.rays import VolumeRays
from operators.grid import Grid
from tests.operators.ct.volume_scans import CONE, SCANS, rays_of

# Scans as small as these see a part of their grid only, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(
    engines.missing(engines.ENGINES["triton"]["volume"]), reason="triton is not installed"
)


def python(*arguments: str, **variables: str) -> str:
    """Run Python in the project's root with environment variables, and return what it wrote."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


#: In double precision, where every formula counts to the last digit: each kind of scan once.
PRECISE = (
    "cylindrical cone",
    "flat cone with shifts",
    "lifted fan on an oblique grid",
    "lifted cylindrical fan",
    "parallel path",
)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, list[float]]]:
    """Return what the interpreter found, of all scans in one process: it takes long to start."""
    asked = ("float32", "2", ",".join(SCANS), "float64", "1", ",".join(PRECISE))
    written = python("-m", "tests.operators.ct.triton_interpreted", *asked, TRITON_INTERPRET="1")
    return json.loads(written)  # type: ignore[no-any-return]


@needs_triton
@pytest.mark.parametrize("name", SCANS)
def test_interpreted_kernels_agree_with_the_readable_engine(
    interpreted: dict[str, dict[str, list[float]]], name: str
) -> None:
    forward, adjoint, mismatch = interpreted["float32"][name]
    # Positions of up to ten voxels in single precision are rounded to 1e-6.
    assert forward < 1e-5
    assert adjoint < 1e-5
    assert mismatch < 1e-6


@needs_triton
@pytest.mark.parametrize("name", PRECISE)
def test_interpreted_kernels_agree_in_double_precision(
    interpreted: dict[str, dict[str, list[float]]], name: str
) -> None:
    forward, adjoint, mismatch = interpreted["float64"][name]
    assert forward < 1e-12
    assert adjoint < 1e-12
    assert mismatch < 1e-13


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_one(tmp_path: Path) -> None:
    program = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from operators.ct import triton_kernels as kernels
from operators.ct.triton_volume import EXACT
DOUBLE = dict.fromkeys(("places", "metric", "across", "sag", "up"), "*fp64")
SEEN = dict(DEPTH=4, HEIGHT=4, WIDTH=8)
for real, kernel, constants in (
    ("*fp32", kernels.trace, dict(KIND=1, BLOCK=256)),
    ("*fp32", kernels.project, dict(ROWS=4, COLUMNS=32, BATCH=4, LARGE=True, n0=1, rows=1)),
    ("*fp32", kernels.back_project, dict(KIND=0, CURVED=False, BATCH=1, **SEEN)),
    ("*fp32", kernels.back_project, dict(KIND=2, CURVED=True, BATCH=2, views=1, n2=1, **SEEN)),
    ("*fp64", kernels.project, dict(ROWS=4, COLUMNS=32, BATCH=1, LARGE=False)),
    ("*fp64", kernels.back_project, dict(KIND=1, CURVED=True, BATCH=4, **SEEN)),
):
    data = dict.fromkeys(("volume", "table", "out", "data", "seen"), real)
    names = kernel.arg_names
    types = {
        name: "constexpr" if name in constants else {**DOUBLE, **data}.get(name, "i32") for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    made = compile(ASTSource(kernel, types, values), target=GPUTarget("cuda", 80, 32), options=EXACT)
    assert made.asm["cubin"]
    # No product joins a sum but the two positions of a step: both ways have to round alike.
    if real == "*fp32" and kernel is not kernels.trace:
        assert made.asm["ptx"].count("fma.rn.f32") == 2
print("compiled")
"""
    assert python("-c", program, TRITON_CACHE_DIR=str(tmp_path)) == "compiled\n"


def test_without_triton_torch_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device, layouts = torch.device("cuda"), ("volume",)
    monkeypatch.setattr(engines, "missing", lambda engine: engine.package == "triton")
    assert engines.engine_for(device, layouts)[0] == "torch"
    monkeypatch.setattr(engines, "missing", lambda engine: False)
    assert engines.engine_for(device, layouts)[0] == "triton"


def test_a_cpu_tensor_is_refused_by_name() -> None:
    grid, geometry = SCANS["flat cone"]
    pytest.importorskip("triton")
    projector = geometry.operator(grid, engine="triton")
    with pytest.raises(ValueError, match="be on cuda for the triton engine"):
        projector(torch.zeros(grid.shape))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", SCANS)
def test_on_a_gpu_the_pair_agrees_matches_and_repeats(name: str, dtype: torch.dtype) -> None:
    from operators.ct import triton_volume

    rays, generator = rays_of(name), torch.Generator().manual_seed(6)
    x = torch.randn((3, *rays.size), generator=generator, dtype=dtype).cuda()
    y = torch.randn((3, *rays.views.shape), generator=generator, dtype=dtype).cuda()
    image, back = triton_volume.forward(rays, x), triton_volume.adjoint(rays, y)
    single = dtype == torch.float32
    for got, expected in (
        (image, torch_volume.forward(rays, x)),
        (back, torch_volume.adjoint(rays, y)),
    ):
        assert (got - expected).abs().max() < (1e-5 if single else 1e-12) * expected.abs().max()
    products = (image.double() * y.double()).sum() - (x.double() * back.double()).sum()
    assert products.abs() < (1e-6 if single else 1e-13) * image.double().norm() * y.double().norm()
    assert torch.equal(triton_volume.forward(rays, x), image)
    assert torch.equal(triton_volume.adjoint(rays, y), back)


@pytest.mark.cuda
def test_on_a_gpu_the_workspace_is_what_was_said() -> None:
    from operators.ct import triton_volume

    grid = Grid.from_spacing((128, 128, 128), 1.0)
    scan = CONE.with_(columns=192, rows=192, column_pitch=1.0, row_pitch=1.0, axis_column=None)
    rays = VolumeRays.through(grid, scan.with_(source_to_axis=300.0, source_to_detector=400.0).views())
    y = torch.ones((2, *rays.views.shape), device="cuda")
    triton_volume.adjoint(rays, y)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    back = triton_volume.adjoint(rays, y)
    peak = torch.cuda.max_memory_allocated() - before - back.numel() * back.element_size()
    said = triton_volume.workspace_bytes(rays, 2, torch.float32)
    assert 0.8 * said < peak < 1.1 * said + 2**20
