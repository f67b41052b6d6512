"""The one convention of priors: denoise(z, sigma) = E[x | z] for z = x + sigma * noise.

Everything else follows: the score of the smoothed prior is (denoise(z, sigma) - z) / sigma^2
(Tweedie), the covariance of x given z is sigma^2 times the derivative of denoise. A schedule, a
network's own scaling, a condition: each is a wrapper with this one method. Noise on a complex field
has standard deviation sigma in each component. A prior over tokens has no such noise; it defines
its own methods, which solvers of tokens name as their need.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Protocol, Self

import torch
from torch import Tensor

from operators.checks import check_finite, check_number
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.random import Keys
from workbench.units import Units

__all__ = ["Counter", "Denoiser", "Prior"]


class Counter(Protocol):
    """What counts the calls of a prior: the ledger of a run."""

    def count(self, name: str, number: int) -> None:
        """Count `number` calls of `name`."""


class Prior:
    """What is known of the elements u of `space` before the measurement; an immutable value.

    `units` says what u is: physical = scale * u + offset, as it was when the prior was made.
    """

    #: Whether scores are those of a density, not of a network that approximates one.
    exact: bool = False
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
    """A prior with a posterior mean under Gaussian noise: what every sampler of fields needs."""

    @abstractmethod
    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x | z] for z (batch, *shape) and sigma (batch, 1, ...), both checked."""

    def denoise(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[x | z] for z (..., *space.shape); `sigma` >= 0 is one number or one per batch element."""
        self.space.check(z, "z")
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch)
        flat = z.reshape(-1, *self.space.shape)
        column = level.reshape(-1, *[1] * self.space.ndim)
        if self._counter is None:
            return self._denoise(flat, column).reshape(z.shape)
        self._counter.count("network_evaluations", flat.shape[0])
        estimate = self._denoise(flat, column)
        return _CountBackward.apply(estimate, self._counter).reshape(z.shape)  # type: ignore[no-untyped-call, no-any-return]

    def score(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the gradient of log p_sigma at z, (denoise(z, sigma) - z) / sigma^2."""
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch)
        if not bool((level > 0).all()):
            raise value_error("sigma", "be > 0 for a score", float(level.min()))
        column = level.reshape(*level.shape, *[1] * self.space.ndim)
        return (self.denoise(z, level) - z) / column**2

    def covariance(self, z: Tensor, sigma: float | Tensor, v: Tensor) -> Tensor:
        """Return Cov[x | z] v = sigma^2 J v with J the derivative of denoise, symmetric in theory."""
        batch = z.shape[: z.ndim - self.space.ndim]
        level = _level(sigma, z, batch)
        _, pull, *_ = torch.func.vjp(lambda point: self.denoise(point, level), z)
        (product,) = pull(v)
        return product * level.reshape(*level.shape, *[1] * self.space.ndim) ** 2  # type: ignore[no-any-return]


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


def _level(sigma: float | Tensor, z: Tensor, batch: torch.Size) -> Tensor:
    """Return sigma (batch), real, in the precision of z."""
    real = z.real.dtype if z.is_complex() else z.dtype
    if not isinstance(sigma, Tensor):
        number = check_number(sigma, "sigma", non_negative=True)
        return torch.full(batch, number, dtype=real, device=z.device)
    if sigma.is_complex():
        raise type_error("sigma", "be real", sigma.dtype)
    if sigma.shape not in ((), batch):
        raise value_error(
            "sigma", f"be one number or have the batch shape {tuple(batch)}", tuple(sigma.shape)
        )
    check_finite(sigma, "sigma")
    if bool((sigma < 0).any()):
        raise value_error("sigma", "be >= 0", float(sigma.min()))
    return sigma.to(device=z.device, dtype=real).expand(batch)
