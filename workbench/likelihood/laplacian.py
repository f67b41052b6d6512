"""The trace of the second derivative of log p(y | x) over the real directions of x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators import linalg
from operators.base import Operator
from operators.linear import LinearOperator
from operators.space import Space
from workbench.noise.base import Noise

__all__ = ["BatchTrace", "probed_trace", "second_derivative"]


@dataclass(frozen=True, eq=False)
class BatchTrace:
    """A trace per batch element and the standard error of its estimate, 0 where it is exact."""

    value: Tensor
    standard_error: Tensor


def second_derivative(
    operator: Operator, noise: Noise, x: Tensor, predicted: Tensor, data: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return v -> the second derivative of log p(data | A(x)) times v, the curvature of A included."""
    score = noise.score(predicted, data)

    def apply(v: Tensor) -> Tensor:
        bent = noise.curvature(predicted, data, operator.apply_jvp(x, v))
        through = -operator.apply_vjp(x, bent)
        if isinstance(operator, LinearOperator):
            return through
        _, second, *_ = torch.func.jvp(lambda at: operator.apply_vjp(at, score), (x,), (v,))
        total: Tensor = through + second
        return total

    return apply


def probed_trace(
    space: Space, hessian: Callable[[Tensor], Tensor], x: Tensor, probes: int, seed: int
) -> BatchTrace:
    """Return the trace of `hessian` at `x` from random signs v: E[v^H H v] (Hutchinson 1989)."""
    quotients = []
    for index in range(probes):
        v = linalg.signs(space.shape, seed=seed, index=2 * index, like=x)
        if x.is_complex():
            v = v + 1j * linalg.signs(space.shape, seed=seed, index=2 * index + 1, like=x)
        v = v.expand(x.shape)
        quotients.append(space.inner(v, hessian(v)).real)
    found = torch.stack(quotients)
    return BatchTrace(found.mean(dim=0), found.std(dim=0) / probes**0.5)
