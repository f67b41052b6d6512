"""A fixed combination of coils into channels: what prewhitening and compression are.

    v_i = sum_c M_ic y_c        of samples, of a noise scan and of coil maps alike

so that physics holds between the channels as it did between the coils: y_c = F S_c x + n_c becomes
v_i = F (M S)_i x + (M n)_i. Maps that had sum_c |S_c|^2 = 1 keep it only where M is unitary; nothing
asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_finite, check_number, check_tensor
from operators.errors import type_error, value_error
from workbench.calibration import CoilMaps
from workbench.noise.gaussian import Gaussian

__all__ = ["CoilMatrix"]


@dataclass(frozen=True, eq=False)
class CoilMatrix:
    """`matrix` (channels, coils), kept in double precision.

    `sigma` is the standard deviation of each real component of the noise in each channel, independent
    between channels; None where nobody said what the noise of the coils is.
    """

    matrix: Tensor
    sigma: float | None = None

    def __post_init__(self) -> None:
        check_tensor(self.matrix, "matrix")
        check_finite(self.matrix, "matrix")
        if self.matrix.ndim != 2:
            raise value_error("matrix", "have shape (channels, coils)", tuple(self.matrix.shape))
        object.__setattr__(self, "matrix", self.matrix.detach().to(torch.complex128).clone())
        if self.sigma is not None:
            object.__setattr__(self, "sigma", check_number(self.sigma, "sigma", positive=True))

    @property
    def coils(self) -> int:
        """How many coils it takes."""
        return int(self.matrix.shape[1])

    @property
    def channels(self) -> int:
        """How many channels it makes."""
        return int(self.matrix.shape[0])

    def apply(self, samples: Tensor) -> Tensor:
        """Return samples (channels, ...) of samples (coils, ...): k-space or a noise scan."""
        check_tensor(samples, "samples")
        if not samples.is_complex():
            raise type_error("samples", "be complex", samples.dtype)
        if samples.shape[:1] != (self.coils,):
            raise value_error("samples", f"have {self.coils} coils in front", tuple(samples.shape))
        mixed: Tensor = torch.tensordot(self.matrix.to(samples), samples, dims=1)
        return mixed

    def maps(self, maps: CoilMaps) -> CoilMaps:
        """Return the maps of the channels."""
        if not isinstance(maps, CoilMaps):
            raise type_error("maps", "be CoilMaps", type(maps).__name__)
        return CoilMaps(self.apply(maps.maps), maps.grid)

    def noise(self, averages: float | Tensor = 1) -> Gaussian:
        """Return the law of the noise of the channels, of which so many measurements were averaged.

        `averages` is a number or a tensor that broadcasts to the data; what was measured zero times
        counts as once.
        """
        if self.sigma is None:
            remedy = "Make it with a noise scan, or write Gaussian(sigma) with the sigma of the data."
            raise value_error("sigma", "be known", "None", remedy)
        return Gaussian(averaged(self.sigma, averages))


def averaged(sigma: float | Tensor, averages: float | Tensor) -> float | Tensor:
    """Return sigma / sqrt(averages), where what was measured zero times counts as once."""
    if isinstance(averages, Tensor):
        if averages.is_complex() or bool((averages < 0).any()):
            raise value_error("averages", "be counts >= 0", f"of {averages.dtype}")
        return sigma / averages.to(torch.float64).clamp(min=1).sqrt()
    return sigma / math.sqrt(check_number(averages, "averages", positive=True))
