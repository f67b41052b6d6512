"""All that a run is made of before its first step: volumes to train on and to look at, and their origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from operators.errors import value_error
from pipelines.config.training import TrainConfig
from pipelines.training.build import card_of, contrast_of
from pipelines.training.data import (
    Make,
    check_contrast,
    check_copies,
    counted,
    hold_out,
    made_volumes,
    measured_volumes,
    mixed,
    read_manifests,
    spacing_of,
)
from pipelines.training.provenance import Origin, check_warm
from workbench.io.weights import load_weights, read_card
from workbench.priors.network import Card
from workbench.training.trainer import Trainer
from workbench.training.volumes import SliceVolume

__all__ = ["Gathered", "gather"]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is trained on and looked at.

    Parameters
    ----------
    trained, looked_at
        Volumes that slices are cut from.
    origin
        Where the weights will come from.
    spacing
        Shortest and longest side of a voxel that slices have.
    generated
        The share of generated subjects.
    counted
        What is looked at, in words.
    """

    trained: tuple[SliceVolume, ...]
    looked_at: tuple[SliceVolume, ...]
    origin: Origin
    spacing: tuple[float, float]
    generated: float
    counted: str


def gather(
    config: TrainConfig,
    data: Path,
    trainer: Trainer,
    *,
    warm: Path | None,
    make: Make,
    say: Callable[[str], None],
) -> Gathered:
    """Check manifests and weights to begin from, put these into the trainer, and read the volumes."""
    contrast = contrast_of(config)
    manifests = hold_out(read_manifests(config.data.manifests), config.data.hold_out)
    check_contrast(manifests, contrast)
    begun: Card | None = None
    if warm is not None:
        begun = read_card(warm)
        check_warm(begun, card_of(config, trainer.average.module), manifests)  # type: ignore[arg-type]
        trainer.warm_start(load_weights(warm, trainer.module).state_dict())
    check_copies(manifests, data)
    split = config.report.split
    splits = {entry.split for manifest in manifests for entry in manifest.volumes}
    splits |= {entry.split for manifest in manifests for entry in manifest.generators}
    if split not in splits:
        remedy = 'Give a subject to it in a manifest, or look at what trains: report.split = "train".'
        raise value_error("report.split", "name a split that somebody is in", repr(split), remedy)
    say("reading volumes")

    def volumes(split: str, share: float) -> tuple[list[SliceVolume], list[SliceVolume]]:
        measured = measured_volumes(manifests, split, data, contrast) if config.data.real else ()
        return [*measured], [*made_volumes(manifests, split, contrast, make)] if share > 0 else []

    share, share_looked_at = config.data.procedural, 0.0 if config.data.hold_out else 0.5
    measured, made = volumes("train", share)
    others = volumes(config.report.split, share_looked_at)
    say(f"training on {counted(measured, made)}, looking at {counted(*others)}")
    trained = mixed(measured, made, share)
    origin = Origin.of(manifests, measured, made)
    return Gathered(
        trained,
        mixed(*others, share_looked_at),
        origin if begun is None else origin.after(begun),
        spacing_of(trained, config.data.spacing),
        (share if measured else 1.0) if made else 0.0,
        counted(*others),
    )
