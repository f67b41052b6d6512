"""(M^H M + I) v = b by conjugate gradients, stopped at an error that is known in standard deviations.

Where a prior is white, G = M^H M + I is the inverse of the posterior covariance: |e|_G^2 / n is the mean
square error in posterior standard deviations. No eigenvalue of G is below 1, which bounds it from above at
every iteration j by Gauss-Radau quadrature (Golub and Meurant 1997; the recurrence of Meurant and Tichy
2013), a_j the steps of CG and mu a little below 1:

    |e_j|_G^2 <= g_j |r_j|^2,    g_0 = 1 / mu,    g_j+1 = (g_j - a_j) / (mu (g_j - a_j) + |r_j+1|^2 / |r_j|^2)

The recursion's residual drifts from the true one by rounding: it is checked where the bound is met.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.batch import column, components, dots
from operators.cg import CGState, cg_start, cg_step
from operators.checks import check_number
from operators.errors import ConvergenceWarning
from operators.linear import LinearOperator, Scaled
from workbench.noise.base import double

__all__ = [
    "WhiteState",
    "accuracy_asked",
    "unscaled",
    "white_prox",
    "white_solve",
    "white_start",
    "white_step",
]

Map = Callable[[Tensor], Tensor]

#: mu: a little below the least eigenvalue that G can have.
LEAST = 0.999
#: Share of the true residual by which that of the recursion may differ: beyond it, its bound is none.
DRIFT = 0.1


@dataclass(frozen=True)
class WhiteState:
    """The solve, g_j, and the bound on the error in standard deviations, root mean square, per sample."""

    solve: CGState
    radau: Tensor
    error: Tensor

    @property
    def solution(self) -> Tensor:
        """V as it stands."""
        return self.solve.solution


def accuracy_asked(tolerance: float | None, like: Tensor) -> float:
    """Return the error in standard deviations that is allowed: `tolerance`, or what the precision holds."""
    if tolerance is not None:
        return check_number(tolerance, "tolerance", positive=True)
    return 1e-4 if torch.finfo(like.dtype).eps > 1e-10 else 1e-8


def white_start(apply: Map, side: Tensor) -> WhiteState:
    """Return the state before the first iteration; `apply` is G."""
    # Its own stop is for what is solved to the last digit.
    solve = cg_start(apply, side, tolerance=4 * torch.finfo(side.dtype).eps)
    radau = torch.full_like(solve.gain, 1 / LEAST)
    return WhiteState(solve, radau, _bound(solve, radau))


def white_step(apply: Map, state: WhiteState, accuracy: float) -> WhiteState:
    """Return the state after one more iteration; samples within `accuracy` stand still from then on."""
    before = state.solve
    if before.finished:
        return state
    solve = cg_step(apply, before)
    radau = _radau(state.radau, before, solve)
    # A sample that stands still keeps the error it had.
    error = torch.where(before.active, _bound(solve, radau), state.error)
    active = solve.active & (error > accuracy)
    moved = WhiteState(replace(solve, active=active), radau, error)
    return moved if solve.finished or bool(active.any()) else _verified(apply, moved, accuracy)


def white_solve(apply: Map, side: Tensor, *, accuracy: float, max_iterations: int) -> WhiteState:
    """Return the state within `accuracy`, or where it went no further."""
    state = white_start(apply, side)
    while not state.solve.finished and state.solve.iteration < max_iterations:
        state = white_step(apply, state, accuracy)
    return state


def white_prox(
    b: LinearOperator, point: Tensor, z: Tensor, r: float | Tensor, accuracy: float, max_iterations: int
) -> Tensor:
    """Return argmin_x |B x - z|^2 / 2 + |x - point|^2 / (2 r^2) for points (..., *domain.shape).

    In double precision where B can: a large r or a high signal to noise leaves nothing of single. `r` is one
    number or one per sample. It warns where it stops short.
    """
    wide = double(point) if torch.float64 in b.dtypes else point
    target = double(z) if torch.float64 in b.dtypes else z
    batch = point.shape[: point.ndim - b.domain.ndim]
    flat = wide.reshape(-1, *b.domain.shape)
    scale = column(r.to(flat.real.dtype).expand(batch).reshape(-1), flat) if isinstance(r, Tensor) else r

    def system(v: Tensor) -> Tensor:
        return scale * b.gram.apply(scale * v) + v

    apart = target - b.apply(wide)
    side = scale * b.apply_adjoint(apart.reshape(-1, *b.codomain.shape))
    state = white_solve(system, side, accuracy=accuracy, max_iterations=max_iterations)
    worst = float(state.error.max())
    if worst > accuracy:
        warnings.warn(
            f"the prox stopped {worst:.1e} standard deviations from its minimum, not {accuracy:g}, after "
            f"{state.solve.iteration} iterations. Raise `max_iterations`, lower `r` or relax `tolerance`.",
            ConvergenceWarning,
            stacklevel=4,
        )
    return (flat + scale * state.solution).reshape(point.shape).to(point.dtype)


def unscaled(operator: LinearOperator) -> tuple[float, LinearOperator]:
    """Return f^2 and A of the operator f A."""
    square = 1.0
    while isinstance(operator, Scaled):
        square, operator = square * abs(operator.factor) ** 2, operator.op
    return square, operator


def _verified(apply: Map, state: WhiteState, accuracy: float) -> WhiteState:
    """Return the state with its true residual, begun anew from there where the recursion had left it.

    A residual that is no recursion's has the bound |e|_G^2 <= |r|^2 / mu alone.
    """
    solve = state.solve
    r = solve.b - apply(solve.x)
    energy = dots(r, r)
    drifted = dots(r - solve.r, r - solve.r) > DRIFT**2 * energy
    radau = torch.where(drifted, 1 / LEAST, state.radau)
    checked = replace(solve, r=r, energy=energy)
    error = _bound(checked, radau)
    stalled = solve.stalled | (drifted & (energy.sqrt() > 0.5 * solve.last_true))
    active = (error > accuracy) & ~stalled
    p = torch.where(column(drifted, r), r, solve.p)
    last = torch.where(drifted, energy.sqrt(), solve.last_true)
    checked = replace(
        checked, p=p, last_true=last, active=active, stalled=stalled, finished=not bool(active.any())
    )
    return WhiteState(checked, radau, error)


def _bound(solve: CGState, radau: Tensor) -> Tensor:
    return solve.unit * (radau * solve.energy / components(solve.b)).sqrt()


def _radau(g: Tensor, before: CGState, after: CGState) -> Tensor:
    """Return g_j+1 from g_j and the iteration between them; begun anew where CG was."""
    energy = torch.where(before.energy > 0, before.energy, 1.0)
    rest = (g - after.gain / energy).clamp(min=0)
    below = LEAST * rest + after.energy / energy
    fresh = torch.where(below > 0, rest / torch.where(below > 0, below, 1.0), 1 / LEAST)
    restarted = after.last_true != before.last_true
    return torch.where(restarted, 1 / LEAST, torch.where(before.active, fresh, g))
