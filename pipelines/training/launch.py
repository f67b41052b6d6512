"""Where a training run computes: its device, and the ranks of torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as ranks

from workbench.priors.unet import UNet

__all__ = ["among_ranks", "in_turn", "laid_out"]


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


def in_turn(first: bool, make: Callable[[], None]) -> None:
    """Let the first rank make something that all of them read then."""
    if first:
        make()
    if ranks.is_available() and ranks.is_initialized():
        ranks.barrier()
