"""An average over the course of the weights: what is shipped, drawn from and continued from.

    mean_t = beta_t mean_(t-1) + (1 - beta_t) w_t,    beta_t = (1 - 1 / t)^(gamma + 1)

Its weights grow as a power of t (Karras et al. 2024): the average covers a fixed share of the course, however
long that becomes, and forgets where it began. `width` is the standard deviation of the share: gamma solves
width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from operators.checks import check_number
from operators.errors import value_error

__all__ = ["Average"]


class Average:
    """The average of a module's weights."""

    def __init__(self, module: nn.Module, width: float = 0.08) -> None:
        self.width = check_number(width, "width", positive=True)
        # gamma = 0 has a standard deviation of 1 / sqrt(12).
        if not self.width < 12**-0.5:
            raise value_error("width", f"be below {12**-0.5:.3f}, that of the plain mean", width)
        self.gamma = _exponent(self.width)
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, steps: int) -> None:
        """Take in the weights after so many steps, 1 or more."""
        beta = (1 - 1 / steps) ** (self.gamma + 1)
        mine, theirs = self.module.state_dict(), module.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - beta)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    def state(self) -> dict[str, Tensor]:
        """Return the averaged tensors by name."""
        return dict(self.module.state_dict())


def _exponent(width: float) -> float:
    """Return the root gamma >= 0, by bisection in its logarithm."""
    low, high = -20.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        gamma = math.exp(middle)
        spread = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))
        low, high = (middle, high) if spread > width**2 else (low, middle)
    return math.exp((low + high) / 2)
