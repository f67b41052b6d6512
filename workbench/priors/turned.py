"""A prior of slices stored another way: transposed or flipped on its way in, and back on its way out.

White noise is white however it is stored, so the posterior mean is that of the turned image, exactly.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from operators.errors import value_error
from operators.space import Space
from workbench.priors.base import Counter, Denoiser
from workbench.priors.slice_frame import SliceFrame

__all__ = ["TurnedPrior"]


class TurnedPrior(Denoiser):
    """`inner`, which sees slices as networks do, over `space`, which stores them as its grid says."""

    def __init__(self, inner: Denoiser, space: Space, frame: SliceFrame) -> None:
        super().__init__(space, inner.units)
        wanted = tuple(frame.seen(torch.empty(space.shape, device="meta")).shape)
        if inner.space.shape != wanted or inner.space.is_complex != space.is_complex:
            raise value_error("inner", f"be over {wanted}, of numbers alike", repr(inner.space))
        self.inner = inner
        self.frame = frame
        self.law = inner.law
        self.knows_pure_noise = inner.knows_pure_noise
        self.calibrated_score = inner.calibrated_score
        self.differentiable = inner.differentiable

    @property
    def noise_range(self) -> tuple[float, float]:
        """Those of the inner prior."""
        return self.inner.noise_range

    @property
    def data_range(self) -> tuple[float, float] | None:
        """That of the inner prior."""
        return self.inner.data_range

    @property
    def data_sd(self) -> float | None:
        """That of the inner prior."""
        return self.inner.data_sd

    def to(self, device: torch.device | str) -> Self:
        """Return the same prior on `device`."""
        other = copy.copy(self)
        other.inner = self.inner.to(device)  # type: ignore[attr-defined]
        return other

    def counted(self, counter: Counter) -> Self:
        """Return the same prior, its evaluations counted by `counter`."""
        self.inner.counted(counter)  # which looks at the weights
        return super().counted(counter)

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.frame.stored(self.inner._denoise(self.frame.seen(z), sigma))

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self.frame.stored(self.inner._denoise_scaled(self.frame.seen(u), inv_sigma))
