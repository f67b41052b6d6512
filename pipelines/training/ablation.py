"""What moved quality: the denoising curves of training runs side by side.

    workbench train ct-slice --out runs/base  --set 'data.hold_out=["4D-Lung-113"]' --set optimiser.steps=3000
    workbench train ct-slice --out runs/real  ... --set data.procedural=0
    python -m pipelines.training.ablation runs/base runs/real --data FOLDER

Runs are compared on the subjects that they hold out, which must be the same; errors are those of the averaged
weights, in percent of the first run's, beside it in the units of the images. With --data, priors of CT also
reconstruct four slices of whom they hold out behind twenty views, by DDS, four draws: PSNR of the means.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from operators.errors import value_error
from pipelines.config.loading import load
from pipelines.config.training import TrainConfig
from pipelines.quality.metrics import psnr
from pipelines.quality.problems import PROBLEMS
from pipelines.quality.subjects import ENERGY, Library, Place
from pipelines.training.run_folder import RunFolder
from workbench import sample
from workbench.io.slice_prior import read_slice_prior
from workbench.io.weights import read_card
from workbench.priors.network.architecture import Architecture
from workbench.solvers.guidance import DDS

__all__ = ["places_of", "reconstructed", "table"]

#: How far along the body the slices lie that are reconstructed, the spacing of their fine grid, and draws.
SHARES, SPACING, DRAWS = (0.15, 0.30, 0.45, 0.60), 1.5, 4


def reconstructed(weights: Path, library: Library, places: Sequence[Place]) -> float:
    """Return the PSNR in dB of posterior means behind twenty views, the mean over slices."""
    found = []
    for place in places:
        case = PROBLEMS["ct20"].case(library.fine(place), place.number)
        prior = read_slice_prior(weights, case.grid, energy=ENERGY)
        draws = sample(case.posed.posterior(prior), DDS(), seed=1, draws=DRAWS).tensor()
        reference = case.reference
        found.append(psnr(case.posed.seen(draws.mean(0)), reference.truth, reference.data_range))
    return statistics.mean(found)


def places_of(config: TrainConfig, library: Library) -> tuple[Place, ...]:
    """Return the slices of the first subject that a run holds out."""
    held = [name for name, entry in library.entries().items() if entry.subject in config.data.hold_out]
    if not held:
        raise value_error("folders", "be runs that hold out a subject of the manifests", config.data.hold_out)
    return tuple(Place("ct", held[0], share, 1001 + i, spacing=SPACING) for i, share in enumerate(SHARES))


def table(folders: Sequence[Path], decibels: Mapping[Path, float] | None = None) -> list[str]:
    """Return the lines of a table in Markdown: a line per run and step at which it was measured.

    `decibels` is what its last weights reconstruct, by run.
    """
    if not folders:
        raise value_error("folders", "name one run or more", "none")
    configs = {folder: load(TrainConfig, RunFolder(folder).config, env={}) for folder in folders}
    looked_at = {(c.data.hold_out, c.report.images, c.report.levels) for c in configs.values()}
    if len(looked_at) > 1:
        remedy = "Give all runs the same data.hold_out, report.images and report.levels."
        raise value_error(
            "folders", "be runs that look at the same images", f"{len(looked_at)} kinds", remedy
        )
    levels = [f"{level:g}" for level in configs[folders[0]].report.levels]
    scanned = decibels or {}
    last = ["DDS, dB"] if scanned else []
    lines = [
        f"| run | weights | steps | {' | '.join([*levels, *last])} |",
        f"|---|---|---|{'---|' * len([*levels, *last])}",
    ]
    first: dict[str, float] = {}
    for folder in folders:
        size = _size(read_card(RunFolder(folder).weights).architecture)
        for step, curve in RunFolder(folder).known_curves().items():
            if not first:
                first = RunFolder(folder).known_curves()[max(RunFolder(folder).known_curves(), key=int)]
            cells = [f"{curve[level]:.4f} ({100 * curve[level] / first[level]:.0f} %)" for level in levels]
            if scanned:
                final = step == max(RunFolder(folder).known_curves(), key=int)
                cells.append(f"{scanned[folder]:.2f}" if final else "")
            lines.append(f"| {folder.name} | {size / 1e6:.1f} M | {step} | {' | '.join(cells)} |")
    return lines


def _size(architecture: Architecture) -> int:
    return sum(weight.numel() for weight in architecture.build().parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the runs that are named."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training.ablation")
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of workbench train")
    parser.add_argument("--data", type=Path, help="of the manifests' paths: reconstruct, too")
    told = parser.parse_args(arguments)
    decibels = None
    if told.data is not None:
        library = Library(told.data)
        config = load(TrainConfig, RunFolder(told.folders[0]).config, env={})
        places = places_of(config, library)
        weights = {folder: RunFolder(folder).weights for folder in told.folders}
        decibels = {folder: reconstructed(path, library, places) for folder, path in weights.items()}
    print("\n".join(table(told.folders, decibels)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, json.JSONDecodeError) as error:
        sys.exit(str(error))
