"""`workbench demo`: a 3D phantom is scanned by CT with counts noise and reconstructed, end to end."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.verbs import File, Overrides
from pipelines.config.demo import DemoConfig
from pipelines.config.loading import config_hash, load, to_toml


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    file: File = None,
    overrides: Overrides = None,
) -> None:
    """Run a small reconstruction end to end.

    A chest made of ellipsoids is scanned in parallel-beam CT (simulated on a finer grid, with Poisson
    counts) and reconstructed twice: by conjugate gradients stopped early, and with a penalty on the total
    variation. Writes NIfTI volumes, a picture and a record of the run.
    """
    config = load(DemoConfig, file, overrides=overrides or ())
    record = run(config, out, say=lambda text: typer.echo(text, err=True))
    for path in record["files"]:
        typer.echo(out / path)


def run(config: DemoConfig, out: Path, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the demo into the folder `out` and return its record, which is also written there."""
    _check(out)

    from pipelines.montage import save_montage
    from pipelines.reconstruction import LABELS, reconstruct
    from pipelines.simulated_scan import simulated_scan
    from workbench.io.nifti import write_nifti

    begun = time.perf_counter()
    voxels = " x ".join(str(n) for n in config.phantom.shape)
    light = f"{_counted(config.scan.views, 'view')}, {_counted(config.scan.photons, 'photon')} per ray"
    say(f"1/3 scan        {voxels} voxels, {light}")
    scan = simulated_scan(config)
    say("2/3 reconstruct conjugate gradients stopped early, then total variation")
    truth = scan.truth
    answers = reconstruct(scan.measurement, truth.grid, truth.unit, config, say)

    say("3/3 write       NIfTI, picture, record")
    record_file = out / "run.json"
    record_file.unlink(missing_ok=True)  # no record of other files while these are written
    volumes = {"phantom": truth} | {name: answer.volume for name, answer in answers.items()}
    files = [write_nifti(out / f"{name}.nii.gz", volume).name for name, volume in volumes.items()]
    kinds = " and ".join(sorted({f"{answer.samples.kind}s" for answer in answers.values()}))
    picture = save_montage(
        out / "montage.png",
        {LABELS.get(name, name): volume for name, volume in volumes.items()},
        window=(0.0, 0.028),
        unit=f"attenuation [{truth.unit}]",
        title=f"{light}: {kinds}",
    )
    _write_text(out / "config.toml", to_toml(config))
    record = {
        "seed": config.seed,
        "config_sha256": config_hash(config),
        "scan": {**scan.measurement.provenance.facts(), **scan.facts},
        "reconstructions": {
            name: {"relative_error": answer.relative_error(truth), **answer.facts()}
            for name, answer in answers.items()
        },
        "seconds": round(time.perf_counter() - begun, 2),
        "files": [*files, picture.name, "config.toml", "run.json"],
    }
    _write_text(record_file, json.dumps(record, indent=2, allow_nan=False) + "\n")
    for name, answer in answers.items():
        error = answer.relative_error(truth)
        say(f"    {LABELS[name]:<4} {error:.1%} relative error against the phantom: {answer.samples.kind}")
    say(f"    {record['seconds']:.1f} s; research use, not a medical device")
    return record


def _check(out: Path) -> None:
    """Raise at the start what would stop the end of the run; make the folder `out`."""
    from operators.extras import require

    require("nibabel", feature="The demo", extra="io")
    require("matplotlib", feature="The demo", extra="io")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as problem:
        problem.filename = str(out)
        raise


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _write_text(path: Path, text: str) -> None:
    from workbench.io.whole import written_whole

    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
