"""Matrix-free linear algebra on callables: largest eigenvalue, trace, keyed probes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.batch import dots
from operators.checks import check_count
from operators.errors import ConvergenceWarning

__all__ = [
    "TraceEstimate",
    "estimate_trace",
    "largest_eigenvalue",
    "normals",
    "signs",
]

Map = Callable[[Tensor], Tensor]


def largest_eigenvalue(
    apply: Map, start: Tensor, *, tolerance: float = 1e-6, max_iterations: int = 300
) -> float:
    """Return the largest eigenvalue of a self-adjoint G >= 0 from powers of G on `start` (1, ...).

    Lanczos: the best estimate from the span of start, G start, G^2 start, ..., where plain power
    iteration keeps the last power only. It approaches from below and stops when the bound
    |G u - value u| is below `tolerance` * value.
    """
    v = start / dots(start, start).sqrt()
    previous, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    value, bound = 0.0, 0.0
    for _ in range(check_count(max_iterations, "max_iterations")):
        w = apply(v) - beta * previous
        diagonal.append(float(dots(v, w)))
        if not math.isfinite(diagonal[-1]):
            raise FloatingPointError(
                "the largest eigenvalue met a NaN or an infinity in the operator's values."
            )
        w = w - diagonal[-1] * v
        beta = float(dots(w, w).sqrt())
        tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        value, bound = float(values[-1]), beta * abs(float(vectors[-1, -1]))
        if bound <= tolerance * value or beta <= np.finfo(float).tiny:
            return max(value, 0.0)
        beside.append(beta)
        previous, v = v, w / beta
    warnings.warn(
        f"the largest eigenvalue is {value:.6g} up to a relative {bound / value:.1e} after {max_iterations} "
        "iterations. Raise `max_iterations` or relax `tolerance`.",
        ConvergenceWarning,
        stacklevel=2,
    )
    return value


@dataclass(frozen=True)
class TraceEstimate:
    """Trace of an operator and the standard error of the estimate, 0 where it is exact."""

    value: float
    standard_error: float = 0.0


def estimate_trace(
    apply: Map, shape: tuple[int, ...], like: Tensor, *, probes: int, seed: int, imaginary: bool = False
) -> TraceEstimate:
    """Estimate tr G by Hutchinson's probes: E[v^T G v] = tr G for independent signs v.

    With `imaginary` the probes have signs in both components: the trace over twice as many real
    directions.
    """
    quotients = []
    for index in range(check_count(probes, "probes", minimum=2)):
        v = signs((1, *shape), seed=seed, index=2 * index, like=like)
        if imaginary:
            v = v + 1j * signs((1, *shape), seed=seed, index=2 * index + 1, like=like)
        quotients.append(float(dots(v, apply(v))))
    spread = float(np.std(quotients, ddof=1)) / len(quotients) ** 0.5
    return TraceEstimate(float(np.mean(quotients)), spread)


def signs(shape: tuple[int, ...], *, seed: int, index: int, like: Tensor) -> Tensor:
    """Return random +-1 keyed by (seed, index), the same on every device."""
    bits = _stream(seed, index).integers(0, 2, size=shape, dtype=np.int8)
    return torch.from_numpy(2 * bits - 1).to(device=like.device, dtype=like.dtype)


def normals(shape: tuple[int, ...], *, seed: int, index: int, like: Tensor) -> Tensor:
    """Return standard normals keyed by (seed, index); complex ones have sd 1 in each component."""
    stream = _stream(seed, index)
    real = torch.from_numpy(stream.standard_normal(shape))
    if like.is_complex():
        real = torch.complex(real, torch.from_numpy(stream.standard_normal(shape)))
    return real.to(device=like.device, dtype=like.dtype)


def _stream(seed: int, index: int) -> np.random.Generator:
    check_count(seed, "seed", minimum=0)
    return np.random.Generator(np.random.Philox(key=[seed, index]))
