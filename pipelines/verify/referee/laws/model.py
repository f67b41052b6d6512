"""A posterior once more, by other means: what the independent chains of the referee call.

Everything acts on rows of real components (K, n), double precision, and on the whitened measurement
-log p(y | x) = |B x - data|^2 / 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from operators.linear import LinearOperator
from pipelines.verify.referee.truth import from_reals, reals
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior

__all__ = ["Model", "double_like", "noise_of", "real_matrix"]


def real_matrix(operator: LinearOperator) -> Tensor:
    """Return the matrix of `operator` between real components."""
    domain = operator.domain
    size = domain.size * (2 if domain.is_complex else 1)
    eye = torch.eye(size, dtype=torch.float64)
    return reals(operator.apply(from_reals(eye, domain))).T


class Model(ABC):
    """Prior and measurement as functions of rows; `spread` is the prior's sd per component.

    `noise` is the sd of each real component of the data before they were whitened, NaN where it is not one.
    Where -log p(y | x) is not `convex`, `closest` has several answers, and another code may end in another.
    """

    size: int
    spread: float
    noise: float
    convex: ClassVar[bool] = True

    @abstractmethod
    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """Return E[x | z]."""

    @abstractmethod
    def pull(self, z: Tensor, sigma: float, v: Tensor) -> Tensor:
        """Return J^T v, J the derivative of denoise at z."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return B x."""

    @abstractmethod
    def back(self, r: Tensor) -> Tensor:
        """Return B^T r."""

    @property
    @abstractmethod
    def data(self) -> Tensor:
        """The whitened data, one row."""

    @property
    @abstractmethod
    def norm(self) -> float:
        """The largest singular value of B."""

    @abstractmethod
    def closest(self, c: Tensor, r: float) -> Tensor:
        """Return argmin_x |B x - data|^2 / 2 + |x - c|^2 / (2 r^2)."""

    @property
    @abstractmethod
    def singular(self) -> tuple[Tensor, Tensor]:
        """The s and U^T data of B = U diag(s) V^T, filled up with zeros."""

    @abstractmethod
    def to_singular(self, x: Tensor) -> Tensor:
        """Return V^T x."""

    @abstractmethod
    def from_singular(self, x: Tensor) -> Tensor:
        """Return V x."""

    @abstractmethod
    def exact_force(self, z: Tensor, sigma: float, x: Tensor) -> Tensor:
        """Return B^T (I + B C B^T)^-1 (data - B x), C = sigma^2 J the covariance of x given z."""

    def residual(self, x: Tensor) -> Tensor:
        """Return data - B x."""
        return self.data - self.forward(x)

    def force(self, x: Tensor) -> Tensor:
        """Return the gradient of log p(y | x), B^T (data - B x)."""
        return self.back(self.residual(x))

    def curve(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J^T J v, J the derivative of the residual at x."""
        del x
        return self.back(self.forward(v))


def noise_of(posterior: Posterior) -> float:
    """Return the sd of the data's noise, NaN where it is not one number."""
    noise = posterior.measured.noise
    return noise.sigma if isinstance(noise, Gaussian) and isinstance(noise.sigma, float) else math.nan


def double_like(posterior: Posterior) -> Tensor:
    """Return an empty tensor of the kind of u, in double precision."""
    return torch.empty(0, dtype=torch.complex128 if posterior.space.is_complex else torch.float64)
