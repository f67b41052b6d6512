"""From settings to what they stand for: network, objective, cutting, card."""

from __future__ import annotations

import math

import torch

from pipelines import installed_version
from pipelines.config.training import TrainConfig
from workbench.paths.affine import AffinePath
from workbench.priors.network import Architecture, Card, EDMOutput, Labelled, Provenance, Training
from workbench.priors.slice_frame import LABELS, SliceAxis
from workbench.priors.unet import UNet, UNetSettings
from workbench.training.contrast import Contrast, Hounsfield, Magnetisation
from workbench.training.densities import Density, LogitNormal, LogNormal, LogUniform, UniformTime
from workbench.training.objective import Denoising
from workbench.training.rates import LearningRate
from workbench.training.slices import Cutting
from workbench.training.trainer import TrainerSettings

__all__ = ["card_of", "contrast_of", "cutting_of", "network_of", "objective_of", "settings_of"]


def contrast_of(config: TrainConfig) -> Contrast:
    """Return how images are made of slices."""
    return Hounsfield() if config.data.contrast == "hounsfield" else Magnetisation()


def network_of(config: TrainConfig) -> UNet:
    """Return the network, new."""
    channels = contrast_of(config).channels
    settings = UNetSettings(
        in_channels=channels,
        out_channels=channels,
        widths=config.network.widths,
        blocks=config.network.blocks,
        attention=config.network.attention,
        labels=LABELS,
    )
    return UNet(settings, seed=config.seed)


def objective_of(config: TrainConfig) -> Denoising:
    """Return what it is trained for."""
    stated = config.objective
    return Denoising(EDMOutput(stated.data_sd), Labelled(LABELS), _density(config), stated.data_sd)


def cutting_of(config: TrainConfig) -> Cutting:
    """Return how slices are cut."""
    data = config.data
    return Cutting(
        sizes=data.sizes,
        spacing=data.spacing,
        rotation=data.rotation,
        tilt=data.tilt,
        scale=data.scale,
        bend=data.bend,
        mirror=data.mirror,
    )


def settings_of(config: TrainConfig) -> TrainerSettings:
    """Return how the weights move."""
    stated = config.optimiser
    return TrainerSettings(
        rows=stated.rows,
        parts=stated.parts,
        seed=config.seed,
        rate=LearningRate(stated.rate, stated.warmup, stated.steady),
        decay=stated.decay,
        clip=stated.clip,
        autocast=torch.bfloat16 if stated.half else None,
        average=stated.average,
    )


def card_of(
    config: TrainConfig,
    network: UNet,
    *,
    told: Provenance | None = None,
    spacing: tuple[float, float] | None = None,
) -> Card:
    """Return the card of a run's weights: what settings say, beside what is `told` of their origin."""
    contrast, stated = contrast_of(config), config.objective
    training = Training(
        dimensions=2,
        is_complex=contrast.channels == 2,
        units=contrast.units,
        data_range=contrast.data_range,
        data_sd=stated.data_sd,
        noise_range=stated.noise_range,
    )
    slices = {
        "frame": 1,
        "spacing": list(config.data.spacing if spacing is None else spacing),
        "sizes": [list(size) for size in config.data.sizes],
        "axes": [axis.value for axis in SliceAxis],
    }
    about: dict[str, object] = {
        "name": config.name,
        "slices": slices,
        "workbench": installed_version() or "a checkout",
    }
    if config.notes:
        about["about"] = config.notes
    told = Provenance() if told is None else told
    told = told.with_(licence=config.licence, notes={**about, **told.notes})
    return Card(Architecture.of(network), EDMOutput(stated.data_sd), Labelled(LABELS), training, told)


def _density(config: TrainConfig) -> Density:
    stated = config.objective
    low, high = stated.noise_range
    if stated.density == "log-normal":
        return LogNormal(stated.mean, stated.sd)
    if stated.density == "log-uniform":
        return LogUniform(low, high)
    if stated.density == "logit-normal":
        return LogitNormal(AffinePath.flow(), stated.mean, stated.sd)
    first, last = (level / (1 + level) for level in (low, high))
    return UniformTime(AffinePath.flow(), first, math.nextafter(last, 0))
