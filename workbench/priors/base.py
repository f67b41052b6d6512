"""The one convention of priors: denoise(z, sigma) = E[x | z] for z = x + sigma * noise.

Everything else follows: the score of the smoothed prior is (denoise(z, sigma) - z) / sigma^2
(Tweedie), the covariance of x given z is sigma^2 times the derivative of denoise. A schedule, a
network's own scaling, a condition: each is a wrapper with this one method. Noise on a complex field
has standard deviation sigma in each component.

    u = s x + noise,   denoise_scaled(u, s) = E[x | u] = denoise(u / s, 1 / s)

is the same where noise is without end, and stays regular there: at s = 0 it is the mean of the prior.
A prior over tokens has no such noise; it gives conditionals (workbench.priors.tokens).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, Self

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.fingerprint import fingerprint
from workbench.paths.noise_law import NORMAL, GaussianLaw, NoiseLaw
from workbench.priors.declaration import Declaration
from workbench.random import Keys
from workbench.units import Units

__all__ = ["Condition", "Counter", "Denoiser", "Prior"]

#: What a prior can be bound to: an image, a few numbers, or several by name.
Condition = Tensor | Mapping[str, Tensor]


class Counter(Protocol):
    """What counts the calls of a prior: the ledger of a run."""

    def count(self, name: str, number: int) -> None:
        """Count `number` calls of `name`."""


class Prior:
    """What is known of the elements u of `space` before the measurement; an immutable value.

    `units` says what u is: physical = scale * u + offset, as it was when the prior was made.
    """

    #: Whether all it gives is known in closed form.
    exact: bool = False
    #: Whether it gives means (or conditionals) of a law, or was trained to: what scores are made of.
    calibrated_score: bool = False
    #: Whether it has a finite mass, so that it can be drawn from.
    proper: bool = True
    #: Whether gradients flow through it: not so for a network compiled for inference.
    differentiable: bool = True

    def __init__(self, space: Space, units: Units | None = None) -> None:
        self.space = Space.require(space, "space")
        self.units = Units() if units is None else Units.require(units)
        self._counter: Counter | None = None

    def counted(self, counter: Counter) -> Self:
        """Return the same prior, its evaluations counted by `counter`."""
        other = copy.copy(self)
        other._counter = counter
        return other

    def given(self, condition: Condition) -> Prior:
        """Return the prior bound to `condition` for good; `denoise` takes no more arguments."""
        got = type(condition).__name__
        raise type_error("prior", "take a condition", f"{type(self).__name__} and a {got}")

    @property
    def is_bound(self) -> bool:
        """Whether it has the condition that it needs, if it needs one."""
        return True

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel sizes in mm (z, y, x) that it was made for, None if it knows none."""
        return None if self.space.grid is None else self.space.grid.spacing

    @property
    def dimensions(self) -> int | None:
        """2 for slices, 3 for volumes, None where there is no grid."""
        return None if self.space.grid is None else 2 if self.space.grid.is_plane else 3

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The interval that its u lie in, None if there is none."""
        return None

    @property
    def data_sd(self) -> float | None:
        """The root mean square over entries of the standard deviation of u, per real component, if known."""
        return None

    @property
    def hash(self) -> str:
        """SHA-256 of all that it is made of: the name it goes by in records."""
        return fingerprint(self, name="prior")

    @property
    def declared(self) -> Declaration:
        """What it says of itself, in one value."""
        return Declaration(
            space=self.space,
            units=self.units,
            spacing=self.spacing,
            dimensions=self.dimensions,
            data_range=self.data_range,
            data_sd=self.data_sd,
            exact=self.exact,
            calibrated_score=self.calibrated_score,
            hash=self.hash,
        )

    def draw(self, keys: Keys, *, like: Tensor) -> Tensor:
        """Return draws (len(keys.draws), *shape) where the prior can be drawn from directly."""
        del keys, like
        raise type_error("prior", "be one that can be drawn from directly", type(self).__name__)

    def log_density(self, u: Tensor) -> Tensor:
        """Return log p(u) per batch element in double precision, up to a constant, where it is known."""
        del u
        raise type_error("prior", "be one with a known density", type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space!r})"


class Denoiser(Prior, ABC):
    """A prior with a posterior mean under noise of a known level: what every sampler of fields needs."""

    #: Of the noise in z.
    law: NoiseLaw = NORMAL
    #: Whether denoise_scaled is known at inv_sigma = 0, where z is noise alone.
    knows_pure_noise: bool = False

    @abstractmethod
    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x | z] for z (batch, *shape) and sigma (batch, 1, ...), both checked."""

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        """Return E[x | u] for u (batch, *shape) and inv_sigma (batch, 1, ...), both checked."""
        return self._denoise(u / inv_sigma, 1 / inv_sigma)

    @property
    def noise_range(self) -> tuple[float, float]:
        """The levels sigma that it can be asked for; what lies outside is refused."""
        return 0.0, math.inf

    @property
    def declared(self) -> Declaration:
        """What it says of itself, in one value."""
        return super().declared.with_(noise_range=self.noise_range, law=self.law)

    def denoise(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[x | z] for z (..., *space.shape); `sigma` >= 0 is one number or one per batch element."""
        self.space.check(z, "z")
        level = _level(sigma, z, z.shape[: z.ndim - self.space.ndim])
        self.require_levels(level)
        return self._evaluated(self._denoise, z, level)

    def denoise_scaled(self, u: Tensor, inv_sigma: float | Tensor) -> Tensor:
        """Return E[x | u], u = inv_sigma x + noise, for u (..., *space.shape); regular at inv_sigma = 0."""
        self.space.check(u, "u")
        level = _level(inv_sigma, u, u.shape[: u.ndim - self.space.ndim], "inv_sigma")
        if not self.knows_pure_noise and bool((level == 0).any()):
            remedy = "Start at a finite noise level inside `noise_range`."
            raise value_error("inv_sigma", f"be > 0 for a {type(self).__name__}", 0.0, remedy)
        self.require_levels(1 / level)
        return self._evaluated(self._denoise_scaled, u, level)

    def require_levels(self, sigma: float | Tensor) -> None:
        """Raise unless all levels lie in `noise_range`, up to rounding."""
        low, high = self.noise_range
        if low == 0 and high == math.inf:
            return
        level = torch.as_tensor(sigma, dtype=torch.float64).detach()
        least, most = float(level.min()), float(level.max())
        if least < low * (1 - 1e-6) or most > high * (1 + 1e-6):
            raise value_error(
                "sigma",
                f"lie in the range that the {type(self).__name__} knows, {low:g} to {high:g}",
                f"{least:g}" if least < low else f"{most:g}",
                "Choose the levels of the plan inside (sigma_min, sigma_max).",
            )

    def _evaluated(self, call: Callable[[Tensor, Tensor], Tensor], point: Tensor, level: Tensor) -> Tensor:
        """Return `call` on a flat batch, counted."""
        flat = point.reshape(-1, *self.space.shape)
        column = level.reshape(-1, *[1] * self.space.ndim)
        if self._counter is None:
            return call(flat, column).reshape(point.shape)
        self._counter.count("network_evaluations", flat.shape[0])
        values = call(flat, column)
        if not torch.is_grad_enabled():
            return values.reshape(point.shape)
        counted = _CountBackward.apply(values, self._counter)  # type: ignore[no-untyped-call]
        return counted.reshape(point.shape)  # type: ignore[no-any-return]

    def score(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the gradient of log p_sigma at z, (denoise(z, sigma) - z) / sigma^2."""
        self._require_normal("score")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch)
        if not bool((level > 0).all()):
            raise value_error("sigma", "be > 0 for a score", float(level.min()))
        column = level.reshape(*level.shape, *[1] * self.space.ndim)
        return (self.denoise(z, level) - z) / column**2

    def covariance(self, z: Tensor, sigma: float | Tensor, v: Tensor) -> Tensor:
        """Return Cov[x | z] v = sigma^2 J v with J the derivative of denoise, symmetric in theory."""
        self._require_normal("covariance")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch)
        _, pull, *_ = torch.func.vjp(lambda point: self.denoise(point, level), z)
        (product,) = pull(v)
        return product * level.reshape(*level.shape, *[1] * self.space.ndim) ** 2  # type: ignore[no-any-return]

    def _require_normal(self, what: str) -> None:
        if not isinstance(self.law, GaussianLaw):
            remedy = (
                "Tweedie's formulas are those of normal noise; the probability-flow equation needs neither."
            )
            raise type_error("prior", f"be one of normal noise for a {what}", self.law, remedy)


class _CountBackward(torch.autograd.Function):
    """The identity; its backward passes are counted."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, counter: Counter) -> Tensor:
        del counter
        return x.view_as(x)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Counter], output: Tensor
    ) -> None:
        del output
        ctx.counter = inputs[1]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.counter.count("backward_passes", gradients[0].shape[0])  # type: ignore[attr-defined]
        return gradients[0], None

    @staticmethod
    def jvp(ctx: torch.autograd.function.FunctionCtx, *tangents: Tensor) -> Tensor:
        del ctx
        return tangents[0].view_as(tangents[0])


def _level(sigma: float | Tensor, z: Tensor, batch: torch.Size, argument: str = "sigma") -> Tensor:
    """Return sigma (batch), real, in the precision of z."""
    real = z.real.dtype if z.is_complex() else z.dtype
    if not isinstance(sigma, Tensor):
        number = check_number(sigma, argument, non_negative=True)
        return torch.full(batch, number, dtype=real, device=z.device)
    if sigma.is_complex():
        raise type_error(argument, "be real", sigma.dtype)
    if sigma.shape not in ((), batch):
        raise value_error(
            argument, f"be one number or have the batch shape {tuple(batch)}", tuple(sigma.shape)
        )
    check_finite(sigma, argument)
    if bool((sigma < 0).any()):
        raise value_error(argument, "be >= 0", float(sigma.min()))
    return sigma.to(device=z.device, dtype=real).expand(batch)
