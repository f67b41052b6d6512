"""The ramp filter along detector columns, band-limited in space, with the usual windows.

    q_i = pitch * sum_j p_j h((i - j) pitch)
    h(0) = 1 / (4 pitch^2),  h(n pitch) = -1 / (pi n pitch)^2 for odd n, 0 for even n

(Ramachandran and Lakshminarayanan 1971; Kak and Slaney 1988, ch. 3.) Sampled in space rather than as |f| in
frequency, and padded to twice the width or more, it has no bias at frequency zero. On a cylindrical
detector the pitch is an angle and h(g) becomes (g / sin g)^2 h(g).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import value_error

__all__ = ["Window", "check_filter", "extended", "ramp_filtered", "smoothed"]

Window = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


def check_filter(window: object, cutoff: object) -> None:
    """Raise unless there is such a filter."""
    if window not in get_args(Window):
        raise value_error("filter", f"be one of {', '.join(get_args(Window))}", repr(window))
    if check_number(cutoff, "cutoff", positive=True) > 1:
        raise value_error("cutoff", "be at most 1, the highest frequency that the columns sample", cutoff)


def ramp_filtered(
    data: Tensor, pitch: float, *, window: Window = "ramp", cutoff: float = 1.0, angular: bool = False
) -> Tensor:
    """Return q of `data` (..., columns).

    `cutoff` is the share of the highest frequency beyond which nothing passes; the window ends there.
    """
    size = _padded_size(data)
    ramp = pitch * torch.fft.rfft(_kernel(size, pitch, angular)).real
    return _passed(data, ramp * _window(window, cutoff, size))


def smoothed(data: Tensor, *, window: Window = "ramp", cutoff: float = 1.0) -> Tensor:
    """Return `data` (..., columns) behind the window alone: what an image so filtered can explain of them."""
    return _passed(data, _window(window, cutoff, _padded_size(data)))


def extended(data: Tensor, width: int) -> Tensor:
    """Return `data` (..., columns) with `width` more columns on both sides, as a disc would have them.

    p(t) = 2 mu sqrt(R^2 - (d + t)^2) at t columns beyond the edge, d and R from the value p and the slope p'
    there: d = -p p' / (4 mu^2) >= 0, R^2 = d^2 + (p / 2 mu)^2 (after Hsieh et al. 2004). mu is the largest
    mean line integral over the width of the detector: that of a disc which just fills it.
    """
    columns = data.shape[-1]
    mu = float(data.double().reshape(-1, columns).mean(0).max()) / columns
    if not mu > 0:
        return torch.nn.functional.pad(data, (width, width))
    near = min(max(columns // 32, 3), columns)
    place = torch.arange(near, dtype=data.dtype, device=data.device)
    distance = torch.arange(1, width + 1, dtype=data.dtype, device=data.device)
    found = []
    for edge in (data[..., :near].flip(-1), data[..., -near:]):
        mean = edge.mean(-1, keepdim=True)
        apart = place - place.mean()
        slope = (edge * apart).sum(-1, keepdim=True) / apart.square().sum().clamp(min=1)
        value = (mean + slope * apart[-1]).clamp(min=0)
        depth = (-value * slope / (4 * mu * mu)).clamp(min=0)
        square = depth.square() + (value / (2 * mu)).square() - (depth + distance).square()
        found.append(2 * mu * square.clamp(min=0).sqrt())
    return torch.cat([found[0].flip(-1), data, found[1]], dim=-1)


def _kernel(size: int, pitch: float, angular: bool) -> Tensor:
    """Return h, circular: lags 0 ... size / 2, then -size / 2 + 1 ... -1."""
    lag = torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64).round()
    odd = lag.long() % 2 != 0
    kernel = torch.where(odd, -1 / (math.pi * torch.where(odd, lag, 1.0) * pitch) ** 2, 0.0)
    kernel[0] = 1 / (4 * pitch * pitch)
    if angular:
        angle = lag * pitch
        # Lags beyond the fan, at most a half turn wide, meet padding only.
        used = (angle.abs() < 0.999 * math.pi) & (lag != 0)
        kernel = kernel * torch.where(used, angle / torch.where(used, angle, 1.0).sin(), 1.0).square()
    return kernel


def _padded_size(data: Tensor) -> int:
    return 1 << (max(2 * data.shape[-1], 64) - 1).bit_length()


def _passed(data: Tensor, response: Tensor) -> Tensor:
    size = 2 * (len(response) - 1)
    spectrum = torch.fft.rfft(data, n=size) * response.to(data)
    filtered: Tensor = torch.fft.irfft(spectrum, n=size)[..., : data.shape[-1]]
    return filtered


def _window(name: Window, cutoff: float, size: int) -> Tensor:
    """Return the window at the frequencies of a real transform of `size`, zero beyond the cutoff."""
    share = torch.fft.rfftfreq(size, dtype=torch.float64) * 2 / cutoff
    shapes = {
        "ramp": torch.ones_like(share),
        "shepp-logan": torch.sinc(share / 2),
        "cosine": torch.cos(share * (math.pi / 2)),
        "hamming": 0.54 + 0.46 * torch.cos(share * math.pi),
        "hann": 0.5 + 0.5 * torch.cos(share * math.pi),
    }
    found: Tensor = shapes[name] * (share <= 1 + 1e-12)
    return found
