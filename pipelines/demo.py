"""`workbench demo`: a 3D phantom is scanned by CT with counts noise and reconstructed, end to end."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import installed_version
from pipelines.cli.verbs import File, Overrides
from pipelines.config.demo import DemoConfig
from pipelines.config.loading import config_hash, load, to_toml

if TYPE_CHECKING:
    import torch

    from operators.cg import CGResult
    from operators.ct import ParallelBeamCT
    from workbench.volume import Volume

KIND = "point estimate"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    file: File = None,
    overrides: Overrides = None,
) -> None:
    """Run a small reconstruction end to end.

    A chest made of ellipsoids is scanned in parallel-beam CT (simulated on a finer grid, with Poisson
    counts) and reconstructed twice: by conjugate gradients stopped early, and by conjugate gradients
    with a quadratic penalty on the gradient. Writes NIfTI volumes, a picture and a record of the run.
    """
    config = load(DemoConfig, file, overrides=overrides or ())
    record = run(config, out, say=lambda text: typer.echo(text, err=True))
    for path in record["files"]:
        typer.echo(out / path)


def run(config: DemoConfig, out: Path, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the demo into the folder `out` and return its record, which is also written there."""
    from operators.extras import require

    # What would stop the end of the run stops its start.
    require("nibabel", feature="The demo", extra="io")
    require("matplotlib", feature="The demo", extra="io")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as problem:
        problem.filename = str(out)
        raise

    from operators.ct import ParallelBeamGeometry
    from operators.grid import Grid
    from pipelines.montage import save_montage
    from workbench.io.nifti import write_nifti
    from workbench.phantoms import chest_phantom

    begun = time.perf_counter()
    grid = Grid.from_spacing(config.phantom.shape, config.phantom.spacing)
    scan = ParallelBeamGeometry.around(grid, config.scan.views)
    nz, ny, nx = grid.shape
    # Simulated on half the voxel size in the plane: a reconstruction that inverts its own
    # discretisation would look better than any real one.
    fine = grid.resample(shape=(nz, 2 * ny, 2 * nx))
    say(f"1/4 phantom     {nz} x {ny} x {nx} voxels, {grid.spacing[0]:g} mm slices")
    object_ = chest_phantom(fine, seed=config.seed)
    truth = object_.downsample((1, 2, 2))
    light = f"{_counted(config.scan.views, 'view')}, {_counted(config.scan.photons, 'photon')} per ray"
    say(f"2/4 scan        {light}")
    counts = _counts(scan.operator(fine)(object_.data), config.scan.photons, config.seed)

    say("3/4 reconstruct conjugate gradients, then with a gradient penalty")
    images, details = _reconstruct(scan.operator(grid), counts, config, say)
    volumes = {"phantom": truth} | {name: truth.with_data(image) for name, image in images.items()}
    errors = {name: _relative_error(volume, truth) for name, volume in volumes.items() if volume is not truth}

    say("4/4 write       NIfTI, picture, record")
    record_file = out / "run.json"
    record_file.unlink(missing_ok=True)  # no record of other files while these are written
    files = [write_nifti(out / f"{name}.nii.gz", volume).name for name, volume in volumes.items()]
    labels = {"phantom": "phantom", "cg": "CG", "cg_penalty": "CG + penalty"}
    picture = save_montage(
        out / "montage.png",
        {labels[name]: volume for name, volume in volumes.items()},
        window=(0.0, 0.028),
        unit="attenuation [1/mm]",
        title=f"{light}: {KIND}s",
    )
    _write_text(out / "config.toml", to_toml(config))
    record = {
        "kind": KIND,
        "unit": truth.unit,
        "seed": config.seed,
        "config_sha256": config_hash(config),
        "relative_error": errors,
        **details,
        "versions": _versions(),
        "seconds": round(time.perf_counter() - begun, 2),
        "files": [*files, picture.name, "config.toml", "run.json"],
    }
    _write_text(record_file, json.dumps(record, indent=2, allow_nan=False) + "\n")
    for name, error in errors.items():
        say(f"    {labels[name]:<13} {error:.1%} relative error against the phantom")
    say(f"    {record['seconds']:.1f} s; {KIND}s, research use, not a medical device")
    return record


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _counts(integrals: torch.Tensor, photons: float, seed: int) -> torch.Tensor:
    """Return Poisson counts N ~ Poisson(photons exp(-integral)), keyed by the seed."""
    import numpy as np
    import torch

    mean = photons * torch.exp(-integrals.double()).numpy()
    stream = np.random.Generator(np.random.Philox(key=[seed, 1]))
    return torch.from_numpy(stream.poisson(mean)).to(integrals.dtype)


def _reconstruct(
    projector: ParallelBeamCT, counts: torch.Tensor, config: DemoConfig, say: Callable[[str], None]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return both reconstructions by name, and what the record says of them."""
    from operators.cg import conjugate_gradient
    from operators.diagonal import Diagonal
    from operators.differences import FiniteDifferences
    from operators.stack import Stack
    from workbench.calibrate.transmission import line_integrals, log_weights

    data = line_integrals(counts, config.scan.photons)
    whitener = Diagonal(projector.codomain, log_weights(counts).sqrt())
    weighted = whitener @ projector
    gradient = FiniteDifferences(projector.domain)
    # -log p = |W (A x - y)|^2 / 2 + |D x|^2 / (2 sd^2): the mode under a Gaussian smoothness prior.
    penalised = Stack([weighted, gradient / config.solve.gradient_sd])
    target = whitener(data)

    back = projector.adjoint(data)
    early = conjugate_gradient(
        projector.gram, back[None], max_iterations=config.solve.iterations, callback=_progress("CG", say)
    )
    say(f"    CG            {int(early.iterations)} iterations")
    full = conjugate_gradient(
        penalised.gram,
        weighted.adjoint(target)[None],
        tolerance=config.solve.tolerance,
        max_iterations=500,
        callback=_progress("CG + penalty", say),
    )
    say(f"    CG + penalty  {int(full.iterations)} iterations, residual {float(full.relative_residual):.1e}")
    if not bool(full.converged):
        say("    the penalised solve did not reach its tolerance: raise solve.tolerance")
    images = {"cg": early.solution[0], "cg_penalty": full.solution[0]}
    details = {
        "solves": {
            "cg": _solve_record(early, f"after {config.solve.iterations} iterations, early by design"),
            "cg_penalty": _solve_record(full, f"at a relative residual of {config.solve.tolerance:g}"),
        },
        "starved_rays": float((counts <= 0).double().mean()),
        "adjoint_mismatch": _adjoint_mismatch(projector, config.seed),
        "engine": projector.engine_for(data.device),
    }
    return images, details


def _solve_record(result: CGResult, stop: str) -> dict[str, Any]:
    return {
        "stop": stop,
        "iterations": int(result.iterations),
        "relative_residual": float(result.relative_residual),
        "converged": bool(result.converged),
    }


def _adjoint_mismatch(projector: ParallelBeamCT, seed: int) -> float:
    """Return |<A x, y> - <x, A^T y>| / (|A x| |y|) for random x and y."""
    import torch

    from operators.linalg import normals

    like = torch.empty(0, dtype=torch.float32)
    x = normals(projector.domain.shape, seed=seed, index=2, like=like)
    y = normals(projector.codomain.shape, seed=seed, index=3, like=like)
    image, back = projector(x).double(), projector.adjoint(y).double()
    apart = (image * y).sum() - (x * back).sum()
    return float(apart.abs() / (image.norm() * y.double().norm()))


def _versions() -> dict[str, str | None]:
    import numpy
    import torch

    return {
        "inverse-workbench": installed_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def _write_text(path: Path, text: str) -> None:
    from workbench.io.whole import written_whole

    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _progress(name: str, say: Callable[[str], None]) -> Callable[[int, torch.Tensor], None]:
    """Return a callback that reports an iteration every two seconds."""
    last = time.monotonic()

    def report(iteration: int, residual: torch.Tensor) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            say(f"    {name:<13} iteration {iteration}, residual {float(residual.max()):.1e}")

    return report


def _relative_error(volume: Volume, truth: Volume) -> float:
    return float((volume.data - truth.data).norm() / truth.data.norm())
