"""Where a training run computes: its device, the ranks of torchrun, the weights it begins from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as ranks

from workbench.io.weights import load_weights, read_card
from workbench.priors.unet import UNet
from workbench.training.trainer import Trainer

__all__ = ["among_ranks", "laid_out", "warmed"]


@contextmanager
def among_ranks(device: str) -> Iterator[tuple[str, bool]]:
    """Yield the device of this process and whether it is the first, of those that torchrun started."""
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    place = ("cuda" if cuda else "cpu") if device == "auto" else device
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield place, True
        return
    if cuda:
        place = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(place)
    ranks.init_process_group("nccl" if cuda else "gloo")
    try:
        yield place, ranks.get_rank() == 0
    finally:
        ranks.destroy_process_group()


def laid_out(network: UNet, device: str) -> UNet:
    """Return the network on its device, channels last, as convolutions on a CPU want it."""
    placed: UNet = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def warmed(trainer: Trainer, weights: Path) -> tuple[str, int]:
    """Begin from a file of weights; return its hash, and the steps that were taken to it."""
    module = load_weights(weights, trainer.module)
    trainer.warm_start(module.state_dict())
    card = read_card(weights)
    return card.sha256, card.provenance.steps or 0
