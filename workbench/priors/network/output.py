"""What a network gives, and the posterior mean that follows from it.

On a path a network sees x = a z + b x_in = c u + b x_in and a label of the noise level, and gives the data,
the noise, v, the score or the velocity there (workbench.paths.prediction). Preconditioned after Karras et
al. (2022), with F the raw network,

    D = c_skip z + c_out F(c_in z, log(sigma) / 4),    r^2 = sigma^2 + sigma_data^2
    c_skip = sigma_data^2 / r^2,   c_out = sigma sigma_data / r,   c_in = 1 / r

Times, labels and scales are made in double precision. Without noise z is the image, whatever the network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from operators.checks import check_member, check_number, replaced
from operators.errors import type_error, value_error
from workbench.paths.affine import AffinePath
from workbench.paths.noise_law import NORMAL, GaussianLaw, NoiseLaw
from workbench.paths.prediction import Prediction, to_data
from workbench.paths.schedules import Discrete

__all__ = ["EDMOutput", "Label", "Network", "Output", "PathOutput"]

#: A network as these formulas see it: images (batch, channels, ...) and labels (batch,) to images like them.
Network = Callable[[Tensor, Tensor], Tensor]

#: Below this level, of images of scale one, D is z to the last bit of a double; paths end at it or at 0.
SMALLEST = 1e-7


class Label(StrEnum):
    """How the noise level is told to the network; its text is what cards hold."""

    #: The path's own time t; on a table of levels the index, between whole numbers where sigma is.
    TIME = "time"
    #: 1000 t.
    THOUSANDTHS = "thousandths"
    #: end - t: for networks whose time runs from noise to data.
    REVERSED_TIME = "reversed_time"
    #: The nearest whole index of a table of levels, int64: the whole formula is then that of this level.
    INDEX = "index"
    #: sigma = c / a.
    SIGMA = "sigma"
    #: log(sigma) / 4.
    LOG_SIGMA = "log_sigma"

    @classmethod
    def require(cls, value: object) -> Label:
        """Return the label that `value` is, or is the text of."""
        return check_member(cls, value, "label")


class Output(ABC):
    """What a network gives; subclasses are frozen values."""

    @property
    @abstractmethod
    def law(self) -> NoiseLaw:
        """The law of the noise it was trained with."""

    @property
    @abstractmethod
    def noise_range(self) -> tuple[float, float]:
        """The levels sigma at which the formula is defined."""

    @property
    def knows_pure_noise(self) -> bool:
        """Whether D follows where the data are gone, inv_sigma = 0."""
        return False

    @property
    def needs_image(self) -> bool:
        """Whether the path leads to an image x_in."""
        return False

    @property
    def outputs_per_channel(self) -> int:
        """Channels that the network gives for each of the image; all but the first share are dropped."""
        return 1

    @abstractmethod
    def label_at(self, sigma: Tensor) -> Tensor:
        """Return what the network is told of levels (batch,): float64, or int64 for an index."""

    @abstractmethod
    def denoise(self, network: Network, z: Tensor, sigma: Tensor, image: Tensor | None = None) -> Tensor:
        """Return D for z (batch, channels, ...), sigma (batch, 1, ...) and the path's image x_in."""

    @abstractmethod
    def denoise_scaled(
        self, network: Network, u: Tensor, inv_sigma: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Return D for u = inv_sigma x + noise."""

    @staticmethod
    def require(value: object) -> Output:
        """Return `value` if it is an Output."""
        if not isinstance(value, Output):
            remedy = "PathOutput(path, prediction, label) or EDMOutput(sigma_data)."
            raise type_error("output", "be an Output", type(value).__name__, remedy)
        return value


@dataclass(frozen=True)
class PathOutput(Output):
    """A prediction on a path.

    Parameters
    ----------
    path
        Where the network was trained, with the law of its noise; there is some at its far end.
    prediction
        What it gives.
    label
        What it is told of the noise level.
    negated
        Whether it gives the opposite: flows that are trained on data - noise.
    learned_variance
        Whether it gives as many channels again, of variances: dropped.
    """

    path: AffinePath
    prediction: Prediction = Prediction.NOISE
    label: Label = Label.TIME
    negated: bool = False
    learned_variance: bool = False

    def __post_init__(self) -> None:
        AffinePath.require(self.path).require_spread()
        object.__setattr__(self, "prediction", Prediction.require(self.prediction))
        object.__setattr__(self, "label", Label.require(self.label))
        for name in ("negated", "learned_variance"):
            if not isinstance(getattr(self, name), bool):
                raise type_error(name, "be True or False", repr(getattr(self, name)))
        if self.label is Label.INDEX and not isinstance(self.path.schedule, Discrete):
            remedy = "AffinePath.discrete(sigmas); Label.TIME tells the time of any other path."
            raise value_error("label", "be another on a path without a table of levels", "index", remedy)
        if self.prediction is Prediction.SCORE and not isinstance(self.path.law, GaussianLaw):
            raise value_error("prediction", "not be a score under noise that is not normal", self.path.law)

    def with_(self, **changes: object) -> PathOutput:
        """Return the same output with some fields changed."""
        return replaced(self, changes)

    @property
    def law(self) -> NoiseLaw:
        """The law of the path's noise."""
        return self.path.law

    @property
    def noise_range(self) -> tuple[float, float]:
        """The levels of the path."""
        return self._range

    @cached_property
    def _range(self) -> tuple[float, float]:
        return self.path.sigma_range

    @cached_property
    def knows_pure_noise(self) -> bool:
        """Whether the path ends in noise alone, and prediction and label say something there."""
        if self.noise_range[1] < math.inf or self.label in (Label.SIGMA, Label.LOG_SIGMA):
            return False
        return self.prediction in (Prediction.DATA, Prediction.V, Prediction.VELOCITY)

    @cached_property
    def needs_image(self) -> bool:
        """Whether b > 0 somewhere on the path."""
        return float(self.path.at(self.path.end).b) != 0

    @property
    def outputs_per_channel(self) -> int:
        """2 where variances come along."""
        return 2 if self.learned_variance else 1

    def label_at(self, sigma: Tensor) -> Tensor:
        """Return the label of levels."""
        return self._label(self._time(1 / sigma.double()))

    def denoise(self, network: Network, z: Tensor, sigma: Tensor, image: Tensor | None = None) -> Tensor:
        """Return D from what the network gives at x = a z + b x_in."""
        level = sigma.double().flatten()
        t = self._time(1 / level.clamp(min=SMALLEST))
        at = self.path.at(t)
        d = self._data(network, _with(_column(at.a, z) * z, at.b, image), t, image)
        return _kept(level == 0, z, d)

    def denoise_scaled(
        self, network: Network, u: Tensor, inv_sigma: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Return D from what the network gives at x = c u + b x_in."""
        inverse = inv_sigma.double().flatten()
        t = self._time(inverse)
        at = self.path.at(t)
        # c = a / s: where noise is weak a small c out of t has few digits, and D is nearly c u.
        weak = torch.ones_like(inverse, dtype=torch.bool) if self.label is Label.INDEX else inverse > 1
        scale = torch.where(weak, at.a / torch.where(weak, inverse, 1.0), at.c)
        return self._data(network, _with(_column(scale, u) * u, at.b, image), t, image)

    def _time(self, inv_sigma: Tensor) -> Tensor:
        """Return the time of each image; a level that rounding put past an end of the path has the end's."""
        low, high = self.noise_range
        inside = inv_sigma.clamp(1 / high, math.inf if low == 0 else 1 / low)
        t = self.path.time_of_inverse(inside)
        return t.round() if self.label is Label.INDEX else t

    def _data(self, network: Network, x: Tensor, t: Tensor, image: Tensor | None) -> Tensor:
        value = network(x, self._label(t))
        value = -value if self.negated else value
        return to_data(self.prediction, value, x, t, self.path, image)

    def _label(self, t: Tensor) -> Tensor:
        match self.label:
            case Label.TIME:
                return t
            case Label.THOUSANDTHS:
                return 1000 * t
            case Label.REVERSED_TIME:
                return self.path.end - t
            case Label.INDEX:
                return t.long()
            case Label.SIGMA:
                return self.path.at(t).sigma
        return self.path.at(t).sigma.log() / 4


@dataclass(frozen=True)
class EDMOutput(Output):
    """The raw network F of EDM's preconditioning, for data of standard deviation `sigma_data` per component.

    `label` is log(sigma) / 4 or sigma; under `noise` of Student's t it is that of PFGM++.
    """

    sigma_data: float = 0.5
    label: Label = Label.LOG_SIGMA
    noise: NoiseLaw = NORMAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma_data", check_number(self.sigma_data, "sigma_data", positive=True))
        object.__setattr__(self, "label", Label.require(self.label))
        if self.label not in (Label.LOG_SIGMA, Label.SIGMA):
            raise value_error("label", "be log_sigma or sigma: there is no other time", str(self.label))
        NoiseLaw.require(self.noise, "noise")

    @property
    def law(self) -> NoiseLaw:
        """The law of the noise."""
        return self.noise

    @property
    def noise_range(self) -> tuple[float, float]:
        """All levels."""
        return 0.0, math.inf

    def label_at(self, sigma: Tensor) -> Tensor:
        """Return the label of levels."""
        return self._label(sigma.double())

    def denoise(self, network: Network, z: Tensor, sigma: Tensor, image: Tensor | None = None) -> Tensor:
        """Return c_skip z + c_out F."""
        del image
        level = sigma.double().flatten()
        silent = level == 0
        level = level.clamp(min=SMALLEST * self.sigma_data)
        square = level**2 + self.sigma_data**2
        value = network(_column(square.rsqrt(), z) * z, self._label(level))
        skip, out = self.sigma_data**2 / square, level * self.sigma_data * square.rsqrt()
        d = _column(skip, z) * z + _column(out, z) * value
        return _kept(silent, z, d)

    def denoise_scaled(
        self, network: Network, u: Tensor, inv_sigma: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Return the same in u = z / sigma, times the inverse level above and below."""
        del image
        inverse = inv_sigma.double().flatten()
        square = 1 + (self.sigma_data * inverse) ** 2
        value = network(_column(square.rsqrt(), u) * u, self._label(1 / inverse))
        skip, out = self.sigma_data**2 * inverse / square, self.sigma_data * square.rsqrt()
        return _column(skip, u) * u + _column(out, u) * value

    def _label(self, level: Tensor) -> Tensor:
        return level if self.label is Label.SIGMA else level.log() / 4


def _column(scale: Tensor, like: Tensor) -> Tensor:
    """Return one number per image, shaped to multiply images, in their precision and place."""
    return scale.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _kept(silent: Tensor, z: Tensor, d: Tensor) -> Tensor:
    """Return D, and z itself where there is no noise."""
    if not bool(silent.any()):
        return d
    return torch.where(silent.to(z.device).reshape(-1, *[1] * (z.ndim - 1)), z, d)


def _with(x: Tensor, b: Tensor, image: Tensor | None) -> Tensor:
    """Return x + b x_in."""
    return x if image is None else x + _column(b, x) * image
