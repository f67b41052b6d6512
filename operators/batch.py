"""Arithmetic per sample of a batch (batch, ...), and on the two parts of complex values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> per sample."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a * b).flatten(1).sum(dim=1)


def largest(a: Tensor) -> Tensor:
    """Return the largest magnitude of a component per sample."""
    real = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    return real.flatten(1).abs().amax(dim=1)


def components(a: Tensor) -> int:
    """Return the number of real components of a sample."""
    return a[0].numel() * (2 if a.is_complex() else 1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per sample, shaped to multiply `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def by_components(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a real linear function of `x`, of its real and imaginary parts where it is complex."""
    if not x.is_complex():
        return function(x)
    real, imaginary = function(torch.stack([x.real, x.imag]))
    return torch.complex(real, imaginary)
