"""What moved quality: the denoising curves of training runs side by side.

    workbench train ct-slice --out runs/base  --set 'data.hold_out=["4D-Lung-113"]' --set optimiser.steps=3000
    workbench train ct-slice --out runs/real  ... --set data.procedural=0
    python -m pipelines.training.ablation runs/base runs/real

Runs are compared on the subjects that they hold out, which must be the same; errors are those of the averaged
weights, in percent of the first run's, beside it in the units of the images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from operators.errors import value_error
from pipelines.config.loading import load
from pipelines.config.training import TrainConfig
from pipelines.training.run_folder import RunFolder
from workbench.io.weights import read_card
from workbench.priors.network.architecture import Architecture

__all__ = ["table"]


def table(folders: Sequence[Path]) -> list[str]:
    """Return the lines of a table in Markdown: a line per run and step at which it was measured."""
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
    lines = [
        f"| run | weights | steps | {' | '.join(levels)} |",
        f"|---|---|---|{'---|' * len(levels)}",
    ]
    first: dict[str, float] = {}
    for folder in folders:
        size = _size(read_card(RunFolder(folder).weights).architecture)
        for step, curve in RunFolder(folder).known_curves().items():
            if not first:
                first = RunFolder(folder).known_curves()[max(RunFolder(folder).known_curves(), key=int)]
            cells = [f"{curve[level]:.4f} ({100 * curve[level] / first[level]:.0f} %)" for level in levels]
            lines.append(f"| {folder.name} | {size / 1e6:.1f} M | {step} | {' | '.join(cells)} |")
    return lines


def _size(architecture: Architecture) -> int:
    return sum(weight.numel() for weight in architecture.build().parameters())


if __name__ == "__main__":
    try:
        print("\n".join(table([Path(name) for name in sys.argv[1:]])))
    except (ValueError, OSError, json.JSONDecodeError) as error:
        sys.exit(str(error))
