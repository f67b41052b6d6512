"""Newton's method with conjugate gradients (Newton-CG) for a smooth function of each sample of a batch.

    H p = -g by conjugate gradients,    x <- x + t p,    t = 1, 1/2, 1/4, ... (Armijo)

H >= 0 is the curvature or a bound on it from above: where the function is not convex, H has to be
made so by whoever states it, and p still descends. Each sample has its own t and stops by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.batch import column, dots
from operators.cg import conjugate_gradient
from operators.checks import check_count, check_number
from operators.errors import ConvergenceWarning
from workbench.noise.base import double

__all__ = ["NewtonResult", "minimise", "proximal"]

Map = Callable[[Tensor], Tensor]
Linearise = Callable[[Tensor], tuple[Tensor, Map]]

#: The share of the decrease promised by the slope that a step has to keep.
ARMIJO = 1e-4
HALVINGS = 30
#: Conjugate gradients per step: what they leave unsolved, the next step solves.
INNER_ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """What was reached, for each sample: |gradient| there relative to |gradient| at the start."""

    solution: Tensor
    iterations: int
    relative_gradient: Tensor
    converged: Tensor


def minimise(
    value: Map,
    linearise: Linearise,
    start: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> NewtonResult:
    """Minimise `value` from `start` (batch, ...) until each |gradient| is below `tolerance` times its first.

    `value` gives one number per sample, in double precision; `linearise` the gradient at a point and
    the curvature there as a map. The tolerance is 1e-4 in single, 1e-8 in double precision unless
    given. A sample whose value cannot be decreased any further stops where it is.
    """
    check_count(max_iterations, "max_iterations")
    precision = torch.finfo(start.dtype).eps
    default = 1e-4 if precision > 1e-10 else 1e-8
    goal = default if tolerance is None else check_number(tolerance, "tolerance", positive=True)
    x, level = start, value(start)
    gradient, curvature = linearise(x)
    first = _norms(gradient)
    relative = _relative(gradient, first)
    active = relative > goal
    iteration = 0
    while iteration < max_iterations and bool(active.any()):
        iteration += 1
        masked = torch.where(column(active, gradient), gradient, 0.0)
        # As accurate as the most advanced sample needs to keep the speed of Newton's method.
        accuracy = min(0.1, max(float(relative[active].min()), 10 * precision))
        solved = conjugate_gradient(curvature, -masked, tolerance=accuracy, max_iterations=INNER_ITERATIONS)
        slope = dots(masked, solved.solution)
        p = torch.where(column(slope < 0, x), solved.solution, -masked)
        slope = torch.where(slope < 0, slope, -dots(masked, masked))
        x, level, moved = _line_search(value, x, level, p, slope.double(), active)
        gradient, curvature = linearise(x)
        relative = torch.where(active, _relative(gradient, first), relative)
        active = active & moved & (relative > goal)
    return NewtonResult(x, iteration, relative, relative <= goal)


def proximal(
    value: Map,
    linearise: Linearise,
    centre: Tensor,
    r: float | Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> NewtonResult:
    """Minimise value(x) + |x - centre|^2 / (2 r^2) from the centre, for one `r` or one per sample.

    It warns where it stops short.
    """
    pull = column(1 / (r * r), centre) if isinstance(r, Tensor) else 1 / (r * r)

    def whole(x: Tensor) -> Tensor:
        way = x - centre
        return value(x) + 0.5 * dots(double(way), double(pull * way))

    def linearised(x: Tensor) -> tuple[Tensor, Map]:
        gradient, curvature = linearise(x)
        return gradient + pull * (x - centre), lambda v: curvature(v) + pull * v

    result = minimise(whole, linearised, centre, tolerance=tolerance, max_iterations=max_iterations)
    if not bool(result.converged.all()):
        worst = float(result.relative_gradient.max())
        warnings.warn(
            f"the prox stopped with the gradient at {worst:.2e} of its first after {result.iterations} "
            "Newton steps. Raise `max_iterations`, lower `r`, relax `tolerance`, or use float64.",
            ConvergenceWarning,
            stacklevel=4,
        )
    return result


def _line_search(
    value: Map, x: Tensor, level: Tensor, p: Tensor, slope: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next point, its value and whether it is another one, per sample."""
    # The value is a sum that rounding in the precision of x blurs: decreases below that are not seen.
    blur = 10 * torch.finfo(x.dtype).eps * torch.where(torch.isfinite(level), level.abs(), 0.0)
    length = active.double()
    found = ~active
    best = level
    for _ in range(HALVINGS):
        trial = x + column(length, x).to(p.real.dtype if p.is_complex() else p.dtype) * p
        reached = value(trial)
        fits = reached <= level + ARMIJO * length * slope + blur
        best = torch.where(fits & ~found, reached, best)
        found = found | fits
        if bool(found.all()):
            break
        length = torch.where(found, length, length / 2)
    length = torch.where(found, length, 0.0)
    factor = column(length, x).to(p.real.dtype if p.is_complex() else p.dtype)
    return torch.where(factor > 0, x + factor * p, x), best, length > 0


def _norms(values: Tensor) -> Tensor:
    return dots(values, values).double().sqrt()


def _relative(gradient: Tensor, first: Tensor) -> Tensor:
    return torch.where(first > 0, _norms(gradient) / torch.where(first > 0, first, 1.0), 0.0)
