"""Matrix-free linear algebra on callables: conjugate gradients, largest eigenvalue, trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_count, check_finite, check_number
from operators.errors import ConvergenceWarning, value_error

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CGResult:
    """What conjugate gradients reached, for each sample of the batch.

    `relative_residual` is ||b - G x|| / ||b|| recomputed from x at the end, not the recursion's own.
    """

    solution: Tensor
    iterations: Tensor
    relative_residual: Tensor
    converged: Tensor


def default_tolerance(dtype: torch.dtype) -> float:
    """Return the relative residual asked for when none is given: what the precision can hold."""
    return 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-10


def conjugate_gradient(
    apply: Map,
    b: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 1000,
    callback: Callable[[int, Tensor], None] | None = None,
) -> CGResult:
    """Solve G x = b for a self-adjoint G >= 0, each sample of `b` (batch, ...) for itself.

    A sample stops changing once its own residual is below `tolerance` * ||b||; whether it is, is
    then checked on the true residual b - G x, and the recursion restarted if rounding has made the
    two differ. `callback(iteration, relative_residual)` is called after each iteration.
    """
    relative = default_tolerance(b.dtype) if tolerance is None else tolerance
    relative = check_number(relative, "tolerance", positive=True)
    limit = check_count(max_iterations, "max_iterations")
    if b.ndim < 2:
        raise value_error("b", "have a batch axis in front", tuple(b.shape), "Use b[None].")
    check_finite(b, "b")
    if start is not None and start.shape != b.shape:
        raise value_error("start", f"have the shape of b, {tuple(b.shape)}", tuple(start.shape))

    # Solved for b of unit size: the squares of very large or small data would leave the precision.
    size = _largest(b)
    unit = torch.where(size > 0, size, 1.0)
    b = b / _column(unit, b)
    scale = _sums(b, b).sqrt()
    goal = relative * scale
    # Where b = 0 the answer is 0, whatever the start.
    x = torch.zeros_like(b) if start is None else start / _column(unit, b) * _column(size > 0, b)
    r = b - apply(x) if start is not None else b.clone()
    count = torch.zeros(b.shape[0], dtype=torch.int64, device=b.device)
    energy = _sums(r, r)
    _require_finite(energy, 0)
    begun, first = energy.sqrt(), x.clone()
    last_true = torch.full_like(scale, torch.inf)
    stalled = torch.zeros_like(scale, dtype=torch.bool)
    active = energy.sqrt() > goal
    steepest = torch.zeros_like(scale)
    p = r.clone()
    iteration = 0
    while True:
        while bool(active.any()) and iteration < limit:
            iteration += 1
            image = apply(p)
            curvature = _sums(p, image)
            slope = curvature / torch.where(active, _sums(p, p), 1.0)
            steepest = torch.maximum(steepest, slope)
            # A direction without curvature lies in the null space: stepping along it would only diverge.
            active = active & (slope > 10 * torch.finfo(scale.dtype).eps * steepest)
            step = torch.where(active, energy / torch.where(active, curvature, 1.0), 0.0)
            x += _column(step, x) * p
            r -= _column(step, r) * image
            fresh = _sums(r, r)
            _require_finite(fresh, iteration)
            momentum = torch.where(active, fresh / torch.where(active, energy, 1.0), 0.0)
            p = r + _column(momentum, p) * p
            energy = torch.where(active, fresh, energy)
            count += active
            active = active & (energy.sqrt() > goal)
            if callback is not None:
                callback(iteration, energy.sqrt() / torch.where(scale > 0, scale, 1.0))
        r = b - apply(x)
        energy = _sums(r, r)
        true = energy.sqrt()
        # Restart from the true residual as long as a restart still halves it.
        stalled = stalled | (true > 0.5 * last_true)
        last_true = true
        active = (true > goal) & ~stalled
        if iteration >= limit or not bool(active.any()):
            break
        p = r.clone()
    # A singular system without a solution may diverge: no answer is worse than where it began.
    worse = _column(true > begun, x)
    x, true = torch.where(worse, first, x), torch.minimum(true, begun)
    residual = torch.where(scale > 0, true / torch.where(scale > 0, scale, 1.0), true)
    return CGResult(x * _column(unit, x), count, residual, true <= goal)


def largest_eigenvalue(
    apply: Map, start: Tensor, *, tolerance: float = 1e-6, max_iterations: int = 300
) -> float:
    """Return the largest eigenvalue of a self-adjoint G >= 0 from powers of G on `start` (1, ...).

    Lanczos: the best estimate from the span of start, G start, G^2 start, ..., where plain power
    iteration keeps the last power only. It approaches from below and stops when the bound
    |G u - value u| is below `tolerance` * value.
    """
    v = start / _sums(start, start).sqrt()
    previous, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    value, bound = 0.0, 0.0
    for _ in range(check_count(max_iterations, "max_iterations")):
        w = apply(v) - beta * previous
        diagonal.append(float(_sums(v, w)))
        w = w - diagonal[-1] * v
        beta = float(_sums(w, w).sqrt())
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
        quotients.append(float(_sums(v, apply(v))))
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


def _sums(a: Tensor, b: Tensor) -> Tensor:
    # Re <a, b> per sample. Over the reals a complex space has the same conjugate-gradient iterates.
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a * b).flatten(1).sum(dim=1)


def _largest(a: Tensor) -> Tensor:
    real = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    return real.flatten(1).abs().amax(dim=1)


def _require_finite(energy: Tensor, iteration: int) -> None:
    if not bool(torch.isfinite(energy).all()):
        raise FloatingPointError(
            f"conjugate gradients met a NaN or infinity at iteration {iteration}. "
            "Rescale the operator, the weights or the start, or use float64."
        )


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
