"""From physical values to the images that a network is trained on: its units, and what varies beside anatomy.

    Hounsfield      u = HU / 1000 within a window
    Magnetisation   u = m exp(i phase) bias gain / q,    q: a quantile of m within the object

Of MR only magnitudes are at hand, for the most part: they are multiplied by a phase as smooth as coils and
susceptibility make it. Its scale is that of `workbench.calibrate.signal_scale`, a quantile that a scanner's
calibration lines give, which is off by some percent: so is the gain here, by more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error, value_error
from workbench.random import Keys
from workbench.units import Units

__all__ = ["Contrast", "Hounsfield", "Magnetisation"]

#: Of the largest magnitude of a slice: what is brighter counts as object.
OBJECT = 0.08


class Contrast(ABC):
    """Images of slices; subclasses are frozen values."""

    #: Channels of an image, two where it is complex.
    channels: int = 1

    @property
    @abstractmethod
    def units(self) -> Units:
        """What the numbers of an image mean."""

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The interval they lie in, if there is one."""
        return None

    @property
    @abstractmethod
    def fill(self) -> float:
        """The physical value beyond a volume's faces."""

    @abstractmethod
    def images(self, values: Tensor, keys: Keys) -> Tensor:
        """Return images (rows, channels, y, x) of physical slices (rows, components, y, x)."""

    @staticmethod
    def require(value: object) -> Contrast:
        """Return `value` if it is a Contrast."""
        if not isinstance(value, Contrast):
            remedy = "Hounsfield() or Magnetisation()."
            raise type_error("contrast", "be a Contrast", type(value).__name__, remedy)
        return value


@dataclass(frozen=True)
class Hounsfield(Contrast):
    """CT: HU / 1000, cut off at the ends of a window."""

    low: float = -1000.0
    high: float = 3000.0

    def __post_init__(self) -> None:
        low, high = check_number(self.low, "low"), check_number(self.high, "high")
        if not low < high:
            raise value_error("high", f"be above low = {low:g}", high)

    @property
    def units(self) -> Units:
        """Return thousands of HU."""
        return Units(1000.0, 0.0, "HU")

    @property
    def data_range(self) -> tuple[float, float]:
        """Return the window."""
        return self.low / 1000, self.high / 1000

    @property
    def fill(self) -> float:
        """Return the window's lower end, air."""
        return self.low

    def images(self, values: Tensor, keys: Keys) -> Tensor:
        """Return them; nothing but anatomy varies."""
        del keys
        if values.shape[1] != 1:
            raise value_error("values", "be real", f"{values.shape[1]} components")
        return values.clamp(self.low, self.high) / 1000


@dataclass(frozen=True)
class Magnetisation(Contrast):
    """MR: complex images of which a quantile of the magnitude is about one.

    Parameters
    ----------
    quantile
        Of the magnitudes within the object.
    gain
        Largest change of the logarithm of the scale.
    bias
        Standard deviation of the logarithm of a smooth shading.
    phase
        Standard deviation in radians of each smooth term of the phase; its constant is anything.
    """

    quantile: float = 0.99
    gain: float = 0.35
    bias: float = 0.12
    phase: float = 1.0

    channels: int = 2

    def __post_init__(self) -> None:
        for name in ("gain", "bias", "phase"):
            object.__setattr__(self, name, check_number(getattr(self, name), name, non_negative=True))
        if not 0 < check_number(self.quantile, "quantile") <= 1:
            raise value_error("quantile", "lie in (0, 1]", self.quantile)

    @property
    def units(self) -> Units:
        """Return the scale of the calibration signal, which each scan has of its own."""
        return Units()

    @property
    def fill(self) -> float:
        """Return no signal."""
        return 0.0

    def images(self, values: Tensor, keys: Keys) -> Tensor:
        """Return them with shading, phase and gain of their own."""
        like = torch.empty(0, dtype=torch.float64)
        chance = keys.uniforms((1,), "gain", like=like)[:, 0]
        magnitude = values[:, 0].abs() if values.shape[1] == 1 else torch.linalg.vector_norm(values, dim=1)
        gain = torch.exp(self.gain * (2 * chance - 1)) / self._scale(magnitude)
        bias = smooth_field(keys, magnitude.shape[1:], "bias", first=1)
        phase = smooth_field(keys, magnitude.shape[1:], "phase", first=0)
        turn = 2 * math.pi * keys.uniforms((1,), "constant phase", like=like)[:, :, None]
        shade = torch.exp(self.bias * bias) * gain[:, None, None]
        wave = torch.polar(shade, self.phase * phase + turn)
        image = (
            values[:, 0] * wave if values.shape[1] == 1 else torch.complex(values[:, 0], values[:, 1]) * wave
        )
        return torch.view_as_real(image).movedim(-1, 1).to(torch.float32)

    def _scale(self, magnitude: Tensor) -> Tensor:
        """Return the quantile within the object, row by row; one where there is no object."""
        scales = []
        for row in magnitude:
            top = float(row.max())
            inside = row[row > OBJECT * top]
            scales.append(float(torch.quantile(inside.float(), self.quantile)) if top > 0 else 1.0)
        return torch.tensor(scales, dtype=torch.float64)


#: Products of cosines per axis, up to this many half waves over the image.
HALF_WAVES = 3


def smooth_field(keys: Keys, shape: tuple[int, ...], purpose: str, *, first: int) -> Tensor:
    """Return (rows, y, x): sums of products of cosines with random coefficients, falling with their order.

    Terms of total order below `first` are left out; the one of order (p, q) has a standard deviation of
    1 / (1 + p^2 + q^2) times the root of two per axis.
    """
    coefficients = keys.normals((HALF_WAVES + 1,) * 2, purpose, like=torch.empty(0, dtype=torch.float64))
    order = torch.arange(HALF_WAVES + 1, dtype=torch.float64)
    total = order[:, None] ** 2 + order**2
    shares = torch.where(order[:, None] + order >= first, 1 / (1 + total), 0.0)
    basis = []
    for length in shape:
        at = (torch.arange(length, dtype=torch.float64) + 0.5) / length
        waves = torch.cos(math.pi * order[:, None] * at) * torch.where(order > 0, math.sqrt(2), 1.0)[:, None]
        basis.append(waves)
    return torch.einsum("rpq,py,qx->ryx", coefficients * shares, *basis)
