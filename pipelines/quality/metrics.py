"""What answers are judged by: pure functions of images, and intervals for means of few slices.

PSNR   20 log10(range / rms(x - truth)) in dB      NRMSE  |x - truth| / |truth|
SSIM   scikit-image's, windows of 7 x 7, its data_range the same range
held   share of the body's voxels whose truth lies within the draws, order statistic `margin` to
       K + 1 - margin: exact draws hold (K + 1 - 2 margin) / (K + 1) of them on average
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from operators.errors import value_error
from operators.extras import require
from workbench.random import Keys

__all__ = [
    "expected_share",
    "held_share",
    "margin_of",
    "mean_interval",
    "nrmse",
    "psnr",
    "radial_spectrum",
    "ssim",
]

#: Resamples of an interval, and its probability.
RESAMPLES, PROBABILITY = 10000, 0.95
#: Student's t at 97.5 %, of 1 to 9 degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def psnr(image: Tensor, truth: Tensor, data_range: float) -> float:
    """Return the peak signal to noise ratio in dB; infinite for the truth itself."""
    error = float((image.double() - truth.double()).square().mean().sqrt())
    return math.inf if error == 0 else 20 * math.log10(data_range / error)


def nrmse(image: Tensor, truth: Tensor) -> float:
    """Return |x - truth| / |truth|."""
    return float((image.double() - truth.double()).norm() / truth.double().norm())


def ssim(image: Tensor, truth: Tensor, data_range: float) -> float:
    """Return the structural similarity of two slices (1, y, x)."""
    skimage: Any = require("skimage.metrics", feature="SSIM", extra="image")
    first, second = (values[0].double().numpy() for values in (image, truth))
    return float(skimage.structural_similarity(first, second, data_range=data_range))


def expected_share(draws: int, margin: int = 1) -> float:
    """Return what share of truths exact draws hold between order statistics `margin` from either end."""
    if not 1 <= margin <= draws // 2:
        raise value_error("margin", f"lie between 1 and {draws // 2}", margin)
    return (draws + 1 - 2 * margin) / (draws + 1)


def margin_of(draws: int, share: float) -> int:
    """Return the margin whose expectation is nearest to `share`."""
    return min(range(1, draws // 2 + 1), key=lambda margin: abs(expected_share(draws, margin) - share))


def held_share(draws: Tensor, truth: Tensor, inside: Tensor, margin: int = 1) -> float:
    """Return the share of the voxels `inside` whose truth lies within draws (K, ...), ends included."""
    expected_share(len(draws), margin)  # says what is wrong with the margin
    below = (draws <= truth).sum(dim=0)
    above = (draws >= truth).sum(dim=0)
    held = (below >= margin) & (above >= margin)
    return float(held[inside].double().mean())


def mean_interval(differences: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % interval, slices resampled with replacement.

    Percentiles of the bootstrap (Efron 1979). That is too narrow for few slices (80 % of four): of ten or
    less Student's t, and of one no interval, NaN. Slices of one subject are alike: it is an interval for
    other slices of these subjects, not for other subjects.
    """
    values = torch.tensor(list(differences), dtype=torch.float64)
    if not len(values):
        raise value_error("differences", "hold one or more", "none")
    count, mean = len(values), float(values.mean())
    if count == 1:
        return mean, math.nan, math.nan
    if count <= len(STUDENT) + 1:
        half = STUDENT[count - 2] * float(values.std()) / math.sqrt(count)
        return mean, mean - half, mean + half
    chance = Keys(seed, (0,)).uniforms((RESAMPLES, len(values)), "bootstrap", like=values)[0]
    chosen = (chance * len(values)).long().clamp(max=len(values) - 1)
    means = values[chosen].mean(dim=1)
    tail = (1 - PROBABILITY) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return mean, low, high


def radial_spectrum(images: Tensor) -> Tensor:
    """Return the mean power at |k| = 0, 1, ..., N / 2 cycles per side of square images (K, y, x)."""
    count = images.shape[-1]
    power = torch.fft.fft2(images.to(torch.complex128), norm="ortho").abs().square().mean(dim=0)
    along = torch.fft.fftfreq(count, dtype=torch.float64) * count
    ring = (along[:, None] ** 2 + along**2).sqrt().round().long()
    size = count // 2 + 1
    kept = ring < size
    sums = torch.zeros(size, dtype=torch.float64).index_add(0, ring[kept], power[kept])
    return sums / torch.bincount(ring[kept], minlength=size)
