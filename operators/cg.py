"""Conjugate gradients for G x = b, all at once or one iteration at a time.

G is self-adjoint and >= 0, each sample of the batch is solved for itself. A sample stops changing
once the residual of its recursion is below its goal; whether it is, is then checked on the true
residual b - G x, and the recursion restarted if rounding has made the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.batch import column, dots, largest
from operators.checks import check_count, check_finite, check_number
from operators.errors import value_error

__all__ = ["CGResult", "CGState", "cg_result", "cg_start", "cg_step", "conjugate_gradient"]

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


@dataclass(frozen=True)
class CGState:
    """All that the next iteration needs, for a right-hand side scaled to unit size by `unit`.

    `gain` is by how much the last iteration lowered |error|_G^2 (Hestenes and Stiefel 1952): what the
    next few lower it by together is what the error was. `finished` says that no sample would change any
    more.
    """

    b: Tensor
    x: Tensor
    r: Tensor
    p: Tensor
    unit: Tensor
    scale: Tensor
    goal: Tensor
    energy: Tensor
    count: Tensor
    active: Tensor
    steepest: Tensor
    first: Tensor
    begun: Tensor
    last_true: Tensor
    stalled: Tensor
    gain: Tensor
    iteration: int
    finished: bool

    @property
    def solution(self) -> Tensor:
        """X as it stands, in the units of the right-hand side."""
        return self.x * column(self.unit, self.x)

    @property
    def relative_residual(self) -> Tensor:
        """The recursion's own ||b - G x|| / ||b|| per sample."""
        return self.energy.sqrt() / torch.where(self.scale > 0, self.scale, 1.0)


def default_tolerance(dtype: torch.dtype) -> float:
    """Return the relative residual asked for when none is given: what the precision can hold."""
    return 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-10


def cg_start(
    apply: Map, b: Tensor, *, start: Tensor | None = None, tolerance: float | Tensor | None = None
) -> CGState:
    """Return the state before the first iteration, for `b` (batch, ...); `tolerance` one or one each."""
    relative = default_tolerance(b.dtype) if tolerance is None else tolerance
    if not isinstance(relative, Tensor):
        relative = check_number(relative, "tolerance", positive=True)
    if b.ndim < 2:
        raise value_error("b", "have a batch axis in front", tuple(b.shape), "Use b[None].")
    check_finite(b, "b")
    if start is not None and start.shape != b.shape:
        raise value_error("start", f"have the shape of b, {tuple(b.shape)}", tuple(start.shape))

    # Solved for b of unit size: the squares of very large or small data would leave the precision.
    size = largest(b)
    unit = torch.where(size > 0, size, 1.0)
    b = b / column(unit, b)
    scale = dots(b, b).sqrt()
    goal = relative * scale
    # Where b = 0 the answer is 0, whatever the start.
    x = torch.zeros_like(b) if start is None else start / column(unit, b) * column(size > 0, b)
    r = b - apply(x) if start is not None else b.clone()
    energy = dots(r, r)
    _require_finite(energy, 0)
    active = energy.sqrt() > goal
    return CGState(
        b=b,
        x=x,
        r=r,
        p=r.clone(),
        unit=unit,
        scale=scale,
        goal=goal,
        energy=energy,
        count=torch.zeros(b.shape[0], dtype=torch.int64, device=b.device),
        active=active,
        steepest=torch.zeros_like(scale),
        first=x.clone(),
        begun=energy.sqrt(),
        last_true=torch.full_like(scale, torch.inf),
        stalled=torch.zeros_like(scale, dtype=torch.bool),
        gain=torch.zeros_like(scale),
        iteration=0,
        # Without a start the residual is b itself, no recursion's guess.
        finished=not bool(active.any()),
    )


def cg_step(apply: Map, state: CGState) -> CGState:
    """Return the state after one more iteration, its residual checked if that was the last."""
    s = state
    image = apply(s.p)
    curvature = dots(s.p, image)
    slope = curvature / torch.where(s.active, dots(s.p, s.p), 1.0)
    steepest = torch.maximum(s.steepest, slope)
    # A direction without curvature lies in the null space: stepping along it would only diverge.
    active = s.active & (slope > 10 * torch.finfo(s.scale.dtype).eps * steepest)
    step = torch.where(active, s.energy / torch.where(active, curvature, 1.0), 0.0)
    x = s.x + column(step, s.x) * s.p
    r = s.r - column(step, s.r) * image
    fresh = dots(r, r)
    iteration = s.iteration + 1
    _require_finite(fresh, iteration)
    momentum = torch.where(active, fresh / torch.where(active, s.energy, 1.0), 0.0)
    p = r + column(momentum, s.p) * s.p
    energy = torch.where(active, fresh, s.energy)
    moved = replace(
        s,
        x=x,
        r=r,
        p=p,
        energy=energy,
        count=s.count + active,
        active=active & (energy.sqrt() > s.goal),
        steepest=steepest,
        gain=step * s.energy,
        iteration=iteration,
    )
    return moved if bool(moved.active.any()) else _verified(apply, moved)


def cg_result(apply: Map, state: CGState) -> CGResult:
    """Return the solution as it stands, with its true residual."""
    s = state
    true = dots(rest := s.b - apply(s.x), rest).sqrt()
    # A singular system without a solution may diverge: no answer is worse than where it began.
    worse = true > s.begun
    x, true = torch.where(column(worse, s.x), s.first, s.x), torch.minimum(true, s.begun)
    residual = torch.where(s.scale > 0, true / torch.where(s.scale > 0, s.scale, 1.0), true)
    return CGResult(x * column(s.unit, x), s.count, residual, true <= s.goal)


def conjugate_gradient(
    apply: Map,
    b: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float | Tensor | None = None,
    max_iterations: int = 1000,
    callback: Callable[[int, Tensor], None] | None = None,
) -> CGResult:
    """Solve G x = b for `b` (batch, ...) from `start`, to `tolerance` (one or one each) * ||b|| per sample.

    `callback(iteration, relative_residual)` is called after each iteration.
    """
    limit = check_count(max_iterations, "max_iterations")
    state = cg_start(apply, b, start=start, tolerance=tolerance)
    while not state.finished and state.iteration < limit:
        state = cg_step(apply, state)
        if callback is not None:
            callback(state.iteration, state.relative_residual)
    return cg_result(apply, state)


def _verified(apply: Map, state: CGState) -> CGState:
    """Restart from the true residual where it misses the goal, as long as a restart still halves it."""
    r = state.b - apply(state.x)
    energy = dots(r, r)
    true = energy.sqrt()
    stalled = state.stalled | (true > 0.5 * state.last_true)
    active = (true > state.goal) & ~stalled
    return replace(
        state,
        r=r,
        p=r.clone(),
        energy=energy,
        active=active,
        last_true=true,
        stalled=stalled,
        finished=not bool(active.any()),
    )


def _require_finite(energy: Tensor, iteration: int) -> None:
    if not bool(torch.isfinite(energy).all()):
        raise FloatingPointError(
            f"conjugate gradients met a NaN or infinity at iteration {iteration}. "
            "Rescale the operator, the weights or the start, or use float64."
        )
