"""Finite laws: probabilities out of weights, and draws from them by one keyed uniform each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from operators.checks import check_finite
from operators.errors import value_error
from workbench.random import Keys

__all__ = ["chosen_by", "inverted", "log_chances"]


def log_chances(weights: Sequence[float] | Tensor | None, count: int, argument: str) -> Tensor:
    """Return the logarithms of `count` weights over their sum, in double precision; None: all alike."""
    if weights is None:
        weights = torch.ones(count, dtype=torch.float64)
    if not isinstance(weights, Tensor):
        weights = torch.tensor(list(weights), dtype=torch.float64)
    if weights.is_complex() or tuple(weights.shape) != (count,):
        raise value_error(argument, f"be {count} real numbers", f"{weights.dtype}, {tuple(weights.shape)}")
    values = weights.detach().to(torch.float64, copy=True)
    check_finite(values, argument)
    if float(values.min()) < 0 or float(values.max()) <= 0:
        extremes = f"{float(values.min()):g} to {float(values.max()):g}"
        raise value_error(argument, "be >= 0, and one of them larger", extremes)
    # The largest first, so that the sum neither overflows nor vanishes.
    values = values / values.max()
    return (values / values.sum()).log()


def inverted(chances: Tensor, share: Tensor) -> Tensor:
    """Return what class of `chances` (..., K) each `share` in (0, 1) falls to, never one of chance 0."""
    edges = chances.cumsum(dim=-1)
    # Rounded down or not, share * total is at most the last edge, and more than the edges of empty classes.
    aim = (share.unsqueeze(-1) * edges[..., -1:]).clamp(max=edges[..., -1:])
    return (aim > edges).sum(dim=-1)


def chosen_by(keys: Keys, chances: Tensor, purpose: str) -> Tensor:
    """Return one of the classes of `chances` (K,) per draw of `keys`, on the CPU."""
    share = keys.uniforms((1,), purpose, like=torch.empty(0, dtype=torch.float64)).flatten()
    edges = chances.to("cpu", torch.float64).cumsum(dim=0)
    return torch.searchsorted(edges, share * edges[-1])
