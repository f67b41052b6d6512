"""Radial power spectra: whether what a prior draws has as much fine detail as what it was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.errors import value_error

__all__ = ["difference_in_decibels", "radial_power"]


def radial_power(images: Tensor, bins: int = 16) -> Tensor:
    """Return the mean power of images (count, y, x), real or complex, in rings of spatial frequency.

    Rings are of equal width from zero to half a cycle per voxel; the mean of each image and a Hann window
    are taken out and put on first, so that edges of the field are no detail.
    """
    if images.ndim != 3 or min(images.shape[1:]) < 2 * bins:
        expected = f"be (count, y, x) with sides of at least {2 * bins}"
        raise value_error("images", expected, tuple(images.shape))
    wide = images.to(torch.complex128 if images.is_complex() else torch.float64)
    window = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in images.shape[1:]]
    wide = (wide - wide.mean(dim=(1, 2), keepdim=True)) * window[0][:, None] * window[1]
    power = torch.fft.fft2(wide).abs().square().mean(dim=0)
    down, across = (torch.fft.fftfreq(n, dtype=torch.float64) for n in images.shape[1:])
    radius = torch.hypot(down[:, None].expand_as(power), across.expand_as(power))
    ring = (radius * 2 * bins).floor().long()
    inside = ring < bins
    total = torch.zeros(bins, dtype=torch.float64).index_add_(0, ring[inside], power[inside])
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, ring[inside], torch.ones_like(power[inside]))
    return total / count / math.prod(images.shape[1:])


def difference_in_decibels(drawn: Tensor, real: Tensor) -> Tensor:
    """Return 10 log10 of the ratio of two spectra, ring by ring: positive where draws have more."""
    return 10 * (drawn / real).log10()
