"""Laws of the noise that a path adds: normal, or Student's t, whose tails are heavy.

    Student's t of `dof` = k degrees of freedom, over all N real components at once:
    noise = w / sqrt(g),   w standard normal,   k g chi-square of k degrees: one g for a whole draw
    p(noise) ~ (1 + |noise|^2 / k)^-((k + N) / 2)

With x + sigma noise this is the kernel of PFGM++ (Xu et al. 2023), r = sigma sqrt(k), D = k. It tends to the
normal law as k grows. The posterior mean under it is a denoiser like any other, and the flow
dz = (z - D) / sigma dsigma holds as it stands; Tweedie's formulas (score, covariance) and the steps of a
diffusion do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.checks import check_number
from operators.errors import type_error
from workbench.random import Keys

__all__ = ["NORMAL", "GaussianLaw", "NoiseLaw", "StudentT"]


class NoiseLaw(ABC):
    """The law of `noise` in x0 + sigma noise; subclasses are frozen values."""

    @abstractmethod
    def draw(self, keys: Keys, shape: Sequence[int], purpose: str, *, like: Tensor) -> Tensor:
        """Return noise (len(keys.draws), *shape), of scale 1 in each real component."""

    @staticmethod
    def require(value: object, argument: str = "law") -> NoiseLaw:
        """Return `value` if it is a law."""
        if not isinstance(value, NoiseLaw):
            raise type_error(
                argument, "be a NoiseLaw", type(value).__name__, "GaussianLaw() or StudentT(dof)."
            )
        return value


@dataclass(frozen=True)
class GaussianLaw(NoiseLaw):
    """Standard normal in each real component."""

    def draw(self, keys: Keys, shape: Sequence[int], purpose: str, *, like: Tensor) -> Tensor:
        """Return the normals of `keys`."""
        return keys.normals(shape, purpose, like=like)


#: The law of almost every path.
NORMAL = GaussianLaw()


@dataclass(frozen=True)
class StudentT(NoiseLaw):
    """Multivariate Student's t: a normal draw over the root of one chi-square per draw."""

    dof: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "dof", check_number(self.dof, "dof", positive=True))

    def draw(self, keys: Keys, shape: Sequence[int], purpose: str, *, like: Tensor) -> Tensor:
        """Return normals over sqrt(chi-square / dof)."""
        white = keys.normals(shape, purpose, like=like)
        share = keys.uniforms((1,), f"{purpose}: scale", like=torch.empty(0, dtype=torch.float64)).flatten()
        scale = (2 * _gamma_quantile(share, self.dof / 2) / self.dof).rsqrt()
        column = scale.to(white.device, white.real.dtype if white.is_complex() else white.dtype)
        return white * column.reshape(-1, *[1] * (white.ndim - 1))


def _gamma_quantile(share: Tensor, shape: float) -> Tensor:
    """Return g with P(shape, g) = share, by bisection in log g: a handful of numbers, to the last bits."""
    order = torch.full_like(share, shape)
    # Below, P is about g^shape / Gamma(shape + 1): its root bounds g from below.
    low = (share.log() + torch.lgamma(order + 1)) / shape - 1e-9
    high = torch.full_like(low, shape + 40 * shape**0.5 + 60).log()
    for _ in range(100):
        middle = (low + high) / 2
        below = torch.special.gammainc(order, middle.exp()) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).exp()
